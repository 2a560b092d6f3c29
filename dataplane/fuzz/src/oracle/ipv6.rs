//! The same of IPv6.

use std::net::Ipv6Addr;

use shunt_dataplane::{
    net::MacAddr,
    verdict::{Answer, Verdict},
};

use super::{
    encapsulated, received,
    translated::{self, Ends},
};
use crate::{
    ipv6::{HEADER, ICMPV6, Packet},
    world::{
        HOST, MTU, OTHER_VTEP, OUR_VTEP, OVERLAY_MTU, PODS, UPLINK,
        ipv6::{GATEWAY, ROUTER, VIPS},
        our_mac, pod_ipv6, station,
    },
};

/// What may stand in for the source of a masqueraded flow.
const STAND_INS: [Ipv6Addr; 2] = [ROUTER, GATEWAY];
/// The longest packet that says what is wrong with another (RFC 4443, section 2.4 (c)).
const LONGEST_ERROR: usize = 1280;

/// Whether a frame says that it carries IPv6.
pub fn is_frame(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
}

/// Checks what became of one packet that was not dropped.
pub fn check(in_port: u16, sent: &[u8], verdict: Verdict, out: &[u8]) {
    let (frame, decapsulated) = received(in_port, sent);
    let packet = Packet::whole(&frame[14..]).unwrap_or_else(|| panic!("no whole IPv6 packet: {frame:02x?}"));
    if let Verdict::Answer(Answer::Advertisement, port) = verdict {
        assert_eq!((port.0, decapsulated), (in_port, false));
        return advertisement(in_port, frame, &packet, out);
    }
    assert_eq!(frame[..6], if decapsulated { OUR_VTEP } else { our_mac(in_port) }.0);
    let (src, dst) = (packet.src(), packet.dst());
    let asks_us = src.is_unicast_link_local() && dst == GATEWAY && !decapsulated;
    if PODS.contains(&in_port) {
        assert_eq!(frame[6..12], station(in_port).0);
        assert!(src == pod_ipv6(in_port) || asks_us, "a pod speaks for itself alone");
    }
    let stays = src.is_multicast() || src.is_unicast_link_local() && !asks_us;
    assert!(!stays && !src.is_loopback() && src.to_ipv4().is_none(), "{src} may not send on");
    if packet.protocol == ICMPV6 && packet.is_whole() {
        let of_the_link = matches!(packet.l4()[0], 130..=137 | 143 | 151..=153);
        assert!(!of_the_link, "what is said on a link stays there");
    }
    let outer_ecn = decapsulated.then(|| sent[15] & 3);
    let received = Received { packet, outer_ecn, unfinished: in_port != UPLINK };
    match verdict {
        Verdict::Tx(port) => {
            assert!(!asks_us);
            forwarded(&received, &leaving(port.0, out));
        }
        Verdict::Answer(answer, port) => answered(&received, answer, &leaving(port.0, out)),
        _ => unreachable!("dropped"),
    }
}

struct Received<'a> {
    packet: Packet<'a>,
    /// The outer header's ECN field, if there was an outer header.
    outer_ecn: Option<u8>,
    /// The sender may have left checksums to the device.
    unfinished: bool,
}

impl Received<'_> {
    /// The ECN field behind the tunnel (RFC 6040, figure 4); `None`: it is dropped.
    fn ecn(&self) -> Option<u8> {
        match (self.packet.ecn(), self.outer_ecn) {
            (0, Some(3)) => None,
            (1.., Some(3)) => Some(3),
            (2, Some(1)) => Some(1),
            (inner, _) => Some(inner),
        }
    }
}

/// The packet in a frame between the given stations, which carries nothing else.
fn between(frame: &[u8], from: MacAddr, to: MacAddr) -> Packet<'_> {
    assert!(is_frame(frame));
    assert_eq!((&frame[..6], &frame[6..12]), (&to.0[..], &from.0[..]));
    let packet = Packet::whole(&frame[14..]).expect("a whole packet");
    assert_eq!(packet.bytes.len(), frame.len() - 14, "neither padding nor cut off");
    packet
}

/// The packet that leaves by a port, once what surrounds it is found right.
fn leaving(port: u16, out: &[u8]) -> Packet<'_> {
    let (packet, mtu) = if port == UPLINK {
        let (outer, frame) = encapsulated(out);
        let inner = between(frame, OUR_VTEP, OTHER_VTEP);
        assert_eq!((outer.dscp(), outer.ecn()), (0, inner.ecn()), "RFC 6040, normal mode");
        (inner, OVERLAY_MTU)
    } else {
        assert!(PODS.contains(&port), "nothing leads to port {port}");
        (between(out, our_mac(port), station(port)), MTU)
    };
    assert!(packet.bytes.len() <= usize::from(mtu));
    assert!(packet.hop_limit() > 0);
    assert!(!VIPS.contains(&packet.dst()), "for a service still");
    packet
}

fn forwarded(received: &Received, out: &Packet) {
    let packet = &received.packet;
    assert_eq!(out.hop_limit(), packet.hop_limit() - 1, "the hop limit counts down by one");
    assert_eq!(out.class_and_label(), packet.class_and_label());
    assert_eq!(Some(out.ecn()), received.ecn());
    let (before, after) = (packet.bytes, out.bytes);
    assert_eq!((before.len(), &before[4..7]), (after.len(), &after[4..7]));
    assert_eq!(before[HEADER..packet.offset], after[HEADER..packet.offset], "extension headers stay");

    let (old, new) = (packet.l4(), out.l4());
    let translated = (packet.src(), packet.dst()) != (out.src(), out.dst());
    let field = match packet.checksum_at() {
        Some(_) if packet.protocol == ICMPV6 && translated => return error(packet, out),
        Some(field) if packet.protocol != ICMPV6 => field,
        None if translated && !packet.is_whole() => return fragment(packet, out),
        _ => {
            assert!(!translated && old == new, "what has no ports is left alone");
            return;
        }
    };
    if translated {
        ends(ports_of(packet), ports_of(out));
    } else {
        assert_eq!(old[..4], new[..4]);
    }
    assert_eq!(old[4..field.start], new[4..field.start]);
    assert_eq!(old[field.end..], new[field.end..], "the payload stays");
    if received.unfinished && packet.is_left_to_the_device() {
        assert!(out.checksum_holds(), "it is finished");
    } else if field == (6..8) && old[6..8] == [0, 0] {
        assert_eq!(new[6..8], [0, 0], "a UDP checksum of zero says that there is none (RFC 6935)");
    } else if field.len() == 4 {
        assert_eq!(packet.checksum_holds(), out.checksum_holds(), "damage is neither done nor hidden");
    } else {
        assert_eq!(covered(packet), covered(out), "damage is neither done nor hidden");
    }
}

/// A fragment of a translated datagram: the first one's ports change, and the datagram's checksum, which it carries. (How that of
/// SCTP changes, one fragment alone does not tell.)
fn fragment(packet: &Packet, out: &Packet) {
    let (before, after) = (packet.l4(), out.l4());
    if packet.fragment.is_some_and(|(offset, _)| offset != 0) {
        assert_eq!(before, after, "what is not the first fragment has nothing to translate");
        return;
    }
    ends(ports_of(packet), ports_of(out));
    let protocol = smoltcp::wire::IpProtocol::from(packet.protocol);
    let field = translated::checksum_at(protocol).expect("a protocol with ports");
    assert_eq!((&before[4..field.start], &before[field.end..]), (&after[4..field.start], &after[field.end..]));
    if field == (6..8) && before[6..8] == [0, 0] {
        assert_eq!(after[6..8], [0, 0], "no checksum stays none");
    } else if field.len() == 2 {
        assert_eq!(covered(packet), covered(out));
    }
}

/// The sum of what changes and is covered by the transport checksum.
fn covered(packet: &Packet) -> u32 {
    translated::sum(&[&packet.bytes[8..HEADER], packet.l4()])
}

fn ends(before: Ends<Ipv6Addr>, after: Ends<Ipv6Addr>) {
    translated::ends_of_family(before, after, &VIPS, &STAND_INS);
}

fn ports_of(packet: &Packet) -> Ends<Ipv6Addr> {
    let port = |at: usize| u16::from_be_bytes([packet.l4()[at], packet.l4()[at + 1]]);
    [(packet.src(), port(0)), (packet.dst(), port(2))]
}

/// An ICMPv6 error about a translated packet, whose quote becomes what its sender knows.
fn error(packet: &Packet, out: &Packet) {
    let (before, after) = (packet.l4(), out.l4());
    assert!(matches!(before[0], 1..=4), "no error: {packet:?}");
    assert_eq!((&before[..2], &before[4..8]), (&after[..2], &after[4..8]));
    assert!(packet.checksum_holds() && out.checksum_holds());
    let quoted = |message| Packet::quoted(message).expect("a packet with all headers");
    let (caused, shown) = (quoted(&before[8..]), quoted(&after[8..]));
    // The error goes to the quoted packet's sender, before as after, and comes from whom it was sent to if that changed.
    assert_eq!((packet.dst(), out.dst()), (caused.src(), shown.src()));
    let (old, new) = (caused.dst(), shown.dst());
    assert_eq!(out.src(), if old == new { packet.src() } else { new });
    assert_eq!(caused.bytes[..8], shown.bytes[..8]);
    assert_eq!(caused.bytes[HEADER..caused.offset], shown.bytes[HEADER..shown.offset]);
    // Behind the quoted packet may be anything.
    assert_eq!(before[8 + caused.bytes.len()..], after[8 + caused.bytes.len()..]);
    let reversed = |[src, dst]: Ends<Ipv6Addr>| [dst, src];
    ends(reversed(ports_of(&caused)), reversed(ports_of(&shown)));
    let protocol = smoltcp::wire::IpProtocol::from(caused.protocol);
    let field = translated::checksum_at(protocol).expect("a protocol with ports");
    let (before, after) = (caused.l4(), shown.l4());
    let between = 4..before.len().min(field.start);
    assert_eq!(before[between.clone()], after[between]);
    assert_eq!(before.get(field.end..), after.get(field.end..));
    if field.len() == 2 && before.len() >= field.end {
        if field == (6..8) && before[field.clone()] == [0, 0] {
            assert_eq!(after[field], [0, 0], "no checksum stays none");
        } else {
            assert_eq!(covered(&caused), covered(&shown), "the quoted checksum is what the sender wrote");
        }
    }
}

fn answered(received: &Received, answer: Answer, out: &Packet) {
    let packet = &received.packet;
    assert_eq!((out.dst(), out.protocol, out.offset), (packet.src(), ICMPV6, HEADER));
    assert!(out.checksum_holds());
    assert_eq!((out.hop_limit(), out.class_and_label(), out.ecn()), (64, (0, 0), 0));
    let message = out.l4();
    if answer == Answer::Echo {
        assert_eq!((&packet.l4()[..2], &message[..2]), (&[128, 0][..], &[129, 0][..]));
        assert!([ROUTER, GATEWAY].contains(&out.src()) && out.src() == packet.dst());
        assert!(packet.checksum_holds(), "a damaged request is not answered");
        assert_eq!(message[4..], packet.l4()[4..], "what was sent is sent back");
        return;
    }
    let kind = match answer {
        Answer::TimeExceeded => [3, 0],
        Answer::PacketTooBig => [2, 0],
        Answer::NetUnreachable => [1, 0],
        Answer::PortUnreachable => [1, 4],
        _ => panic!("{answer:?} is not of IPv6"),
    };
    assert_eq!(message[..2], kind);
    assert_eq!(out.src(), ROUTER);
    let parameter = u32::from_be_bytes(message[4..8].try_into().expect("four bytes"));
    if answer == Answer::PacketTooBig {
        assert!([MTU, OVERLAY_MTU].map(u32::from).contains(&parameter) && (parameter as usize) < packet.bytes.len());
    } else {
        assert_eq!(parameter, 0);
    }
    // RFC 4443, section 2.4 (e).
    let about_an_error = packet.protocol == ICMPV6
        && packet.fragment.is_none_or(|(offset, _)| offset == 0)
        && packet.l4().first().is_none_or(|kind| *kind < 128 || *kind == 137);
    assert!(!about_an_error && !packet.dst().is_multicast());
    let (quote, original) = (&message[8..], packet.bytes);
    assert_eq!(quote.len(), original.len().min(LONGEST_ERROR - HEADER - 8), "as much as fits");
    // Marks are carried from outer headers before, and checksums finished.
    assert_eq!((quote[0] >> 4, &quote[2..HEADER]), (6, &original[2..HEADER]));
    let end = if received.unfinished && packet.is_left_to_the_device() { packet.offset + 4 } else { original.len() };
    let end = end.min(quote.len());
    assert_eq!(quote[HEADER..end], original[HEADER..end]);
}

/// The gateway is here, says the switch, to the one who asked.
fn advertisement(in_port: u16, frame: &[u8], asked: &Packet, out: &[u8]) {
    assert!(PODS.contains(&in_port) || in_port == HOST);
    let message = asked.l4();
    assert_eq!((asked.protocol, asked.offset, asked.hop_limit()), (ICMPV6, HEADER, 255));
    assert_eq!((&message[..2], &message[8..24]), (&[135, 0][..], &GATEWAY.octets()[..]));
    assert!(asked.checksum_holds());
    let src = asked.src();
    // The Ethernet address in the first such option, or else the frame's.
    let mut options = &message[24..];
    let mut asker = None;
    while let [kind, units, ..] = *options {
        let (option, rest) = options.split_at(8 * usize::from(units));
        asker = asker.or((kind == 1).then(|| option[2..8].to_vec()));
        options = rest;
    }
    if PODS.contains(&in_port) {
        assert_eq!(frame[6..12], station(in_port).0);
        assert!(asker.as_ref().is_none_or(|asker| asker[..] == station(in_port).0), "a pod plays another one");
        assert!(src == pod_ipv6(in_port) || src.is_unspecified() || src.is_unicast_link_local());
    }
    let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (to, dst, flags) = match src.is_unspecified() {
        true => (vec![0x33, 0x33, 0, 0, 0, 1], everybody, 0xa0),
        false => (asker.unwrap_or(frame[6..12].to_vec()), src, 0xe0),
    };
    let ours = our_mac(in_port);
    let answer = between(out, ours, MacAddr(to.try_into().expect("six bytes")));
    assert_eq!((answer.src(), answer.dst(), answer.hop_limit()), (GATEWAY, dst, 255));
    assert_eq!((answer.protocol, answer.offset), (ICMPV6, HEADER));
    assert!(answer.checksum_holds());
    let expected = [&[flags, 0, 0, 0][..], &GATEWAY.octets(), &[2, 1], &ours.0].concat();
    assert_eq!((&answer.l4()[..2], &answer.l4()[4..]), (&[136, 0][..], &expected[..]));
}
