//! Several workers over one connection table: who receives, who decides and who sends may all differ.

use std::net::Ipv4Addr;

use etherparse::{SlicedPacket, TransportSlice};
use shunt_dataplane::verdict::DropReason;

use crate::world::*;

#[test]
fn both_directions_of_a_flow_on_different_workers() {
    let mut world = World::new(&[backend(10), backend(11), backend(12)]);
    let mut chosen = Vec::new();
    for port in 1000..1020 {
        let (client, server) = world.ask(udp(CLIENT, to_vip(port))).expect("delivered");
        assert_eq!(client, (CLIENT_IP, port));
        assert_eq!(server.1, 8080);
        chosen.push(server);
    }
    assert!(chosen.iter().any(|server| *server != chosen[0]), "the service spreads over its backends");
    for (port, server) in (1000..1020).zip(chosen) {
        world.server.send(udp(SERVER, (server, (CLIENT_IP, port))));
        world.settle();
        assert_eq!(world.client.recv().map(|p| ends(&p)), Some(((VIP, 80), (CLIENT_IP, port))));
        let again = world.ask(udp(CLIENT, to_vip(port))).expect("delivered");
        assert_eq!(again.1, server, "an established flow stays with its backend");
    }
    assert_eq!(world.switch.conntrack().in_use(), 20);
}

#[test]
fn an_update_elsewhere_moves_no_flow_and_a_removed_endpoint_frees_its_udp_flows_only() {
    let all = [backend(10), backend(11), backend(12)];
    let mut world = World::new(&all);
    let before: Vec<_> = (1000..1030).map(|port| world.ask(udp(CLIENT, to_vip(port))).unwrap().1).collect();
    let connections: Vec<_> = (2000..2030).map(|port| world.ask(syn(CLIENT, to_vip(port))).unwrap().1).collect();

    world.switch.publish(&spec(&all[1..])).unwrap();
    for (port, old) in (1000..1030).zip(before) {
        let new = world.ask(udp(CLIENT, to_vip(port))).expect("delivered").1;
        if old.0 == all[0].address {
            assert_ne!(new.0, old.0, "flows to the removed endpoint are forgotten");
        } else {
            assert_eq!(new, old);
        }
    }
    for (port, old) in (2000..2030).zip(connections) {
        assert_eq!(world.ask(syn(CLIENT, to_vip(port))).expect("delivered").1, old, "connections are never moved");
    }
}

#[test]
fn without_endpoints_and_on_a_wrong_port_refused_and_at_an_unallocated_address_dropped() {
    let mut world = World::new(&[]);
    let wrong_port = ((CLIENT_IP, 1001), (VIP, 81));
    for packet in [to_vip(1000), wrong_port] {
        assert_eq!(world.ask(udp(CLIENT, packet)), None);
        let refusal = world.client.recv().expect("an ICMP error");
        let sliced = SlicedPacket::from_ethernet(&refusal).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("no ICMP: {refusal:?}") };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 3), "port unreachable");
    }

    let nobody = ((CLIENT_IP, 1000), (Ipv4Addr::new(10, 96, 0, 9), 80));
    assert_eq!(world.ask(udp(CLIENT, nobody)), None);
    assert_eq!(world.drops(DropReason::NoService), 1);
}

#[test]
fn idle_flows_expire() {
    let mut world = World::new(&[backend(10)]);
    for port in 1000..1100 {
        assert!(world.ask(udp(CLIENT, to_vip(port))).is_some());
    }
    // Each worker looks at its share of the table once in eight seconds.
    for seconds in 1..=60 {
        world.now = seconds * 1_000_000_000;
        world.settle();
    }
    assert_eq!(world.switch.conntrack().in_use(), 0);
    assert!(world.ask(udp(CLIENT, to_vip(3000))).is_some());
}

/// Of a small table less than an entry is due in a second; what is not due yet is not forgotten.
#[test]
fn idle_flows_of_a_small_table_expire_in_their_time() {
    for flows in 1..40 {
        let mut world = World::new(&[backend(10)]);
        (0..flows).for_each(|flow| assert!(world.ask(udp(CLIENT, to_vip(1000 + flow))).is_some()));
        // Half a minute of silence, and eight seconds for each worker to go round.
        for seconds in 1..=40 {
            world.now = seconds * 1_000_000_000;
            world.settle();
        }
        assert_eq!(world.switch.conntrack().in_use(), 0, "of {flows}");
    }
}
