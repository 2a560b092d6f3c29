//! A flow's identity: its five-tuple, and the seeded hash of it.

use crate::tables::hash::{folded_multiply, mix};

/// Protocol, addresses and ports of an IPv4 packet, in host order. The ports are 0 where there are none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct FiveTuple {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl FiveTuple {
    /// The tuple of packets the other way.
    #[inline(always)]
    pub fn reversed(self) -> FiveTuple {
        FiveTuple { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }

    /// Packs the tuple into two words: addresses; ports and protocol.
    #[inline(always)]
    pub fn to_words(self) -> [u64; 2] {
        [
            u64::from(self.src) << 32 | u64::from(self.dst),
            u64::from(self.src_port) << 48 | u64::from(self.dst_port) << 32 | u64::from(self.protocol),
        ]
    }

    /// Reads back what [`FiveTuple::to_words`] packed.
    #[inline(always)]
    pub fn from_words([addresses, ports]: [u64; 2]) -> FiveTuple {
        FiveTuple {
            src: (addresses >> 32) as u32,
            dst: addresses as u32,
            src_port: (ports >> 48) as u16,
            dst_port: (ports >> 32) as u16,
            protocol: ports as u8,
        }
    }
}

/// A secret that makes flow hashes unpredictable to those who choose the tuples.
#[derive(Clone, Copy, Debug)]
pub struct FlowSeed([u64; 4]);

impl FlowSeed {
    /// A seed from one number. The four keys are odd, so that none is zero.
    pub fn from_number(number: u64) -> FlowSeed {
        let mut state = number;
        FlowSeed(std::array::from_fn(|_| {
            state = mix(state);
            state | 1
        }))
    }

    /// Hashes a packed tuple: two rounds of keyed 64 by 64 to 128 bit multiplication, high and low half folded.
    #[inline(always)]
    pub fn hash(&self, [addresses, ports]: [u64; 2]) -> u64 {
        let [a, b, c, d] = self.0;
        folded_multiply(folded_multiply(addresses ^ a, ports ^ b) ^ c, d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_read_back(src: u32, dst: u32, src_port: u16, dst_port: u16, protocol: u8) {
            let tuple = FiveTuple { src, dst, src_port, dst_port, protocol };
            prop_assert_eq!(FiveTuple::from_words(tuple.to_words()), tuple);
            prop_assert_eq!(tuple.reversed().reversed(), tuple);
        }
    }

    #[test]
    fn neighbouring_tuples_spread_over_buckets_and_tags() {
        let seed = FlowSeed::from_number(1);
        let mut buckets = vec![0u32; 256];
        let mut tags = std::collections::HashSet::new();
        for port in 0..16_384u16 {
            let tuple = FiveTuple { src: 0x0a00_0001, dst: 0x0a00_0002, src_port: port, dst_port: 80, protocol: 17 };
            let hash = seed.hash(tuple.to_words());
            buckets[hash as usize & 255] += 1;
            tags.insert(hash >> 32);
        }
        assert!(buckets.iter().all(|n| (24..=112).contains(n)), "64 expected in each: {buckets:?}");
        assert!(tags.len() > 16_380);
    }
}
