//! Whether what came out may come of what went in. Reads packets with smoltcp and etherparse, not with the engine's own
//! code.

use std::{net::Ipv4Addr, ops::Range};

use shunt_dataplane::{net::MacAddr, verdict::Answer, verdict::Verdict};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
};

use crate::{
    input::SCTP,
    world::{
        HOST, MTU, NEIGHBOUR, OTHER_UNDERLAY, OTHER_VTEP, OUR_VTEP, OVERLAY, OVERLAY_MTU, PODS, ROUTER, UNDERLAY,
        UPLINK, our_mac, pod_address, station,
    },
};

const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The services' addresses.
const VIPS: [Ipv4Addr; 5] = [
    Ipv4Addr::new(10, 96, 0, 10),
    Ipv4Addr::new(10, 96, 0, 11),
    Ipv4Addr::new(10, 96, 0, 12),
    Ipv4Addr::new(10, 96, 0, 13),
    DIRECT,
];
/// That of the services with direct server return, and what names their endpoint on the other node.
const DIRECT: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 14);
const NAME: MacAddr = MacAddr([0x5e, 0x44, 10, 244, 2, 10]);
/// What may stand in for the source of a masqueraded flow.
const STAND_INS: [Ipv4Addr; 3] = [OVERLAY, UNDERLAY, GATEWAY];

mod cut;
mod ipv6;
mod translated;

/// Checks one packet's end. `out` is what leaves: more than one packet if it was cut.
///
/// # Panics
/// If it is wrong.
pub fn check(in_port: u16, sent: &[u8], verdict: Verdict, out: &[&[u8]]) {
    let [first, more @ ..] = out else { panic!("nothing") };
    match verdict {
        Verdict::Tx(port) if !more.is_empty() => {
            let received = Received::new(in_port, sent);
            from_the_pod_itself(in_port, sent, &received.packet);
            let fragments: Vec<_> = out.iter().map(|out| leaving(port.0, out)).collect();
            let whole = cut::put_together(&received.packet, &fragments);
            forwarded(&received, &Ipv4Packet::new_unchecked(&whole));
        }
        _ if !more.is_empty() => panic!("only what is forwarded is cut"),
        _ => check_one(in_port, sent, verdict, first),
    }
}

fn check_one(in_port: u16, sent: &[u8], verdict: Verdict, out: &[u8]) {
    match verdict {
        Verdict::Pending | Verdict::Owed(_) | Verdict::Oversized | Verdict::Ipv6 => panic!("undecided"),
        Verdict::Drop(_) => {}
        Verdict::Answer(Answer::Arp, port) => {
            assert_eq!(port.0, in_port);
            arp(in_port, sent, out);
        }
        Verdict::Tx(_) | Verdict::Answer(..) if ipv6::is_frame(received(in_port, sent).0) => {
            ipv6::check(in_port, sent, verdict, out);
        }
        Verdict::Tx(port) => {
            let received = Received::new(in_port, sent);
            from_the_pod_itself(in_port, sent, &received.packet);
            forwarded(&received, &leaving(port.0, out));
        }
        Verdict::Answer(answer, port) => {
            let received = Received::new(in_port, sent);
            from_the_pod_itself(in_port, sent, &received.packet);
            answered(&received, answer, &leaving(port.0, out));
        }
    }
}

/// An IPv4 packet as the routing part of the switch got it.
struct Received<'a> {
    packet: Ipv4Packet<&'a [u8]>,
    decapsulated: bool,
    /// The sender may have left TCP and UDP checksums to the device.
    unfinished: bool,
}

impl<'a> Received<'a> {
    fn new(in_port: u16, sent: &'a [u8]) -> Received<'a> {
        let (frame, decapsulated) = received(in_port, sent);
        let station = match decapsulated {
            true => OUR_VTEP,
            false if PODS.contains(&in_port) => one_station(sent),
            false => our_mac(in_port),
        };
        let packet = ip_packet(frame, None, station);
        Received { packet, decapsulated, unfinished: in_port != UPLINK }
    }
}

/// The frame without what VXLAN put around it, and whether it did.
fn received(in_port: u16, sent: &[u8]) -> (&[u8], bool) {
    let inner = if in_port == UPLINK { decapsulate(sent) } else { None };
    (inner.unwrap_or(sent), inner.is_some())
}

/// To whom a pod's frame is: any one station, as a bridge would take it.
fn one_station(frame: &[u8]) -> MacAddr {
    let to = EthernetFrame::new_checked(frame).expect("an Ethernet header").dst_addr();
    assert!(to.is_unicast());
    MacAddr(to.0)
}

/// A pod speaks for itself alone, and not to VTEPs.
fn from_the_pod_itself(in_port: u16, sent: &[u8], packet: &Ipv4Packet<&[u8]>) {
    if !PODS.contains(&in_port) {
        return;
    }
    assert_eq!(EthernetFrame::new_unchecked(sent).src_addr(), EthernetAddress(station(in_port).0));
    assert_eq!(packet.src_addr(), pod_address(in_port));
    let datagram = UdpPacket::new_checked(packet.payload()).ok();
    let datagram = datagram.filter(|_| packet.next_header() == IpProtocol::Udp && packet.frag_offset() == 0);
    if datagram.is_some_and(|datagram| datagram.dst_port() == 8472) {
        assert!(![UNDERLAY, OTHER_UNDERLAY].contains(&packet.dst_addr()), "a pod plays a VTEP");
    }
}

/// The inner frame of a VXLAN packet to us.
fn decapsulate(sent: &[u8]) -> Option<&[u8]> {
    let frame = EthernetFrame::new_checked(sent).ok()?;
    let outer = Ipv4Packet::new_checked(frame.payload()).ok()?;
    let is_vxlan = frame.ethertype() == EthernetProtocol::Ipv4
        && outer.dst_addr() == UNDERLAY
        && outer.next_header() == IpProtocol::Udp
        && !is_fragment(&outer);
    let udp = UdpPacket::new_checked(outer.payload()).ok().filter(|udp| is_vxlan && udp.dst_port() == 8472)?;
    assert!(outer.verify_checksum() && udp.verify_checksum(&outer.src_addr().into(), &UNDERLAY.into()));
    assert_eq!(outer.src_addr(), OTHER_UNDERLAY, "from a VTEP that is not known or cannot be reached");
    let (header, inner) = udp.payload().split_at_checked(8).expect("a VXLAN header");
    assert!(header[0] & 8 != 0 && header[4..7] == [0, 0, 1], "VNI 1");
    Some(inner)
}

fn is_fragment<T: AsRef<[u8]>>(packet: &Ipv4Packet<T>) -> bool {
    packet.more_frags() || packet.frag_offset() != 0
}

/// The packet in an Ethernet frame between the given stations.
fn ip_packet(frame: &[u8], from: Option<MacAddr>, to: MacAddr) -> Ipv4Packet<&[u8]> {
    let frame = EthernetFrame::new_checked(frame).expect("an Ethernet header");
    assert_eq!(frame.ethertype(), EthernetProtocol::Ipv4);
    assert_eq!(frame.dst_addr(), EthernetAddress(to.0));
    assert!(from.is_none_or(|from| frame.src_addr() == EthernetAddress(from.0)));
    let packet = Ipv4Packet::new_checked(frame.payload()).expect("a whole IPv4 packet");
    assert!(packet.version() == 4 && packet.header_len() >= 20 && packet.verify_checksum());
    let length = usize::from(packet.total_len());
    Ipv4Packet::new_unchecked(&packet.into_inner()[..length])
}

/// The packet that leaves by a port, once what surrounds it is found right.
fn leaving(port: u16, out: &[u8]) -> Ipv4Packet<&[u8]> {
    let overlay = port == UPLINK && out[..6] == NEIGHBOUR.0;
    let (packet, mtu) = if overlay {
        let (outer, frame) = encapsulated(out);
        let relayed = frame[6..12] == NAME.0;
        let inner = whole(frame, if relayed { NAME } else { OUR_VTEP }, OTHER_VTEP);
        assert_eq!(inner.dst_addr() == DIRECT, relayed, "only what is relayed is for a service still");
        assert_eq!((outer.dscp(), outer.ecn()), (0, inner.ecn()), "RFC 6040, normal mode");
        (Ipv4Packet::new_unchecked(&out[64..]), OVERLAY_MTU)
    } else {
        assert!(port == UPLINK || port == HOST || PODS.contains(&port), "port {port} does not exist");
        let to = if port == UPLINK { ROUTER } else { station(port) };
        (whole(out, our_mac(port), to), MTU)
    };
    assert!(packet.total_len() <= mtu);
    assert!(packet.hop_limit() > 0);
    packet
}

/// The packet that all of a frame is, between the given stations.
fn whole(frame: &[u8], from: MacAddr, to: MacAddr) -> Ipv4Packet<&[u8]> {
    let packet = ip_packet(frame, Some(from), to);
    assert_eq!(frame.len(), 14 + usize::from(packet.total_len()), "neither padding nor cut off");
    packet
}

/// The outer packet and the inner frame of a VXLAN packet of ours.
fn encapsulated(out: &[u8]) -> (Ipv4Packet<&[u8]>, &[u8]) {
    let outer = whole(out, our_mac(UPLINK), NEIGHBOUR);
    assert_eq!((outer.src_addr(), outer.dst_addr()), (UNDERLAY, OTHER_UNDERLAY));
    assert_eq!((outer.header_len(), outer.hop_limit(), outer.next_header()), (20, 64, IpProtocol::Udp));
    assert!(!is_fragment(&outer));
    let udp = UdpPacket::new_checked(outer.payload()).expect("a UDP header");
    assert_eq!((udp.dst_port(), usize::from(udp.len()), udp.checksum()), (8472, outer.payload().len(), 0));
    assert!(udp.src_port() >= 0xc000, "out of the dynamic ports");
    assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0, 0, 1, 0]);
    (outer, &udp.payload()[8..])
}

fn forwarded(received: &Received, out: &Ipv4Packet<&[u8]>) {
    let packet = &received.packet;
    assert_eq!(out.hop_limit(), packet.hop_limit() - 1, "the time to live counts down by one");
    assert_eq!(out.dscp(), packet.dscp());
    assert!(received.decapsulated || out.ecn() == packet.ecn());
    let (before, after) = (packet.as_ref(), out.as_ref());
    let header_len = usize::from(packet.header_len());
    assert_eq!(before.len(), after.len());
    assert_eq!((before[0], &before[2..8], before[9]), (after[0], &after[2..8], after[9]));
    assert_eq!(before[20..header_len], after[20..header_len], "options stay");

    let (before, after) = (&before[header_len..], &after[header_len..]);
    let addresses = |packet: &Ipv4Packet<&[u8]>| (packet.src_addr(), packet.dst_addr());
    let translated = addresses(packet) != addresses(out);
    assert!(out.dst_addr() != DIRECT || !translated, "it is relayed as it came");
    let checksum = match translated::checksum_at(packet.next_header()) {
        Some(at) if !is_fragment(packet) => at,
        Some(_) if translated => return translated::fragment(packet, out),
        None if translated => return translated::icmp(packet, out),
        _ => {
            assert!(!translated && before == after, "what has no ports is left alone");
            return;
        }
    };
    if translated {
        translated::ends(translated::ports_of(packet, before), translated::ports_of(out, after));
    } else {
        assert_eq!(before[..4], after[..4]);
    }
    assert_eq!(before[4..checksum.start], after[4..checksum.start]);
    assert_eq!(before[checksum.end..], after[checksum.end..], "the payload stays");
    let absent = |l4: &[u8]| packet.next_header() == IpProtocol::Udp && l4[6..8] == [0, 0];
    assert_eq!(absent(before), absent(after), "a UDP checksum of zero says that there is none");
    let Some(right) = checksum_holds(packet) else { return };
    let finished = received.unfinished && is_left_to_the_device(packet, checksum);
    assert_eq!(checksum_holds(out), Some(right || finished), "damage is neither done nor hidden: {packet}");
}

/// Whether the transport checksum is right; `None` if the UDP header tells another length than the IP header.
fn checksum_holds(packet: &Ipv4Packet<&[u8]>) -> Option<bool> {
    let (src, dst) = (packet.src_addr().into(), packet.dst_addr().into());
    if packet.next_header() == IpProtocol::Unknown(SCTP) {
        let (mut zeroed, field) = (packet.payload().to_vec(), &packet.payload()[8..12]);
        zeroed[8..12].fill(0);
        return Some(crc32c::crc32c(&zeroed).to_le_bytes() == field);
    }
    if packet.next_header() == IpProtocol::Tcp {
        // Of the options' length the engine knows nothing, and neither does the checksum.
        return Some(TcpPacket::new_unchecked(packet.payload()).verify_checksum(&src, &dst));
    }
    let udp = UdpPacket::new_checked(packet.payload()).ok()?;
    (usize::from(udp.len()) == packet.payload().len()).then(|| udp.verify_checksum(&src, &dst))
}

/// The field holds the sum of the pseudo header only, or of SCTP nothing, as the kernel leaves it to a device.
fn is_left_to_the_device(packet: &Ipv4Packet<&[u8]>, checksum: Range<usize>) -> bool {
    let (header, l4) = packet.as_ref().split_at(packet.header_len().into());
    if packet.next_header() == IpProtocol::Unknown(SCTP) {
        return l4[checksum] == [0; 4];
    }
    let words = header[12..20].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + u32::from(header[9]) + l4.len() as u32;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    l4[checksum] == (sum as u16).to_be_bytes()
}

fn answered(received: &Received, answer: Answer, out: &Ipv4Packet<&[u8]>) {
    let packet = &received.packet;
    assert_eq!((out.dst_addr(), out.next_header()), (packet.src_addr(), IpProtocol::Icmp));
    let icmp = Icmpv4Packet::new_checked(out.payload()).expect("an ICMP header");
    assert!(icmp.verify_checksum());
    if answer == Answer::Echo {
        assert_eq!((icmp.msg_type(), icmp.msg_code()), (Icmpv4Message::EchoReply, 0));
        assert!([ROUTER_ADDRESS, GATEWAY].contains(&out.src_addr()) && out.src_addr() == packet.dst_addr());
        assert_eq!(icmp.into_inner()[4..], packet.payload()[4..], "what was sent is sent back");
        return;
    }
    let expected = match answer {
        Answer::TimeExceeded => (Icmpv4Message::TimeExceeded, 0),
        Answer::FragmentationNeeded => (Icmpv4Message::DstUnreachable, 4),
        Answer::NetUnreachable => (Icmpv4Message::DstUnreachable, 0),
        Answer::PortUnreachable => (Icmpv4Message::DstUnreachable, 3),
        Answer::Advertisement | Answer::PacketTooBig => panic!("of IPv6"),
        Answer::Arp | Answer::Echo => unreachable!("checked before"),
    };
    assert_eq!((icmp.msg_type(), icmp.msg_code()), expected);
    assert_eq!(out.src_addr(), ROUTER_ADDRESS);
    let icmp = icmp.into_inner();
    if answer == Answer::FragmentationNeeded {
        let mtu = u16::from_be_bytes([icmp[6], icmp[7]]);
        assert!([MTU, OVERLAY_MTU].contains(&mtu) && mtu < packet.total_len());
        assert!(packet.dont_frag(), "it could have been cut");
    }
    // RFC 1122, section 3.2.2.
    let about_an_error = packet.next_header() == IpProtocol::Icmp && !matches!(packet.payload()[0], 0 | 8 | 13..=18);
    assert!(!about_an_error && packet.frag_offset() == 0 && !packet.dst_addr().is_multicast());
    assert!(out.total_len() <= 576);
    let (quote, original) = (&icmp[8..], packet.as_ref());
    assert!(quote.len() == original.len().min(548) && quote[12..20] == original[12..20] && quote[8] == original[8]);
    assert!(quote.len() < 24 || quote[20..24] == original[20..24], "its ports, for the sender to know it by");
}

fn arp(in_port: u16, sent: &[u8], out: &[u8]) {
    let read = |frame: &[u8]| {
        let frame = EthernetFrame::new_checked(frame).expect("an Ethernet header").into_inner().to_vec();
        let message = ArpPacket::new_checked(frame[14..].to_vec()).expect("an ARP message");
        ArpRepr::parse(&message).expect("of Ethernet and IPv4")
    };
    let ArpRepr::EthernetIpv4 {
        source_hardware_addr: asker,
        source_protocol_addr: asker_address,
        target_protocol_addr: asked,
        ..
    } = read(sent)
    else {
        panic!("another kind of ARP")
    };
    let is_on_link = asked.octets().starts_with(&[10, 244, 1]) && asked != asker_address;
    assert!(asked == GATEWAY || is_on_link, "{asked} is nobody's that we answer for");
    let ours = EthernetAddress(our_mac(in_port).0);
    let expected = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: ours,
        source_protocol_addr: asked,
        target_hardware_addr: asker,
        target_protocol_addr: asker_address,
    };
    assert_eq!(read(out), expected);
    let frame = EthernetFrame::new_checked(out).expect("an Ethernet header");
    assert_eq!((out.len(), frame.dst_addr(), frame.src_addr()), (42, asker, ours));
}
