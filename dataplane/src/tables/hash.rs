//! The seeded hash of the tables.
//!
//! Outsiders choose what is looked up (addresses, ports), so the hash must not let them choose the bucket too: it
//! multiplies under secret words and folds the 128-bit products, which, unlike a CRC, is not linear in the key. One
//! round is not enough: it maps evenly spaced keys, such as consecutive ClusterIPs, to evenly spaced hashes, and with
//! one seed in some hundred these meet in a few buckets.

/// Four secret words, made from a seed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hasher([u64; 4]);

impl Hasher {
    /// The hasher of a seed; `purpose` sets apart the tables that share the seed.
    pub(crate) fn new(seed: u64, purpose: u64) -> Hasher {
        let mut state = mix(seed) ^ purpose;
        Hasher(std::array::from_fn(|_| {
            state = mix(state);
            // Odd, so that no multiplier is zero.
            state | 1
        }))
    }

    /// 64 bits, each of which depends on the whole key.
    #[inline(always)]
    pub(crate) fn hash(self, key: u64) -> u64 {
        let Hasher([a, b, c, d]) = self;
        folded_multiply(folded_multiply(key ^ a, b) ^ c, d)
    }
}

/// The number below `n` that a hash's upper bits name: each has an equal part of all hashes, without a division.
#[inline(always)]
pub(crate) fn among(n: usize, hash: u64) -> usize {
    ((u128::from(hash) * n as u128) >> 64) as usize
}

/// The 128-bit product of two words, its halves folded by exclusive or.
#[inline(always)]
pub(crate) fn folded_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), one step on from `x`.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What tests of all seeded hashes ask.
#[cfg(test)]
pub(crate) mod hostile {
    /// Of pairs of keys that meet in `bits` low bits of their hash, how many still meet once another word is added
    /// (exclusive or) to both: what a linear hash lets an attacker do who knows one such pair.
    pub(crate) fn still_meet(hash: impl Fn(u64) -> u64, bits: u32) -> (usize, usize) {
        let low = |key| hash(key) & ((1 << bits) - 1);
        let mut seen = std::collections::HashMap::new();
        let pairs: Vec<_> = (0..1u64 << (bits / 2 + 4))
            .filter_map(|n| {
                let key = n.wrapping_mul(0x1_0001_0003);
                seen.insert(low(key), key).map(|other| (key, other))
            })
            .collect();
        let others = (1..=64u64).map(super::mix);
        let moved = others.flat_map(|word| pairs.iter().map(move |(a, b)| (a ^ word, b ^ word)));
        (moved.filter(|(a, b)| low(*a) == low(*b)).count(), 64 * pairs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::crc32c;

    #[test]
    fn what_meets_does_not_meet_elsewhere_as_it_would_with_a_crc() {
        let (meet, asked) = hostile::still_meet(|key| crc32c::of(&key.to_be_bytes()).into(), 20);
        assert!(asked > 1000 && meet == asked, "{meet} of {asked}: the question finds what is linear");
        for seed in 0..4 {
            let (meet, asked) = hostile::still_meet(|key| Hasher::new(seed, 0).hash(key), 20);
            assert!(asked > 1000 && meet <= 10, "{meet} of {asked}, one in a million by chance");
        }
    }

    /// The fullest of `buckets` buckets, with any of many seeds.
    fn fullest(keys: impl Iterator<Item = u64> + Clone, buckets: usize) -> u32 {
        let of_seed = |seed| {
            let hasher = Hasher::new(seed, 0);
            let mut filled = vec![0u32; buckets];
            keys.clone().for_each(|key| filled[hasher.hash(key) as usize & (buckets - 1)] += 1);
            filled.into_iter().max().expect("there are buckets")
        };
        (0..256).map(of_seed).max().expect("there are seeds")
    }

    #[test]
    fn neighbouring_keys_spread_like_random_ones() {
        // Of random keys, 1.2 and 0.3 to a bucket, more than 13 and 9 would meet with probability 1e-4 over all seeds.
        let vips = (0..10_000u64).map(|i| (0x0a60_0000 + i) << 32 | 80 << 16 | 6 << 8 | 1);
        assert!(fullest(vips.clone(), 8192) <= 13, "{}", fullest(vips, 8192));
        let vteps = (0..5_000u64).map(|i| 0x0a64_0000 + i);
        assert!(fullest(vteps.clone(), 16_384) <= 9, "{}", fullest(vteps, 16_384));
    }

    #[test]
    fn seeds_and_purposes_give_other_hashes() {
        let one = Hasher::new(7, 0).hash(42);
        assert_eq!(one, Hasher::new(7, 0).hash(42));
        assert_ne!(one, Hasher::new(8, 0).hash(42));
        assert_ne!(one, Hasher::new(7, 1).hash(42));
    }
}
