//! IPv6 packets as etherparse reads them, for the oracle and for mending.

use std::{net::Ipv6Addr, ops::Range};

use etherparse::{Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, checksum::Sum16BitWords};

use crate::input::SCTP;

/// Number of the hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Number of the routing header.
pub const ROUTING: u8 = 43;
/// Number of the fragment header.
pub const FRAGMENT: u8 = 44;
/// Number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Number of the destination options.
pub const OPTIONS: u8 = 60;
/// Bytes of the header.
pub const HEADER: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet, or what an error quotes of one.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// All of it that there is, without padding.
    pub bytes: &'a [u8],
    /// What is behind the extension headers; a routing header, if it has segments left, is not one that is gone past.
    pub protocol: u8,
    /// Where that starts.
    pub offset: usize,
    /// Offset in units of 8 bytes, and whether there is more.
    pub fragment: Option<(u16, bool)>,
}

impl<'a> Packet<'a> {
    /// The packet that bytes start with, if all of it is there.
    pub fn whole(bytes: &'a [u8]) -> Option<Packet<'a>> {
        let length = HEADER + usize::from(Ipv6HeaderSlice::from_slice(bytes).ok()?.payload_length());
        Packet::quoted(bytes.get(..length)?)
    }

    /// The packet of which the bytes are a part that has all headers.
    pub fn quoted(bytes: &'a [u8]) -> Option<Packet<'a>> {
        let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
        let bytes = &bytes[..bytes.len().min(HEADER + usize::from(header.payload_length()))];
        let mut packet = Packet { bytes, protocol: header.next_header().0, offset: HEADER, fragment: None };
        loop {
            let rest = bytes.get(packet.offset..)?;
            let length;
            (packet.protocol, length) = match packet.protocol {
                FRAGMENT => {
                    let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
                    packet.fragment = Some((header.fragment_offset().value(), header.more_fragments()));
                    (header.next_header().0, header.slice().len())
                }
                ROUTING if rest.len() >= 8 && rest[3] != 0 => return Some(packet),
                HOP_BY_HOP | ROUTING | OPTIONS => {
                    let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
                    (header.next_header().0, header.slice().len())
                }
                _ => return Some(packet),
            };
            packet.offset += length;
            if packet.fragment.is_some_and(|(offset, _)| offset != 0) {
                return Some(packet);
            }
        }
    }

    fn header(&self) -> Ipv6HeaderSlice<'a> {
        Ipv6HeaderSlice::from_slice(self.bytes).expect("it was read before")
    }

    /// Source.
    pub fn src(&self) -> Ipv6Addr {
        self.header().source_addr()
    }

    /// Destination.
    pub fn dst(&self) -> Ipv6Addr {
        self.header().destination_addr()
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.header().hop_limit()
    }

    /// The lower two bits of the traffic class.
    pub fn ecn(&self) -> u8 {
        self.header().traffic_class() & 3
    }

    /// DSCP and flow label.
    pub fn class_and_label(&self) -> (u8, u32) {
        (self.header().traffic_class() >> 2, self.header().flow_label().value())
    }

    /// What is behind the extension headers.
    pub fn l4(&self) -> &'a [u8] {
        &self.bytes[self.offset..]
    }

    /// It is no fragment, or the only one.
    pub fn is_whole(&self) -> bool {
        self.fragment.is_none_or(|fragment| fragment == (0, false))
    }

    /// Where the transport checksum is in what is behind the extension headers, if that has one and is long enough.
    pub fn checksum_at(&self) -> Option<Range<usize>> {
        let (at, least) = match self.protocol {
            TCP => (16..18, 20),
            UDP => (6..8, 8),
            ICMPV6 => (2..4, 8),
            SCTP => (8..12, 12),
            _ => return None,
        };
        (self.is_whole() && self.l4().len() >= least).then_some(at)
    }

    /// The complement of the sum over the pseudo header and `l4`.
    fn sum(&self, l4: &[u8]) -> u16 {
        let addresses = Sum16BitWords::new().add_16bytes(self.src().octets()).add_16bytes(self.dst().octets());
        let length = self.l4().len() as u32;
        let mut sum = addresses.add_2bytes([0, self.protocol]);
        sum.add_4bytes(length.to_be_bytes()).add_slice(l4).ones_complement().to_be()
    }

    /// Whether the transport checksum is right.
    pub fn checksum_holds(&self) -> bool {
        let Some(at) = self.checksum_at() else { return false };
        match self.protocol {
            SCTP => self.l4()[at] == self.right_checksum(),
            _ => self.sum(self.l4()) == 0,
        }
    }

    /// The transport checksum as it should be; nothing, if there is none.
    pub fn right_checksum(&self) -> Vec<u8> {
        let Some(at) = self.checksum_at() else { return Vec::new() };
        let mut zeroed = self.l4().to_vec();
        zeroed[at].fill(0);
        match (self.protocol, self.sum(&zeroed)) {
            (SCTP, _) => crc32c::crc32c(&zeroed).to_le_bytes().into(),
            (UDP, 0) => vec![255, 255],
            (_, sum) => sum.to_be_bytes().into(),
        }
    }

    /// The field holds the sum of the pseudo header only, or of SCTP nothing, as the kernel leaves it to a device.
    pub fn is_left_to_the_device(&self) -> bool {
        match (self.protocol, self.checksum_at()) {
            (SCTP, Some(at)) => self.l4()[at] == [0; 4],
            (TCP | UDP, Some(at)) => self.l4()[at] == (!self.sum(&[])).to_be_bytes(),
            _ => false,
        }
    }
}
