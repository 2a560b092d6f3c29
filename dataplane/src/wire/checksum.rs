//! The Internet checksum: computing it (RFC 1071) and changing it when a field changes (RFC 1624).
//!
//! Sums are kept wide and folded once at the end. One's complement addition does not care about byte order
//! (RFC 1071, section 2 (B)), so whole slices are summed in native order and swapped once. Nor does it care about the
//! width of the words: 2^16, 2^32 and 2^64 are all 1 modulo 65,535.

use std::hint::cold_path;

use super::{ipv4, tcp, udp};

/// The one's complement sum of `bytes`, in network order and not complemented; an odd last byte counts as the high
/// half of a word.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total: u64 = 0;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_ne_bytes(*word);
        // Two 32-bit halves cannot overflow 64 bits within any frame's length.
        total += (word >> 32) + (word & 0xffff_ffff);
    }
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        total += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    u16::from_be(fold(total))
}

/// Folds a wide sum into 16 bits with end-around carry.
#[inline(always)]
pub fn fold(total: u64) -> u16 {
    // The halves added to each other crosswise: the upper half gets their sum and, from the lower one, the carry.
    fold_narrow((total.wrapping_add(total.rotate_left(32)) >> 32) as u32)
}

/// As [`fold`], for narrower sums.
#[inline(always)]
pub fn fold_narrow(total: u32) -> u16 {
    (total.wrapping_add(total.rotate_left(16)) >> 16) as u16
}

/// The checksum to send over a sum: its complement.
#[inline(always)]
pub fn finish(total: u64) -> u16 {
    !fold(total)
}

/// The sum of the TCP and UDP pseudo header (RFC 9293 section 3.1, RFC 768): addresses, protocol, length in bytes.
#[inline(always)]
pub fn pseudo_header(src: u32, dst: u32, protocol: u8, len: u16) -> u64 {
    u64::from(src) + u64::from(dst) + u64::from(protocol) + u64::from(len)
}

/// As [`pseudo_header`], of IPv6 (RFC 8200, section 8.1): `len` is the transport header and payload, in bytes. Below 2^36, so
/// that sums can be added to it.
#[inline(always)]
pub fn pseudo_header_v6(src: u128, dst: u128, next_header: u8, len: u32) -> u64 {
    let words = [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64];
    let addresses = add_all(words);
    (addresses >> 32) + (addresses & 0xffff_ffff) + u64::from(next_header) + u64::from(len)
}

/// Adds two wide sums with end-around carry.
#[inline(always)]
pub fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// As [`add`], of four.
#[inline(always)]
fn add_all([a, b, c, d]: [u64; 4]) -> u64 {
    add(add(a, b), add(c, d))
}

/// True if the 16-bit words that make up `words`, in any byte order, add up to zero in one's complement, as those of a
/// sound IPv4 header do. They must not all be zero.
#[inline(always)]
pub fn is_sound(words: u64) -> bool {
    // One's complement addition of 16-bit words is addition modulo 65,535.
    words.is_multiple_of(0xffff)
}

/// True if the sum that was folded into `folded` is `total`, which must not be 0: as `folded == fold(total)`, in fewer
/// steps where it mostly is not.
#[inline(always)]
pub fn is_sum_of(folded: u16, total: u64) -> bool {
    is_sound(total + u64::from(!folded)) && folded != 0
}

/// What to add to a checksum's complement when the words of `old` become those of `new`: `~m + m'` of RFC 1624,
/// equation 3. Below 2^33, so that deltas can be added up. Any byte order will do, if it is the checksum's.
#[inline(always)]
pub fn delta(old: u64, new: u64) -> u64 {
    let total = add(!old, new);
    (total >> 32) + (total & 0xffff_ffff)
}

/// As [`delta`], for more words: the 32 bytes of an IPv6 header's addresses.
#[inline(always)]
pub fn delta_wide(old: [u64; 4], new: [u64; 4]) -> u64 {
    delta(add_all(old), add_all(new))
}

/// As [`delta`], for fewer words.
#[inline(always)]
pub fn delta_narrow(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// A checksum after a change (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
#[inline(always)]
pub fn update(checksum: u16, delta: u64) -> u16 {
    !fold(u64::from(!checksum) + delta)
}

/// Where the checksum starts in the header of a transport protocol; `None` for one without such a checksum over its packets
/// and their addresses.
#[inline(always)]
pub fn field(protocol: u8) -> Option<usize> {
    match protocol {
        ipv4::TCP => Some(tcp::CHECKSUM),
        ipv4::UDP => Some(udp::CHECKSUM),
        _ => None,
    }
}

/// A computed transport checksum as it is sent: for UDP zero would mean that there is none (RFC 768).
#[inline(always)]
pub fn as_sent(checksum: u16, protocol: u8) -> u16 {
    if checksum == 0 {
        cold_path();
        if protocol == ipv4::UDP {
            return 0xffff;
        }
    }
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            total = (total >> 16) + (total & 0xffff);
        }
        total as u16
    }

    #[test]
    fn rfc_1071_section_3_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn rfc_1624_section_4_example() {
        // A field of 0x5555 becomes 0x3285 under a checksum of 0xdd2f; the older method would give 0xffff.
        assert_eq!(update(0xdd2f, delta(0x5555, 0x3285)), 0x0000);
    }

    proptest! {
        #[test]
        fn folding_is_the_remainder(total: u64) {
            let expected = if total == 0 { 0 } else { ((total - 1) % 0xffff + 1) as u16 };
            prop_assert_eq!(fold(total), expected);
            let narrow = total as u32;
            prop_assert_eq!(fold_narrow(narrow), fold(narrow.into()));
        }

        #[test]
        fn a_sum_knows_what_it_was_folded_from(total in 1..1_u64 << 48, other: u16) {
            prop_assert!(is_sum_of(fold(total), total));
            prop_assert_eq!(is_sum_of(other, total), other == fold(total));
            prop_assert!(!is_sum_of(0, total));
        }

        #[test]
        fn sum_is_the_plain_loop(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
            prop_assert_eq!(sum(&bytes), reference(&bytes));
        }

        #[test]
        fn an_update_equals_computing_anew(mut bytes in proptest::collection::vec(any::<u8>(), 8..100), value: u32, at in 0usize..50) {
            bytes.push(1); // an all-zero packet has two checksums
            let at = (at * 2).min((bytes.len() - 4) & !1);
            let before = !sum(&bytes);
            let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            prop_assert_eq!(update(before, delta(old.into(), value.into())), !sum(&bytes));
            prop_assert_eq!(update(before, delta_narrow(old, value)), !sum(&bytes));
        }

        #[test]
        fn an_update_of_ipv6_addresses_equals_computing_anew(
            mut bytes in proptest::collection::vec(any::<u8>(), 33..100), new in proptest::array::uniform32(prop_oneof![Just(0), Just(0xff), any::<u8>()])
        ) {
            bytes.push(1);
            let words = |bytes: &[u8]| std::array::from_fn(|at| super::super::be64(bytes, 8 * at));
            let before = !sum(&bytes);
            let change = delta_wide(words(&bytes), words(&new));
            prop_assert!(change <= 1 << 33);
            bytes[..32].copy_from_slice(&new);
            prop_assert_eq!(update(before, change), !sum(&bytes));
        }

        #[test]
        fn the_pseudo_header_of_ipv6_sums_up_as_it_lies(src: u128, dst: u128, next_header: u8, len: u32) {
            let lies = [&src.to_be_bytes()[..], &dst.to_be_bytes(), &len.to_be_bytes(), &[0, 0, 0, next_header]].concat();
            let total = pseudo_header_v6(src, dst, next_header, len);
            prop_assert!(total < 1 << 36);
            prop_assert_eq!(fold(total), sum(&lies));
        }
    }
}
