//! What is said of a packet, in whole: where it comes in, what each stage found out, and the answer to it. (That it is what
//! happens, [`World`] checks of every packet in these tests.)

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use shunt_dataplane::{
    explain::{Arrival, Comes, Explanation, Fate, Question, QuestionError, Walk},
    flow::FiveTuple,
    net::Protocol,
    next_hop,
    record::{Frontend, Known, Step, Why},
    spec::{Otherwise, Scheduler, ServiceSpec},
    tables::{
        Origin,
        conntrack::{Direction, FlowState},
    },
    time::Now,
    verdict::{Answer, DropReason, Verdict},
};

use crate::world::{self, *};

const SYN: u8 = 2;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn tuple(protocol: u8, src: End, dst: End) -> FiveTuple<IpAddr> {
    FiveTuple { src: src.0.into(), dst: dst.0.into(), src_port: src.1, dst_port: dst.1, protocol }
}

/// A SYN, if it is TCP.
fn question(protocol: u8, src: End, dst: End) -> Question {
    Question::of(tuple(protocol, src, dst))
}

fn explain(world: &mut World, question: Question) -> Result<Explanation, QuestionError> {
    let now = Now(10_000_000_000 + world.now + 1_000_000);
    world.switch.dry_run(now).explain(question, |_, _, _| Ok(Comes::Yes))
}

fn stages(walk: &Walk) -> Vec<&'static str> {
    walk.steps.iter().map(Step::stage).collect()
}

const fn at(port: shunt_dataplane::spec::PortId) -> Arrival {
    Arrival { port, vtep: None }
}

fn over_the_overlay() -> Arrival {
    Arrival { port: UPLINK, vtep: Some(OTHER_NODE.into()) }
}

#[test]
fn a_new_flow_to_a_service_is_told_step_by_step_and_so_is_its_answer() {
    let endpoint = (REMOTE[0], 8080);
    let mut world = World::new(&spec(vec![service(Protocol::Tcp, &[endpoint])]));
    let Explanation { generation, packet, answer } = explain(&mut world, question(TCP, (A, 1000), (VIP, 80))).unwrap();
    assert_eq!((generation, packet.arrival), (1, at(POD_A)));
    let (asked, translated) = (tuple(TCP, (A, 1000), (VIP, 80)), tuple(TCP, (A, 1000), endpoint));
    let [headers, unknown, service, chosen, opened, route, rewritten, encapsulated] = packet.steps[..] else {
        panic!("{:?}", packet.steps)
    };
    assert_eq!(headers, Step::Headers { tuple: asked, tcp_flags: SYN, fragment: false });
    assert_eq!(unknown, Step::Unknown);
    let frontend = Frontend {
        origin: Origin::Pod,
        source_range: None,
        endpoints: 1,
        masquerade: false,
        otherwise: Otherwise::Refuse,
        scheduler: Scheduler::Maglev,
        affinity: None,
    };
    assert_eq!(service, Step::Service(frontend));
    let backend = shunt_dataplane::spec::Backend { address: endpoint.0, port: endpoint.1 };
    assert_eq!(chosen, Step::Endpoint { backend: backend.told(), why: Why::FlowHash, avoided: None });
    assert_eq!(opened, Step::Opened { forward: asked, reply: translated.reversed() });
    let Step::Route { destination, prefix: Some(prefix), by_flow: true, way } = route else { panic!("{route:?}") };
    assert_eq!((destination, prefix.to_string()), (IpAddr::from(endpoint.0), "10.244.2.0/24".into()));
    assert_eq!(
        (way.kind, way.port, way.vtep, way.mtu),
        (next_hop::Kind::Overlay, UPLINK, Some(OTHER_NODE.into()), 1450)
    );
    assert_eq!(rewritten, Step::Rewritten { to: translated });
    assert!(matches!(encapsulated, Step::Encapsulated { vtep, .. } if Ipv4Addr::from(vtep) == OTHER_NODE));
    assert_eq!(packet.fate, Fate::Decided(Verdict::Tx(UPLINK)));
    assert_eq!(packet.sent.len(), 50 + 14 + 40);

    let answer = answer.expect("it is sent on, so it is answered");
    assert_eq!((answer.question.tuple, answer.question.tcp_flags), (translated.reversed(), SYN | ACK));
    assert_eq!(answer.arrival, over_the_overlay());
    assert_eq!(stages(&answer), ["decap", "parse", "track", "route", "nat"]);
    let known = Known {
        direction: Direction::Reply,
        before: FlowState::Opening,
        after: FlowState::Answered,
        idle: 0,
        generation: 1,
        forward: asked,
        reply: translated.reversed(),
    };
    assert_eq!(answer.steps[2], Step::Known(known));
    assert_eq!((answer.tuple(), answer.fate), (asked.reversed(), Fate::Decided(Verdict::Tx(POD_A))));
    assert_eq!(world.switch.conntrack().in_use(), 0, "it was only thought of");

    // Once it has happened, the flow decides.
    let came = world.pass(POD_A, (world::Kind::Tcp("S"), (A, 1000), (VIP, 80)));
    world.answer(came, (POD_A, (world::Kind::Tcp("S"), (A, 1000), (VIP, 80))));
    world.now += 5_000_000_000;
    let again = Question { tcp_flags: ACK, ..question(TCP, (A, 1000), (VIP, 80)) };
    let packet = explain(&mut world, again).unwrap().packet;
    assert_eq!(stages(&packet), ["parse", "track", "route", "nat", "encap"]);
    let Step::Known(known) = packet.steps[1] else { panic!("{:?}", packet.steps) };
    assert_eq!((known.before, known.after, known.idle), (FlowState::Answered, FlowState::Established, 5));
}

#[test]
fn a_masqueraded_flow_says_by_what_and_its_answer_comes_back_to_the_client() {
    let local = ServiceSpec { vip: NODE, port: 30_080, ..service(Protocol::Udp, &[(B, 8080)]) };
    let sources = ["203.0.113.0/24", "203.0.0.0/16"].map(|range| range.parse::<Ipv4Net>().unwrap());
    let local = ServiceSpec { from_outside: rule(&[(B, 8080)], true), sources: sources.into(), ..local };
    let mut world = World::new(&spec(vec![local]));
    let told = explain(&mut world, question(UDP, (OUTSIDE, 5), (NODE, 30_080))).unwrap();
    let (packet, answer) = (told.packet, told.answer.unwrap());
    assert_eq!(packet.arrival, at(UPLINK));
    assert_eq!(stages(&packet), ["parse", "track", "service", "select", "masquerade", "service", "route", "nat"]);
    let Step::Service(Frontend { origin: Origin::Outside, source_range, masquerade: true, .. }) = packet.steps[2]
    else {
        panic!("{:?}", packet.steps)
    };
    assert_eq!(source_range, Some(Some(sources[0].into())), "the longest that the source is in");
    let Step::Masqueraded { address, port, other_port: false } = packet.steps[4] else { panic!("{:?}", packet.steps) };
    assert_eq!((address, MASQUERADE.contains(&port)), (IpAddr::from(OVERLAY), true));
    assert_eq!(packet.tuple(), tuple(UDP, (OVERLAY, port), (B, 8080)));
    assert_eq!((answer.arrival, answer.tuple()), (at(POD_B), tuple(UDP, (NODE, 30_080), (OUTSIDE, 5))));
    assert_eq!(answer.fate, Fate::Decided(Verdict::Tx(UPLINK)));
    // What is said of the port holds for the next flow, and is said again until there is one.
    let again = explain(&mut world, question(UDP, (OUTSIDE, 5), (NODE, 30_080))).unwrap();
    assert_eq!(again.packet.steps, packet.steps);

    let stranger = explain(&mut world, question(UDP, (Ipv4Addr::new(198, 51, 100, 1), 5), (NODE, 30_080))).unwrap();
    assert_eq!(stranger.packet.fate, Fate::Decided(Verdict::Drop(DropReason::SourceNotAllowed)));
    assert!(matches!(stranger.packet.steps[2], Step::Service(Frontend { source_range: Some(None), .. })));
    assert_eq!(stranger.answer, None);
}

#[test]
fn what_the_switch_answers_itself_is_told_as_its_answer() {
    let mut world = World::new(&spec(vec![service(Protocol::Tcp, &[])]));
    let refused = explain(&mut world, question(TCP, (A, 1000), (VIP, 80))).unwrap();
    assert_eq!(refused.packet.fate, Fate::Decided(Verdict::Answer(Answer::PortUnreachable, POD_A)));
    assert_eq!(stages(&refused.packet), ["parse", "track", "service", "answer", "route"]);
    assert_eq!(refused.answer, None);
    let big = Question { length: Some(1451), dont_fragment: true, ..question(UDP, (A, 1), (REMOTE[0], 2)) };
    let told = explain(&mut world, big.clone()).unwrap();
    assert_eq!(told.packet.fate, Fate::Decided(Verdict::Answer(Answer::FragmentationNeeded, POD_A)));
    let cut = explain(&mut world, Question { dont_fragment: false, ..big }).unwrap().packet;
    assert_eq!(cut.fate, Fate::Decided(Verdict::Tx(UPLINK)));
    assert_eq!(stages(&cut), ["parse", "track", "route", "oversize", "encap"]);
    assert!(cut.steps.contains(&Step::Cut { mtu: 1450, fragments: 2 }));
    let old = Question { ttl: 1, ..question(UDP, (A, 1), (REMOTE[0], 2)) };
    assert_eq!(
        explain(&mut world, old).unwrap().packet.fate,
        Fate::Decided(Verdict::Answer(Answer::TimeExceeded, POD_A))
    );
}

#[test]
fn packets_come_in_where_their_source_is() {
    let mut world = World::new(&spec(vec![]));
    for (src, arrival) in [
        (A, at(POD_A)),
        (B, at(POD_B)),
        (OVERLAY, at(HOST)),
        (NODE, at(HOST)),
        (REMOTE[0], over_the_overlay()),
        (OUTSIDE, at(UPLINK)),
        // The way there is the kernel's, but so is the uplink's other side.
        (Ipv4Addr::new(198, 51, 100, 1), at(UPLINK)),
    ] {
        let walk = explain(&mut world, question(UDP, (src, 1), (B, 2))).unwrap().packet;
        assert_eq!(walk.arrival, arrival, "{src}");
    }
    let elsewhere = Question { arrival: Some(at(HOST)), ..question(UDP, (OUTSIDE, 1), (B, 2)) };
    assert_eq!(explain(&mut world, elsewhere).unwrap().packet.arrival, at(HOST));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut world = World::new(&spec(vec![]));
    let ask = |world: &mut World, change: fn(&mut Question)| {
        let mut question = question(TCP, (A, 1), (B, 2));
        change(&mut question);
        explain(world, question).unwrap_err()
    };
    let nowhere = shunt_dataplane::spec::PortId(77);
    assert_eq!(
        ask(&mut world, |q| q.arrival = Some(at(shunt_dataplane::spec::PortId(77)))),
        QuestionError::NoSuchPort(nowhere)
    );
    assert_eq!(
        ask(&mut world, |q| q.arrival = Some(Arrival { port: POD_A, vtep: Some(1) })),
        QuestionError::NotOverlay(POD_A)
    );
    assert_eq!(ask(&mut world, |q| q.length = Some(39)), QuestionError::TooShort(39, 40));
    assert_eq!(ask(&mut world, |q| q.length = Some(1715)), QuestionError::TooLong(1715, 1714));
    let mut alone = spec(vec![]);
    alone.ports.truncate(2);
    alone.ipv4.routes.retain(|route| route.prefix.prefix_len() == 32 && route.prefix.addr() != OVERLAY);
    alone.vteps.clear();
    world.switch.publish(&alone).unwrap();
    assert_eq!(explain(&mut world, question(UDP, (OUTSIDE, 1), (B, 2))).unwrap_err(), QuestionError::NoUplink(OUTSIDE));
    assert_eq!(
        explain(&mut world, question(UDP, (OVERLAY, 1), (B, 2))).unwrap_err(),
        QuestionError::NoHostPort(OVERLAY)
    );
}

#[test]
fn an_association_is_begun_as_a_connection_is() {
    let mut world = World::new(&spec(vec![service(Protocol::Sctp, &[(B, 8080)])]));
    let init = Question { tcp_flags: SYN, ..question(132, (A, 1000), (VIP, 80)) };
    let told = explain(&mut world, init).unwrap();
    assert_eq!(told.packet.tuple(), tuple(132, (A, 1000), (B, 8080)));
    let answer = told.answer.unwrap();
    assert_eq!((answer.question.tcp_flags, answer.tuple()), (SYN | ACK, tuple(132, (VIP, 80), (A, 1000))));
    let Step::Known(known) = answer.steps[1] else { panic!("{:?}", answer.steps) };
    assert_eq!(known.after, FlowState::CookieEchoed);
}

#[test]
fn a_ping_out_of_the_cluster_and_its_answer() {
    let mut spec = spec(vec![]);
    spec.ipv4.masquerade.as_mut().unwrap().egress = Some(vec![]);
    let mut world = World::new(&spec);
    let told = explain(&mut world, question(1, (A, 77), (OUTSIDE, 8))).unwrap();
    assert_eq!(stages(&told.packet), ["parse", "track", "service", "masquerade", "service", "route", "nat"]);
    assert_eq!(told.packet.steps[2], Step::Leaves);
    let came = told.packet.tuple();
    assert_eq!((came.src, came.dst_port), (NODE.into(), 8));
    let answer = told.answer.unwrap();
    assert_eq!(answer.question.tuple, came.reversed());
    assert_eq!((answer.tuple(), answer.fate), (tuple(1, (OUTSIDE, 8), (A, 77)), Fate::Decided(Verdict::Tx(POD_A))));
}
