//! What translation may change, and that it mends every checksum by as much as it changed: the sum of all words that a
//! checksum covers, itself among them, stays what it was, right or wrong.

use std::{fmt::Debug, net::Ipv4Addr, ops::Range};

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::{STAND_INS, VIPS};
use crate::{input::SCTP, world::MASQUERADE};

type Packet<'a> = Ipv4Packet<&'a [u8]>;

/// The ends of a packet: source and destination.
pub type Ends<A = Ipv4Addr> = [(A, u16); 2];

/// Translation swaps a VIP for a backend on the way there, or a backend for a VIP on the way back. An address of the node
/// may stand in for the other end, also where there is no VIP.
pub fn ends(before: Ends, after: Ends) {
    ends_of_family(before, after, &VIPS, &STAND_INS);
}

/// As [`ends`], of either family.
pub fn ends_of_family<A: Copy + PartialEq + Debug>(before: Ends<A>, after: Ends<A>, vips: &[A], stand_ins: &[A]) {
    let [[src, dst], [new_src, new_dst]] = [before, after];
    let stands_in = |(address, port): (A, u16)| stand_ins.contains(&address) && MASQUERADE.contains(&port);
    let there = (vips.contains(&dst.0) || dst == new_dst) && (src == new_src || stands_in(new_src));
    let back = (vips.contains(&new_src.0) || src == new_src) && (dst == new_dst || stands_in(dst));
    assert!(before != after && (there || back), "{before:?} became {after:?}");
}

/// A fragment of a translated datagram: the first one's ports change, and the datagram's checksum, which it carries. (How
/// that of SCTP changes, one fragment alone does not tell.)
pub fn fragment(packet: &Packet, out: &Packet) {
    let (before, after) = (packet.payload(), out.payload());
    if packet.frag_offset() != 0 {
        assert_eq!(before, after, "what is not the first fragment has nothing to translate");
        return;
    }
    ends(ports_of(packet, before), ports_of(out, after));
    let field = checksum_at(packet.next_header()).expect("a protocol with ports");
    assert_eq!((&before[4..field.start], &before[field.end..]), (&after[4..field.start], &after[field.end..]));
    if packet.next_header() == IpProtocol::Udp && before[6..8] == [0, 0] {
        assert_eq!(after[6..8], [0, 0], "no checksum stays none");
    } else if packet.next_header() != IpProtocol::Unknown(SCTP) {
        let sum = |packet: &Packet| sum(&[&packet.as_ref()[12..20], packet.payload()]);
        assert_eq!(sum(packet), sum(out));
    }
}

/// The ends of a packet whose payload begins with ports.
pub fn ports_of(packet: &Packet, l4: &[u8]) -> Ends {
    let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    [(packet.src_addr(), port(0)), (packet.dst_addr(), port(2))]
}

/// A translated echo: its identifier is the port of the end that asks.
fn echo(packet: &Packet, out: &Packet) {
    let id = |packet: &Packet| u16::from_be_bytes([packet.payload()[4], packet.payload()[5]]);
    // A reply that has the number of requests as its identifier looks like one.
    let asks = packet.payload()[0] == 8 || id(packet) == 8;
    let ends_of = |packet: &Packet| {
        let ports = if asks { [id(packet), 8] } else { [8, id(packet)] };
        [(packet.src_addr(), ports[0]), (packet.dst_addr(), ports[1])]
    };
    ends(ends_of(packet), ends_of(out));
    let (before, after) = (packet.payload(), out.payload());
    assert_eq!((&before[..2], &before[6..], sum(&[before])), (&after[..2], &after[6..], sum(&[after])));
}

/// An ICMP error about a translated packet, whose quote becomes what its sender knows; or an echo.
pub fn icmp(packet: &Packet, out: &Packet) {
    let (before, after) = (packet.payload(), out.payload());
    if matches!(before[0], 0 | 8) {
        return echo(packet, out);
    }
    assert!(matches!(before[0], 3 | 11 | 12), "no error: {packet}");
    assert_eq!((&before[..2], &before[4..8]), (&after[..2], &after[4..8]));
    assert_eq!(sum(&[before]), sum(&[after]));
    let quoted = |message| Ipv4Packet::new_unchecked(message);
    let (caused, shown) = (quoted(&before[8..]), quoted(&after[8..]));
    // The error goes to the quoted packet's sender, before as after, and comes from whom it was sent to if that changed.
    assert_eq!((packet.dst_addr(), out.dst_addr()), (caused.src_addr(), shown.src_addr()));
    let (old, new) = (caused.dst_addr(), shown.dst_addr());
    assert_eq!(out.src_addr(), if old == new { packet.src_addr() } else { new });
    let (before, after) = (caused.as_ref(), shown.as_ref());
    assert_eq!(
        (&before[..10], &before[20..caused.header_len().into()]),
        (&after[..10], &after[20..shown.header_len().into()])
    );
    assert_eq!(sum(&[&before[..20]]), sum(&[&after[..20]]));
    let (before, after) = (&before[caused.header_len().into()..], &after[shown.header_len().into()..]);
    let reversed = |[src, dst]: Ends| [dst, src];
    ends(reversed(ports_of(&caused, before)), reversed(ports_of(&shown, after)));
    let field = checksum_at(caused.next_header()).expect("a protocol with ports");
    let covered = before.len().min(field.start);
    assert_eq!(before[4..covered], after[4..covered]);
    assert_eq!(before.get(field.end..), after.get(field.end..));
}

/// Where the checksum of a protocol with ports is.
pub fn checksum_at(protocol: IpProtocol) -> Option<Range<usize>> {
    match protocol {
        IpProtocol::Tcp => Some(16..18),
        IpProtocol::Udp => Some(6..8),
        IpProtocol::Unknown(SCTP) => Some(8..12),
        _ => None,
    }
}

/// The sum of all words, modulo that of one's complement.
pub fn sum(parts: &[&[u8]]) -> u32 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum::<u32>() % 0xffff
}
