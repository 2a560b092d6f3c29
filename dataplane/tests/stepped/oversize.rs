//! Packets that are too big for their next hop: put together again, what leaves is what came.

use proptest::prelude::*;
use shunt_dataplane::verdict::{Answer, DropReason};

use crate::world::*;

/// Longest header, in bytes, and where the first four fields that cutting changes are.
const IP: usize = 14;
const DF: u16 = 0x4000;
const MORE: u16 = 0x2000;

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// Gives an IPv4 header its checksum; a byte at a time, unlike the engine.
fn mend(ip: &mut [u8]) {
    let len = usize::from(ip[0] & 15) * 4;
    ip[10..12].fill(0);
    let mut sum: u32 = ip[..len].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// A datagram of so many bytes to the VIP, or to a server as it is.
fn datagram(to_the_vip: bool, len: usize) -> Vec<u8> {
    let server = (backend(77).address, 9);
    let (src, dst) = if to_the_vip { to_vip(1000) } else { ((CLIENT_IP, 1000), server) };
    let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(CLIENT).0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .udp(src.1, dst.1)
        .write(&mut packet, &payload)
        .unwrap();
    packet
}

/// The packet with these options, and this word of flags and offset.
fn with(packet: &[u8], options: &[u8], fragment: u16) -> Vec<u8> {
    let mut packet = [&packet[..IP + 20], options, &packet[IP + 20..]].concat();
    let ip = &mut packet[IP..];
    ip[0] += (options.len() / 4) as u8;
    let total = (word(ip, 2) + options.len() as u16).to_be_bytes();
    ip[2..4].copy_from_slice(&total);
    ip[4..6].copy_from_slice(&[0xab, 0xcd]);
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    if fragment & 0x1fff != 0 {
        // Of a protocol without ports (RFC 3692's for experiments), or it would wait for the first one.
        ip[9] = 253;
    }
    mend(ip);
    packet
}

/// The world with a longest packet for the servers' port.
fn world(mtu: u16) -> World {
    let mut world = World::new(&[backend(10)]);
    let mut spec = spec(&[backend(10)]);
    spec.ports[1].mtu = mtu;
    world.switch.publish(&spec).unwrap();
    world
}

fn received(world: &World) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| world.server.recv()).collect()
}

/// What fragments make together, by RFC 791, section 3.2: the header is the first one's.
fn put_together(fragments: &[Vec<u8>], start: u16, mtu: u16) -> Vec<u8> {
    let header = IP + usize::from(fragments[0][IP] & 15) * 4;
    let mut whole = fragments[0][..header].to_vec();
    for (at, fragment) in fragments.iter().enumerate() {
        let mut sound = fragment[IP..].to_vec();
        mend(&mut sound);
        assert_eq!(sound, fragment[IP..], "its checksum is right");
        assert!(fragment.len() - IP <= usize::from(mtu) && usize::from(word(fragment, IP + 2)) == fragment.len() - IP);
        let (flags, offset) = (word(fragment, IP + 6) & !0x1fff, word(fragment, IP + 6) & 0x1fff);
        assert_eq!(usize::from(offset), usize::from(start & 0x1fff) + (whole.len() - header) / 8);
        let is_last = at + 1 == fragments.len();
        assert_eq!(flags, if is_last { start & MORE } else { MORE });
        assert!(
            is_last || (fragment.len() - header).is_multiple_of(8) && fragment.len() - IP + 8 > usize::from(mtu),
            "none too small"
        );
        assert_eq!(word(fragment, IP + 4), 0xabcd, "one identification");
        whole.extend(&fragment[header..]);
    }
    let total = ((whole.len() - IP) as u16).to_be_bytes();
    whole[IP + 2..IP + 4].copy_from_slice(&total);
    whole[IP + 6..IP + 8].copy_from_slice(&start.to_be_bytes());
    mend(&mut whole[IP..]);
    whole
}

/// Record route, of the first fragment alone; loose source route, of all; both.
const OPTIONS: [(&[u8], &[u8]); 4] = [
    (&[], &[]),
    (&[7, 7, 4, 0, 0, 0, 0, 0], &[1, 1, 1, 1, 1, 1, 1, 0]),
    (&[131, 3, 4, 1], &[131, 3, 4, 1]),
    (&[1, 7, 3, 4, 131, 3, 4, 0], &[1, 1, 1, 1, 131, 3, 4, 0]),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn what_was_cut_makes_the_packet_that_came(
        mtu in 68..1400u16,
        len in 8..1600usize,
        options in prop::sample::select(OPTIONS.to_vec()),
        to_the_vip in any::<bool>(),
        start in prop_oneof![Just(0), (any::<bool>(), 1..1000u16).prop_map(|(more, at)| at | if more { MORE } else { 0 })],
    ) {
        let (options, copied) = options;
        // What is for a service has ports.
        let start = if to_the_vip { 0 } else { start };
        let sent = with(&datagram(to_the_vip, len), options, start);
        prop_assume!(sent.len() <= 1500 + IP);
        let mut world = world(mtu);
        world.client.send(sent.clone());
        world.settle();
        let fragments = received(&world);
        let packet = put_together(&fragments, start, mtu);
        if fragments.len() == 1 {
            prop_assert!(sent.len() - IP <= usize::from(mtu));
        }
        for later in &fragments[1..] {
            prop_assert_eq!(&later[IP + 20..][..copied.len()], copied);
        }
        let made = world.switch.counters(0).port(CLIENT).fragments.get();
        prop_assert_eq!(made, fragments.len() as u64 - 1);
        // But for its stations and the time to live, and the translation, whose checksums `ends` looks at.
        if to_the_vip {
            let mut plain = packet.clone();
            plain.drain(IP + 20..IP + 20 + options.len());
            plain[IP] = 0x45;
            let total = ((plain.len() - IP) as u16).to_be_bytes();
            plain[IP + 2..IP + 4].copy_from_slice(&total);
            mend(&mut plain[IP..]);
            prop_assert_eq!(ends(&plain).1, (backend(10).address, backend(10).port));
            prop_assert_eq!(&packet[IP + 28 + options.len()..], &sent[IP + 28 + options.len()..]);
        } else {
            let mut expected = sent;
            expected[IP + 8] -= 1;
            mend(&mut expected[IP..]);
            prop_assert_eq!(&packet[IP..], &expected[IP..]);
        }
    }
}

#[test]
fn what_must_not_be_cut_or_has_no_time_left_is_answered() {
    let mut world = world(600);
    for (packet, answer) in [
        (with(&datagram(true, 1000), &[], DF), Answer::FragmentationNeeded),
        (
            {
                let mut old = with(&datagram(true, 1000), &[], 0);
                old[IP + 8] = 1;
                mend(&mut old[IP..]);
                old
            },
            Answer::TimeExceeded,
        ),
    ] {
        world.client.send(packet);
        world.settle();
        assert!(received(&world).is_empty() && world.client.recv().is_some());
        assert_eq!(world.switch.counters(0).port(CLIENT).answers[answer as usize].get(), 1);
    }
}

/// Whole batches of them, and other packets between.
#[test]
fn a_burst_of_them_leaves_in_order_and_behind_what_fits() {
    let mut world = world(600);
    for number in 0..30u16 {
        let mut big = with(&datagram(false, 1000), &[], 0);
        big[IP + 4..IP + 6].copy_from_slice(&number.to_be_bytes());
        mend(&mut big[IP..]);
        world.client.send(big);
        world.client.send(with(&datagram(false, 100), &[], 0));
    }
    world.settle();
    let got = received(&world);
    let (small, big): (Vec<_>, Vec<_>) = got.iter().partition(|packet| word(packet, IP + 4) == 0xabcd);
    assert_eq!((small.len(), big.len()), (30, 60));
    let seen: Vec<_> = big.iter().map(|packet| (word(packet, IP + 4), word(packet, IP + 6))).collect();
    let expected: Vec<_> = (0..30).flat_map(|number| [(number, MORE), (number, 72)]).collect();
    assert_eq!(seen, expected);
}

/// The longest header leaves 8 bytes of the least MTU: one packet would take more frames than there are.
#[test]
fn without_frames_for_its_fragments_a_packet_is_dropped() {
    let mut world = world(68);
    let options: Vec<u8> = vec![1; 40];
    world.client.send(with(&datagram(false, 1200), &options, 0));
    world.settle();
    assert_eq!((received(&world).len(), world.drops(DropReason::NoFrame)), (0, 1));
    world.client.send(with(&datagram(false, 200), &options, 0));
    world.settle();
    assert_eq!(received(&world).len(), 26);
    // Nothing is found where a datagram must have ended.
    world.client.send(with(&datagram(false, 200), &[], 0x1ff0));
    world.settle();
    assert_eq!((received(&world).len(), world.drops(DropReason::BadIpHeader)), (0, 1));
}
