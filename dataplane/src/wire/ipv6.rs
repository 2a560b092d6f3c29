//! IPv6 (RFC 8200).
//!
//! ```text
//!  0       1       2       3       4
//! +---+-------+---+---------------+
//! |ver| class | flow label        |  0
//! | payload length| next  | hop l.|  4
//! +---------------+-------+-------+
//! | source                        |  8
//! | destination                   | 24
//! | extension headers ...         | 40
//! ```
//!
//! Addresses are `u128` in host order.

use super::{be16, bytes_at, ipv4, put16};

/// Bytes of the header.
pub const HEADER_LEN: usize = 40;
/// The upper four bits of a header's first byte: version 6.
pub const VERSION: u8 = 0x60;
/// Where the version, the traffic class (8 bits) and the flow label (20 bits) start.
pub const CLASS_AND_LABEL: usize = 0;
/// Where the length of all that follows the header starts.
pub const PAYLOAD_LEN: usize = 4;
/// Where the protocol of what follows the header is.
pub const NEXT_HEADER: usize = 6;
/// Where the hop limit is.
pub const HOP_LIMIT: usize = 7;
/// Where the source starts.
pub const SRC: usize = 8;
/// Where the destination starts.
pub const DST: usize = 24;

/// Protocol number of the hop-by-hop options, which only the first extension header can be.
pub const HOP_BY_HOP: u8 = 0;
/// Protocol number of the routing header.
pub const ROUTING: u8 = 43;
/// Protocol number of the fragment header.
pub const FRAGMENT: u8 = 44;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Protocol number of the destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// What every network carries, in bytes (RFC 8200, section 5).
pub const LEAST_MTU: u16 = 1280;

/// The hop limit a new packet gets.
pub const DEFAULT_HOP_LIMIT: u8 = 64;

/// Congestion experienced, in the lower two bits of the traffic class (RFC 3168): as in IPv4.
pub const ECN_CE: u8 = ipv4::ECN_CE;

/// Extension headers that are walked at most. RFC 8200, section 4.1, recommends no more than five of those kinds.
pub const MOST_EXTENSIONS: usize = 8;

/// Bytes that every extension header has, and the unit of their lengths.
const UNIT: usize = 8;

/// The fields of a header to send. Its flow label is 0.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes that follow the header.
    pub payload_len: u16,
    /// Protocol of the payload.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: u128,
    /// Destination.
    pub dst: u128,
}

impl Header {
    /// Writes the 40 bytes.
    ///
    /// # Panics
    /// If the slice is shorter.
    pub fn emit(&self, packet: &mut [u8]) {
        packet[..PAYLOAD_LEN].copy_from_slice(&[VERSION, 0, 0, 0]);
        set_traffic_class(packet, self.traffic_class);
        put16(packet, PAYLOAD_LEN, self.payload_len);
        packet[NEXT_HEADER] = self.next_header;
        packet[HOP_LIMIT] = self.hop_limit;
        packet[SRC..DST].copy_from_slice(&self.src.to_be_bytes());
        packet[DST..HEADER_LEN].copy_from_slice(&self.dst.to_be_bytes());
    }
}

/// Source address.
#[inline(always)]
pub fn src(packet: &[u8]) -> u128 {
    u128::from_be_bytes(bytes_at(packet, SRC))
}

/// Destination address.
#[inline(always)]
pub fn dst(packet: &[u8]) -> u128 {
    u128::from_be_bytes(bytes_at(packet, DST))
}

/// Header and payload, in bytes: up to 65,575.
#[inline(always)]
pub fn total_len(packet: &[u8]) -> usize {
    HEADER_LEN + usize::from(be16(packet, PAYLOAD_LEN))
}

/// DSCP and ECN.
#[inline(always)]
pub fn traffic_class(packet: &[u8]) -> u8 {
    (be16(packet, CLASS_AND_LABEL) >> 4) as u8
}

/// Changes DSCP and ECN. No checksum covers them.
#[inline(always)]
pub fn set_traffic_class(packet: &mut [u8], class: u8) {
    let around = be16(packet, CLASS_AND_LABEL) & 0xf00f;
    put16(packet, CLASS_AND_LABEL, around | u16::from(class) << 4);
}

/// What a packet carries behind its extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Its protocol. In a fragment that is not the first one: what the fragmented part of the packet began with, which may
    /// be an extension header.
    pub protocol: u8,
    /// Where it starts in the packet, in bytes: at the packet's end at most.
    pub offset: usize,
    /// What the fragment header says, if there is one.
    pub fragment: Option<Fragment>,
}

impl Transport {
    /// True if all of the packet is here: it is no fragment, or an atomic one (RFC 6946).
    pub fn is_whole(&self) -> bool {
        self.fragment.is_none_or(|fragment| fragment.offset == 0 && !fragment.more)
    }
}

/// What a fragment header says (RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where the fragment belongs in the packet's fragmented part, in units of 8 bytes.
    pub offset: u16,
    /// Other fragments come after this one.
    pub more: bool,
    /// What the fragments of one packet have in common, beside its addresses.
    pub id: u32,
}

/// Walks over the extension headers of a packet: hop-by-hop options, routing, fragment and destination options. Whatever else
/// there is counts as transport.
///
/// Nothing is read beyond the packet's own length, and `packet` may hold less than that, as what an ICMPv6 error quotes
/// does: whether the packet is all there is for the caller to ask.
///
/// What still has segments to visit is not yet where its transport header belongs: the checksum there is over the last
/// segment's address (RFC 8200, section 8.1). So such a routing header is taken for the transport.
///
/// `None` if the packet is no IPv6, ends within the headers, has more than [`MOST_EXTENSIONS`], two fragment headers, or
/// hop-by-hop options behind another header.
pub fn transport(packet: &[u8]) -> Option<Transport> {
    let header: &[u8; HEADER_LEN] = packet.first_chunk()?;
    if header[0] & 0xf0 != VERSION {
        return None;
    }
    let packet = &packet[..packet.len().min(total_len(header))];
    let mut found = Transport { protocol: header[NEXT_HEADER], offset: HEADER_LEN, fragment: None };
    for walked in 0..=MOST_EXTENSIONS {
        if !matches!(found.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            return Some(found);
        }
        let [next, units, third, fourth, id @ ..] = *packet.get(found.offset..)?.first_chunk::<UNIT>()?;
        let mut len = UNIT * (1 + usize::from(units));
        match found.protocol {
            HOP_BY_HOP if walked > 0 => return None,
            ROUTING if fourth != 0 => return Some(found),
            FRAGMENT if found.fragment.is_some() => return None,
            FRAGMENT => {
                let place = u16::from_be_bytes([third, fourth]);
                found.fragment =
                    Some(Fragment { offset: place >> 3, more: place & 1 != 0, id: u32::from_be_bytes(id) });
                // The second byte is reserved.
                len = UNIT;
            }
            _ => {}
        }
        (found.protocol, found.offset) = (next, found.offset + len);
        if found.offset > packet.len() {
            return None;
        }
        if found.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return Some(found);
        }
    }
    None
}

/// Whether no packet that is sent on may have this source: the unspecified address, loopback and the rest of ::/96 (RFC 4291,
/// section 2.5), IPv4-mapped addresses, which are for programs (::ffff:0:0/96), and multicast.
///
/// On the link itself `::` is right where a host asks whether its address is taken (RFC 4862, section 5.4.2): ask
/// [`ndp`](super::ndp) before. And a link-local source is no martian, but not to be sent on: ask [`is_link_local`].
#[inline(always)]
pub fn is_martian(src: u128) -> bool {
    matches!(src >> 32, 0 | 0xffff) || is_multicast(src)
}

/// True for the address of a group: ff00::/8 (RFC 4291, section 2.7).
#[inline(always)]
pub fn is_multicast(address: u128) -> bool {
    address >> 120 == 0xff
}

/// True for an address that means something on its link only: fe80::/10 (RFC 4291, section 2.5.6).
#[inline(always)]
pub fn is_link_local(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use etherparse::{IpNumber, Ipv6ExtensionsSlice};
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    /// A packet whose payload is `payload`, the first header of which has the protocol `next_header`.
    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xaa; HEADER_LEN];
        let payload_len = payload.len() as u16;
        let (src, dst) = (address("fd00:10:244:1::a"), address("fd00:10:244:2::b"));
        Header { traffic_class: 0xb9, payload_len, next_header, hop_limit: 7, src, dst }.emit(&mut packet);
        packet.extend_from_slice(payload);
        packet
    }

    fn found(protocol: u8, offset: usize) -> Option<Transport> {
        Some(Transport { protocol, offset, fragment: None })
    }

    fn found_fragment(protocol: u8, offset: usize, fragment: Fragment) -> Option<Transport> {
        Some(Transport { protocol, offset, fragment: Some(fragment) })
    }

    #[test]
    fn etherparse_agrees_with_what_is_emitted() {
        let bytes = packet(ipv4::TCP, &[0; 20]);
        let (parsed, rest) = etherparse::Ipv6Header::from_slice(&bytes).unwrap();
        assert_eq!((parsed.dscp().value(), parsed.ecn().value(), parsed.flow_label.value()), (0xb9 >> 2, 1, 0));
        assert_eq!((parsed.payload_length, parsed.next_header, parsed.hop_limit), (20, IpNumber::TCP, 7));
        assert_eq!(parsed.source_addr(), "fd00:10:244:1::a".parse::<Ipv6Addr>().unwrap());
        assert_eq!(parsed.destination_addr(), "fd00:10:244:2::b".parse::<Ipv6Addr>().unwrap());
        assert_eq!(rest.len(), 20);
        assert_eq!((src(&bytes), dst(&bytes)), (address("fd00:10:244:1::a"), address("fd00:10:244:2::b")));
        assert_eq!(total_len(&bytes), 60);
    }

    #[test]
    fn a_traffic_class_is_changed_and_what_is_around_it_is_not() {
        let mut bytes = [0x6a, 0xbc, 0xde, 0xf1];
        assert_eq!(traffic_class(&bytes), 0xab);
        set_traffic_class(&mut bytes, 0x5a | ECN_CE);
        assert_eq!(bytes, [0x65, 0xbc, 0xde, 0xf1]);
        assert_eq!(traffic_class(&bytes) & ECN_CE, ECN_CE);
    }

    #[test]
    fn the_longest_packet_s_length_does_not_wrap() {
        let mut bytes = packet(ipv4::UDP, &[]);
        put16(&mut bytes, PAYLOAD_LEN, u16::MAX);
        assert_eq!(total_len(&bytes), 65_575);
    }

    #[test]
    fn transport_without_extensions_follows_the_header() {
        for protocol in [ipv4::TCP, ipv4::UDP, ipv4::SCTP, ICMPV6, 50, 51, 59, 255] {
            assert_eq!(transport(&packet(protocol, &[1, 2, 3])), found(protocol, 40));
            assert_eq!(transport(&packet(protocol, &[])), found(protocol, 40));
        }
        let mut ipv4 = packet(ipv4::TCP, &[]);
        ipv4[0] = 0x45;
        assert_eq!(transport(&ipv4), None);
    }

    #[test]
    fn every_kind_of_extension_header_is_walked_over() {
        let chain = [
            &[DESTINATION_OPTIONS, 0, 5, 2, 0, 0, 1, 0][..],
            &[ROUTING, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[FRAGMENT, 0, 4, 0, 0, 0, 0, 0],
            &[DESTINATION_OPTIONS, 0xff, 0, 0, 1, 2, 3, 4],
            &[ipv4::TCP, 0, 1, 4, 0, 0, 0, 0],
            &[0; 20],
        ]
        .concat();
        let whole = packet(HOP_BY_HOP, &chain);
        let atomic = Fragment { offset: 0, more: false, id: 0x0102_0304 };
        assert_eq!(transport(&whole), found_fragment(ipv4::TCP, 40 + 48, atomic));
        assert!(transport(&whole).unwrap().is_whole());
        for len in 0..whole.len() {
            let expected = if len < 88 { None } else { found_fragment(ipv4::TCP, 88, atomic) };
            assert_eq!(transport(&whole[..len]), expected, "cut to {len}");
            // The same where the frame goes on and the packet says that it ends.
            let mut padded = whole.clone();
            put16(&mut padded, PAYLOAD_LEN, len.saturating_sub(HEADER_LEN) as u16);
            assert_eq!(transport(&padded), expected, "{len} long");
        }
    }

    #[test]
    fn fragments_tell_which_they_are() {
        let fragment = |place: u16| {
            let [third, fourth] = place.to_be_bytes();
            let payload =
                [[DESTINATION_OPTIONS, 0, third, fourth, 0, 0, 0, 9], [ipv4::UDP, 0, 1, 4, 0, 0, 0, 0], [7; 8]];
            transport(&packet(FRAGMENT, payload.as_flattened()))
        };
        let first = fragment(1);
        assert_eq!(first, found_fragment(ipv4::UDP, 56, Fragment { offset: 0, more: true, id: 9 }));
        assert!(!first.unwrap().is_whole());
        // What looks like another header is the middle of something.
        let middle = fragment(185 << 3 | 1);
        assert_eq!(middle, found_fragment(DESTINATION_OPTIONS, 48, Fragment { offset: 185, more: true, id: 9 }));
        let last = fragment(8191 << 3);
        assert_eq!(last, found_fragment(DESTINATION_OPTIONS, 48, Fragment { offset: 8191, more: false, id: 9 }));
        assert!(!last.unwrap().is_whole());
        assert!(fragment(0).unwrap().is_whole());
        assert_eq!(fragment(6), fragment(0), "two bits are reserved");
    }

    #[test]
    fn a_first_fragment_has_all_headers() {
        // RFC 7112, section 5.
        let cut = packet(FRAGMENT, &[DESTINATION_OPTIONS, 0, 0, 1, 0, 0, 0, 9, ipv4::UDP, 1, 1, 4, 0, 0, 0, 0]);
        assert_eq!(transport(&cut), None);
    }

    #[test]
    fn a_packet_with_segments_to_visit_has_no_transport_yet() {
        let routed = |left| transport(&packet(ROUTING, &[ipv4::UDP, 0, 0, left, 0, 0, 0, 0]));
        assert_eq!(routed(0), found(ipv4::UDP, 48));
        assert_eq!(routed(1), found(ROUTING, 40));
    }

    #[test]
    fn headers_are_in_order_and_not_without_end() {
        let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(transport(&packet(DESTINATION_OPTIONS, &options(HOP_BY_HOP).repeat(2))), None);
        assert_eq!(transport(&packet(FRAGMENT, &[FRAGMENT, 0, 0, 0, 0, 0, 0, 0].repeat(2))), None);
        let chain = |len: usize| {
            let mut headers = vec![options(DESTINATION_OPTIONS); len];
            headers[len - 1] = options(ipv4::TCP);
            transport(&packet(DESTINATION_OPTIONS, headers.as_flattened()))
        };
        assert_eq!(chain(MOST_EXTENSIONS), found(ipv4::TCP, 40 + 8 * MOST_EXTENSIONS));
        assert_eq!(chain(MOST_EXTENSIONS + 1), None);
    }

    #[test]
    fn martians_groups_and_links() {
        for martian in ["::", "::1", "::10.0.0.1", "::ffff:10.0.0.1", "ff02::1", "ffff::"] {
            assert!(is_martian(address(martian)), "{martian}");
        }
        for right in ["fd00:10:244::1", "2001:db8::1", "fe80::1", "64:ff9b::a00:1", "::1:0:0", "::fffe:0:1", "fe00::"] {
            assert!(!is_martian(address(right)), "{right}");
        }
        for (text, multicast, link_local) in [
            ("ff00::", true, false),
            ("feff::", false, false),
            ("fe80::", false, true),
            ("febf:ffff::1", false, true),
            ("fec0::", false, false),
            ("fe7f::", false, false),
        ] {
            assert_eq!((is_multicast(address(text)), is_link_local(address(text))), (multicast, link_local), "{text}");
        }
    }

    proptest! {
        #[test]
        fn etherparse_walks_as_far(
            lens in prop::collection::vec((prop::sample::select(&[DESTINATION_OPTIONS, ROUTING][..]), 0u8..4), 0..3),
            hop_by_hop: bool, protocol in prop::sample::select(&[ipv4::TCP, ipv4::UDP, ICMPV6, 59][..]),
        ) {
            // Etherparse knows two of destination options, one before and one behind a routing header.
            let mut chain: Vec<(u8, u8)> = lens;
            chain.dedup_by_key(|header| header.0);
            if hop_by_hop {
                chain.insert(0, (HOP_BY_HOP, 1));
            }
            let mut payload = Vec::new();
            for (at, (_, units)) in chain.iter().enumerate() {
                let next = chain.get(at + 1).map_or(protocol, |header| header.0);
                payload.extend([next, *units, 0, 0, 0, 0, 0, 0]);
                payload.resize(payload.len() + UNIT * usize::from(*units), 0);
            }
            let first = chain.first().map_or(protocol, |header| header.0);
            let (_, next, rest) = Ipv6ExtensionsSlice::from_slice(IpNumber(first), &payload).unwrap();
            let bytes = packet(first, &payload);
            prop_assert_eq!(transport(&bytes), found(next.0, bytes.len() - rest.len()));
        }

        #[test]
        fn garbage_leads_nowhere_beyond_its_end(
            first in prop::sample::select(&[HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS][..]),
            payload in prop::collection::vec(prop_oneof![0u8..3, Just(ROUTING), Just(FRAGMENT), Just(DESTINATION_OPTIONS), any::<u8>()], 0..120),
            claimed: u16,
        ) {
            let mut bytes = packet(first, &payload);
            put16(&mut bytes, PAYLOAD_LEN, claimed % 140);
            for len in 0..=bytes.len() {
                if let Some(found) = transport(&bytes[..len]) {
                    prop_assert!(found.offset <= len.min(total_len(&bytes)));
                }
            }
        }
    }
}
