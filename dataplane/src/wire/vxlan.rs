//! VXLAN (RFC 7348, section 5).
//!
//! ```text
//!  0       1                       4                       7
//! +-------+-----------------------+-----------------------+---+
//! | flags | reserved              | VNI                   | r |
//! +-------+-----------------------+-----------------------+---+
//! ```

use super::{be32, put32};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Flag: the VNI counts. The only one there is; the other bits are ignored on receipt.
pub const VNI_VALID: u8 = 0x08;
/// What encapsulation adds: outer Ethernet, IPv4, UDP and VXLAN headers, in bytes.
pub const OVERHEAD: usize = super::ethernet::HEADER_LEN + super::ipv4::HEADER_LEN + super::udp::HEADER_LEN + HEADER_LEN;

/// The VNI, or `None` if the header says that it carries none.
///
/// # Panics
/// If the slice is shorter than the header.
#[inline(always)]
pub fn vni(header: &[u8]) -> Option<u32> {
    (header[0] & VNI_VALID != 0).then(|| be32(header, 4) >> 8)
}

/// The header that [`emit`] writes, read as a little-endian number.
#[inline(always)]
pub fn usual(vni: u32) -> u64 {
    u64::from(VNI_VALID) | u64::from((vni << 8).swap_bytes()) << 32
}

/// Writes a header.
///
/// # Panics
/// If the slice is shorter than the header.
pub fn emit(header: &mut [u8], vni: u32) {
    put32(header, 0, u32::from(VNI_VALID) << 24);
    put32(header, 4, vni << 8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vni_reads_back_and_needs_its_flag() {
        let mut header = [0xff; HEADER_LEN];
        emit(&mut header, 0xabcdef);
        assert_eq!(header, [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
        assert_eq!(usual(0xabcdef).to_le_bytes(), header);
        assert_eq!(vni(&header), Some(0xabcdef));
        header[0] = 0;
        assert_eq!(vni(&header), None);
    }

    #[test]
    fn overhead_is_fifty_bytes() {
        assert_eq!(OVERHEAD, 50);
    }
}
