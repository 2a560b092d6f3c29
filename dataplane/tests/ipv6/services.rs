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

/// RFC 6935, section 5: a tunnel's datagrams may have none, and must not get a wrong one.
#[test]
fn a_datagram_without_checksum_stays_without() {
    let mut world = World::new(both(&[far(1)]));
    let mut asked = udp(CLIENT, (client(7), (vip(), 80)), b"question");
    asked[60..62].fill(0);
    let (_, frame) = world.send(CLIENT, asked).expect("it leaves");
    let within = inner(&frame);
    assert_eq!((&within[38..54], &within[60..62]), (&far(1).octets()[..], &[0, 0][..]));
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

/// RFC 4884, section 4: other things may follow, and are none of the flow's.
#[test]
fn what_an_error_says_behind_the_packet_it_quotes_is_left_alone() {
    let mut world = World::new(both(&[far(1)]));
    let (_, frame) = world.send(CLIENT, tcp(CLIENT, (client(7), (vip(), 80)), SYN)).expect("it leaves");
    let mut seen = inner(&frame)[14..].to_vec();
    // As if it ended before its checksum.
    seen[4..6].copy_from_slice(&[0, 8]);
    let error = icmp(UPLINK, far(1), pod(CLIENT), port_unreachable(), &seen);
    let (_, answer) = world.send(UPLINK, outer(error)).expect("it arrives");
    let (src, _, _, quoted) = read_icmp(&answer);
    assert_eq!((src, &quoted[24..40]), (vip(), &vip().octets()[..]));
    assert_eq!(quoted[44..], seen[44..]);
    // Nor is it followed where it ends before the ports do.
    seen[5] = 3;
    let error = icmp(UPLINK, far(1), pod(CLIENT), port_unreachable(), &seen);
    let (_, answer) = world.send(UPLINK, outer(error)).expect("it arrives");
    let (src, _, _, quoted) = read_icmp(&answer);
    assert_eq!((src, quoted), (far(1), seen));
}

/// A datagram from the client's port 7, and the two fragments of it.
fn in_fragments(id: u8) -> (Ends, [Vec<u8>; 2]) {
    let ends = (client(7), (vip(), 80));
    let whole = udp(CLIENT, ends, &[1; 64]);
    let piece = |range: std::ops::Range<usize>, place: u8| {
        let part = &whole[54..][range];
        let mut fragment = whole[..54].to_vec();
        fragment[20] = 44;
        fragment[18..20].copy_from_slice(&(part.len() as u16 + 8).to_be_bytes());
        [&fragment[..], &[17, 0, 0, place, 0, 0, 0, id], part].concat()
    };
    (ends, [piece(0..40, 1), piece(40..72, 40)])
}

/// The line "Fragments follow their first fragment" for IPv6, out of order, too.
#[test]
fn fragments_follow_their_first_fragment() {
    let mut world = World::new(both(&[pod(SERVER)]));
    let (_, [first, second]) = in_fragments(1);
    let there = |(port, frame): (_, Vec<u8>)| {
        assert_eq!(
            (port, &frame[22..38], &frame[38..54]),
            (SERVER, &pod(CLIENT).octets()[..], &pod(SERVER).octets()[..])
        );
        frame[62..].to_vec()
    };
    let begins = there(world.send(CLIENT, first).expect("the first goes on"));
    let ends = there(world.send(CLIENT, second).expect("the second follows"));
    // Put together, they are the datagram as it was translated, checksum and all.
    let whole = [&udp(SERVER, (client(7), (pod(SERVER), 8080)), &[1; 64])[54..]].concat();
    assert_eq!([begins, ends].concat(), whole);

    let (_, [first, second]) = in_fragments(2);
    assert_eq!(world.waits(CLIENT, second), 0, "it waits");
    let out = world.waits(CLIENT, first);
    assert_eq!(out, 2, "both go on");

    let (_, [_, alone]) = in_fragments(3);
    assert_eq!(world.waits(CLIENT, alone), 0);
    world.pass(2);
    assert_eq!(world.waits(CLIENT, udp(CLIENT, (client(9), (pod(SERVER), 9)), b"x")), 1, "what comes then");
    assert_eq!(world.drops(DropReason::FragmentTimeout), 1, "in vain");
}
