//! CRC32c, SCTP's checksum (RFC 9260, appendix A), and how it changes with the bytes that it is of.
//!
//! A CRC is linear: that of two messages of one length differ by the remainder of their difference, whatever else is in
//! them. Where only the first four bytes differ, that is a product of two polynomials modulo the CRC's, and neither the
//! message nor whether its CRC was right has to be known.

/// The polynomial without its x^32, reflected, as everything here: bit 31 is the coefficient of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^(8n), for the lower and the upper byte of n.
static POWERS: [[u32; 256]; 2] = [powers(1), powers(256)];

/// The CRC of a message.
pub fn of(message: &[u8]) -> u32 {
    ::crc32c::crc32c(message)
}

/// What a CRC over `len` bytes changes by (exclusive or) when the first four of them do, as they lie in memory.
pub fn delta(old: [u8; 4], new: [u8; 4], len: u16) -> u32 {
    let difference = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    let [low, high] = len.to_le_bytes().map(usize::from);
    let moved = product(difference, POWERS[0][low]);
    if high == 0 { moved } else { product(moved, POWERS[1][high]) }
}

/// The product of two polynomials, modulo the CRC's.
const fn product(a: u32, b: u32) -> u32 {
    let (mut sum, mut power, mut bit) = (0, b, u32::BITS);
    while bit > 0 {
        bit -= 1;
        sum ^= power & (a >> bit & 1).wrapping_neg();
        // Times x.
        power = power >> 1 ^ POLYNOMIAL & (power & 1).wrapping_neg();
    }
    sum
}

/// x^0, x^8s, x^16s and so on.
const fn powers(step: u32) -> [u32; 256] {
    const ONE: u32 = 1 << 31;
    let (mut base, mut n) = (ONE, 0);
    while n < step {
        // A byte further away is eight bits: x^8.
        base = product(base, ONE >> 8);
        n += 1;
    }
    let (mut powers, mut at) = ([ONE; 256], 1);
    while at < powers.len() {
        powers[at] = product(powers[at - 1], base);
        at += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn test_vectors_of_iscsi() {
        assert_eq!(of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(of(&[0xff; 32]), 0x62a8_ab43);
    }

    proptest! {
        #[test]
        fn a_change_equals_computing_anew(mut bytes in prop::collection::vec(any::<u8>(), 4..3000), new: [u8; 4]) {
            let (old, before) = (*bytes.first_chunk().unwrap(), of(&bytes));
            bytes[..4].copy_from_slice(&new);
            prop_assert_eq!(before ^ delta(old, new, bytes.len() as u16), of(&bytes));
        }
    }

    #[test]
    fn the_longest_and_the_shortest() {
        for len in [4, 5, 255, 256, 257, 511, 512, 65_515] {
            let mut bytes = vec![0x5a; len];
            let before = of(&bytes);
            bytes[..4].copy_from_slice(&[1, 2, 3, 4]);
            assert_eq!(before ^ delta([0x5a; 4], [1, 2, 3, 4], len as u16), of(&bytes), "{len}");
        }
    }
}
