//! A flow's identity: its five-tuple, and the seeded hash of it.

use std::{fmt::Debug, net::IpAddr};

use crate::{
    net::Number,
    tables::hash::{folded_multiply, mix},
};

/// Protocol, addresses and ports of a packet, in host order. The ports are 0 where there are none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct FiveTuple<N = u32> {
    /// Source address.
    pub src: N,
    /// Destination address.
    pub dst: N,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl<N> FiveTuple<N> {
    /// The tuple of packets the other way.
    #[inline(always)]
    pub fn reversed(self) -> FiveTuple<N> {
        FiveTuple { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }
}

impl<N: Packed> FiveTuple<N> {
    /// Packs the tuple: the word with ports and protocol comes last.
    #[inline(always)]
    pub fn to_words(self) -> N::Key {
        let ports = u64::from(self.src_port) << 48 | u64::from(self.dst_port) << 32 | u64::from(self.protocol);
        N::pack(self.src, self.dst, ports)
    }

    /// Reads back what [`FiveTuple::to_words`] packed.
    #[inline(always)]
    pub fn from_words(key: N::Key) -> FiveTuple<N> {
        let ports = key.ports_and_protocol();
        FiveTuple {
            src: key.src(),
            dst: key.dst(),
            src_port: (ports >> 48) as u16,
            dst_port: (ports >> 32) as u16,
            protocol: ports as u8,
        }
    }

    /// The tuple for people, of either family.
    pub fn told(self) -> FiveTuple<IpAddr> {
        let FiveTuple { src, dst, src_port, dst_port, protocol } = self;
        FiveTuple { src: src.address().into(), dst: dst.address().into(), src_port, dst_port, protocol }
    }
}

/// Addresses that tuples are packed with.
pub trait Packed: Number {
    /// A packed tuple.
    type Key: FlowKey<Self>;

    /// Packs a tuple; `ports` are source port, destination port, 24 bits of nothing and the protocol.
    fn pack(src: Self, dst: Self, ports: u64) -> Self::Key;
}

/// A packed five-tuple.
pub trait FlowKey<N>: Copy + PartialEq + Eq + Debug + Default + Send + Sync + 'static {
    /// Its addresses are too long for the two words by which the connection table knows a tuple: these are made of hashes
    /// of them, and the addresses are kept beside.
    const WIDE: bool;

    /// Source address.
    fn src(&self) -> N;

    /// Destination address.
    fn dst(&self) -> N;

    /// Source port, destination port, 24 bits of nothing, the protocol.
    fn ports_and_protocol(&self) -> u64;

    /// The two words by which the connection table knows the tuple: source and destination; ports, what is left of
    /// longer addresses (bits 8 to 31; bit 8 says that they are longer) and the protocol.
    fn known_as(self, seed: &FlowSeed) -> [u64; 2];

    /// What of it is kept beside.
    fn addresses(self) -> [u64; 4];

    /// The tuple that is known as `words`, with those addresses.
    fn restore(words: [u64; 2], addresses: [u64; 4]) -> Self;
}

/// In the second word of a tuple: its addresses are longer than these words have room for.
pub const WIDE: u64 = 1 << 8;

impl Packed for u32 {
    type Key = [u64; 2];

    #[inline(always)]
    fn pack(src: u32, dst: u32, ports: u64) -> [u64; 2] {
        [u64::from(src) << 32 | u64::from(dst), ports]
    }
}

impl FlowKey<u32> for [u64; 2] {
    const WIDE: bool = false;

    #[inline(always)]
    fn src(&self) -> u32 {
        (self[0] >> 32) as u32
    }

    #[inline(always)]
    fn dst(&self) -> u32 {
        self[0] as u32
    }

    #[inline(always)]
    fn ports_and_protocol(&self) -> u64 {
        self[1]
    }

    #[inline(always)]
    fn known_as(self, _: &FlowSeed) -> [u64; 2] {
        self
    }

    #[inline(always)]
    fn addresses(self) -> [u64; 4] {
        [0; 4]
    }

    #[inline(always)]
    fn restore(words: [u64; 2], _: [u64; 4]) -> [u64; 2] {
        words
    }
}

impl Packed for u128 {
    type Key = [u64; 5];

    #[inline(always)]
    fn pack(src: u128, dst: u128, ports: u64) -> [u64; 5] {
        [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, ports]
    }
}

impl FlowKey<u128> for [u64; 5] {
    const WIDE: bool = true;

    #[inline(always)]
    fn src(&self) -> u128 {
        u128::from(self[0]) << 64 | u128::from(self[1])
    }

    #[inline(always)]
    fn dst(&self) -> u128 {
        u128::from(self[2]) << 64 | u128::from(self[3])
    }

    #[inline(always)]
    fn ports_and_protocol(&self) -> u64 {
        self[4]
    }

    /// 87 bits of seeded hash stand for the addresses: nobody finds two pairs that meet.
    #[inline]
    fn known_as(self, seed: &FlowSeed) -> [u64; 2] {
        let [src, dst] = [[self[0], self[1]], [self[2], self[3]]].map(|address| seed.hash(address));
        let rest = (src & 0xfff) << 20 | (dst & 0x7ff) << 9;
        [src & !0xffff_ffff | dst >> 32, self[4] | rest | WIDE]
    }

    #[inline]
    fn addresses(self) -> [u64; 4] {
        [self[0], self[1], self[2], self[3]]
    }

    #[inline]
    fn restore(words: [u64; 2], [a, b, c, d]: [u64; 4]) -> [u64; 5] {
        [a, b, c, d, words[1] & !0xffff_ff00]
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

        #[test]
        fn wide_words_read_back(src: u128, dst: u128, src_port: u16, dst_port: u16, protocol: u8, seed: u64) {
            let tuple = FiveTuple { src, dst, src_port, dst_port, protocol };
            let key = tuple.to_words();
            prop_assert_eq!(FiveTuple::from_words(key), tuple);
            let words = key.known_as(&FlowSeed::from_number(seed));
            prop_assert_eq!(<[u64; 5]>::restore(words, key.addresses()), key);
            prop_assert!(words[1] & WIDE != 0, "never that of a narrow one");
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
            let tuple = FiveTuple { src: 0x0a00_0001u32, dst: 0x0a00_0002, src_port: port, dst_port: 80, protocol: 17 };
            let hash = seed.hash(tuple.to_words());
            buckets[hash as usize & 255] += 1;
            tags.insert(hash >> 32);
        }
        assert!(buckets.iter().all(|n| (24..=112).contains(n)), "64 expected in each: {buckets:?}");
        assert!(tags.len() > 16_380);
    }
}
