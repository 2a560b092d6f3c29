//! What is said of IPv6 packets: as of IPv4's, in the same words. (That it is what happens, [`World`] checks of every packet in these
//! tests; here it is checked that the packet made up of a question is the one that a station would send.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_dataplane::{
    explain::{Arrival, Comes, Explanation, Fate, Question, QuestionError, Walk},
    flow::FiveTuple,
    net::Protocol,
    next_hop,
    record::{Step, Why},
    spec::{Backend, PortId, ServiceSpec},
    time::Now,
    verdict::{Answer, DropReason, Verdict},
};

use crate::world::*;

type End = (Ipv6Addr, u16);

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// The port in place of one, of who is asked by an echo request.
const ECHO: u16 = 128;

fn tuple(protocol: u8, src: End, dst: End) -> FiveTuple<IpAddr> {
    FiveTuple { src: src.0.into(), dst: dst.0.into(), src_port: src.1, dst_port: dst.1, protocol }
}

/// A SYN, if it is TCP.
fn question(protocol: u8, src: End, dst: End) -> Question {
    Question::of(tuple(protocol, src, dst))
}

/// The answer, and the packets that were made up for it.
fn ask(world: &mut World, question: Question) -> Result<(Explanation, Vec<Vec<u8>>), QuestionError> {
    let mut made = Vec::new();
    let told = world.switch.dry_run(Now(20_000_000_000)).explain(question, |_, _, packet| {
        made.push(packet.to_vec());
        Ok(Comes::Yes)
    });
    told.map(|told| (told, made))
}

fn explain(world: &mut World, question: Question) -> Result<Explanation, QuestionError> {
    ask(world, question).map(|(told, _)| told)
}

fn stages(walk: &Walk) -> Vec<&'static str> {
    walk.steps.iter().map(Step::stage).collect()
}

const fn at(port: PortId) -> Arrival {
    Arrival { port, vtep: None }
}

fn over_the_overlay() -> Arrival {
    Arrival { port: UPLINK, vtep: Some(Ipv4Addr::new(192, 168, 50, 2).into()) }
}

fn services(protocol: Protocol, endpoints: &[Ipv6Addr]) -> Vec<ServiceSpec<Ipv6Addr>> {
    vec![service(protocol, endpoints)]
}

#[test]
fn a_flow_to_a_service_goes_to_the_endpoint_behind_its_vtep_and_the_answer_comes_from_there() {
    let far = v6("fd00:10:244:2::1");
    let (client, endpoint) = ((pod(CLIENT), 1000), (far, 8080));
    let mut world = World::new(services(Protocol::Tcp, &[far]));
    let (told, made) = ask(&mut world, question(TCP, client, (vip(), 80))).unwrap();
    let (packet, answer) = (told.packet, told.answer.expect("it is sent on, so it is answered"));
    assert_eq!((told.generation, packet.arrival), (1, at(CLIENT)));
    assert_eq!(stages(&packet), ["parse", "track", "service", "select", "service", "route", "nat", "encap"]);
    let asked = tuple(TCP, client, (vip(), 80));
    assert_eq!(packet.steps[0], Step::Headers { tuple: asked, tcp_flags: SYN, fragment: false });
    let backend = Backend { address: far.into(), port: 8080 };
    assert_eq!(packet.steps[3], Step::Endpoint { backend, why: Why::FlowHash, avoided: None });
    let Step::Route { destination, prefix: Some(prefix), by_flow: true, way } = packet.steps[5] else {
        panic!("{:?}", packet.steps)
    };
    assert_eq!((destination, prefix.to_string()), (far.into(), "fd00:10:244:2::/64".into()));
    let Arrival { port, vtep } = over_the_overlay();
    assert_eq!((way.kind, way.port, way.vtep, way.mtu), (next_hop::Kind::Overlay, port, vtep, OVERLAY_MTU));
    assert_eq!((packet.tuple(), packet.fate), (tuple(TCP, client, endpoint), Fate::Decided(Verdict::Tx(UPLINK))));
    assert_eq!(read(&inner(&packet.sent)), ((client, endpoint), 63));

    assert_eq!(
        (answer.arrival, stages(&answer)),
        (over_the_overlay(), vec!["decap", "parse", "track", "route", "nat"])
    );
    assert_eq!((answer.question.tuple, answer.question.tcp_flags), (tuple(TCP, endpoint, client), SYN | ACK));
    assert_eq!((answer.tuple(), answer.fate), (asked.reversed(), Fate::Decided(Verdict::Tx(CLIENT))));
    assert_eq!(read(&answer.sent), (((vip(), 80), client), 63));
    assert_eq!(world.switch.conntrack().in_use(), 0, "it was only thought of");

    // The next one in truth goes as was said of it; and of what is open the flow is told.
    let (port, frame) = world.send(CLIENT, made[0].clone()).expect("it leaves");
    assert_eq!((port, inner(&frame)), (UPLINK, inner(&packet.sent)));
    assert_eq!(world.send(UPLINK, made[1].clone()), Some((CLIENT, answer.sent)));
    let again = explain(&mut world, Question { tcp_flags: ACK, ..question(TCP, client, (vip(), 80)) }).unwrap();
    assert_eq!(stages(&again.packet), ["parse", "track", "route", "nat", "encap"]);
    let Step::Known(known) = again.packet.steps[1] else { panic!("{:?}", again.packet.steps) };
    assert_eq!(known.forward, asked);
}

#[test]
fn a_pod_that_asks_itself_is_masqueraded_and_gets_its_own_answer() {
    let mut world = World::new(services(Protocol::Udp, &[pod(CLIENT)]));
    let client = (pod(CLIENT), 5);
    let told = explain(&mut world, question(UDP, client, (vip(), 80))).unwrap();
    let (packet, answer) = (told.packet, told.answer.unwrap());
    let Some(Step::Masqueraded { address, port, .. }) = packet.steps.iter().find(|step| step.stage() == "masquerade")
    else {
        panic!("{:?}", packet.steps)
    };
    let own = v6("fd00:10:244:1::");
    assert_eq!(*address, IpAddr::from(own));
    assert_eq!(packet.tuple(), tuple(UDP, (own, *port), (pod(CLIENT), 8080)));
    assert_eq!((answer.arrival, answer.tuple()), (at(CLIENT), tuple(UDP, (vip(), 80), client)));
    assert_eq!(answer.fate, Fate::Decided(Verdict::Tx(CLIENT)));
}

#[test]
fn what_the_switch_answers_itself_is_told_as_its_answer() {
    let mut world = World::new(services(Protocol::Tcp, &[]));
    let (client, server, far) = ((pod(CLIENT), 1000), (pod(SERVER), 2), (v6("fd00:10:244:2::1"), 2));
    let refused = explain(&mut world, question(TCP, client, (vip(), 80))).unwrap();
    assert_eq!(refused.packet.fate, Fate::Decided(Verdict::Answer(Answer::PortUnreachable, CLIENT)));
    assert_eq!((read_icmp(&refused.packet.sent).2, refused.answer), (port_unreachable(), None));
    // Whatever is said, only the sender may cut it.
    for dont_fragment in [true, false] {
        let big = Question { length: Some(OVERLAY_MTU + 1), dont_fragment, ..question(UDP, client, far) };
        let fate = explain(&mut world, big).unwrap().packet.fate;
        assert_eq!(fate, Fate::Decided(Verdict::Answer(Answer::PacketTooBig, CLIENT)));
    }
    let fits = Question { length: Some(OVERLAY_MTU), ..question(UDP, client, far) };
    assert_eq!(explain(&mut world, fits).unwrap().packet.fate, Fate::Decided(Verdict::Tx(UPLINK)));
    let old = Question { ttl: 1, ..question(UDP, client, server) };
    let fate = explain(&mut world, old).unwrap().packet.fate;
    assert_eq!(fate, Fate::Decided(Verdict::Answer(Answer::TimeExceeded, CLIENT)));
    let gateway = explain(&mut world, question(ICMPV6, (pod(CLIENT), 77), (v6("fd00:10:244:1::"), ECHO))).unwrap();
    assert_eq!(gateway.packet.fate, Fate::Decided(Verdict::Answer(Answer::Echo, CLIENT)));
}

#[test]
fn a_ping_of_a_pod_and_its_answer_are_as_a_station_sends_them() {
    let mut world = World::new(vec![]);
    let (client, server) = ((pod(CLIENT), 77), (pod(SERVER), ECHO));
    let (told, made) = ask(&mut world, question(ICMPV6, client, server)).unwrap();
    let echo = |id| etherparse::IcmpEchoHeader { id, seq: 0 };
    let expected = [
        (pod(CLIENT), pod(SERVER), etherparse::Icmpv6Type::EchoRequest(echo(77)), vec![]),
        (pod(SERVER), pod(CLIENT), etherparse::Icmpv6Type::EchoReply(echo(77)), vec![]),
    ];
    assert_eq!([read_icmp(&made[0]), read_icmp(&made[1])], expected);
    assert_eq!((told.packet.fate, told.answer.unwrap().fate), (tx(SERVER), tx(CLIENT)));
}

fn tx(port: PortId) -> Fate {
    Fate::Decided(Verdict::Tx(port))
}

#[test]
fn of_every_protocol_the_packet_is_the_one_that_a_station_sends() {
    let mut world = World::new(vec![]);
    let (client, server) = ((pod(CLIENT), 1000), (pod(SERVER), 2));
    for protocol in [TCP, UDP] {
        let long = Question { length: Some(1000), ttl: 9, ..question(protocol, client, server) };
        let (told, made) = ask(&mut world, long).unwrap();
        assert_eq!((made[0].len(), read(&made[0])), (1014, ((client, server), 9)));
        assert_eq!((told.packet.fate, told.answer.unwrap().fate), (tx(SERVER), tx(CLIENT)));
    }
    for (protocol, ports) in [(132, (1, 2)), (47, (0, 0))] {
        let told = explain(&mut world, question(protocol, (pod(CLIENT), ports.0), (pod(SERVER), ports.1))).unwrap();
        assert_eq!(told.packet.fate, tx(SERVER), "{protocol}");
    }
}

#[test]
fn packets_come_in_where_their_source_is_or_from_nowhere() {
    let mut world = World::new(vec![]);
    let from = |src: Ipv6Addr| question(UDP, (src, 1), (pod(SERVER), 2));
    for (src, arrival) in
        [(pod(CLIENT), at(CLIENT)), (pod(SERVER), at(SERVER)), (v6("fd00:10:244:2::1"), over_the_overlay())]
    {
        assert_eq!(explain(&mut world, from(src)).unwrap().packet.arrival, arrival, "{src}");
    }
    // The node's own, a pod that is none, the world outside, and a link's.
    for src in ["fd00:10:244:1::", "fd00:10:244:1::77", "2001:db8::1", "fe80::1"] {
        let src = v6(src);
        assert_eq!(explain(&mut world, from(src)).unwrap_err(), QuestionError::NeitherPodNorVtep(src));
    }
    let spoofed = Question { arrival: Some(at(CLIENT)), ..from(v6("2001:db8::1")) };
    let fate = explain(&mut world, spoofed).unwrap().packet.fate;
    assert_eq!(fate, Fate::Decided(Verdict::Drop(DropReason::SpoofedAddress)));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut world = World::new(vec![]);
    let good = || question(TCP, (pod(CLIENT), 1), (pod(SERVER), 2));
    let ipv4 = IpAddr::from([10, 244, 1, 11]);
    let mixed = Question { tuple: FiveTuple { dst: ipv4, ..good().tuple }, ..good() };
    assert_eq!(explain(&mut world, mixed).unwrap_err(), QuestionError::TwoFamilies(pod(CLIENT).into(), ipv4));
    let too_short = Question { length: Some(59), ..good() };
    assert_eq!(explain(&mut world, too_short).unwrap_err(), QuestionError::TooShort(59, 60));
    let too_long = Question { length: Some(1715), ..good() };
    assert_eq!(explain(&mut world, too_long).unwrap_err(), QuestionError::TooLong(1715, 1714));
}
