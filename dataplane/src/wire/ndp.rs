//! Neighbour discovery (RFC 4861): who has an address on this link, and who says so.
//!
//! ```text
//!  0       1       2               4
//! +-------+-------+---------------+
//! | type  | code 0| checksum      |  0
//! | flags (advertisement)         |  4
//! | target address, 16 bytes      |  8
//! | options: type, length / 8 ... | 24
//! ```
//!
//! Its messages have a hop limit of 255, which no packet has that a router sent on: what is not meant for us needs no
//! filter, as nobody believes it behind the next hop.

use super::{bytes_at, ethernet, icmpv6, ipv6};
use crate::net::MacAddr;

/// ICMPv6 type: neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type: neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// Every host of a link: ff02::1 (RFC 4291, section 2.7.1).
pub const ALL_NODES: u128 = 0xff02 << 112 | 1;
/// The solicited-node group of the address 0: ff02::1:ff00:0 (RFC 4291, section 2.7.1).
const SOLICITED_NODE: u128 = 0xff02 << 112 | 0x1_ff00_0000;

const HOP_LIMIT: u8 = 255;
const FLAGS: usize = 4;
const TARGET: usize = 8;
/// Bytes of a message without options.
const LEN: usize = 24;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
/// Bytes of an option with an Ethernet address (RFC 2464, section 6).
const ADDRESS_OPTION_LEN: usize = 8;

/// Where the message starts in a frame.
const MESSAGE: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;

/// Bytes of the frame that [`Solicitation::answer`] writes.
pub const ANSWER_LEN: usize = MESSAGE + LEN + ADDRESS_OPTION_LEN;

/// The group in which whoever has `address` is asked for (RFC 4291, section 2.7.1).
pub fn solicited_node(address: u128) -> u128 {
    SOLICITED_NODE | address & 0xff_ffff
}

/// The Ethernet address of a group (RFC 2464, section 7).
pub fn group_mac(group: u128) -> MacAddr {
    let [a, b, c, d] = (group as u32).to_be_bytes();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Who a solicitation or an advertisement says has which address; `None` if the packet is neither, or unsound. Made to be
/// compared with what a port's station has.
///
/// The one who solicits has the packet's source: one of its addresses, maybe a link-local one, or `::` while it has none
/// (RFC 4862, section 5.4.2). The one who advertises has the target. The Ethernet address, of the option, may be left out.
pub fn sender(packet: &[u8]) -> Option<(Option<MacAddr>, u128)> {
    let message = Message::parse(packet)?;
    Some(match message.kind {
        Kind::Solicitation => (message.mac, message.src),
        Kind::Advertisement => (message.mac, message.target),
    })
}

/// Someone asks who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The address it asks for.
    pub target: u128,
    /// Its own address; 0 for one that wants to know whether somebody has the target already.
    pub src: u128,
    /// Who asks, if it says so.
    pub source_mac: Option<MacAddr>,
}

impl Solicitation {
    /// Reads a solicitation; `None` if the packet is anything else, or one to be discarded (RFC 4861, section 7.1.1).
    pub fn parse(packet: &[u8]) -> Option<Solicitation> {
        let Message { kind: Kind::Solicitation, src, dst, target, mac } = Message::parse(packet)? else { return None };
        let is_for_a_solicited_node = dst & !0xff_ffff == SOLICITED_NODE;
        if src == 0 && (!is_for_a_solicited_node || mac.is_some()) {
            return None;
        }
        Some(Solicitation { target, src, source_mac: mac })
    }

    /// Turns the solicitation that `frame` carries into the advertisement "`mac` has it, and is a router", of [`ANSWER_LEN`]
    /// bytes, Ethernet header included. One who has no address yet is told with everybody else (RFC 4861,
    /// section 7.2.4).
    ///
    /// # Panics
    /// If the slice is shorter than [`ANSWER_LEN`].
    pub fn answer(&self, frame: &mut [u8], mac: MacAddr) {
        let (dst, station, flags) = match self.src {
            0 => (ALL_NODES, group_mac(ALL_NODES), ROUTER | OVERRIDE),
            src => (src, self.source_mac.unwrap_or(ethernet::source(frame)), ROUTER | SOLICITED | OVERRIDE),
        };
        ethernet::emit(frame, station, mac, ethernet::IPV6);
        let header = ipv6::Header {
            traffic_class: 0,
            payload_len: (ANSWER_LEN - MESSAGE) as u16,
            next_header: ipv6::ICMPV6,
            hop_limit: HOP_LIMIT,
            src: self.target,
            dst,
        };
        header.emit(&mut frame[ethernet::HEADER_LEN..]);
        let message = &mut frame[MESSAGE..ANSWER_LEN];
        message[..TARGET].copy_from_slice(&[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
        message[TARGET..LEN].copy_from_slice(&self.target.to_be_bytes());
        message[LEN..LEN + 2].copy_from_slice(&[TARGET_ADDRESS, 1]);
        message[LEN + 2..].copy_from_slice(&mac.0);
        icmpv6::finish(message, self.target, dst);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Solicitation,
    Advertisement,
}

/// A sound message of either kind.
struct Message {
    kind: Kind,
    src: u128,
    dst: u128,
    target: u128,
    /// The Ethernet address of whoever sent it.
    mac: Option<MacAddr>,
}

impl Message {
    /// Checks what RFC 4861 asks of both (sections 7.1.1 and 7.1.2), and that no group is the source. It may not be
    /// fragmented (RFC 6980), and no host puts other extension headers into it: with any it is not read.
    fn parse(packet: &[u8]) -> Option<Message> {
        let header: &[u8; ipv6::HEADER_LEN] = packet.first_chunk()?;
        let message = packet.get(ipv6::HEADER_LEN..ipv6::total_len(header))?;
        let (src, dst) = (ipv6::src(header), ipv6::dst(header));
        let (fixed, options) = message.split_first_chunk::<LEN>()?;
        let kind = match fixed[..2] {
            [SOLICITATION, 0] => Kind::Solicitation,
            [ADVERTISEMENT, 0] => Kind::Advertisement,
            _ => return None,
        };
        let target = u128::from_be_bytes(bytes_at(fixed, TARGET));
        let right = header[0] & 0xf0 == ipv6::VERSION
            && header[ipv6::NEXT_HEADER] == ipv6::ICMPV6
            && header[ipv6::HOP_LIMIT] == HOP_LIMIT
            && !ipv6::is_multicast(src)
            && !ipv6::is_multicast(target)
            && !(kind == Kind::Advertisement && ipv6::is_multicast(dst) && fixed[FLAGS] & SOLICITED != 0)
            && icmpv6::checksum_holds(message, src, dst);
        if !right {
            return None;
        }
        let option = if kind == Kind::Solicitation { SOURCE_ADDRESS } else { TARGET_ADDRESS };
        Some(Message { kind, src, dst, target, mac: address_option(options, option)? })
    }
}

/// The Ethernet address in the first option of this type, if there is one; `None` if the options are unsound.
fn address_option(mut options: &[u8], wanted: u8) -> Option<Option<MacAddr>> {
    let mut mac = None;
    while !options.is_empty() {
        let len = ADDRESS_OPTION_LEN * usize::from(*options.get(1)?);
        let (option, rest) = options.split_at_checked(len).filter(|_| len > 0)?;
        if option[0] == wanted {
            let option: &[u8; ADDRESS_OPTION_LEN] = option.try_into().ok()?;
            mac = mac.or(Some(MacAddr(bytes_at(option, 2))));
        }
        options = rest;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use etherparse::{
        Icmpv6Slice, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice,
        icmpv6::{Icmpv6PayloadSlice, NdpOptionSlice, NeighborAdvertisementHeader},
    };
    use proptest::prelude::*;

    use super::*;

    const IP: usize = ethernet::HEADER_LEN;
    const POD: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const SWITCH: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    /// What Linux 6.18 sent on a veth: who has fe80::1, tell fe80::ff:fe00:1.
    const ASKED: &str = "3333ff000001020000000001 86dd 6000000000203aff fe80000000000000000000fffe000001\
        ff0200000000000000000001ff000001 87007b9900000000 fe800000000000000000000000000001 0101020000000001";
    /// And what it answered.
    const ANSWERED: &str = "020000000001020000000009 86dd 6000000000203aff fe800000000000000000000000000001\
        fe80000000000000000000fffe000001 8800191560000000 fe800000000000000000000000000001 0201020000000009";
    /// Has somebody fe80::ff:fe00:1 already? With a nonce (RFC 7527).
    const PROBED: &str = "3333ff000001020000000001 86dd 6000000000203aff 00000000000000000000000000000000\
        ff0200000000000000000001ff000001 8700238a00000000 fe80000000000000000000fffe000001 0e015b9338dcb722";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn address(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    /// A message about fe80::1 in its packet.
    fn packet(kind: u8, src: &str, dst: &str, options: &[u8]) -> Vec<u8> {
        let (src, dst) = (address(src), address(dst));
        let mut packet = vec![0; ipv6::HEADER_LEN];
        let payload_len = (LEN + options.len()) as u16;
        let header =
            ipv6::Header { traffic_class: 0, payload_len, next_header: ipv6::ICMPV6, hop_limit: HOP_LIMIT, src, dst };
        header.emit(&mut packet);
        packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(address("fe80::1").to_be_bytes());
        packet.extend(options);
        finish(&mut packet);
        packet
    }

    fn finish(packet: &mut [u8]) {
        let (src, dst) = (ipv6::src(packet), ipv6::dst(packet));
        icmpv6::finish(&mut packet[ipv6::HEADER_LEN..], src, dst);
    }

    const IS_POD: [u8; 8] = [SOURCE_ADDRESS, 1, 2, 0, 0, 0, 0, 1];

    fn solicitation(options: &[u8]) -> Vec<u8> {
        packet(SOLICITATION, "fd00::a", "ff02::1:ff00:1", options)
    }

    #[test]
    fn linux_s_solicitation_is_answered_as_linux_answers_it_but_by_a_router() {
        let mut frame = bytes(ASKED);
        let (src, target) = (address("fe80::ff:fe00:1"), address("fe80::1"));
        let asked = Solicitation::parse(&frame[IP..]).unwrap();
        assert_eq!(asked, Solicitation { target, src, source_mac: Some(POD) });
        asked.answer(&mut frame, SWITCH);

        let mut expected = bytes(ANSWERED);
        assert_eq!(expected[MESSAGE + FLAGS], SOLICITED | OVERRIDE);
        expected[MESSAGE + FLAGS] = ROUTER | SOLICITED | OVERRIDE;
        finish(&mut expected[IP..]);
        assert_eq!(frame, expected);
        assert_eq!(Solicitation::parse(&frame[IP..]), None, "an advertisement asks for nothing");
    }

    #[test]
    fn a_probe_is_answered_to_everybody() {
        let mut frame = bytes(PROBED);
        let asked = Solicitation::parse(&frame[IP..]).unwrap();
        assert_eq!(asked, Solicitation { target: address("fe80::ff:fe00:1"), src: 0, source_mac: None });
        asked.answer(&mut frame, SWITCH);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(ipv6::dst(&frame[IP..]), address("ff02::1"));
        assert_eq!(frame[MESSAGE + FLAGS], ROUTER | OVERRIDE);
    }

    #[test]
    fn etherparse_reads_the_answer() {
        let mut frame = bytes(ASKED);
        // Without an option the one who asks is where the frame came from, and the answer is longer than the question.
        frame.truncate(IP);
        frame.extend(solicitation(&[]));
        let asked = Solicitation::parse(&frame[IP..]).unwrap();
        assert_eq!(asked.source_mac, None);
        frame.resize(ANSWER_LEN, 0xaa);
        asked.answer(&mut frame, SWITCH);

        assert_eq!(ethernet::source(&frame), SWITCH);
        assert_eq!(frame[..6], POD.0);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("{sliced:?}") };
        let (src, dst) = (ip.header().source(), ip.header().destination());
        assert_eq!([src, dst].map(u128::from_be_bytes), [address("fe80::1"), address("fd00::a")]);
        let Some(TransportSlice::Icmpv6(message)) = sliced.transport else { panic!("{:?}", sliced.transport) };
        assert!(message.is_checksum_valid(src, dst));
        let flags = NeighborAdvertisementHeader { router: true, solicited: true, r#override: true };
        assert_eq!(message.icmp_type(), Icmpv6Type::NeighborAdvertisement(flags));
        let Icmpv6PayloadSlice::NeighborAdvertisement(payload) = message.payload_slice().unwrap() else {
            panic!("{message:?}")
        };
        assert_eq!(u128::from(payload.target_address()), address("fe80::1"));
        let options: Vec<_> = payload.options_iterator().map(Result::unwrap).collect();
        let [NdpOptionSlice::TargetLinkLayerAddress(option)] = &options[..] else { panic!("{options:?}") };
        assert_eq!(option.link_layer_address(), SWITCH.0);
    }

    #[test]
    fn senders_are_who_the_messages_say() {
        let packet_of = |hex| bytes(hex).split_off(IP);
        assert_eq!(sender(&packet_of(ASKED)), Some((Some(POD), address("fe80::ff:fe00:1"))));
        assert_eq!(sender(&packet_of(ANSWERED)), Some((Some(SWITCH), address("fe80::1"))));
        assert_eq!(sender(&packet_of(PROBED)), Some((None, 0)));
        // Whatever packet it comes in, an advertisement is about its target.
        let forged = packet(ADVERTISEMENT, "fd00::a", "fd00::b", &[TARGET_ADDRESS, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(sender(&forged), Some((Some(SWITCH), address("fe80::1"))));
        assert_eq!(sender(&packet(ADVERTISEMENT, "fd00::a", "fd00::b", &IS_POD)), Some((None, address("fe80::1"))));
        // Of more than one option the first counts.
        let twice = solicitation(&[IS_POD, [SOURCE_ADDRESS, 1, 2, 0, 0, 0, 0, 9]].concat());
        assert_eq!(sender(&twice), Some((Some(POD), address("fd00::a"))));
        assert_eq!(sender(&packet(133, "fe80::a", "ff02::2", &[])), None, "a router solicitation");
    }

    #[test]
    fn what_rfc_4861_discards_is_not_read() {
        let changed = |change: fn(&mut Vec<u8>)| {
            let mut packet = solicitation(&IS_POD);
            change(&mut packet);
            finish(&mut packet);
            assert_eq!(Solicitation::parse(&packet).is_some(), sender(&packet).is_some());
            Solicitation::parse(&packet).is_some()
        };
        const MESSAGE: usize = ipv6::HEADER_LEN;
        assert!(changed(|_| {}));
        assert!(changed(|packet| packet[MESSAGE + FLAGS] = 0xff), "what is reserved is ignored");
        assert!(!changed(|packet| packet[ipv6::HOP_LIMIT] = 254));
        assert!(!changed(|packet| packet[MESSAGE + 1] = 1), "code");
        assert!(!changed(|packet| packet[MESSAGE + TARGET] = 0xff), "a group as the target");
        assert!(!changed(|packet| packet[ipv6::SRC] = 0xff), "a group as the source");
        assert!(!changed(|packet| packet[ipv6::NEXT_HEADER] = 17));
        assert!(!changed(|packet| packet[0] = 0x40));
        assert!(!changed(|packet| packet[MESSAGE + LEN + 1] = 0), "an option without length");
        assert!(!changed(|packet| packet[MESSAGE + LEN + 1] = 2), "an option beyond the end");

        let mut damaged = solicitation(&IS_POD);
        damaged[MESSAGE + 20] ^= 1;
        assert_eq!(Solicitation::parse(&damaged), None, "its checksum is wrong");
        let long_address = [SOURCE_ADDRESS, 2, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Solicitation::parse(&solicitation(&long_address)), None, "no Ethernet address");
        assert_eq!(Solicitation::parse(&solicitation(&[IS_POD[0]])), None, "half an option");

        let probe = |dst, options: &[u8]| Solicitation::parse(&packet(SOLICITATION, "::", dst, options)).is_some();
        assert!(probe("ff02::1:ff00:1", &[]));
        assert!(!probe("ff02::1:ff00:1", &IS_POD), "who has no address gives none");
        assert!(!probe("fe80::1", &[]) && !probe("ff02::1", &[]) && !probe("ff02::1:fe00:1", &[]));

        let solicited_by_all = |flags| {
            let mut packet = packet(ADVERTISEMENT, "fe80::1", "ff02::1", &[]);
            packet[MESSAGE + FLAGS] = flags;
            finish(&mut packet);
            sender(&packet).is_some()
        };
        assert!(solicited_by_all(OVERRIDE) && !solicited_by_all(SOLICITED));
    }

    #[test]
    fn what_is_cut_short_is_not_read_and_padding_does_not_count() {
        let whole = solicitation(&IS_POD);
        for len in 0..whole.len() {
            assert_eq!((Solicitation::parse(&whole[..len]), sender(&whole[..len])), (None, None), "cut to {len}");
            let mut shorter = whole.clone();
            shorter[ipv6::PAYLOAD_LEN + 1] = len.saturating_sub(ipv6::HEADER_LEN) as u8;
            // Options are all there or the message is none.
            let end = len.max(ipv6::HEADER_LEN + icmpv6::CHECKSUM + 2);
            finish(&mut shorter[..end]);
            let is_without_options = len == ipv6::HEADER_LEN + LEN;
            assert_eq!(Solicitation::parse(&shorter).is_some(), is_without_options, "{len} long");
        }
        let padded = [&whole[..], &[0xaa; 9]].concat();
        assert_eq!(Solicitation::parse(&padded), Solicitation::parse(&whole));
    }

    #[test]
    fn groups_have_their_addresses() {
        // The examples of RFC 4291, section 2.7.1, and RFC 2464, section 7.
        assert_eq!(solicited_node(address("4037::01:800:200e:8c6c")), address("ff02::1:ff0e:8c6c"));
        assert_eq!(group_mac(address("ff02::1:ff0e:8c6c")), MacAddr([0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c]));
        assert_eq!(ALL_NODES, address("ff02::1"));
    }

    proptest! {
        #[test]
        fn any_options_are_read_as_etherparse_reads_them(
            options in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..64), is_advertisement: bool,
        ) {
            let kind = if is_advertisement { ADVERTISEMENT } else { SOLICITATION };
            let packet = packet(kind, "fd00::a", "fe80::1", &options);
            let mut frame = vec![0; IP];
            ethernet::emit(&mut frame, SWITCH, POD, ethernet::IPV6);
            frame.extend(&packet);
            let message = Icmpv6Slice::from_slice(&packet[ipv6::HEADER_LEN..]).unwrap();
            let payload = message.payload_slice().unwrap();
            let read = match &payload {
                Icmpv6PayloadSlice::NeighborSolicitation(payload) => payload.options_iterator(),
                Icmpv6PayloadSlice::NeighborAdvertisement(payload) => payload.options_iterator(),
                other => panic!("{other:?}"),
            };
            let mut mac = None;
            let mut sound = true;
            for option in read {
                let found = match option {
                    Ok(NdpOptionSlice::SourceLinkLayerAddress(option)) if !is_advertisement => option.link_layer_address(),
                    Ok(NdpOptionSlice::TargetLinkLayerAddress(option)) if is_advertisement => option.link_layer_address(),
                    Ok(_) => continue,
                    Err(_) => { sound = false; break }
                };
                sound &= found.len() == 6;
                mac = mac.or(found.try_into().ok().map(MacAddr));
            }
            let claimed = if is_advertisement { address("fe80::1") } else { address("fd00::a") };
            prop_assert_eq!(sender(&packet), sound.then_some((mac, claimed)));
        }

        #[test]
        fn garbage_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut packet = solicitation(&IS_POD);
            // Of what precedes the payload's length only the version counts.
            let covered = &mut packet[ipv6::PAYLOAD_LEN..];
            covered.iter_mut().zip(&bytes).for_each(|(byte, noise)| *byte ^= noise);
            let is_noisy = bytes.iter().take(covered.len()).any(|noise| *noise != 0);
            prop_assert_eq!(Solicitation::parse(&packet).is_none(), is_noisy);
            prop_assert_eq!(sender(&bytes), None);
        }
    }
}
