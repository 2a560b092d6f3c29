//! Direct server return: what a client outside sends to this node goes on to the endpoint's, and what another node relays to
//! us our endpoints answer themselves.

use std::net::Ipv4Addr;

use etherparse::{
    Icmpv4Type, Ipv4Header, PacketBuilder,
    icmpv4::{DestUnreachableHeader, TimeExceededCode},
};
use shunt_dataplane::{
    net::{MacAddr, Protocol},
    spec::{ForwardingSpec, Rule, ServiceSpec, Via},
    verdict::DropReason,
};

use crate::world::*;

const BALANCED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const FRONTENDS: [End; 2] = [(NODE, 30_080), (BALANCED, 80)];

/// A service at a node port and a load balancer's address: who is outside gets one of `all`, and what is relayed to us one of
/// `here`, or any if there is none.
fn direct(protocol: Protocol, all: &[End], here: &[End]) -> Vec<ServiceSpec> {
    let relayed = if here.is_empty() { rule(all, true) } else { rule(here, false) };
    let at = |(vip, port)| ServiceSpec {
        vip,
        port,
        from_outside: rule(all, true),
        relayed: Some(relayed.clone()),
        ..service(protocol, all)
    };
    FRONTENDS.map(at).into()
}

fn opening(protocol: Protocol) -> Kind {
    match protocol {
        Protocol::Tcp => Kind::Tcp("S"),
        Protocol::Udp => Kind::Udp,
        Protocol::Sctp => Kind::Sctp("S"),
    }
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The source of a relayed frame that names `endpoint`.
fn name(endpoint: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = endpoint.octets();
    [0x5e, 0x44, a, b, c, d]
}

/// Sends `packet` in natively; it must be relayed. Returns the endpoint that is named.
#[track_caller]
fn relayed(world: &mut World, packet: Packet) -> Ipv4Addr {
    let (port, bytes) = world.send_bytes(UPLINK, build(packet, mac(UPLINK))).expect("it is relayed");
    assert_eq!((port, &bytes[30..34]), (UPLINK, &OTHER_NODE.octets()[..]), "to the other node");
    assert_eq!((read(&bytes[50..]), bytes[50 + 22]), (packet, 63), "as it came, but for the TTL");
    assert_eq!((&bytes[50..56], &bytes[56..58]), (&[2, 0, 0, 0, 3, 2][..], &[0x5e, 0x44][..]));
    Ipv4Addr::from([bytes[58], bytes[59], bytes[60], bytes[61]])
}

/// The frame that another node makes of a packet for `endpoint` when it relays it.
fn from_peer(endpoint: Ipv4Addr, mut packet: Vec<u8>) -> Vec<u8> {
    packet[..6].copy_from_slice(&VTEP.0);
    packet[6..12].copy_from_slice(&name(endpoint));
    wrap(&packet)
}

fn come_relayed(
    world: &mut World,
    endpoint: Ipv4Addr,
    packet: Packet,
) -> Option<(shunt_dataplane::spec::PortId, Packet)> {
    let came = world.send_bytes(UPLINK, from_peer(endpoint, build(packet, VTEP)));
    came.map(|(port, bytes)| (port, read(&bytes)))
}

fn states(world: &World) -> Vec<&'static str> {
    let mut states: Vec<_> = world.switch.conntrack().flows().map(|flow| flow.state.name()).collect();
    states.sort_unstable();
    states
}

#[test]
fn dsr_relays_what_is_for_an_endpoint_behind_a_direct_vtep() {
    let frontends = || PROTOCOLS.into_iter().flat_map(|protocol| FRONTENDS.map(|at| (protocol, at)));
    for ((protocol, frontend), native) in frontends().flat_map(|at| [false, true].map(|native| (at, native))) {
        let spec = |services| {
            let mut spec = spec(services);
            spec.vteps[0].native = native;
            spec
        };
        let mut world = World::new(&spec(direct(protocol, &[(REMOTE[0], 8080), (REMOTE[1], 8080)], &[])));
        let asked = (opening(protocol), (OUTSIDE, 1000), frontend);
        let endpoint = relayed(&mut world, asked);
        assert!(REMOTE.contains(&endpoint));
        // Its service loses the other endpoint, and gains some: it stays.
        let left = direct(protocol, &[(endpoint, 8080), (A, 8080), (B, 8080)], &[(A, 8080)]);
        world.switch.publish(&spec(left)).unwrap();
        for _ in 0..3 {
            assert_eq!(relayed(&mut world, asked), endpoint);
        }
        let to_a_pod = (opening(protocol), (A, 1000), (endpoint, 8080));
        let (port, bytes) = world.send_bytes(POD_A, build(to_a_pod, mac(POD_A))).expect("it is forwarded");
        let inner = if native { &bytes[..] } else { &bytes[50..] };
        assert_eq!((port, read(inner)), (UPLINK, to_a_pod), "encapsulated unless the way is native");
    }
}

#[test]
fn dsr_keeps_the_source_of_what_is_for_an_endpoint_here() {
    for frontend in FRONTENDS {
        let mut world = World::new(&spec(direct(Protocol::Tcp, &[(B, 8080)], &[(B, 8080)])));
        let asked = (Kind::Tcp("S"), (OUTSIDE, 1000), frontend);
        let came = world.pass(UPLINK, asked);
        assert_eq!(came, (POD_B, (Kind::Tcp("S"), (OUTSIDE, 1000), (B, 8080))));
        world.answer(came, (UPLINK, asked));
        // Pods are treated as ever.
        let from_a_pod = world.pass(POD_A, (Kind::Tcp("S"), (A, 1000), frontend));
        assert_eq!(from_a_pod, (POD_B, (Kind::Tcp("S"), (A, 1000), (B, 8080))));
    }
}

#[test]
fn dsr_keeps_the_source_of_what_is_for_a_process_of_the_node_whose_answers_are_led() {
    for protocol in PROTOCOLS {
        let mut spec = spec(direct(protocol, &[(NODE, 8080)], &[]));
        spec.ipv4.masquerade.as_mut().unwrap().answers_led = true;
        let mut world = World::new(&spec);
        let asked = (opening(protocol), (OUTSIDE, 4000), FRONTENDS[1]);
        let came = world.pass(UPLINK, asked);
        assert_eq!(came, (HOST, (asked.0, asked.1, (NODE, 8080))), "the policy Cluster would replace the source");
        world.answer(came, (UPLINK, asked));
    }
}

#[test]
fn dsr_falls_back_to_masquerade_where_the_way_is_no_direct_vtep() {
    let asked = (Kind::Tcp("S"), (OUTSIDE, 1000), FRONTENDS[1]);
    let service = || direct(Protocol::Tcp, &[(REMOTE[0], 8080)], &[]);
    let mut indirect = spec(service());
    indirect.vteps[0].direct = false;
    let mut native = spec(service());
    let gateway = Via::Gateway { port: UPLINK, mac: Some(STATION) };
    native
        .ipv4
        .routes
        .iter_mut()
        .filter(|route| matches!(route.via, Via::Vtep(_)))
        .for_each(|route| route.via = gateway.clone());
    let host_network = spec(direct(Protocol::Tcp, &[(OTHER_NODE, 8080)], &[]));
    for (spec, source) in [(indirect, OVERLAY), (native, NODE), (host_network, NODE)] {
        let mut world = World::new(&spec);
        let (_, came) = world.pass(UPLINK, asked);
        assert_eq!(came.1.0, source, "masqueraded");
        assert!(MASQUERADE.contains(&came.1.1));
    }
    // Answers to the two could not be told apart at the endpoint: the later one comes back here.
    let mut world = World::new(&spec(service()));
    assert_eq!(relayed(&mut world, asked), REMOTE[0]);
    let other = (Kind::Tcp("S"), (OUTSIDE, 1000), FRONTENDS[0]);
    let came = world.pass(UPLINK, other);
    assert_eq!((came.1.1.0, came.1.2), (OVERLAY, (REMOTE[0], 8080)));
    world.answer(came, (UPLINK, other));
}

#[test]
fn dsr_answers_what_is_relayed_to_us_from_the_vip() {
    for (protocol, vip) in PROTOCOLS.into_iter().flat_map(|p| [(p, (OTHER_NODE, 30_080)), (p, (BALANCED, 80))]) {
        let mut world =
            World::new(&spec(direct(protocol, &[(A, 8080), (B, 8080), (REMOTE[0], 8080)], &[(A, 8080), (B, 8080)])));
        for (client, endpoint) in [(1000, A), (1001, B), (1002, B), (1003, A)] {
            let asked = (opening(protocol), (OUTSIDE, client), vip);
            let came = come_relayed(&mut world, endpoint, asked).expect("it arrives");
            assert_eq!(
                came.1,
                (opening(protocol), (OUTSIDE, client), (endpoint, 8080)),
                "the named one has it, from the client"
            );
            world.answer(came, (UPLINK, asked));
            // Under the next generation both directions go on.
            world.switch.publish(&spec(direct(protocol, &[(A, 8080), (B, 8080)], &[(A, 8080), (B, 8080)]))).unwrap();
            world.answer(came, (UPLINK, asked));
            assert_eq!(come_relayed(&mut world, endpoint, asked), Some(came));
        }
    }
}

/// The node forgets all flows, as when it is restarted: the packets themselves say where they belong.
#[test]
fn dsr_survives_a_restart_of_the_endpoints_node() {
    let data = (Kind::Tcp("A"), (OUTSIDE, 1000), (OTHER_NODE, 30_080));
    for endpoint in [A, B] {
        let mut world = World::new(&spec(direct(Protocol::Tcp, &[(A, 8080), (B, 8080)], &[(A, 8080), (B, 8080)])));
        let came = come_relayed(&mut world, endpoint, data).expect("it is taken up");
        assert_eq!(came.1, (Kind::Tcp("A"), (OUTSIDE, 1000), (endpoint, 8080)));
        world.answer(came, (UPLINK, data));
    }
}

#[test]
fn dsr_sends_what_is_relayed_in_vain_nowhere_else() {
    // No endpoint is here any more: another one answers by way of us.
    let mut world = World::new(&spec(direct(Protocol::Tcp, &[(REMOTE[0], 8080)], &[])));
    let asked = (Kind::Tcp("S"), (OUTSIDE, 1000), (BALANCED, 80));
    let (port, bytes) = world.send_bytes(UPLINK, from_peer(A, build(asked, VTEP))).expect("it goes on");
    let came = (port, read(&bytes[50..]));
    assert_eq!((came.1.1.0, came.1.2), (OVERLAY, (REMOTE[0], 8080)), "masqueraded, not relayed again");
    world.answer(came, (UPLINK, asked));
    // The one that is named is not to be chosen here: another one is.
    let mut world = World::new(&spec(direct(Protocol::Tcp, &[(B, 8080)], &[(B, 8080)])));
    assert_eq!(come_relayed(&mut world, A, asked).unwrap().1.2, (B, 8080));
    // There is no such service, or none at all.
    for services in [vec![service(Protocol::Tcp, &[(A, 8080)])], vec![]] {
        let mut world = World::new(&spec(services));
        for vip in [(BALANCED, 80), (OTHER_NODE, 30_080)] {
            assert_eq!(come_relayed(&mut world, A, (Kind::Tcp("S"), (OUTSIDE, 1000), vip)), None);
        }
        assert_eq!(world.drops(DropReason::RelayedInVain), 2);
    }
}

#[test]
fn dsr_follows_the_client_to_the_end_of_a_connection_and_then_chooses_anew() {
    let all = [(REMOTE[0], 8080)];
    let mut world = World::new(&spec(direct(Protocol::Tcp, &all, &[])));
    let says = |flags| (Kind::Tcp(flags), (OUTSIDE, 1000), FRONTENDS[1]);
    for (flags, state) in [
        ("S", "relayed-syn"),
        ("S", "relayed-syn"),
        ("S", "relayed-syn"),
        ("A", "relayed-stream"),
        ("FA", "relayed-closed"),
        ("A", "relayed-closed"),
        ("S", "relayed-syn"),
        ("R", "relayed-closed"),
    ] {
        assert_eq!((relayed(&mut world, says(flags)), states(&world)), (REMOTE[0], vec![state]), "{flags}");
    }
    world.switch.publish(&spec(direct(Protocol::Tcp, &[(B, 8080)], &[(B, 8080)]))).unwrap();
    assert_eq!(world.pass(UPLINK, says("S")).0, POD_B);
}

#[test]
fn dsr_waits_for_a_next_hop_and_gives_up_a_vtep_that_is_direct_no_longer() {
    let services = || direct(Protocol::Tcp, &[(REMOTE[0], 8080)], &[]);
    let mut world = World::new(&spec(services()));
    let says = |flags| (Kind::Tcp(flags), (OUTSIDE, 1000), FRONTENDS[1]);
    relayed(&mut world, says("S"));
    relayed(&mut world, says("A"));
    let changed = |change: &dyn Fn(&mut ForwardingSpec)| {
        let mut spec = spec(services());
        change(&mut spec);
        spec
    };
    world.switch.publish(&changed(&|spec| spec.vteps[0].next_hop = None)).unwrap();
    assert_eq!(world.send(UPLINK, says("A")), None);
    assert_eq!(world.drops(DropReason::Unresolved), 1);
    world.switch.publish(&spec(services())).unwrap();
    relayed(&mut world, says("A"));
    assert_eq!(states(&world), ["relayed-stream"]);
    world.switch.publish(&changed(&|spec| spec.vteps[0].direct = false)).unwrap();
    assert_eq!(world.pass(UPLINK, says("A")).1.1.0, OVERLAY, "taken up as one whose answers come back here");
}

/// A datagram flow whose endpoint goes is forgotten and chooses anew, as any.
#[test]
fn dsr_datagrams_leave_an_endpoint_that_was_removed() {
    let mut world = World::new(&spec(direct(Protocol::Udp, &[(REMOTE[0], 8080)], &[])));
    let asked = (Kind::Udp, (OUTSIDE, 1000), FRONTENDS[0]);
    assert_eq!(relayed(&mut world, asked), REMOTE[0]);
    world.switch.publish(&spec(direct(Protocol::Udp, &[(REMOTE[1], 8080)], &[]))).unwrap();
    assert_eq!(relayed(&mut world, asked), REMOTE[1]);
}

/// Path MTU discovery of the server: an error about its answer comes to the VIP, so to the first node, and goes on to the
/// server's, which translates it.
#[test]
fn dsr_takes_icmp_errors_about_answers_to_the_endpoint() {
    let router = Ipv4Addr::new(203, 0, 113, 77);
    let error_about = |answer: &[u8], vip: Ipv4Addr, to: MacAddr| {
        let mut packet = Vec::new();
        let kind =
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 });
        let start = PacketBuilder::ethernet2(STATION.0, to.0).ipv4(router.octets(), vip.octets(), 64);
        start.icmpv4(kind).write(&mut packet, &answer[14..]).unwrap();
        packet
    };
    let vip = FRONTENDS[1];
    let answer = |from: End| build((Kind::Tcp("A"), from, (OUTSIDE, 1000)), mac(UPLINK));
    let asked = (Kind::Tcp("S"), (OUTSIDE, 1000), vip);

    let mut first = World::new(&spec(direct(Protocol::Tcp, &[(REMOTE[0], 8080)], &[])));
    relayed(&mut first, asked);
    let error = error_about(&answer(vip), vip.0, mac(UPLINK));
    let (port, bytes) = first.send_bytes(UPLINK, error.clone()).expect("it goes on");
    assert_eq!((port, &bytes[56..62]), (UPLINK, &name(REMOTE[0])[..]));
    let inner = Ipv4Header::from_slice(&bytes[64..]).unwrap();
    assert_eq!((inner.0.source, inner.0.destination), (router.octets(), vip.0.octets()));
    assert_eq!(inner.1, &error[34..], "the message is as it was");

    let mut second = World::new(&spec(direct(Protocol::Tcp, &[(A, 8080)], &[(A, 8080)])));
    // Without the flow, it goes nowhere: not back to who has sent it, either.
    let in_vain = from_peer(A, error_about(&answer(vip), vip.0, VTEP));
    assert_eq!(second.send_bytes(UPLINK, in_vain.clone()), None);
    assert_eq!(second.drops(DropReason::RelayedInVain), 1);
    come_relayed(&mut second, A, asked).expect("the flow");
    let (port, bytes) = second.send_bytes(UPLINK, in_vain).expect("it arrives");
    let outer = Ipv4Header::from_slice(&bytes[14..]).unwrap();
    assert_eq!((port, outer.0.source, outer.0.destination), (POD_A, router.octets(), A.octets()));
    let quoted = Ipv4Header::from_slice(&bytes[14 + 20 + 8..]).unwrap();
    assert_eq!((quoted.0.source, quoted.0.destination), (A.octets(), OUTSIDE.octets()));
    assert_eq!(quoted.1[..2], 8080u16.to_be_bytes());
}

/// A relayed packet too big for the overlay, or at the end of its life, is told of to the client.
#[test]
fn dsr_tells_the_client_why_its_packet_was_not_relayed() {
    let mut world = World::new(&spec(direct(Protocol::Udp, &[(REMOTE[0], 8080)], &[])));
    let mut big = Vec::new();
    let start = PacketBuilder::ethernet2(STATION.0, mac(UPLINK).0).ipv4(OUTSIDE.octets(), NODE.octets(), 64);
    start.udp(1000, 30_080).write(&mut big, &[0; 1500 - 28]).unwrap();
    let (port, bytes) = world.send_bytes(UPLINK, big).expect("an error");
    let (header, message) = Ipv4Header::from_slice(&bytes[14..]).unwrap();
    assert_eq!((port, header.destination), (UPLINK, OUTSIDE.octets()));
    assert_eq!((&message[..2], u16::from_be_bytes([message[6], message[7]])), (&[3, 4][..], 1450));
    let mut old = build((Kind::Udp, (OUTSIDE, 1000), FRONTENDS[0]), mac(UPLINK));
    let (mut header, _) = Ipv4Header::from_slice(&old[14..]).unwrap();
    header.time_to_live = 1;
    header.header_checksum = header.calc_header_checksum();
    old[14..34].copy_from_slice(&header.to_bytes());
    let (_, bytes) = world.send_bytes(UPLINK, old).expect("an error");
    assert_eq!(bytes[34..36], [11, TimeExceededCode::TtlExceededInTransit as u8]);
}

#[test]
fn without_dsr_nothing_is_relayed() {
    let plain = |mut service: ServiceSpec| {
        service.relayed = None;
        service
    };
    let services = direct(Protocol::Tcp, &[(REMOTE[0], 8080)], &[]).into_iter().map(plain).collect();
    let mut world = World::new(&spec(services));
    assert_eq!(world.pass(UPLINK, (Kind::Tcp("S"), (OUTSIDE, 1000), FRONTENDS[1])).1.1.0, OVERLAY);
    // What is relayed to us all the same, by a node that knows better, is answered by way of us.
    let outside = Rule { masquerade: true, ..rule(&[(A, 8080)], true) };
    let services = vec![ServiceSpec { from_outside: outside, vip: BALANCED, ..service(Protocol::Tcp, &[(A, 8080)]) }];
    let mut world = World::new(&spec(services));
    let asked = (Kind::Tcp("S"), (OUTSIDE, 1000), (BALANCED, 80));
    let came = come_relayed(&mut world, A, asked).expect("it arrives");
    assert_eq!(came.1.1.0, OVERLAY);
    world.answer(came, (UPLINK, asked));
}
