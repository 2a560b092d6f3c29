//! Session affinity: a client stays with its endpoint for a time, and no longer than the endpoint serves.

use std::{net::Ipv4Addr, time::Duration};

use shunt_dataplane::spec::{Affinity, Backend, ForwardingSpec, Scheduler};

use crate::world::*;

const SECOND: u64 = 1_000_000_000;
/// Both are the service `GROUP` and `GROUP + 1`: TCP and UDP port 80.
const GROUP: u64 = 7;

fn sticky(backends: &[Backend], seconds: u64) -> ForwardingSpec {
    let mut groups = GROUP..;
    with_services(spec(backends), |service| {
        let timeout = Duration::from_secs(seconds);
        service.affinity = groups.next().map(|group| Affinity { timeout, group });
    })
}

fn all() -> Vec<Backend> {
    (10..20).map(backend).collect()
}

fn from(client: u8, port: u16) -> Ends {
    ((Ipv4Addr::new(10, 244, 1, client), port), (VIP, 80))
}

/// The endpoint of a new flow.
fn chosen(world: &mut World, client: u8, port: u16) -> Ipv4Addr {
    world.ask(syn(CLIENT, from(client, port))).expect("the SYN arrives").1.0
}

#[test]
fn session_affinity_keeps_a_client_at_its_endpoint() {
    for scheduler in [Scheduler::Maglev, Scheduler::RoundRobin, Scheduler::LeastConnections, Scheduler::SourceHash] {
        let mut world = World::new(&all());
        let spec = with_services(sticky(&all(), 10_800), |service| service.scheduler = scheduler);
        world.switch.publish(&spec).unwrap();
        let clients: Vec<_> = (100..130).map(|client| (client, chosen(&mut world, client, 1000))).collect();
        let endpoints: std::collections::HashSet<_> = clients.iter().map(|(_, endpoint)| *endpoint).collect();
        assert!(endpoints.len() > 5, "{scheduler:?}: clients spread over {} endpoints", endpoints.len());
        for (client, endpoint) in clients {
            for port in 2000..2010 {
                assert_eq!(chosen(&mut world, client, port), endpoint, "{scheduler:?}");
            }
        }
    }
}

#[test]
fn session_affinity_ends_with_its_timeout_since_the_last_new_flow() {
    let mut world = World::new(&all());
    let spec = with_services(sticky(&all(), 60), |service| service.scheduler = Scheduler::RoundRobin);
    world.switch.publish(&spec).unwrap();
    let first = chosen(&mut world, 100, 1000);
    for port in 1001..1005 {
        world.now += 59 * SECOND;
        assert_eq!(chosen(&mut world, 100, port), first, "each new flow begins the time anew");
    }
    world.now += 60 * SECOND;
    assert_ne!(chosen(&mut world, 100, 1010), first, "in turns, it is another's");
}

#[test]
fn session_affinity_is_switched_live_and_its_timeout_changed() {
    let mut world = World::new(&all());
    let in_turns = |spec: ForwardingSpec| with_services(spec, |service| service.scheduler = Scheduler::RoundRobin);
    world.switch.publish(&in_turns(sticky(&all(), 1000))).unwrap();
    let first = chosen(&mut world, 100, 1000);
    world.switch.publish(&in_turns(spec(&all()))).unwrap();
    let without: Vec<_> = (1001..1005).map(|port| chosen(&mut world, 100, port)).collect();
    assert!(without.windows(2).all(|pair| pair[0] != pair[1]), "in turns");
    world.switch.publish(&in_turns(sticky(&all(), 1000))).unwrap();
    assert_eq!(chosen(&mut world, 100, 1010), first, "remembered still");
    world.now += 20 * SECOND;
    world.switch.publish(&in_turns(sticky(&all(), 20))).unwrap();
    assert_ne!(chosen(&mut world, 100, 1011), first, "too long ago for the new timeout");
}

#[test]
fn session_affinity_is_dropped_when_the_endpoint_serves_no_longer() {
    let mut world = World::new(&all());
    world.switch.publish(&sticky(&all(), 10_800)).unwrap();
    let old = chosen(&mut world, 100, 1000);
    let left: Vec<_> = all().into_iter().filter(|backend| backend.address != old).collect();
    world.switch.publish(&sticky(&left, 10_800)).unwrap();
    let new = chosen(&mut world, 100, 1001);
    assert_ne!(new, old);
    // It does not go back when the endpoint comes back.
    world.switch.publish(&sticky(&all(), 10_800)).unwrap();
    assert_eq!(chosen(&mut world, 100, 1002), new);
}

/// As with kube-proxy: affinity is a service port's; another port or protocol of the same VIP is another matter.
#[test]
fn session_affinity_is_of_a_group_of_frontends() {
    let mut world = World::new(&all());
    let in_turns = |groups: [u64; 3]| {
        let mut groups = groups.into_iter();
        with_services(sticky(&all(), 10_800), |service| {
            service.scheduler = Scheduler::RoundRobin;
            let group = groups.next().expect("one for each");
            service.affinity = service.affinity.map(|affinity| Affinity { group, ..affinity });
        })
    };
    world.switch.publish(&in_turns([1, 1, 1])).unwrap();
    let over_udp = world.ask(udp(CLIENT, from(100, 1000))).unwrap().1.0;
    assert_eq!(chosen(&mut world, 100, 1000), over_udp, "one group, one endpoint");
    world.switch.publish(&in_turns([2, 3, 4])).unwrap();
    let over_udp: Vec<_> = (100..110).map(|client| world.ask(udp(CLIENT, from(client, 2000))).unwrap().1.0).collect();
    // The other way round, so that the turns give the same to few.
    let mut over_tcp: Vec<_> = (100..110).rev().map(|client| chosen(&mut world, client, 2000)).collect();
    over_tcp.reverse();
    assert!(over_udp.iter().zip(&over_tcp).filter(|(udp, tcp)| udp == tcp).count() <= 2);
}

/// A client whose endpoint does not answer is not kept there.
#[test]
fn a_silent_endpoint_loses_its_client() {
    let mut world = World::new(&all());
    world.switch.publish(&sticky(&all(), 10_800)).unwrap();
    let silent = chosen(&mut world, 100, 1000);
    assert_eq!(chosen(&mut world, 100, 1000), silent);
    let other = chosen(&mut world, 100, 1000);
    assert_ne!(other, silent);
    assert_eq!(chosen(&mut world, 100, 1001), other);
}
