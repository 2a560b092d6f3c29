//! A full connection table: half open flows give way, those that two sides have agreed on never do.

use std::net::Ipv4Addr;

use shunt_dataplane::verdict::DropReason;

use crate::world::*;

/// What the world's table holds.
const CAPACITY: u16 = 100;

/// A SYN from nobody, which a backend answers.
fn flood(world: &mut World, random: &mut u64) {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let source = (Ipv4Addr::from(0x0a00_0000 | (*random >> 40) as u32), (*random >> 24) as u16 | 1);
    world.client.send(tcp(CLIENT, (source, (VIP, 80)), SYN));
}

fn gave_way(world: &World) -> u64 {
    (0..2).map(|worker| world.switch.counters(worker).flows_gave_way.get()).sum()
}

#[test]
fn a_flood_from_random_sources_breaks_no_established_flow() {
    let mut world = World::new(&[backend(10), backend(11), backend(12)]);
    let servers: Vec<_> = (1000..1050).map(|port| world.connect(port)).collect();
    let mut random = 1;
    for round in 0..200 {
        for _ in 0..60 {
            flood(&mut world, &mut random);
        }
        world.settle();
        let got: Vec<_> = std::iter::from_fn(|| world.server.recv()).map(|packet| ends(&packet)).collect();
        for (nobody, server) in got {
            world.server.send(tcp(SERVER, (server, nobody), SYN | ACK));
        }
        world.settle();
        // What there is no route to, the server is told.
        while world.client.recv().is_some() || world.server.recv().is_some() {}
        // Every connection still works, both ways, and a new one comes about.
        let at = round % servers.len();
        let (port, server) = (1000 + at as u16, servers[at]);
        assert_eq!(world.ask(tcp(CLIENT, to_vip(port), ACK)), Some(((CLIENT_IP, port), server)), "round {round}");
        assert_eq!(world.answer(tcp(SERVER, (server, (CLIENT_IP, port)), ACK)), Some(((VIP, 80), (CLIENT_IP, port))));
        let new = 2000 + round as u16;
        world.connect(new);
        // It ends, so that its entry can be used again.
        world.ask(tcp(CLIENT, to_vip(new), RST));
    }
    assert!(gave_way(&world) > 10_000, "{}", gave_way(&world));
    assert_eq!(world.drops(DropReason::ConntrackFull), 0);
    assert_eq!(world.switch.conntrack().in_use(), u32::from(CAPACITY));
}

#[test]
fn the_oldest_half_open_flow_gives_way_first() {
    let mut world = World::new(&[backend(10)]);
    for port in 1000..1000 + CAPACITY {
        world.ask(udp(CLIENT, to_vip(port))).expect("it is sent on");
    }
    for port in 2000..2010 {
        world.ask(udp(CLIENT, to_vip(port))).expect("it is sent on");
        let left: Vec<u16> = world.switch.conntrack().flows().map(|flow| flow.forward.src_port).collect();
        assert!(left.contains(&port) && !left.contains(&(port - 1000)), "{left:?}");
    }
    assert_eq!(gave_way(&world), 10);
}

#[test]
fn a_table_full_of_established_flows_refuses_new_ones() {
    let mut world = World::new(&[backend(10)]);
    for port in 1000..1000 + CAPACITY {
        world.connect(port);
    }
    assert_eq!(world.ask(syn(CLIENT, to_vip(3000))), None);
    assert_eq!((world.drops(DropReason::ConntrackFull), gave_way(&world)), (1, 0));
    assert!((1000..1000 + CAPACITY).all(|port| world.ask(tcp(CLIENT, to_vip(port), ACK)).is_some()));
}
