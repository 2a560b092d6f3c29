//! The seeded hash of the tables.
//!
//! Outsiders choose what is looked up (addresses, ports), so the hash must not let them choose the bucket too: it
//! multiplies under two secret words and folds the 128-bit product, which, unlike a CRC, is not linear in the key.

/// Two secret words, made from a seed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hasher {
    mask: u64,
    multiplier: u64,
}

impl Hasher {
    /// The hasher of a seed; `purpose` sets apart the tables that share the seed.
    pub(crate) fn new(seed: u64, purpose: u64) -> Hasher {
        let state = mix(seed) ^ purpose;
        // Odd, so that the product's low half alone already is a bijection of the key.
        Hasher { mask: mix(state), multiplier: mix(state.wrapping_add(1)) | 1 }
    }

    /// 64 bits, each of which depends on the whole key.
    #[inline(always)]
    pub(crate) fn hash(self, key: u64) -> u64 {
        folded_multiply(key ^ self.mask, self.multiplier)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_keys_spread_evenly() {
        for seed in 0..16 {
            let hasher = Hasher::new(seed, 0);
            let mut buckets = [0u32; 256];
            // Consecutive ClusterIPs in the upper half of the key, one port in the lower: the usual cluster.
            (0..25_600u64).for_each(|i| buckets[(hasher.hash(i << 32 | 80 << 16 | 6) & 255) as usize] += 1);
            let (least, most) = (buckets.iter().min().unwrap(), buckets.iter().max().unwrap());
            assert!((40..=100).contains(least) && (100..=180).contains(most), "seed {seed}: {least} to {most}");
        }
    }

    #[test]
    fn seeds_and_purposes_give_other_hashes() {
        let one = Hasher::new(7, 0).hash(42);
        assert_eq!(one, Hasher::new(7, 0).hash(42));
        assert_ne!(one, Hasher::new(8, 0).hash(42));
        assert_ne!(one, Hasher::new(7, 1).hash(42));
    }
}
