//! Fragments that a packet was cut into: put together, they are the packet (RFC 791, section 3.2).

use smoltcp::wire::Ipv4Packet;

type Packet<'a> = Ipv4Packet<&'a [u8]>;

/// The packet that these fragments were before they were cut, which came in as `received`.
pub fn put_together(received: &Packet, fragments: &[Packet]) -> Vec<u8> {
    assert!(!received.dont_frag(), "it must not be cut");
    let (first, header_len) = (&fragments[0], usize::from(received.header_len()));
    let mut whole = first.as_ref()[..header_len].to_vec();
    for (at, fragment) in fragments.iter().enumerate() {
        let is_last = at + 1 == fragments.len();
        let offset = usize::from(received.frag_offset()) + whole.len() - header_len;
        assert_eq!(usize::from(fragment.frag_offset()), offset, "it goes on where the one before ends");
        assert_eq!((fragment.ident(), fragment.dont_frag()), (received.ident(), false));
        assert_eq!(fragment.more_frags(), !is_last || received.more_frags());
        assert!(is_last || fragment.payload().len().is_multiple_of(8));
        let alike =
            |packet: &Packet| (packet.hop_limit(), packet.dscp(), packet.ecn(), packet.src_addr(), packet.dst_addr());
        assert_eq!((alike(fragment), fragment.next_header()), (alike(first), first.next_header()));
        assert_eq!(usize::from(fragment.header_len()), header_len);
        if at > 0 {
            options(&received.as_ref()[20..header_len], &fragment.as_ref()[20..header_len]);
        }
        whole.extend_from_slice(fragment.payload());
    }
    let length = whole.len() as u16;
    let mut packet = Ipv4Packet::new_unchecked(&mut whole[..]);
    packet.set_total_len(length);
    packet.set_frag_offset(received.frag_offset());
    packet.set_more_frags(received.more_frags());
    packet.fill_checksum();
    whole
}

/// Every byte of a later fragment's options is as it was, or does nothing; an option that is to be copied is there.
fn options(before: &[u8], after: &[u8]) {
    assert!(before.iter().zip(after).all(|(before, after)| before == after || *after == 1), "{before:?} {after:?}");
    let mut at = 0;
    while at < before.len() && before[at] != 0 {
        let length = match before[at] {
            1 => 1,
            _ => before.get(at + 1).map_or(0, |length| usize::from(*length)),
        };
        if length == 0 || before[at] != 1 && length < 2 || at + length > before.len() {
            break;
        }
        if before[at] & 0x80 != 0 {
            assert_eq!(before[at..at + length], after[at..at + length], "the copied flag is set");
        }
        at += length;
    }
}
