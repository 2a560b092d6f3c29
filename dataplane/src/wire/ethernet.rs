//! Ethernet II (IEEE 802.3 clause 3).
//!
//! ```text
//!  0                   6                  12      14
//! +-------------------+-------------------+-------+---------
//! | destination       | source            | type  | payload
//! +-------------------+-------------------+-------+---------
//! ```

use super::{be16, ipv4, le64, put16};
use crate::net::MacAddr;

/// Bytes of the header, without a VLAN tag.
pub const HEADER_LEN: usize = 14;
/// Where the source starts.
pub const SOURCE: usize = 6;
/// Where the type field starts.
pub const TYPE: usize = 12;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;

/// A frame's destination, as a number ([`MacAddr::to_number`]).
///
/// # Panics
/// If the slice is shorter than the header.
#[inline(always)]
pub fn destination(frame: &[u8]) -> u64 {
    le64(frame, 0) << 16
}

/// A frame's source, as a number.
///
/// # Panics
/// If the slice is shorter than the header.
#[inline(always)]
pub fn source_number(frame: &[u8]) -> u64 {
    le64(frame, SOURCE) << 16
}

/// A frame's source.
///
/// # Panics
/// If the slice is shorter than the header.
#[inline(always)]
pub fn source(frame: &[u8]) -> MacAddr {
    MacAddr([frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]])
}

/// A frame's EtherType.
///
/// # Panics
/// If the slice is shorter than the header.
#[inline(always)]
pub fn ethertype(frame: &[u8]) -> u16 {
    be16(frame, TYPE)
}

/// Splits what a packet begins with into the Ethernet header and the IPv4 header without its options.
#[inline(always)]
pub fn split(head: &mut [u8; HEADER_LEN + ipv4::HEADER_LEN]) -> (&mut [u8; HEADER_LEN], &mut [u8; ipv4::HEADER_LEN]) {
    let (ethernet, ip) = head.split_first_chunk_mut().expect("it is longer");
    (ethernet, ip.first_chunk_mut().expect("the rest is a header"))
}

/// Writes a header.
///
/// # Panics
/// If the slice is shorter than the header.
#[inline(always)]
pub fn emit(frame: &mut [u8], destination: MacAddr, source: MacAddr, ethertype: u16) {
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0);
    put16(frame, TYPE, ethertype);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_reads_back() {
        let (a, b) = (MacAddr([1, 2, 3, 4, 5, 6]), MacAddr([7, 8, 9, 10, 11, 12]));
        let mut frame = [0; HEADER_LEN];
        emit(&mut frame, a, b, ARP);
        assert_eq!((destination(&frame), source(&frame), ethertype(&frame)), (a.to_number(), b, ARP));
    }
}
