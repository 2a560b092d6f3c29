//! Pods, the overlay and the switch itself.

use etherparse::{Icmpv6Type, icmpv6};
use shunt_dataplane::verdict::DropReason;

use crate::world::*;

#[test]
fn the_gateway_is_found_and_pings() {
    let mut world = World::new(vec![]);
    let (gateway, link_local) = (v6("fe80::1"), v6("fe80::ff:fe00:1"));
    for src in [pod(CLIENT), link_local] {
        let (port, answer) = world.send(CLIENT, solicitation(CLIENT, src, gateway)).expect("an advertisement");
        assert_eq!((port, &answer[..6], &answer[6..12]), (CLIENT, &station(CLIENT).0[..], &mac(CLIENT).0[..]));
        let (from, to, kind, data) = read_icmp(&answer);
        assert_eq!((from, to), (gateway, src));
        assert!(
            matches!(kind, Icmpv6Type::Unknown { type_u8: 136, .. } | Icmpv6Type::NeighborAdvertisement(_)),
            "{kind:?}"
        );
        assert_eq!(data, [&gateway.octets()[..], &[2, 1], &mac(CLIENT).0].concat());
    }
    for (src, dst) in [(pod(CLIENT), gateway), (link_local, gateway), (pod(CLIENT), v6("fd00:10:244:1::"))] {
        let (port, answer) = world.send(CLIENT, echo(CLIENT, src, dst)).expect("a reply");
        let (from, to, kind, data) = read_icmp(&answer);
        assert_eq!((port, &answer[..6], from, to), (CLIENT, &station(CLIENT).0[..], dst, src));
        assert!(matches!(kind, Icmpv6Type::EchoReply(echo) if echo.id == 77) && data == b"ping");
        assert_eq!(answer[21], 64, "the hop limit, also of what is not routed");
    }
    // Nobody else is answered for, and what is said on the link stays there.
    world.dropped(CLIENT, solicitation(CLIENT, pod(CLIENT), pod(SERVER)), DropReason::DiscoveryIgnored);
    world.dropped(CLIENT, solicitation(CLIENT, v6("::"), pod(CLIENT)), DropReason::DiscoveryIgnored);
    let router = Icmpv6Type::Unknown { type_u8: 133, code_u8: 0, bytes5to8: [0; 4] };
    world.dropped(CLIENT, icmp(CLIENT, link_local, v6("ff02::2"), router, &[]), DropReason::DiscoveryIgnored);
}

#[test]
fn pods_speak_for_themselves_alone() {
    let mut world = World::new(vec![]);
    let to = (pod(SERVER), 9);
    world.dropped(CLIENT, udp(CLIENT, ((v6("fd00:10:244:1::77"), 1), to), b"x"), DropReason::SpoofedAddress);
    world.dropped(CLIENT, udp(CLIENT, ((v6("fe80::7"), 1), to), b"x"), DropReason::SpoofedAddress);
    world.dropped(CLIENT, solicitation(CLIENT, pod(SERVER), v6("fe80::1")), DropReason::SpoofedAddress);
    let mut other_mac = udp(CLIENT, ((pod(CLIENT), 1), to), b"x");
    other_mac[6..12].copy_from_slice(&station(SERVER).0);
    world.dropped(CLIENT, other_mac, DropReason::SpoofedMac);
    let mut other_station = udp(CLIENT, ((pod(CLIENT), 1), to), b"x");
    other_station[..6].copy_from_slice(&station(SERVER).0);
    world.dropped(CLIENT, other_station, DropReason::NotOurMac);
    let mut from_nobody = udp(UPLINK, ((v6("::"), 1), to), b"x");
    from_nobody[6..12].copy_from_slice(&OTHER_VTEP.0);
    world.dropped(UPLINK, outer(from_nobody), DropReason::MartianSource);
}

#[test]
fn from_pod_to_pod_here_and_over_the_overlay() {
    let mut world = World::new(vec![]);
    let ends = ((pod(CLIENT), 1000), (pod(SERVER), 2000));
    let (port, frame) = world.send(CLIENT, udp(CLIENT, ends, b"hello")).expect("it arrives");
    assert_eq!(
        (port, &frame[..6], &frame[6..12], &frame[12..14]),
        (SERVER, &station(SERVER).0[..], &mac(SERVER).0[..], &[0x86, 0xdd][..])
    );
    assert_eq!(read(&frame), (ends, 63));

    let far = v6("fd00:10:244:2::b");
    let ends = ((pod(CLIENT), 1000), (far, 2000));
    let (port, frame) = world.send(CLIENT, tcp(CLIENT, ends, SYN)).expect("it leaves");
    assert_eq!(port, UPLINK);
    let within = inner(&frame);
    assert_eq!((read(&within), &within[12..14]), ((ends, 63), &[0x86, 0xdd][..]));

    let back = (ends.1, ends.0);
    let (port, frame) = world.send(UPLINK, outer(tcp(UPLINK, back, SYN | ACK))).expect("it arrives");
    assert_eq!((port, &frame[..6]), (CLIENT, &station(CLIENT).0[..]));
    assert_eq!(read(&frame), (back, 63));
}

/// RFC 6040, figure 4: what a router on the way has marked, the pod sees.
#[test]
fn congestion_marks_are_carried_into_the_overlays_packets() {
    let mut world = World::new(vec![]);
    let arriving = |outer_ecn: u8, inner_ecn: u8| {
        let mut packet = udp(UPLINK, ((v6("fd00:10:244:2::b"), 1), (pod(CLIENT), 2)), b"x");
        packet[15] |= inner_ecn << 4;
        let mut packet = outer(packet);
        packet[15] |= outer_ecn;
        // The header checksum is made anew.
        let mut header = etherparse::Ipv4Header::from_slice(&packet[14..]).unwrap().0;
        header.header_checksum = header.calc_header_checksum();
        packet[14..34].copy_from_slice(&header.to_bytes());
        packet
    };
    for (outer_ecn, inner_ecn, expected) in [(3, 2, 3), (3, 1, 3), (1, 2, 1), (2, 0, 0), (0, 2, 2)] {
        let (_, frame) = world.send(UPLINK, arriving(outer_ecn, inner_ecn)).expect("it arrives");
        assert_eq!(frame[15] >> 4 & 3, expected, "outer {outer_ecn}, inner {inner_ecn}");
    }
    world.dropped(UPLINK, arriving(3, 0), DropReason::EcnLost);
}

#[test]
fn a_checksum_that_was_left_to_hardware_is_finished() {
    let mut world = World::new(vec![]);
    let ends = ((pod(CLIENT), 1000), (pod(SERVER), 2000));
    let mut packet = udp(CLIENT, ends, b"hello");
    let pseudo = shunt_dataplane::wire::checksum::pseudo_header_v6(pod(CLIENT).into(), pod(SERVER).into(), 17, 13);
    packet[60..62].copy_from_slice(&shunt_dataplane::wire::checksum::fold(pseudo).to_be_bytes());
    let (_, frame) = world.send(CLIENT, packet).expect("it arrives");
    assert_eq!(read(&frame).0, ends);
}

#[test]
fn senders_are_told_what_is_wrong() {
    let mut world = World::new(vec![]);
    let router = v6("fd00:10:244:1::");
    let far = (v6("fd00:10:244:2::b"), 2000);
    let mut told = |packet: Vec<u8>| {
        let (port, answer) = world.send(CLIENT, packet.clone()).expect("an answer");
        let (from, to, kind, quoted) = read_icmp(&answer);
        assert_eq!((port, from, to), (CLIENT, router, pod(CLIENT)));
        assert!(packet[14..].starts_with(&quoted) && quoted.len() == (packet.len() - 14).min(1232));
        kind
    };
    let big = udp(CLIENT, ((pod(CLIENT), 1), far), &[7; 1403]);
    assert_eq!(big.len() - 14, usize::from(OVERLAY_MTU) + 1);
    assert_eq!(told(big), Icmpv6Type::PacketTooBig { mtu: OVERLAY_MTU.into() });
    let mut last_hop = udp(CLIENT, ((pod(CLIENT), 1), far), b"x");
    last_hop[21] = 1;
    assert_eq!(told(last_hop), Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded));
    let nowhere = udp(CLIENT, ((pod(CLIENT), 1), (v6("2001:db8::1"), 1)), b"x");
    assert_eq!(told(nowhere), Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute));
    assert!(world.send(CLIENT, udp(CLIENT, ((pod(CLIENT), 1), far), &[7; 1402])).is_some(), "what fits leaves");
}

#[test]
fn garbage_is_dropped() {
    let mut world = World::new(vec![]);
    let whole = tcp(CLIENT, ((pod(CLIENT), 1), (pod(SERVER), 2)), SYN);
    for len in 14..whole.len() {
        assert_eq!(world.send(CLIENT, whole[..len].to_vec()), None, "{len} bytes");
    }
    for at in [14, 18, 20] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        world.send(CLIENT, damaged);
    }
}

/// Until it is configured, IPv6 is nothing of the switch's.
#[test]
fn without_configuration_it_is_an_unknown_protocol() {
    let mut world = World::new(vec![]);
    let mut ipv4_only = spec(vec![]);
    ipv4_only.ipv6 = Default::default();
    world.switch.publish(&ipv4_only).unwrap();
    world.dropped(CLIENT, solicitation(CLIENT, pod(CLIENT), v6("fe80::1")), DropReason::UnknownEtherType);
    world.dropped(CLIENT, udp(CLIENT, ((pod(CLIENT), 1), (pod(SERVER), 2)), b"x"), DropReason::UnknownEtherType);
}
