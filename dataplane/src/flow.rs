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
    use crate::tables::hash::hostile;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_read_back(src: u32, dst: u32, src_port: u16, dst_port: u16, protocol: u8) {
            let tuple = FiveTuple { src, dst, src_port, dst_port, protocol };
            prop_assert_eq!(FiveTuple::from_words(tuple.to_words()), tuple);
            prop_assert_eq!(tuple.reversed().reversed(), tuple);
        }
    }

    fn tuple(n: u64) -> [u64; 2] {
        let (src, src_port) = (0x0a00_0000 | (n >> 16) as u32, n as u16);
        FiveTuple { src, dst: 0x0a60_0001, src_port, dst_port: 80, protocol: 6 }.to_words()
    }

    /// Somebody who knows a seed sends from addresses and ports that all meet in one bucket of a thousand: with another
    /// seed, they are as any others.
    #[test]
    fn tuples_crafted_to_meet_with_one_seed_spread_with_every_other() {
        const BUCKETS: u64 = 1024;
        let known = FlowSeed::from_number(1);
        let crafted: Vec<_> =
            (0..).map(tuple).filter(|words| known.hash(*words) & (BUCKETS - 1) == 7).take(1024).collect();
        for seed in 2..10 {
            let seed = FlowSeed::from_number(seed);
            let mut buckets = [0u32; BUCKETS as usize];
            crafted.iter().for_each(|words| buckets[(seed.hash(*words) & (BUCKETS - 1)) as usize] += 1);
            // Of random tuples, one to a bucket, nine would meet once in ten thousand times.
            assert!(buckets.iter().all(|n| *n <= 9), "{:?}", buckets.iter().max());
        }
    }

    #[test]
    fn what_meets_does_not_meet_elsewhere() {
        let seed = FlowSeed::from_number(1);
        for fixed in [0, 1] {
            let hash = |word| seed.hash(if fixed == 0 { [word, 80 << 32 | 6] } else { [0x0a00_0001_0a60_0001, word] });
            let (meet, asked) = hostile::still_meet(hash, 20);
            assert!(asked > 1000 && meet <= 10, "{meet} of {asked}, one in a million by chance");
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
