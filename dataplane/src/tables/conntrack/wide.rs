//! The addresses of entries whose keys have no room for them: those of IPv6 flows, 64 bytes an entry.
//!
//! A key of such a flow is made of hashes of its addresses, so that all of the table but this is the same for both families.
//! That two pairs of addresses have one key is as good as excluded; if they had, the second flow would not be found, and not be
//! put into the table.

use super::{Direction, Slot};
use crate::tables::arena::{Arena, Ordering};

/// A line for each entry, with memory behind it only once it is used.
#[derive(Debug)]
pub(super) struct Addresses(Arena);

impl Addresses {
    /// For so many entries.
    pub(super) fn new(entries: usize) -> Addresses {
        Addresses(Arena::sparse(entries))
    }

    /// Those of a key, and those of the other one. To be read as the entry is, between two looks at its version.
    #[inline]
    pub(super) fn of(&self, slot: Slot) -> [[u64; 4]; 2] {
        let words = &self.0[slot.entry() as usize].0;
        let key = |first: usize| std::array::from_fn(|n| words[first + n].load(Ordering::Relaxed));
        match slot.direction() {
            Direction::Forward => [key(0), key(4)],
            Direction::Reply => [key(4), key(0)],
        }
    }

    /// Notes those of an entry's keys, when nobody believes the entry.
    pub(super) fn set(&self, entry: u32, keys: [[u64; 4]; 2]) {
        let words = &self.0[entry as usize].0;
        for (word, value) in words.iter().zip(keys.as_flattened()) {
            word.store(*value, Ordering::Relaxed);
        }
    }
}
