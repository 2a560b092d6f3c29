//! SCTP (RFC 9260, section 3): the common header, and what the chunks behind it say about the association.
//!
//! ```text
//!  0               2               4
//! +---------------+---------------+
//! | source port   | dest port     |  0
//! | verification tag              |  4
//! | checksum (CRC32c)             |  8
//! | type  | flags | length        | 12   the first chunk; others follow, each at a multiple of 4
//! | value ...                     |
//! ```
//!
//! The checksum covers header and chunks, itself as zeros; no address is in it.

use super::{be16, bytes_at, crc32c, put16, tcp};

/// Bytes of the common header.
pub const HEADER_LEN: usize = 12;
/// Where the checksum starts.
pub const CHECKSUM: usize = 8;

const CHUNK_HEADER_LEN: usize = 4;

/// Chunk type: payload data.
const DATA: u8 = 0;
/// Chunk type: begins an association.
const INIT: u8 = 1;
/// Chunk type: the answer to that, with a cookie.
const INIT_ACK: u8 = 2;
/// Chunk type: ends an association at once.
const ABORT: u8 = 6;
/// Chunk type: one side has nothing more to send.
const SHUTDOWN: u8 = 7;
/// Chunk type: neither has the other.
const SHUTDOWN_ACK: u8 = 8;
/// Chunk type: which ends the association.
const SHUTDOWN_COMPLETE: u8 = 14;

/// Bytes of a packet that [`emit`] writes, at least.
pub const LEAST_LEN: usize = HEADER_LEN + CHUNK_HEADER_LEN;

/// Writes a whole packet of one chunk, which says of the association what the TCP `flags` would: see [`flags`]. All of the
/// chunk is zero but its header, and so is the verification tag.
///
/// # Panics
/// If the slice is shorter than [`LEAST_LEN`].
pub fn emit(packet: &mut [u8], src_port: u16, dst_port: u16, flags: u8) {
    packet.fill(0);
    put16(packet, 0, src_port);
    put16(packet, 2, dst_port);
    packet[HEADER_LEN] = match (flags & tcp::SYN != 0, flags & tcp::ACK != 0) {
        _ if flags & tcp::RST != 0 => ABORT,
        _ if flags & tcp::FIN != 0 => SHUTDOWN,
        (true, false) => INIT,
        (true, true) => INIT_ACK,
        (false, _) => DATA,
    };
    let len = packet.len() - HEADER_LEN;
    put16(packet, HEADER_LEN + 2, len as u16);
    finish(packet);
}

/// What the chunks say about the association, by the TCP flags that say the same: INIT is a SYN, its answer that with an
/// ACK, whatever ends the association is a RST, and what is about to end it a FIN. 0 if there is no whole chunk header.
pub fn flags(packet: &[u8]) -> u8 {
    let mut rest = packet.get(HEADER_LEN..).unwrap_or_default();
    let mut flags = 0;
    while rest.len() >= CHUNK_HEADER_LEN {
        flags |= match rest[0] {
            INIT => tcp::SYN,
            INIT_ACK => tcp::SYN | tcp::ACK,
            ABORT | SHUTDOWN_COMPLETE => tcp::RST,
            SHUTDOWN | SHUTDOWN_ACK => tcp::FIN | tcp::ACK,
            _ => tcp::ACK,
        };
        let len = usize::from(be16(rest, 2)).next_multiple_of(4);
        // Data comes after all chunks that are of interest here (RFC 9260, section 6.10).
        if rest[0] == DATA || len < CHUNK_HEADER_LEN {
            break;
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    flags
}

/// Gives a packet other ports, as they lie in memory, and mends its checksum. `len` is that of the whole packet, of which
/// not all need be in hand: neither of a fragment nor in an ICMP error.
///
/// # Panics
/// If the packet ends before its ports do.
pub fn set_ports(packet: &mut [u8], ports: [u8; 4], len: u16) {
    let old = bytes_at(packet, 0);
    packet[..4].copy_from_slice(&ports);
    let change = crc32c::delta(old, ports, len).to_le_bytes();
    packet.iter_mut().skip(CHECKSUM).zip(change).for_each(|(byte, change)| *byte ^= change);
}

/// True if the sender left the checksum to hardware that a device without a wire does not have (Linux: `CHECKSUM_PARTIAL`
/// with `csum_not_inet`): the field is zero then. (One packet in four billion has that for its checksum. Finishing it
/// changes nothing.)
#[inline]
pub fn is_unfinished(header: &[u8; HEADER_LEN]) -> bool {
    header[CHECKSUM..] == [0; 4]
}

/// Computes the checksum of a whole packet and writes it.
///
/// # Panics
/// If the packet is shorter than the common header.
pub fn finish(packet: &mut [u8]) {
    packet[CHECKSUM..HEADER_LEN].fill(0);
    let sum = crc32c::of(packet);
    packet[CHECKSUM..HEADER_LEN].copy_from_slice(&sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chunks: &[(u8, &[u8])]) -> Vec<u8> {
        let mut packet = vec![0x1f, 0x90, 0x00, 0x50, 1, 2, 3, 4, 0, 0, 0, 0];
        for (kind, value) in chunks {
            packet.extend([*kind, 0]);
            packet.extend((4 + value.len() as u16).to_be_bytes());
            packet.extend(*value);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        packet
    }

    #[test]
    fn chunks_say_what_tcp_flags_do() {
        const COOKIE_ECHO: u8 = 10;
        const SACK: u8 = 3;
        for (chunks, said) in [
            (&[(INIT, &[0; 16][..])][..], tcp::SYN),
            (&[(INIT_ACK, &[0; 20])], tcp::SYN | tcp::ACK),
            (&[(COOKIE_ECHO, b"odd"), (DATA, &[0; 13])], tcp::ACK),
            (&[(SACK, &[0; 12]), (SHUTDOWN, &[0; 4])], tcp::FIN | tcp::ACK),
            (&[(SHUTDOWN_ACK, &[])], tcp::FIN | tcp::ACK),
            (&[(SHUTDOWN_COMPLETE, &[])], tcp::RST),
            (&[(9, b"error"), (ABORT, &[])], tcp::RST | tcp::ACK),
            (&[(DATA, &[0; 13]), (ABORT, &[])], tcp::ACK),
            (&[], 0),
        ] {
            assert_eq!(flags(&packet(chunks)), said, "{chunks:?}");
        }
        let mut endless = packet(&[(SACK, &[0; 12]), (ABORT, &[])]);
        endless[14..16].fill(0);
        assert_eq!(flags(&endless), tcp::ACK);
        assert_eq!(flags(&endless[..15]), 0);
    }

    #[test]
    fn what_is_emitted_says_what_was_asked_for_and_has_its_checksum() {
        for flags in [tcp::SYN, tcp::SYN | tcp::ACK, tcp::ACK, tcp::RST, tcp::FIN | tcp::ACK] {
            let mut written = [0xaa; LEAST_LEN + 4];
            emit(&mut written, 1000, 2000, flags);
            assert_eq!(super::flags(&written), flags);
            assert_eq!((be16(&written, 0), be16(&written, 2)), (1000, 2000));
            let mut finished = written;
            finish(&mut finished);
            assert_eq!(written, finished);
        }
    }

    #[test]
    fn other_ports_leave_a_checksum_right_and_a_wrong_one_as_wrong() {
        let mut whole = packet(&[(DATA, &[7; 1400])]);
        assert!(is_unfinished(whole.first_chunk().unwrap()));
        finish(&mut whole);
        let len = whole.len() as u16;
        let mut expected = whole.clone();
        expected[..4].copy_from_slice(&[9, 8, 7, 6]);
        finish(&mut expected);
        let mut translated = whole.clone();
        set_ports(&mut translated, [9, 8, 7, 6], len);
        assert_eq!(translated, expected);
        // As much of it as a first fragment, or an error that quotes it, may have.
        for end in [4, 8, 11, 12, 100] {
            let mut part = whole[..end].to_vec();
            set_ports(&mut part, [9, 8, 7, 6], len);
            assert_eq!(part, expected[..end]);
        }
        whole[10] ^= 0x20;
        set_ports(&mut whole, [9, 8, 7, 6], len);
        expected[10] ^= 0x20;
        assert_eq!(whole, expected);
    }
}
