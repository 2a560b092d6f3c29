//! IPv4 (RFC 791).
//!
//! ```text
//!  0       1       2       3       4
//! +---+---+-------+---------------+
//! |ver|ihl| dscp|e| total length  |  0
//! +---+---+-------+-+-------------+
//! | identification|f| offset      |  4
//! +-------+-------+-+-------------+
//! | ttl   | proto | checksum      |  8
//! +-------+-------+---------------+
//! | source                        | 12
//! | destination                   | 16
//! | options ...                   | 20
//! ```

use super::{be16, be32, bytes_at, checksum, put16, put32};

/// Bytes of the header without options.
pub const HEADER_LEN: usize = 20;
/// The first byte of a header without options: version 4, five words of 4 bytes.
pub const PLAIN: u8 = 0x45;
/// Where the DSCP and ECN byte is.
pub const TOS: usize = 1;
/// Where the total length starts.
pub const TOTAL_LEN: usize = 2;
/// Where the identification starts.
pub const ID: usize = 4;
/// Where the flags and the fragment offset start.
pub const FRAGMENT: usize = 6;
/// Where the time to live is.
pub const TTL: usize = 8;
/// Where the protocol is.
pub const PROTOCOL: usize = 9;
/// Where the header checksum starts.
pub const CHECKSUM: usize = 10;
/// Where the source starts.
pub const SRC: usize = 12;
/// Where the destination starts.
pub const DST: usize = 16;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of SCTP.
pub const SCTP: u8 = 132;

/// Flag: don't fragment.
pub const DF: u16 = 0x4000;
/// Flag: other fragments come after this one.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Flag and offset: anything here set makes the packet a fragment.
pub const FRAGMENTED: u16 = 0x3fff;
/// The fragment's offset, in units of 8 bytes.
pub const OFFSET: u16 = 0x1fff;

/// What every network carries, in bytes (RFC 791, section 3.2): the longest header and 8 bytes.
pub const LEAST_MTU: u16 = 68;

/// The time to live a new packet gets.
pub const DEFAULT_TTL: u8 = 64;

/// Congestion experienced, in the two ECN bits (RFC 3168).
pub const ECN_CE: u8 = 0b11;

/// True if the 20 bytes of a header without options sum up (RFC 791, section 3.1).
#[inline(always)]
pub fn checksum_holds(header: &[u8; HEADER_LEN]) -> bool {
    let words = checksum::add(u64::from_ne_bytes(bytes_at(header, 0)), u64::from_ne_bytes(bytes_at(header, 8)));
    checksum::is_sound(checksum::add(words, u32::from_ne_bytes(bytes_at(header, DST)).into()))
}

/// The fields of a header to send.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload, in bytes.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// [`DF`] or 0.
    pub flags: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Source.
    pub src: u32,
    /// Destination.
    pub dst: u32,
}

impl Header {
    /// Writes the 20 bytes, checksum included.
    ///
    /// # Panics
    /// If the slice is shorter.
    pub fn emit(&self, packet: &mut [u8]) {
        packet[0] = PLAIN;
        packet[TOS] = self.tos;
        put16(packet, TOTAL_LEN, self.total_len);
        put16(packet, ID, self.id);
        put16(packet, FRAGMENT, self.flags);
        packet[TTL] = self.ttl;
        packet[PROTOCOL] = self.protocol;
        put16(packet, CHECKSUM, 0);
        put32(packet, SRC, self.src);
        put32(packet, DST, self.dst);
        let sum = checksum::sum(&packet[..HEADER_LEN]);
        put16(packet, CHECKSUM, !sum);
    }
}

/// Bytes of the header, options included. The caller has checked the version.
#[inline(always)]
pub fn header_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 0x0f) * 4
}

/// Source address.
#[inline(always)]
pub fn src(packet: &[u8]) -> u32 {
    be32(packet, SRC)
}

/// Destination address.
#[inline(always)]
pub fn dst(packet: &[u8]) -> u32 {
    be32(packet, DST)
}

/// Total length in bytes.
#[inline(always)]
pub fn total_len(packet: &[u8]) -> u16 {
    be16(packet, TOTAL_LEN)
}

/// Takes one from the time to live, which must not be 0, and mends the checksum.
#[inline(always)]
pub fn decrement_ttl(header: &mut [u8; HEADER_LEN]) {
    header[TTL] -= 1;
    // The time to live is the first byte of its word, the lower one if words are read backwards: the sum is the same
    // (RFC 1071, section 2 (B)), and on most machines nothing is swapped.
    let field = &mut header[CHECKSUM..][..2];
    let sum = u32::from(u16::from_le_bytes([field[0], field[1]])) + 1;
    // The carry, and 0xffff is written as 0.
    field.copy_from_slice(&((sum + u32::from(sum >= 0xffff)) as u16).to_le_bytes());
}

/// Options that only the first fragment of a packet has (RFC 791, section 3.1, the copied flag) become ones that do nothing,
/// as Linux does it. What is no option any more is left as it is.
pub fn blank_options_of_first(mut options: &mut [u8]) {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const COPIED: u8 = 0x80;
    while let [kind, ..] = *options
        && kind != END
    {
        let len = match *options {
            [NOTHING, ..] => 1,
            [_, len, ..] => usize::from(len),
            _ => return,
        };
        if kind != NOTHING && len < 2 {
            return;
        }
        let Some((option, rest)) = options.split_at_mut_checked(len) else { return };
        if kind & COPIED == 0 {
            option.fill(NOTHING);
        }
        options = rest;
    }
}

/// Changes DSCP and ECN and mends the checksum.
#[inline(always)]
pub fn set_tos(packet: &mut [u8], tos: u8) {
    let old = packet[TOS];
    packet[TOS] = tos;
    let sum = be16(packet, CHECKSUM);
    put16(packet, CHECKSUM, checksum::update(sum, checksum::delta_narrow(old.into(), tos.into())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        Header { tos: 1, total_len: 84, id: 7, flags: DF, ttl: 2, protocol: ICMP, src: 0x0a000001, dst: 0x0a000002 }
            .emit(&mut bytes);
        bytes
    }

    #[test]
    fn etherparse_agrees_with_what_is_emitted() {
        let bytes = header();
        let (parsed, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        assert_eq!((parsed.ecn.value(), parsed.total_len, parsed.identification), (1, 84, 7));
        assert_eq!((parsed.source, parsed.destination), ([10, 0, 0, 1], [10, 0, 0, 2]));
        assert_eq!(parsed.header_checksum, parsed.calc_header_checksum());
        assert!(checksum_holds(&bytes));
    }

    #[test]
    fn a_ttl_counted_down_gives_the_checksum_that_computing_would() {
        for id in 0..=u16::MAX {
            let header = |ttl| Header { tos: 0, total_len: 20, id, flags: 0, ttl, protocol: UDP, src: 1, dst: 2 };
            let (mut counted, mut computed) = ([0; HEADER_LEN], [0; HEADER_LEN]);
            header(9).emit(&mut counted);
            decrement_ttl(&mut counted);
            header(8).emit(&mut computed);
            assert_eq!(counted, computed);
        }
    }

    #[test]
    fn changes_keep_the_checksum_right() {
        let mut bytes = header();
        set_tos(&mut bytes, 0xfb);
        assert!(checksum_holds(&bytes));
        assert_eq!((bytes[TTL], bytes[TOS]), (2, 0xfb));
        decrement_ttl(&mut bytes);
        assert!(checksum_holds(&bytes));
        assert_eq!(bytes[TTL], 1);
        bytes[SRC] ^= 0x10;
        assert!(!checksum_holds(&bytes));
    }

    #[test]
    fn options_without_the_copied_flag_are_blanked() {
        let blanked = |options: &[u8]| {
            let mut options = options.to_vec();
            blank_options_of_first(&mut options);
            options
        };
        // Record route is of the first fragment only, strict source route of all (RFC 791, section 3.1).
        assert_eq!(blanked(&[7, 7, 4, 1, 2, 3, 4, 0]), [1, 1, 1, 1, 1, 1, 1, 0]);
        assert_eq!(blanked(&[1, 137, 3, 4, 7, 3, 4, 0]), [1, 137, 3, 4, 1, 1, 1, 0]);
        for nonsense in [&[7, 0, 1, 1][..], &[7, 1, 0, 0], &[137, 9, 0, 0], &[0, 7, 3, 4], &[1, 1, 1, 7], &[]] {
            assert_eq!(blanked(nonsense), nonsense);
        }
    }
}
