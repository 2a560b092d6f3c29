//! Which entries are free: a lock-free stack (Treiber 1986) of bundles.
//!
//! A bundle is a free entry that names up to twelve others, so who needs or returns many does it with few exchanges of a
//! word that all workers share.
//!
//! ```text
//! word 0    members (32) | index + 1 of the bundle below, 0: none (32)
//! word 1-6  indices of the members, two in a word
//! ```

use crate::tables::arena::{Arena, AtomicU32, AtomicU64, Ordering, fence};

/// Which word of a bundle holds what is below it, and how many members it has.
const HEAD: usize = 0;
/// Members of a bundle, beside the entry that it is, at most.
const MEMBERS: usize = 12;

/// The stack's top, and how many entries were never used: those are not on the stack, so that untouched memory stays
/// untouched. On lines of their own: all workers write here, and what surrounds it they read for every packet. (Two lines,
/// as processors fetch them in pairs.)
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct FreeList {
    /// Pops so far in the upper half, against a top that was popped and pushed meanwhile (ABA); index plus one of the top
    /// bundle in the lower half, 0 for none.
    top: AtomicU64,
    fresh: AtomicU32,
    in_use: AtomicU32,
}

impl FreeList {
    pub(super) fn new() -> FreeList {
        FreeList { top: AtomicU64::new(0), fresh: AtomicU32::new(0), in_use: AtomicU32::new(0) }
    }

    /// Entries at or above this index were never used.
    pub(super) fn high_water(&self, entries: &Arena) -> u32 {
        self.fresh.load(Ordering::Relaxed).min(entries.len() as u32)
    }

    pub(super) fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Takes up to `wanted` free entries: fewer only if there are no more, but for a bundle that another worker has in hand
    /// at this moment. They are appended to `out`, and count as used.
    pub(super) fn take(&self, entries: &Arena, wanted: usize, out: &mut Vec<u32>) {
        let before = out.len();
        while out.len() - before < wanted {
            let Some(bundle) = self.pop(entries) else { break };
            self.unbundle(entries, bundle, before + wanted, out);
        }
        let missing = wanted - (out.len() - before);
        if missing > 0 {
            out.extend(self.take_fresh(entries, missing as u32));
        }
        if out.len() > before {
            self.in_use.fetch_add((out.len() - before) as u32, Ordering::Relaxed);
        }
    }

    /// Returns entries that nobody can find any more.
    pub(super) fn give(&self, entries: &Arena, returned: &[u32]) {
        // That they are free is visible before any of the words below.
        fence(Ordering::Release);
        for bundle in returned.chunks(1 + MEMBERS) {
            let (first, members) = bundle.split_first().expect("chunks are not empty");
            let words = &entries[*first as usize].0;
            for (word, pair) in words[HEAD + 1..].iter().zip(members.chunks(2)) {
                let high = pair.get(1).copied().unwrap_or_default();
                word.store(u64::from(high) << 32 | u64::from(pair[0]), Ordering::Relaxed);
            }
            self.push(entries, *first, members.len());
        }
        if !returned.is_empty() {
            self.in_use.fetch_sub(returned.len() as u32, Ordering::Relaxed);
        }
    }

    /// Appends what is needed of a bundle to `out`, until that has the length `full`, and returns the rest.
    fn unbundle(&self, entries: &Arena, bundle: u32, full: usize, out: &mut Vec<u32>) {
        let words = &entries[bundle as usize].0;
        let mut members = (words[HEAD].load(Ordering::Relaxed) >> 32) as usize;
        while members > 0 && out.len() < full {
            members -= 1;
            let pair = words[HEAD + 1 + members / 2].load(Ordering::Relaxed);
            out.push((pair >> (32 * (members % 2))) as u32);
        }
        if out.len() < full {
            out.push(bundle);
        } else {
            self.push(entries, bundle, members);
        }
    }

    /// Takes the top bundle.
    fn pop(&self, entries: &Arena) -> Option<u32> {
        // Acquire pairs with the release in `push`: the bundle was written before it became the top.
        let mut top = self.top.load(Ordering::Acquire);
        loop {
            let bundle = (top as u32).checked_sub(1)?;
            // Another worker may have popped this bundle and be writing into it: then the top has moved and the exchange
            // fails, so what was read is not used.
            let below = entries[bundle as usize].0[HEAD].load(Ordering::Relaxed) as u32;
            let pops = (top >> 32).wrapping_add(1);
            let new = pops << 32 | u64::from(below);
            match self.top.compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(bundle),
                Err(now) => top = now,
            }
        }
    }

    /// Puts a bundle on top, whose `members` are in its words.
    fn push(&self, entries: &Arena, bundle: u32, members: usize) {
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            entries[bundle as usize].0[HEAD].store((members as u64) << 32 | top & 0xffff_ffff, Ordering::Relaxed);
            let new = top & !0xffff_ffff | u64::from(bundle + 1);
            match self.top.compare_exchange_weak(top, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Up to `wanted` entries that were never used.
    fn take_fresh(&self, entries: &Arena, wanted: u32) -> std::ops::Range<u32> {
        let len = entries.len() as u32;
        // The load keeps a full table from counting `fresh` up until it wraps.
        if self.fresh.load(Ordering::Relaxed) >= len {
            return 0..0;
        }
        let first = self.fresh.fetch_add(wanted, Ordering::Relaxed).min(len);
        first..(first + wanted).min(len)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{collections::HashSet, thread};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_entry_is_free_or_taken_and_never_twice(
            capacity in 1..100u32,
            steps in prop::collection::vec((any::<bool>(), 0..60usize), 0..60),
        ) {
            let (free, entries) = (FreeList::new(), Arena::new(capacity as usize));
            let mut taken: Vec<u32> = Vec::new();
            for (takes, n) in steps {
                if takes {
                    let before = taken.len();
                    free.take(&entries, n, &mut taken);
                    prop_assert_eq!(taken.len() - before, n.min(capacity as usize - before));
                } else {
                    let returned = taken.split_off(taken.len().saturating_sub(n));
                    free.give(&entries, &returned);
                }
                prop_assert_eq!(free.in_use() as usize, taken.len());
                prop_assert!(taken.iter().all(|entry| *entry < free.high_water(&entries)));
                prop_assert_eq!(taken.iter().collect::<HashSet<_>>().len(), taken.len());
            }
        }
    }

    #[test]
    fn workers_that_take_and_give_at_once_share_the_entries() {
        const CAPACITY: u32 = 1000;
        let (free, entries) = (FreeList::new(), Arena::new(CAPACITY as usize));
        let owners: Vec<AtomicU32> = (0..CAPACITY).map(|_| AtomicU32::new(0)).collect();
        thread::scope(|scope| {
            for worker in 1..=4u32 {
                let (free, entries, owners) = (&free, &entries, &owners);
                scope.spawn(move || {
                    let mut taken = Vec::new();
                    for round in 0..20_000usize {
                        free.take(entries, round * 7 % 40, &mut taken);
                        for entry in &taken {
                            let before = owners[*entry as usize].swap(worker, Ordering::Relaxed);
                            assert_eq!(before, 0, "entry {entry} belongs to two");
                        }
                        taken.iter().for_each(|entry| owners[*entry as usize].store(0, Ordering::Relaxed));
                        free.give(entries, &taken);
                        taken.clear();
                    }
                });
            }
        });
        let mut all = Vec::new();
        free.take(&entries, CAPACITY as usize + 1, &mut all);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), CAPACITY as usize);
    }
}
