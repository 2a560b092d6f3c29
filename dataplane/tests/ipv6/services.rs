//! Services of IPv6: the code is that of IPv4, so here is what differs, and that it is all wired up.

use std::{collections::HashSet, net::Ipv6Addr, time::Duration};

use etherparse::Icmpv6Type;
use shunt_dataplane::{
    net::Protocol,
    spec::{Affinity, Scheduler, ServiceSpec},
    verdict::DropReason,
};

use crate::world::*;

fn client(port: u16) -> (Ipv6Addr, u16) {
    (pod(CLIENT), port)
}

fn both(endpoints: &[Ipv6Addr]) -> Vec<ServiceSpec<Ipv6Addr>> {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| service(protocol, endpoints)).into()
}

/// Endpoints on the other node.
fn far(n: u16) -> Ipv6Addr {
    v6(&format!("fd00:10:244:2::{n:x}"))
}

/// Which endpoint a new flow from the client's `port` goes to.
fn chosen(world: &mut World, port: u16) -> Ipv6Addr {
    let (_, frame) = world.send(CLIENT, udp(CLIENT, (client(port), (vip(), 80)), b"x")).expect("it leaves");
    let (from, (endpoint, 8080)) = read(&inner(&frame)).0 else { panic!("not to an endpoint") };
    assert_eq!(from, client(port));
    endpoint
}

#[test]
fn a_connection_through_a_service_is_translated_both_ways_by_two_workers() {
    let mut world = World::new(both(&[pod(SERVER)]));
    let (to_vip, server) = ((client(4000), (vip(), 80)), (pod(SERVER), 8080));
    for flags in [SYN, ACK, ACK] {
        let (port, frame) = world.send(CLIENT, tcp(CLIENT, to_vip, flags)).expect("it arrives");
        assert_eq!((port, read(&frame).0), (SERVER, (client(4000), server)));
        let (port, frame) = world.send(SERVER, tcp(SERVER, (server, client(4000)), flags | ACK)).expect("it arrives");
        assert_eq!((port, read(&frame).0), (CLIENT, ((vip(), 80), client(4000))));
    }
    world.dropped(CLIENT, tcp(CLIENT, (client(4001), (vip(), 80)), 4), DropReason::OutOfState);
}

#[test]
fn an_endpoint_reaches_itself_through_its_service() {
    let mut world = World::new(both(&[pod(CLIENT)]));
    let (port, frame) = world.send(CLIENT, tcp(CLIENT, (client(4000), (vip(), 80)), SYN)).expect("it comes back");
    let (stand_in, at) = read(&frame).0;
    assert_eq!((port, stand_in.0, at), (CLIENT, v6("fd00:10:244:1::"), (pod(CLIENT), 8080)));
    let (port, frame) = world.send(CLIENT, tcp(CLIENT, (at, stand_in), SYN | ACK)).expect("the answer, too");
    assert_eq!((port, read(&frame).0), (CLIENT, ((vip(), 80), client(4000))));
}

#[test]
fn what_has_no_endpoint_is_refused_and_what_is_nobody_s_dropped() {
    let mut world = World::new(both(&[]));
    for at in [(vip(), 80), (vip(), 81)] {
        let (_, answer) = world.send(CLIENT, tcp(CLIENT, (client(1), at), SYN)).expect("it is refused");
        assert_eq!(read_icmp(&answer).2, port_unreachable());
    }
    world.dropped(CLIENT, tcp(CLIENT, (client(1), (v6("fd00:10:96::99"), 80)), SYN), DropReason::NoService);
}

#[test]
fn every_scheduler_and_affinity() {
    let endpoints: Vec<_> = (1..=4).map(far).collect();
    let with = |scheduler, affinity| {
        let service = ServiceSpec { scheduler, affinity, ..service(Protocol::Udp, &endpoints) };
        World::new(vec![service])
    };
    let spread = |world: &mut World| (0..64).map(|n| chosen(world, 5000 + n)).collect::<Vec<_>>();
    let different = |list: &[Ipv6Addr]| list.iter().collect::<HashSet<_>>().len();
    assert_eq!(different(&spread(&mut with(Scheduler::Maglev, None))), 4);
    let turns = spread(&mut with(Scheduler::RoundRobin, None));
    assert!(turns.chunks(4).all(|turn| different(turn) == 4), "{turns:?}");
    let fewest = spread(&mut with(Scheduler::LeastConnections, None));
    assert!(endpoints.iter().all(|one| fewest.iter().filter(|chosen| *chosen == one).count() == 16), "{fewest:?}");
    assert_eq!(different(&spread(&mut with(Scheduler::SourceHash, None))), 1);
    let affinity = Affinity { timeout: Duration::from_secs(60), group: 1 };
    let mut stays = with(Scheduler::RoundRobin, Some(affinity));
    assert_eq!(different(&spread(&mut stays)), 1);
    stays.pass(61);
    let after = chosen(&mut stays, 6000);
    assert_ne!(after, chosen(&mut with(Scheduler::RoundRobin, None), 5000), "another turn");
}

#[test]
fn updates_keep_tcp_and_move_udp() {
    let mut world = World::new(both(&[far(1)]));
    let ends = (client(7), (vip(), 80));
    let sent = |world: &mut World, packet: Vec<u8>| {
        let (_, frame) = world.send(CLIENT, packet).expect("it leaves");
        read(&inner(&frame)).0.1.0
    };
    assert_eq!(sent(&mut world, tcp(CLIENT, ends, SYN)), far(1));
    assert_eq!(sent(&mut world, udp(CLIENT, ends, b"x")), far(1));
    world.publish(both(&[far(2)]));
    assert_eq!(sent(&mut world, tcp(CLIENT, ends, ACK)), far(1));
    assert_eq!(world.send(CLIENT, udp(CLIENT, ends, b"x")).map(|(_, frame)| read(&inner(&frame)).0.1.0), Some(far(2)));
}

#[test]
fn an_error_about_a_translated_packet_finds_its_sender() {
    let mut world = World::new(both(&[far(1)]));
    let ends = (client(7), (vip(), 80));
    let asked = udp(CLIENT, ends, b"question");
    let (_, frame) = world.send(CLIENT, asked.clone()).expect("it leaves");
    let seen = inner(&frame)[14..].to_vec();
    let router = v6("fd00:10:244:2::");
    for (kind, from) in [(Icmpv6Type::PacketTooBig { mtu: 1400 }, router), (port_unreachable(), far(1))] {
        let error = icmp(UPLINK, from, pod(CLIENT), kind, &seen);
        let (port, answer) = world.send(UPLINK, outer(error)).expect("it arrives");
        let (src, dst, told, quoted) = read_icmp(&answer);
        assert_eq!((port, src, dst, told), (CLIENT, vip(), pod(CLIENT), kind));
        let mut as_sent = asked[14..].to_vec();
        // What the first hop has changed stays so.
        as_sent[7] = 63;
        assert_eq!(quoted, as_sent);
    }
}

#[test]
fn a_fragment_for_a_service_is_dropped_for_its_reason() {
    let mut world = World::new(both(&[far(1)]));
    let mut fragment = udp(CLIENT, (client(7), (vip(), 80)), &[1; 64]);
    let payload = fragment.split_off(54);
    fragment[20] = 44;
    fragment[18..20].copy_from_slice(&(payload.len() as u16 + 8).to_be_bytes());
    let fragment = [&fragment[..], &[17, 0, 0, 1, 0, 0, 0, 9], &payload].concat();
    world.dropped(CLIENT, fragment, DropReason::FragmentForService);
}
