//! TCP (RFC 9293, section 3.1): the few fields a switch looks at.
//!
//! ```text
//!  0               2               4
//! +---------------+---------------+
//! | source port   | dest port     |  0
//! | sequence number               |  4
//! | acknowledgement number        |  8
//! |off|   | flags | window        | 12
//! | checksum      | urgent        | 16
//! ```

use super::put16;

/// Bytes of the header without options.
pub const HEADER_LEN: usize = 20;
/// Where the header's length is, in the upper four bits, in words of 4 bytes.
const OFFSET: usize = 12;
/// Where the flags are.
pub const FLAGS: usize = 13;
const WINDOW: usize = 14;
/// Where the checksum starts.
pub const CHECKSUM: usize = 16;

/// Writes a header without options, with everything zero but ports, flags and an open window.
///
/// # Panics
/// If the slice is shorter than the header.
pub fn emit(segment: &mut [u8], src_port: u16, dst_port: u16, flags: u8) {
    segment[..HEADER_LEN].fill(0);
    put16(segment, 0, src_port);
    put16(segment, 2, dst_port);
    segment[OFFSET] = (HEADER_LEN as u8 / 4) << 4;
    segment[FLAGS] = flags;
    put16(segment, WINDOW, u16::MAX);
}

/// Flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// Flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Flag: reset the connection.
pub const RST: u8 = 0x04;
/// Flag: to be given to the receiver's program at once.
pub const PSH: u8 = 0x08;
/// Flag: the acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// Flag: the urgent pointer counts.
pub const URG: u8 = 0x20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etherparse_reads_what_is_emitted() {
        let mut segment = [0xaa; HEADER_LEN];
        emit(&mut segment, 1000, 2000, SYN | ACK);
        let read = etherparse::TcpHeader::from_slice(&segment).unwrap().0;
        let expected =
            etherparse::TcpHeader { syn: true, ack: true, ..etherparse::TcpHeader::new(1000, 2000, 0, 65_535) };
        assert_eq!(read, expected);
    }
}
