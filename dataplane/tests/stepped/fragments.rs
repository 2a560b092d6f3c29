//! Fragments follow the first fragment of their datagram: in any order, over several workers, and never for long.

use etherparse::{Ipv4Header, PacketBuilder};
use shunt_dataplane::{io::MemoryDevice, spec::PortId, stages::fragments::OVERTAKER, verdict::DropReason};

use crate::world::*;

const SECOND: u64 = 1_000_000_000;

fn payload() -> Vec<u8> {
    (0..3000u32).map(|n| (n * 7) as u8).collect()
}

/// A UDP datagram of 3000 bytes in three frames.
fn fragments(port: PortId, (src, dst): Ends, id: u16) -> [Vec<u8>; 3] {
    let mut whole = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(port).0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .udp(src.1, dst.1)
        .write(&mut whole, &payload())
        .unwrap();
    in_three(&whole, id)
}

/// The same of SCTP: a chunk of data.
fn sctp_fragments(port: PortId, ends: Ends, id: u16) -> [Vec<u8>; 3] {
    in_three(&sctp(port, ends, &[(DATA, &payload())]), id)
}

/// A frame of some 3000 bytes in three.
fn in_three(whole: &[u8], id: u16) -> [Vec<u8>; 3] {
    let (header, datagram) = Ipv4Header::from_slice(&whole[14..]).unwrap();
    let cuts = [0, 1400, 2800, datagram.len()];
    std::array::from_fn(|at| {
        let piece = &datagram[cuts[at]..cuts[at + 1]];
        let mut header = Ipv4Header { identification: id, more_fragments: at < 2, ..header.clone() };
        header.dont_fragment = false;
        header.fragment_offset = ((cuts[at] / 8) as u16).try_into().unwrap();
        header.total_len = (header.header_len() + piece.len()) as u16;
        header.header_checksum = header.calc_header_checksum();
        [&whole[..14], &header.to_bytes()[..], piece].concat()
    })
}

/// Puts fragments together as their receiver does.
fn together(mut frames: Vec<Vec<u8>>) -> Vec<u8> {
    frames.sort_by_key(|frame| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff);
    let mut datagram = Vec::new();
    for frame in &frames {
        let (header, piece) = Ipv4Header::from_slice(&frame[14..]).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.fragment_offset.value()) * 8, datagram.len(), "no gap");
        datagram.extend_from_slice(piece);
    }
    let (mut header, _) = Ipv4Header::from_slice(&frames[0][14..]).unwrap();
    (header.more_fragments, header.total_len) = (false, (20 + datagram.len()) as u16);
    header.header_checksum = header.calc_header_checksum();
    [&frames[0][..14], &header.to_bytes()[..], &datagram].concat()
}

fn received(wire: &shunt_dataplane::io::MemoryWire) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| wire.recv()).collect()
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn fragments_follow_their_first_fragment_in_any_order_and_both_directions() {
    for fragments in [fragments, sctp_fragments] {
        let mut world = World::new(&[backend(10), backend(11), backend(12)]);
        for (id, order) in (1..).zip(ORDERS) {
            for one_burst in [true, false] {
                let id = 2 * id + u16::from(one_burst);
                let request = fragments(CLIENT, to_vip(1000 + id), id);
                for at in order {
                    world.client.send(request[at].clone());
                    if !one_burst {
                        world.settle();
                    }
                }
                world.settle();
                let (client, server) = ends(&together(received(&world.server)));
                assert_eq!((client, server.1), ((CLIENT_IP, 1000 + id), 8080));

                // The answers come in at another worker.
                let answer = fragments(SERVER, (server, client), id);
                for at in order {
                    world.server.send(answer[at].clone());
                    if !one_burst {
                        world.settle();
                    }
                }
                world.settle();
                assert_eq!(ends(&together(received(&world.client))), ((VIP, 80), client));
                assert_eq!(world.held(), 0);
            }
        }
        assert_eq!(world.switch.conntrack().in_use(), 12);
    }
}

/// By how much its checksum changes, the first fragment of an SCTP packet cannot know before the last one has come.
#[test]
fn the_first_fragment_of_sctp_waits_for_the_last() {
    let mut world = World::new(&[backend(10)]);
    let (queue, second) = MemoryDevice::new(64);
    world.switch.attach(1, CLIENT, queue);
    let [first, middle, last] = sctp_fragments(CLIENT, to_vip(1000), 7);
    world.client.send(first.clone());
    world.client.send(middle);
    world.settle();
    assert_eq!((world.held(), received(&world.server).len()), (1, 1));
    // It comes to another worker.
    second.send(last);
    world.settle();
    assert_eq!((world.held(), received(&world.server).len()), (0, 2));

    world.client.send(sctp_fragments(CLIENT, to_vip(1000), 8)[0].clone());
    world.settle();
    world.now += SECOND;
    world.settle();
    assert_eq!((world.held(), world.drops(DropReason::FragmentTimeout)), (0, 1), "the last one was lost");
}

#[test]
fn fragments_of_one_datagram_at_two_workers() {
    let mut world = World::new(&[backend(10)]);
    // A second queue of the client's port, at the other worker.
    let (queue, second) = MemoryDevice::new(64);
    world.switch.attach(1, CLIENT, queue);
    let [first, middle, last] = fragments(CLIENT, to_vip(1000), 7);
    second.send(last);
    world.settle();
    assert_eq!((world.held(), received(&world.server).len()), (1, 0));
    world.client.send(first);
    second.send(middle);
    world.settle();
    assert_eq!(ends(&together(received(&world.server))).0, (CLIENT_IP, 1000));
    assert_eq!(world.held(), 0);
}

#[test]
fn a_fragment_waits_a_second_and_is_dropped() {
    let mut world = World::new(&[backend(10)]);
    let [first, _, last] = fragments(CLIENT, to_vip(1000), 7);
    world.client.send(last.clone());
    world.settle();
    world.now += SECOND / 2;
    world.settle();
    assert_eq!((world.held(), world.drops(DropReason::FragmentTimeout)), (1, 0));
    world.now += SECOND / 2;
    world.settle();
    assert_eq!((world.held(), world.drops(DropReason::FragmentTimeout)), (0, 1));

    // A first fragment is known for two seconds: identifications come round again.
    world.client.send(first);
    world.settle();
    world.now += 3 * SECOND;
    world.client.send(last);
    world.settle();
    assert_eq!((world.held(), received(&world.server).len()), (1, 1));
}

#[test]
fn no_more_fragments_wait_than_may_and_none_when_their_port_goes() {
    let mut world = World::new(&[backend(10)]);
    // Fewer than the 128 frames that the worker has.
    for id in 0..100 {
        world.client.send(fragments(CLIENT, to_vip(1000), id)[2].clone());
        world.settle();
    }
    assert_eq!(world.held() + world.drops(DropReason::FragmentsWaiting), 100);
    assert_eq!(world.held(), 64);
    // What does not wait gets through.
    assert!(world.ask(udp(CLIENT, to_vip(1000))).is_some());
    world.switch.detach(0, CLIENT);
    assert_eq!((world.held(), world.switch.census(0).memories[0].in_hand), (0, 0));
    assert_eq!(world.drops(DropReason::FragmentTimeout), 64);
    let memory = &world.switch.census(0).memories[0];
    assert_eq!(memory.free, memory.capacity);
}

/// Pings in fragments, and fragments where there are no services, need no ports and no waiting.
#[test]
fn what_needs_no_ports_does_not_wait() {
    let mut world = World::new(&[backend(10)]);
    let [_, _, last] = fragments(CLIENT, to_vip(1000), 7);
    let mut ping = last.clone();
    ping[23] = 1;
    ping[30..34].copy_from_slice(&[10, 244, 1, 10]);
    ping[24..26].fill(0);
    let (mut header, rest) = Ipv4Header::from_slice(&ping[14..]).unwrap();
    header.header_checksum = header.calc_header_checksum();
    world.client.send([&ping[..14], &header.to_bytes()[..], rest].concat());
    world.settle();
    assert_eq!((world.held(), received(&world.server).len()), (0, 1));
}

/// As a program on the uplink sends it to the host port.
fn copy(fragment: &[u8]) -> Vec<u8> {
    [&mac(HOST).0[..], &OVERTAKER.0, &fragment[12..]].concat()
}

/// Those that the kernel has got as well go on if the datagram is a flow's of ours, in both directions, and never else.
#[test]
fn copies_follow_their_flow_or_are_dropped_quietly() {
    let mut world = World::new(&[backend(10)]);
    for fragments in [fragments, sctp_fragments] {
        let id = world.now as u16;
        let [first, middle, last] = fragments(CLIENT, to_vip(1000), id);
        [&last, &middle].into_iter().for_each(|fragment| world.host.send(copy(fragment)));
        world.settle();
        assert_eq!((world.held(), received(&world.server).len()), (2, 0));
        world.client.send(first);
        world.settle();
        let (client, server) = ends(&together(received(&world.server)));
        let [first, middle, last] = fragments(SERVER, (server, client), id);
        [&middle, &last].into_iter().for_each(|fragment| world.host.send(copy(fragment)));
        world.server.send(first);
        world.settle();
        assert_eq!(ends(&together(received(&world.client))), ((VIP, 80), client));
    }
    assert_eq!((world.held(), world.drops(DropReason::KernelsFragment)), (0, 0));

    // Of a datagram to nobody's flow the first fragment, though it came by here, makes no difference.
    let to_pod = ((CLIENT_IP, 1000), (backend(10).address, 99));
    let [first, middle, _] = fragments(CLIENT, to_pod, 900);
    world.host.send(copy(&middle));
    world.client.send(first);
    // One without ports does not wait at all.
    let mut ping = fragments(CLIENT, to_vip(1000), 901)[2].clone();
    ping[23] = 1;
    ping[24..26].fill(0);
    let (mut header, rest) = Ipv4Header::from_slice(&ping[14..]).unwrap();
    header.header_checksum = header.calc_header_checksum();
    world.host.send(copy(&[&ping[..14], &header.to_bytes()[..], rest].concat()));
    world.settle();
    assert_eq!((world.held(), world.drops(DropReason::KernelsFragment)), (1, 1));
    world.now += SECOND;
    world.settle();
    assert_eq!((world.held(), world.drops(DropReason::KernelsFragment)), (0, 2));
    assert_eq!((received(&world.server).len(), received(&world.host).len()), (1, 0), "the first one");

    // The oldest makes room, for another copy and for what would be lost.
    (1000..1060).for_each(|id| world.host.send(copy(&fragments(CLIENT, to_vip(1000), id)[2])));
    world.settle();
    (1060..1070).for_each(|id| world.host.send(copy(&fragments(CLIENT, to_vip(1000), id)[2])));
    world.settle();
    assert_eq!((world.held(), world.drops(DropReason::KernelsFragment)), (64, 8));
    (2000..2070).for_each(|id| world.server.send(fragments(SERVER, (to_pod.1, to_pod.0), id)[2].clone()));
    world.settle();
    assert_eq!((world.held(), world.drops(DropReason::KernelsFragment)), (64, 72));
    assert_eq!(world.drops(DropReason::FragmentsWaiting), 6);
    world.switch.detach(1, HOST);
    assert_eq!(world.drops(DropReason::FragmentTimeout), 64, "honest ones");
}
