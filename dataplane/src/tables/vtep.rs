//! The remote VTEPs by their address on the underlay: asked once for every VXLAN packet received.
//!
//! A lookup is one multiplication and the comparison with all eight addresses of a bucket, without a branch: which VTEP
//! a packet comes from is unpredictable, and probing slot by slot cost a misprediction per packet. The build looks for
//! a multiplier with which no bucket gets more than eight.

use super::hash::mix;

/// Addresses in a bucket: half a cache line.
const WAYS: usize = 8;

/// Multipliers tried with one number of buckets before it is doubled.
const TRIES: u64 = 16;

/// A set of underlay addresses.
pub struct VtepTable {
    multiplier: u64,
    /// How far a product is shifted to leave a bucket's number.
    shift: u32,
    /// A power of two of them. Places without an address hold 0.
    buckets: Box<[Bucket]>,
}

#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Bucket([u32; WAYS]);

impl VtepTable {
    /// The set of `addresses` (host order). 0.0.0.0, which no host has, is never in it.
    pub fn build(addresses: impl IntoIterator<Item = u32>, seed: u64) -> VtepTable {
        let mut addresses: Vec<u32> = addresses.into_iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut buckets = addresses.len().next_power_of_two().max(2);
        loop {
            let tried = (0..TRIES).find_map(|attempt| {
                let multiplier = mix(seed.wrapping_add(attempt)) | 1;
                VtepTable::try_build(&addresses, buckets, multiplier)
            });
            match tried {
                Some(table) => return table,
                None => buckets *= 2,
            }
        }
    }

    fn try_build(addresses: &[u32], buckets: usize, multiplier: u64) -> Option<VtepTable> {
        let shift = u64::BITS - buckets.trailing_zeros();
        let mut table = VtepTable { multiplier, shift, buckets: vec![Bucket::default(); buckets].into() };
        for &address in addresses {
            let bucket = table.bucket(address);
            *table.buckets[bucket].0.iter_mut().find(|place| **place == 0)? = address;
        }
        Some(table)
    }

    /// Whether a VTEP is known at `address` (host order).
    #[inline(always)]
    pub fn contains(&self, address: u32) -> bool {
        let Bucket(known) = &self.buckets[self.bucket(address)];
        known.iter().fold(false, |found, place| found | (*place == address)) & (address != 0)
    }

    #[inline(always)]
    fn bucket(&self, address: u32) -> usize {
        (u64::from(address).wrapping_mul(self.multiplier) >> self.shift) as usize & (self.buckets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_table_knows_nobody() {
        let table = VtepTable::build([], 1);
        assert_eq!([0, 0xc0a8_3202, u32::MAX].map(|address| table.contains(address)), [false; 3]);
    }

    #[test]
    fn all_of_five_thousand_are_found_and_their_neighbours_are_not() {
        let address = |i: u32| 0x0a64_0000 + 2 * i;
        for seed in 0..16 {
            let table = VtepTable::build((0..5000).map(address), seed);
            assert!(table.buckets.len() <= 16_384, "found without much growing");
            assert!((0..5000).all(|i| table.contains(address(i)) && !table.contains(address(i) + 1)));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_hash_set(addresses in prop::collection::vec(1u32..300, 0..200), seed: u64) {
            let table = VtepTable::build(addresses.iter().copied(), seed);
            let model: HashSet<_> = addresses.into_iter().collect();
            for address in 0..301 {
                prop_assert_eq!(table.contains(address), model.contains(&address));
            }
        }
    }
}
