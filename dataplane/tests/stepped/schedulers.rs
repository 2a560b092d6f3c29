//! Who gets new flows, by each scheduler.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use shunt_dataplane::spec::{Endpoint, ForwardingSpec, Scheduler, ServiceSpec};

use crate::world::*;

fn scheduled(scheduler: Scheduler, weights: &[u16]) -> ForwardingSpec {
    let endpoints = (10..).zip(weights).map(|(n, &weight)| Endpoint { backend: backend(n), weight }).collect();
    with_services(spec(&[]), |service| {
        let simple = ServiceSpec::simple(VIP, 80, service.protocol, std::sync::Arc::clone(&endpoints));
        *service = ServiceSpec { scheduler, ..simple };
    })
}

fn world(scheduler: Scheduler, weights: &[u16]) -> World {
    let mut world = World::new(&[]);
    world.switch.publish(&scheduled(scheduler, weights)).unwrap();
    world
}

/// New flows by the last byte of the endpoint that got them.
fn shares(world: &mut World, flows: u16) -> HashMap<u8, u32> {
    let mut shares = HashMap::new();
    for port in 1000..1000 + flows {
        let (_, (server, _)) = world.ask(syn(CLIENT, to_vip(port))).expect("the SYN arrives");
        *shares.entry(server.octets()[3]).or_default() += 1;
    }
    shares
}

#[test]
fn round_robin_gives_each_endpoint_its_turn() {
    let mut world = world(Scheduler::RoundRobin, &[1, 1, 1]);
    let order: Vec<_> =
        (1000..1009).map(|port| world.ask(syn(CLIENT, to_vip(port))).unwrap().1.0.octets()[3]).collect();
    assert_eq!(order, [10, 11, 12, 10, 11, 12, 10, 11, 12]);
}

#[test]
fn weights_are_kept_by_every_scheduler() {
    for (scheduler, off) in [(Scheduler::RoundRobin, 2), (Scheduler::LeastConnections, 2), (Scheduler::Maglev, 20)] {
        let mut world = world(scheduler, &[1, 3, 0, 6]);
        // Fewer flows than the world's table holds.
        let shares = shares(&mut world, 90);
        for (endpoint, fair) in [(10, 9), (11, 27), (12, 0), (13, 54)] {
            let share = shares.get(&endpoint).copied().unwrap_or(0);
            assert!(share.abs_diff(fair) <= if fair == 0 { 0 } else { off }, "{scheduler:?}: {shares:?}");
        }
    }
}

#[test]
fn least_connections_go_to_whoever_has_the_fewest() {
    let mut world = world(Scheduler::LeastConnections, &[1, 1, 1, 1]);
    assert_eq!(shares(&mut world, 40), HashMap::from([(10, 10), (11, 10), (12, 10), (13, 10)]));
    // Flows of two endpoints end: the next ones go there.
    let flows: Vec<_> = world.switch.conntrack().flows().collect();
    let its = [10, 11].map(|n| IpAddr::from(backend(n).address));
    let over = flows.iter().filter(|flow| its.contains(&flow.reply.src)).map(|flow| flow.forward.src_port);
    for port in over {
        world.ask(tcp(CLIENT, to_vip(port), RST));
    }
    for seconds in 1..=40 {
        world.now = seconds * 1_000_000_000;
        world.settle();
    }
    assert_eq!(world.switch.conntrack().in_use(), 20);
    let mut next = HashMap::new();
    for port in 3000..3020 {
        let server = world.ask(syn(CLIENT, to_vip(port))).unwrap().1.0;
        *next.entry(server.octets()[3]).or_insert(0) += 1;
    }
    assert_eq!(next, HashMap::from([(10, 10), (11, 10)]));
}

#[test]
fn source_hash_keeps_a_client_at_one_endpoint_without_remembering_it() {
    let mut world = world(Scheduler::SourceHash, &[1; 8]);
    let mut of = |client: u8, port| {
        let ends = ((Ipv4Addr::new(10, 244, 1, client), port), (VIP, 80));
        world.ask(syn(CLIENT, ends)).unwrap().1.0
    };
    let clients: Vec<_> = (100..130).map(|client| of(client, 1)).collect();
    assert!((100..130).zip(&clients).all(|(client, endpoint)| of(client, 2) == *endpoint));
    assert!(clients.iter().collect::<std::collections::HashSet<_>>().len() > 4);
}

#[test]
fn without_any_weight_there_is_nobody() {
    for scheduler in [Scheduler::RoundRobin, Scheduler::LeastConnections, Scheduler::Maglev, Scheduler::SourceHash] {
        let mut world = world(scheduler, &[0, 0]);
        assert_eq!(world.ask(syn(CLIENT, to_vip(1000))), None, "{scheduler:?}");
    }
}

/// Weight 0 is how an endpoint is drained: what it has it keeps.
#[test]
fn an_endpoint_that_loses_its_weight_keeps_its_flows() {
    let mut world = world(Scheduler::Maglev, &[1, 1]);
    let before: Vec<_> = (1000..1020).map(|port| world.ask(udp(CLIENT, to_vip(port))).unwrap().1).collect();
    world.switch.publish(&scheduled(Scheduler::Maglev, &[0, 1])).unwrap();
    for (port, server) in (1000..1020).zip(before) {
        assert_eq!(world.ask(udp(CLIENT, to_vip(port))).unwrap().1, server);
        assert_eq!(world.ask(udp(CLIENT, to_vip(port + 1000))).unwrap().1.0, backend(11).address);
    }
}
