//! UDP (RFC 768).
//!
//! ```text
//!  0               2               4
//! +---------------+---------------+
//! | source port   | dest port     |  0
//! | length        | checksum      |  4
//! +---------------+---------------+
//! ```

use super::{be16, checksum, put16};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Where the destination port starts.
pub const DST_PORT: usize = 2;
/// Where the length of header and payload starts.
pub const LEN: usize = 4;
/// Where the checksum starts; 0 means that the sender computed none.
pub const CHECKSUM: usize = 6;

/// True if the datagram's checksum is absent or right. `datagram` is header and payload, as long as its length says.
pub fn checksum_holds(datagram: &[u8], src: u32, dst: u32) -> bool {
    be16(datagram, CHECKSUM) == 0 || {
        let pseudo = checksum::pseudo_header(src, dst, super::ipv4::UDP, datagram.len() as u16);
        checksum::fold(pseudo + u64::from(checksum::sum(datagram))) == 0xffff
    }
}

/// True if the checksum field holds only the pseudo header's sum: the sender left the rest to hardware that a device
/// without a wire does not have (Linux: `CHECKSUM_PARTIAL`).
pub fn checksum_is_unfinished(datagram: &[u8], src: u32, dst: u32) -> bool {
    let pseudo = checksum::pseudo_header(src, dst, super::ipv4::UDP, datagram.len() as u16);
    be16(datagram, CHECKSUM) == checksum::fold(pseudo)
}

/// Writes a header with checksum 0.
///
/// # Panics
/// If the slice is shorter than the header.
pub fn emit(datagram: &mut [u8], src_port: u16, dst_port: u16, len: u16) {
    put16(datagram, 0, src_port);
    put16(datagram, DST_PORT, dst_port);
    put16(datagram, LEN, len);
    put16(datagram, CHECKSUM, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etherparse_agrees_on_the_checksum() {
        let (src, dst) = ([10, 1, 2, 3], [10, 4, 5, 6]);
        let payload = b"some odd payload!";
        let header = etherparse::UdpHeader::with_ipv4_checksum(
            1000,
            2000,
            &etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, src, dst).unwrap(),
            payload,
        )
        .unwrap();
        let mut datagram = header.to_bytes().to_vec();
        datagram.extend_from_slice(payload);
        let (src, dst) = (u32::from_be_bytes(src), u32::from_be_bytes(dst));
        assert!(checksum_holds(&datagram, src, dst));
        assert!(!checksum_is_unfinished(&datagram, src, dst));
        let mut unfinished = datagram.clone();
        let pseudo = checksum::pseudo_header(src, dst, 17, datagram.len() as u16);
        put16(&mut unfinished, CHECKSUM, checksum::fold(pseudo));
        assert!(checksum_is_unfinished(&unfinished, src, dst));
        datagram[9] ^= 1;
        assert!(!checksum_holds(&datagram, src, dst));
        emit(&mut datagram, 1000, 2000, 25);
        assert!(checksum_holds(&datagram, src, dst), "a zero checksum is none");
    }
}
