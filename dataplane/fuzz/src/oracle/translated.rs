//! What translation may change, and that it mends every checksum by as much as it changed: the sum of all words that a
//! checksum covers, itself among them, stays what it was, right or wrong.

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::VIPS;

type Packet<'a> = Ipv4Packet<&'a [u8]>;

/// Translation swaps a VIP for a backend on the way there, or a backend for a VIP on the way back.
pub fn one_end(packet: &Packet, out: &Packet) {
    let request = VIPS.contains(&packet.dst_addr()) && packet.src_addr() == out.src_addr();
    let reply = VIPS.contains(&out.src_addr()) && packet.dst_addr() == out.dst_addr();
    assert!(request || reply, "{packet} became {out}");
}

/// A fragment of a translated datagram: the first one's ports change, and the datagram's checksum, which it carries.
pub fn fragment(packet: &Packet, out: &Packet) {
    one_end(packet, out);
    let (before, after) = (packet.payload(), out.payload());
    if packet.frag_offset() != 0 {
        assert_eq!(before, after, "what is not the first fragment has nothing to translate");
        return;
    }
    let field = checksum_at(packet.next_header()).expect("a protocol with ports");
    assert_eq!((&before[4..field], &before[field + 2..]), (&after[4..field], &after[field + 2..]));
    if packet.next_header() == IpProtocol::Udp && before[6..8] == [0, 0] {
        assert_eq!(after[6..8], [0, 0], "no checksum stays none");
    } else {
        let sum = |packet: &Packet| sum(&[&packet.as_ref()[12..20], packet.payload()]);
        assert_eq!(sum(packet), sum(out));
    }
}

/// An ICMP error about a translated packet: the quote becomes what its sender knows.
pub fn error(packet: &Packet, out: &Packet) {
    let (before, after) = (packet.payload(), out.payload());
    assert!(matches!(before[0], 3 | 11 | 12), "no error: {packet}");
    assert_eq!((&before[..2], &before[4..8]), (&after[..2], &after[4..8]));
    assert_eq!(sum(&[before]), sum(&[after]));
    let quoted = |message| Ipv4Packet::new_unchecked(message);
    let (caused, shown) = (quoted(&before[8..]), quoted(&after[8..]));
    // The error goes to the quoted packet's sender, before as after.
    assert_eq!((packet.dst_addr(), out.dst_addr()), (caused.src_addr(), shown.src_addr()));
    if VIPS.contains(&packet.dst_addr()) {
        assert_eq!((packet.src_addr(), caused.dst_addr()), (out.src_addr(), shown.dst_addr()));
    } else {
        assert!(VIPS.contains(&shown.dst_addr()) && out.src_addr() == shown.dst_addr(), "{packet} became {out}");
    }
    let (before, after) = (caused.as_ref(), shown.as_ref());
    assert_eq!(
        (&before[..10], &before[20..caused.header_len().into()]),
        (&after[..10], &after[20..shown.header_len().into()])
    );
    assert_eq!(sum(&[&before[..20]]), sum(&[&after[..20]]));
    let (before, after) = (&before[caused.header_len().into()..], &after[shown.header_len().into()..]);
    let field = checksum_at(caused.next_header()).expect("a protocol with ports");
    let covered = before.len().min(field);
    assert_eq!(before[4..covered], after[4..covered]);
    assert_eq!(before.get(field + 2..), after.get(field + 2..));
}

fn checksum_at(protocol: IpProtocol) -> Option<usize> {
    match protocol {
        IpProtocol::Tcp => Some(16),
        IpProtocol::Udp => Some(6),
        _ => None,
    }
}

/// The sum of all words, modulo that of one's complement.
fn sum(parts: &[&[u8]]) -> u32 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum::<u32>() % 0xffff
}
