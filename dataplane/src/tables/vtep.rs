//! The remote VTEPs by their address on the underlay: asked once for every VXLAN packet received.

use super::hash::Hasher;

/// Sets the hash apart from those of other tables with the same seed.
const PURPOSE: u64 = 3;

/// The index of a slot that holds no VTEP.
const NONE: u32 = u32::MAX;

/// An open-addressing hash from underlay address to VTEP.
pub struct VtepTable {
    hasher: Hasher,
    /// A power of two of them, more than twice as many as VTEPs: most lookups end at the first.
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy)]
struct Slot {
    address: u32,
    vtep: u32,
}

impl VtepTable {
    /// The table of `addresses` (host order); a VTEP's index is its place among them. Of equal addresses the first
    /// counts.
    pub fn build(addresses: impl IntoIterator<Item = u32>, seed: u64) -> VtepTable {
        let addresses: Vec<u32> = addresses.into_iter().collect();
        let slots = vec![Slot { address: 0, vtep: NONE }; (2 * addresses.len() + 1).next_power_of_two()];
        let mut table = VtepTable { hasher: Hasher::new(seed, PURPOSE), slots: slots.into() };
        for (address, vtep) in addresses.into_iter().zip(0..) {
            table.insert(Slot { address, vtep });
        }
        table
    }

    /// The index of the VTEP at `address` (host order).
    #[inline(always)]
    pub fn lookup(&self, address: u32) -> Option<u32> {
        let mut at = self.hasher.hash(address.into()) as usize;
        loop {
            let slot = self.slots.get(at & (self.slots.len() - 1))?;
            if slot.vtep == NONE {
                return None;
            }
            if slot.address == address {
                return Some(slot.vtep);
            }
            at = at.wrapping_add(1);
        }
    }

    fn insert(&mut self, new: Slot) {
        let mut at = self.hasher.hash(new.address.into()) as usize;
        let mask = self.slots.len() - 1;
        loop {
            let slot = &mut self.slots[at & mask];
            if slot.vtep == NONE {
                return *slot = new;
            }
            if slot.address == new.address {
                return;
            }
            at = at.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_table_knows_nobody() {
        let table = VtepTable::build([], 1);
        assert_eq!([table.lookup(0), table.lookup(0xc0a8_3202), table.lookup(u32::MAX)], [None; 3]);
    }

    #[test]
    fn all_of_five_thousand_are_found_and_their_neighbours_are_not() {
        let address = |i: u32| 0x0a64_0000 + 2 * i;
        let table = VtepTable::build((0..5000).map(address), 1);
        for i in 0..5000 {
            assert_eq!(table.lookup(address(i)), Some(i));
            assert_eq!(table.lookup(address(i) + 1), None);
        }
    }

    #[test]
    fn the_lowest_and_the_highest_address_are_addresses_like_others() {
        let table = VtepTable::build([u32::MAX, 0], 1);
        assert_eq!([table.lookup(u32::MAX), table.lookup(0), table.lookup(1)], [Some(0), Some(1), None]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_hash_map(addresses in prop::collection::vec(0u32..300, 0..200), seed: u64) {
            let table = VtepTable::build(addresses.iter().copied(), seed);
            let mut model = HashMap::new();
            addresses.iter().zip(0u32..).for_each(|(&address, i)| { model.entry(address).or_insert(i); });
            for address in 0..301 {
                prop_assert_eq!(table.lookup(address), model.get(&address).copied());
            }
        }
    }
}
