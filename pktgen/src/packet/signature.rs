//! What a test packet says of itself, at the start of its payload.
//!
//! ```text
//!  0      1       2          4          8                14        16        18
//! +------+-------+----------+----------+----------------+---------+---------+
//! | 'S'  | epoch | track    | sequence | sent, ns       | late    | balance |
//! +------+-------+----------+----------+----------------+---------+---------+
//! ```
//!
//! - The *epoch* tells trials apart, so that a straggler of the last one is not taken for a packet of this one.
//! - A *track* is one stream as one lane sends it; *sequence* counts its packets from 0, modulo 2^32.
//! - *Sent* is the clock when the packet was written, modulo 2^48 (78 hours). *Late* is how long after the moment the
//!   schedule wanted: 11 bits of mantissa under 5 bits of exponent. Latency corrected for coordinated omission is
//!   reckoned from that moment, the uncorrected one from *sent*.
//! - The *balance* makes the nine words add up to zero in one's complement, so that one TCP, UDP or ICMP checksum is
//!   right for every signature.

use shunt_dataplane::wire::{be16, be32, checksum, put16, put32};

/// Bytes of a signature.
pub const LEN: usize = 18;

const MARK: u8 = b'S';

/// The bits of the clock that fit.
const CLOCK_BITS: u64 = (1 << 48) - 1;

const MANTISSA: u32 = 11;

/// A signature, read or to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which trial.
    pub epoch: u8,
    /// Which stream of which lane.
    pub track: u16,
    /// Which packet of the track.
    pub sequence: u32,
    /// When it was written: the lower 48 bits of [`clock::now`](crate::clock::now).
    pub sent: u64,
    /// How much later that was than it should have been, in nanoseconds, to 11 significant bits.
    pub late: u64,
}

impl Signature {
    /// Writes the 18 bytes.
    ///
    /// # Panics
    /// If `payload` is shorter.
    #[inline]
    pub fn emit(&self, payload: &mut [u8]) {
        payload[0] = MARK;
        payload[1] = self.epoch;
        put16(payload, 2, self.track);
        put32(payload, 4, self.sequence);
        payload[8..14].copy_from_slice(&self.sent.to_be_bytes()[2..]);
        put16(payload, 14, pack(self.late));
        let sum = checksum::sum(&payload[..16]);
        put16(payload, 16, !sum);
    }

    /// Reads a signature. `None` if the payload does not start with one.
    #[inline]
    pub fn read(payload: &[u8]) -> Option<Signature> {
        let bytes: &[u8; LEN] = payload.first_chunk()?;
        if bytes[0] != MARK || checksum::sum(bytes) != 0xffff {
            return None;
        }
        let sent = u64::from(be16(bytes, 8)) << 32 | u64::from(be32(bytes, 10));
        Some(Signature {
            epoch: bytes[1],
            track: be16(bytes, 2),
            sequence: be32(bytes, 4),
            sent,
            late: unpack(be16(bytes, 14)),
        })
    }

    /// Nanoseconds from when it was written until `now`; 0 if that were negative.
    #[inline]
    pub fn age(&self, now: u64) -> u64 {
        let age = now.wrapping_sub(self.sent) & CLOCK_BITS;
        if age > CLOCK_BITS / 2 { 0 } else { age }
    }
}

/// Eleven significant bits and how far to shift them.
fn pack(value: u64) -> u16 {
    let exponent = (64 - value.leading_zeros()).saturating_sub(MANTISSA).min(31);
    let mantissa = (value >> exponent).min((1 << MANTISSA) - 1);
    (exponent << MANTISSA) as u16 | mantissa as u16
}

fn unpack(packed: u16) -> u64 {
    u64::from(packed & ((1 << MANTISSA) - 1)) << (packed >> MANTISSA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_and_adds_up_to_nothing(epoch: u8, track: u16, sequence: u32, sent in 0..=CLOCK_BITS, late in 0u64..1 << 40) {
            let mut bytes = [0xaa; LEN];
            let signature = Signature { epoch, track, sequence, sent, late };
            signature.emit(&mut bytes);
            prop_assert_eq!(checksum::sum(&bytes), 0xffff);
            let read = Signature::read(&bytes).unwrap();
            prop_assert_eq!(Signature { late: 0, ..read }, Signature { late: 0, ..signature });
            prop_assert!(read.late <= late && late - read.late <= late >> 10);
        }

        #[test]
        fn a_flipped_bit_is_no_signature(sequence: u32, at in 0..LEN * 8) {
            let mut bytes = [0; LEN];
            Signature { epoch: 1, track: 2, sequence, sent: 3, late: 4 }.emit(&mut bytes);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(Signature::read(&bytes), None);
        }
    }

    #[test]
    fn age_survives_the_clock_going_round() {
        let signature = Signature { epoch: 0, track: 0, sequence: 0, sent: CLOCK_BITS - 9, late: 0 };
        assert_eq!(signature.age((1 << 48) + 10), 20);
        assert_eq!(signature.age(CLOCK_BITS - 20), 0, "a clock that seems to go back");
    }

    #[test]
    fn what_is_too_short_is_no_signature() {
        assert_eq!(Signature::read(&[0; LEN - 1]), None);
    }
}
