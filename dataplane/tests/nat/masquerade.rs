//! Masquerade: hairpin, rules that ask for it, collisions, and flows that leave the cluster.

use std::{collections::HashSet, net::Ipv4Addr, sync::Arc};

use etherparse::{Icmpv4Type, Ipv4Header, PacketBuilder};
use shunt_dataplane::{
    net::{MacAddr, Protocol},
    spec::{Otherwise, Rule, ServiceSpec},
    verdict::DropReason,
};

use crate::world::*;

/// A flow out of a pod, to the VIP.
fn to_vip(kind: Kind, client: End) -> Packet {
    (kind, client, (VIP, 80))
}

#[track_caller]
fn assert_masqueraded(end: End, address: Ipv4Addr) {
    assert_eq!(end.0, address);
    assert!(MASQUERADE.contains(&end.1), "{end:?}");
}

#[test]
fn hairpin_masqueraded_works() {
    for (protocol, kind) in [(Protocol::Tcp, Kind::Tcp as fn(&'static str) -> Kind), (Protocol::Sctp, Kind::Sctp)] {
        let mut world = World::new(&spec(vec![service(protocol, &[(A, 8080)])]));
        let syn = to_vip(kind("S"), (A, 1000));
        let (port, came) = world.pass(POD_A, syn);
        assert_eq!((port, came.2), (POD_A, (A, 8080)));
        assert_masqueraded(came.1, OVERLAY);
        world.answer((port, came), (POD_A, syn));
        let ack = to_vip(kind("A"), (A, 1000));
        assert_eq!(world.pass(POD_A, ack), (POD_A, (kind("A"), came.1, came.2)), "it stays what it is");
    }
}

#[test]
fn rules_decide_by_where_a_flow_comes_from() {
    let service = ServiceSpec {
        from_pods: rule(&[(B, 1)], false),
        from_node: rule(&[(B, 2)], false),
        from_outside: rule(&[(B, 3)], true),
        ..service(Protocol::Udp, &[])
    };
    let mut world = World::new(&spec(vec![service]));
    let mut ask = |port, client| world.pass(port, to_vip(Kind::Udp, client)).1;
    assert_eq!(ask(POD_A, (A, 1000)), (Kind::Udp, (A, 1000), (B, 1)));
    assert_eq!(ask(UPLINK, (REMOTE[0], 1000)), (Kind::Udp, (REMOTE[0], 1000), (B, 1)));
    assert_eq!(ask(HOST, (OVERLAY, 1000)), (Kind::Udp, (OVERLAY, 1000), (B, 1)));
    assert_eq!(ask(HOST, (NODE, 1000)), (Kind::Udp, (NODE, 1000), (B, 2)));
    let (_, src, dst) = ask(UPLINK, (OUTSIDE, 1000));
    assert_eq!(dst, (B, 3));
    assert_masqueraded(src, OVERLAY);
}

#[test]
fn no_endpoints_refuses_or_drops_as_the_rule_says() {
    let service = ServiceSpec {
        from_pods: Rule { otherwise: Otherwise::Drop, ..Rule::default() },
        from_outside: rule(&[(B, 1)], false),
        ..service(Protocol::Udp, &[])
    };
    let mut world = World::new(&spec(vec![service]));
    assert_eq!(world.send(POD_A, to_vip(Kind::Udp, (A, 1000))), None);
    assert_eq!(world.drops(DropReason::NoLocalBackend), 1);
    let answered =
        world.switch.counters(0).port(HOST).answers[shunt_dataplane::verdict::Answer::PortUnreachable as usize].get();
    assert_eq!(answered, 0);
}

#[test]
fn source_ranges_drop_others_pods_included() {
    let sources: Arc<[_]> = ["10.244.1.10/32", "203.0.113.0/28"].map(|net| net.parse().unwrap()).into();
    let service = ServiceSpec { sources, ..service(Protocol::Udp, &[(B, 8080)]) };
    let mut world = World::new(&spec(vec![service]));
    assert!(world.send(POD_A, to_vip(Kind::Udp, (A, 1000))).is_some());
    assert!(world.send(UPLINK, to_vip(Kind::Udp, (OUTSIDE, 1000))).is_some());
    assert_eq!(world.send(UPLINK, to_vip(Kind::Udp, (REMOTE[0], 1000))), None);
    assert_eq!(world.send(UPLINK, to_vip(Kind::Udp, ("203.0.113.16".parse().unwrap(), 1000))), None);
    assert_eq!(world.drops(DropReason::SourceNotAllowed), 2);
}

/// Towards which destination which of the node's addresses stands in.
#[test]
fn the_stand_in_is_the_address_that_answers_come_back_to() {
    let ask = |backend| {
        let service = ServiceSpec { from_outside: rule(&[backend], true), ..service(Protocol::Udp, &[]) };
        let mut world = World::new(&spec(vec![service]));
        let asked = to_vip(Kind::Udp, (OUTSIDE, 1000));
        let (port, came) = world.pass(UPLINK, asked);
        world.answer((port, came), (UPLINK, asked));
        (port, came.1)
    };
    for (backend, at, stand_in) in [
        ((B, 1), POD_B, OVERLAY),
        ((REMOTE[0], 1), UPLINK, OVERLAY),
        ((OTHER_NODE, 1), HOST, NODE),
        (("203.0.113.77".parse().unwrap(), 1), UPLINK, NODE),
        ((NODE, 1), HOST, GATEWAY),
        ((OVERLAY, 1), HOST, GATEWAY),
    ] {
        let (port, src) = ask(backend);
        assert_eq!(port, at, "{backend:?}");
        assert_masqueraded(src, stand_in);
    }
}

#[test]
fn masquerade_ports_run_out_with_a_reason_and_come_back() {
    let service = ServiceSpec { from_outside: rule(&[(B, 8080)], true), ..service(Protocol::Udp, &[]) };
    let mut world = World::new(&spec(vec![service]));
    let ports = MASQUERADE.count() as u16;
    let mut seen = HashSet::new();
    for n in 0..ports {
        let (_, (_, src, _)) = world.pass(UPLINK, to_vip(Kind::Udp, (OUTSIDE, 1000 + n)));
        assert_masqueraded(src, OVERLAY);
        assert!(seen.insert(src.1), "a port has one flow to a destination");
    }
    assert_eq!(world.send(UPLINK, to_vip(Kind::Udp, (OUTSIDE, 5000))), None);
    assert_eq!(world.drops(DropReason::NoMasqueradePort), 1);
    assert!(world.send(UPLINK, to_vip(Kind::Udp, (OUTSIDE, 1000))).is_some(), "flows there are go on");
    for _ in 0..60 {
        world.now += 1_000_000_000;
        world.send(POD_A, (Kind::Udp, (A, 1), (A, 2)));
    }
    assert_eq!(world.switch.conntrack().in_use(), 0);
    for n in 0..ports {
        world.pass(UPLINK, to_vip(Kind::Udp, (OUTSIDE, 6000 + n)));
    }
}

#[test]
fn without_a_masquerade_address_such_flows_are_dropped() {
    let mut spec = spec(vec![service(Protocol::Udp, &[(A, 8080)])]);
    spec.ipv4.masquerade = None;
    let mut world = World::new(&spec);
    assert_eq!(world.send(POD_A, to_vip(Kind::Udp, (A, 1000))), None);
    assert_eq!(world.drops(DropReason::NoMasquerade), 1);
}

/// Two services with one backend, asked from one port: the backend must be able to tell the flows apart.
#[test]
fn the_later_of_two_flows_that_would_look_alike_is_masqueraded() {
    let mut second = service(Protocol::Tcp, &[(B, 8080)]);
    second.port = 81;
    let mut world = World::new(&spec(vec![service(Protocol::Tcp, &[(B, 8080)]), second]));
    let first = (Kind::Tcp("S"), (A, 1000), (VIP, 80));
    let later = (Kind::Tcp("S"), (A, 1000), (VIP, 81));
    let first_came = world.pass(POD_A, first);
    assert_eq!(first_came.1, (Kind::Tcp("S"), (A, 1000), (B, 8080)));
    let later_came = world.pass(POD_A, later);
    assert_masqueraded(later_came.1.1, OVERLAY);
    world.answer(later_came, (POD_A, later));
    world.answer(first_came, (POD_A, first));
}

#[test]
fn pods_leaving_the_cluster_are_masqueraded_but_for_the_prefixes_named() {
    let mut spec = spec(vec![]);
    spec.ipv4.masquerade.as_mut().unwrap().egress = Some(vec!["203.0.113.128/25".parse().unwrap()]);
    let mut world = World::new(&spec);
    for kind in [Kind::Udp, Kind::Tcp("S"), Kind::Sctp("S"), Kind::Ping] {
        let dport = if kind == Kind::Ping { 8 } else { 443 };
        let asked = (kind, (A, 1000), (OUTSIDE, dport));
        let (port, came) = world.pass(POD_A, asked);
        assert_eq!((port, came.0, came.2), (UPLINK, kind, asked.2));
        assert_masqueraded(came.1, NODE);
        world.answer((port, came), (POD_A, asked));
        assert_eq!(world.pass(POD_A, asked), (port, came), "it stays what it is");

        let kept = (kind, (A, 1000), ("203.0.113.129".parse().unwrap(), dport));
        assert_eq!(world.pass(POD_A, kept), (UPLINK, kept), "a prefix that is named");
        for inside in [B, REMOTE[0], NODE, OVERLAY] {
            let kept = (kind, (A, 1000), (inside, dport));
            assert_eq!(world.pass(POD_A, kept).1, kept, "inside the cluster");
        }
        let node = (kind, (OVERLAY, 1000), (OUTSIDE, dport));
        assert_eq!(world.pass(HOST, node).1, node, "the node is no pod");
    }
    // A snapshot later they still are the flows they were.
    let asked = (Kind::Udp, (A, 2000), (OUTSIDE, 443));
    let before = world.pass(POD_A, asked);
    world.switch.publish(&spec).unwrap();
    assert_eq!(world.pass(POD_A, asked), before);
    world.answer(before, (POD_A, asked));
}

/// An error from a router.
fn time_exceeded(to: (MacAddr, Ipv4Addr), ttl: u8, quote: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(to.0.0, to.0.0)
        .ipv4([203, 0, 113, 254], to.1.octets(), ttl)
        .icmpv4(kind)
        .write(&mut packet, quote)
        .unwrap();
    packet
}

/// A pod that looks for the way finds it: a router's error about what left the cluster is, bit for bit, one about what the
/// pod sent.
#[test]
fn errors_about_masqueraded_packets_are_translated_echoes_included() {
    let mut spec = spec(vec![]);
    spec.ipv4.masquerade.as_mut().unwrap().egress = Some(vec![]);
    let mut world = World::new(&spec);
    for kind in [Kind::Udp, Kind::Tcp("S"), Kind::Sctp("S"), Kind::Ping] {
        let sent = build((kind, (A, 1000), (OUTSIDE, if kind == Kind::Ping { 8 } else { 443 })), mac(POD_A));
        let (_, left) = world.send_bytes(POD_A, sent.clone()).unwrap();
        assert_eq!(left[26..30], NODE.octets());
        let (port, told) = world.send_bytes(UPLINK, time_exceeded((mac(UPLINK), NODE), 64, &left[14..])).unwrap();
        let (mut header, l4) = Ipv4Header::from_slice(&sent[14..]).unwrap();
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        let quote = [&header.to_bytes()[..], l4].concat();
        assert_eq!((port, &told[14..]), (POD_A, &time_exceeded((mac(POD_A), A), 63, &quote)[14..]), "{kind:?}");
    }
}

/// A client's port looks the same to all its peers (RFC 4787, REQ-1), unless that would take another flow's answers.
#[test]
fn flows_of_one_client_port_leave_by_one_port() {
    let mut spec = spec(vec![]);
    spec.ipv4.masquerade.as_mut().unwrap().egress = Some(vec![]);
    let mut world = World::new(&spec);
    let peer = |n: u8| (Ipv4Addr::new(203, 0, 113, n), 3478);
    let mut ask = |client, peer| world.pass(POD_A, (Kind::Udp, client, peer)).1.1.1;
    for client in (0..16).map(|n| (A, 1000 + n)) {
        let ports: HashSet<_> = (1..=20).map(|to| ask(client, peer(to))).collect();
        assert_eq!(ports.len(), 1, "{client:?} leaves by {ports:?}");
    }
    let towards_one: HashSet<_> = (0..16).map(|n| ask((A, 1000 + n), peer(1))).collect();
    assert_eq!(towards_one.len(), 16, "towards one peer each client has its own");
}

#[test]
fn answers_to_those_who_came_from_outside_keep_their_source() {
    let mut spec = spec(vec![]);
    spec.ipv4.masquerade.as_mut().unwrap().egress = Some(vec![]);
    let mut world = World::new(&spec);
    for (kind, dport) in [(Kind::Udp, 53), (Kind::Tcp("S"), 80), (Kind::Sctp("S"), 80), (Kind::Ping, 8)] {
        let asked = (kind, (OUTSIDE, 1000), (A, dport));
        let came = world.pass(UPLINK, asked);
        assert_eq!(came, (POD_A, asked));
        world.answer(came, (UPLINK, asked));
    }
    assert_eq!(world.send(POD_A, (Kind::Tcp("SA"), (A, 80), (OUTSIDE, 7))), None, "an answer to nobody");
    assert_eq!(world.drops(DropReason::OutOfState), 1);
}

/// A client talks to an endpoint directly and through its service from one port. Whichever comes first keeps it.
#[test]
fn a_direct_flow_and_one_through_the_service_from_one_port_are_told_apart() {
    let kinds = [(Kind::Udp, Protocol::Udp), (Kind::Tcp("S"), Protocol::Tcp), (Kind::Sctp("S"), Protocol::Sctp)];
    for (kind, protocol) in kinds {
        for (client, port, backend) in
            [(A, POD_A, (B, 8080)), (A, POD_A, (REMOTE[0], 8080)), (OVERLAY, HOST, (B, 8080))]
        {
            let direct = (kind, (client, 1000), backend);
            let through = (kind, (client, 1000), (VIP, 80));
            for [first, later] in [[direct, through], [through, direct]] {
                let mut world = World::new(&spec(vec![service(protocol, &[backend])]));
                let first_came = world.pass(port, first);
                assert_eq!(first_came.1.1, first.1, "the first one keeps its source");
                let later_came = world.pass(port, later);
                assert_eq!(later_came.1.2, backend);
                assert_masqueraded(later_came.1.1, OVERLAY);
                world.answer(later_came, (port, later));
                world.answer(first_came, (port, first));
            }
        }
    }
}

/// Knowing direct flows is a help to others: where there is no room for them, they go their way all the same.
#[test]
fn a_direct_flow_needs_no_room_in_the_table() {
    let mut world = World::new(&spec(vec![service(Protocol::Udp, &[(B, 8080)])]));
    for n in 0..1000 {
        let asked = (Kind::Udp, (A, 1000 + n), (VIP, 80));
        let came = world.pass(POD_A, asked);
        world.answer(came, (POD_A, asked));
    }
    let direct = (Kind::Udp, (A, 5000), (B, 8080));
    assert_eq!(world.pass(POD_A, direct), (POD_B, direct));
    assert_eq!(world.drops(DropReason::ConntrackFull), 0);
    assert_eq!(world.send(POD_A, (Kind::Udp, (A, 5000), (VIP, 80))), None);
    assert_eq!(world.drops(DropReason::ConntrackFull), 1);
}

/// After a restart: an answer to what was masqueraded would make the node's kernel reset the connection. A pod of another node
/// has its flows translated there.
#[test]
fn out_of_state_answers_to_masqueraded_flows_are_dropped_until_their_client_speaks() {
    let service = ServiceSpec { from_outside: rule(&[(B, 8080)], true), ..service(Protocol::Tcp, &[]) };
    let mut world = World::new(&spec(vec![service]));
    let asked = to_vip(Kind::Tcp("S"), (OUTSIDE, 1000));
    let (at, (_, stand_in, backend)) = world.pass(UPLINK, asked);
    let mut after = World::new(&spec(vec![world.switch.snapshot().ipv4.services.set().iter().next().unwrap().clone()]));
    after.switch.conntrack().complete_from(10 + 5);
    assert_eq!(after.send(at, (Kind::Tcp("A"), backend, stand_in)), None);
    assert_eq!(after.drops(DropReason::OutOfState), 1);
    let again = after.pass(UPLINK, to_vip(Kind::Tcp("A"), (OUTSIDE, 1000)));
    assert_eq!(again, (at, (Kind::Tcp("A"), stand_in, backend)), "the same port stands in");
    after.answer(again, (UPLINK, to_vip(Kind::Tcp("A"), (OUTSIDE, 1000))));
    let elsewhere = (Kind::Tcp("A"), backend, (REMOTE[0], 1000));
    assert_eq!(after.pass(at, elsewhere), (UPLINK, elsewhere));
}
