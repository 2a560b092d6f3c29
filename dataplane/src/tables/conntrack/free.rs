//! Which entries are free: a lock-free stack threaded through the free entries themselves (Treiber 1986).

use crate::tables::arena::{Arena, AtomicU32, AtomicU64, Ordering};

/// Which word of a free entry holds the index after it.
const NEXT: usize = 0;

/// The stack's head, and how many entries were never used: those are not on the stack, so that untouched memory
/// stays untouched.
#[derive(Debug)]
pub(super) struct FreeList {
    /// Pops so far in the upper half, against a head that was popped and pushed meanwhile (ABA); index plus one of
    /// the top entry in the lower half, 0 for none.
    head: AtomicU64,
    fresh: AtomicU32,
    in_use: AtomicU32,
}

impl FreeList {
    pub(super) fn new() -> FreeList {
        FreeList { head: AtomicU64::new(0), fresh: AtomicU32::new(0), in_use: AtomicU32::new(0) }
    }

    /// Entries at or above this index were never used.
    pub(super) fn high_water(&self, entries: &Arena) -> u32 {
        self.fresh.load(Ordering::Relaxed).min(entries.len() as u32)
    }

    pub(super) fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Takes a free entry.
    pub(super) fn pop(&self, entries: &Arena) -> Option<u32> {
        // Acquire pairs with the release in `push`: the entry's link was written before it became the head.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let top = head as u32;
            if top == 0 {
                return self.pop_fresh(entries);
            }
            // Another worker may have popped this entry and be writing into it: then the head has moved and the
            // exchange fails, so what was read is not used.
            let next = entries[top as usize - 1].0[NEXT].load(Ordering::Relaxed) as u32;
            let pops = (head >> 32).wrapping_add(1);
            match self.head.compare_exchange_weak(
                head,
                pops << 32 | u64::from(next),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    self.in_use.fetch_add(1, Ordering::Relaxed);
                    return Some(top - 1);
                }
                Err(now) => head = now,
            }
        }
    }

    fn pop_fresh(&self, entries: &Arena) -> Option<u32> {
        // The load keeps a full table from counting `fresh` up until it wraps.
        if self.fresh.load(Ordering::Relaxed) as usize >= entries.len() {
            return None;
        }
        let index = self.fresh.fetch_add(1, Ordering::Relaxed);
        if index as usize >= entries.len() {
            return None;
        }
        self.in_use.fetch_add(1, Ordering::Relaxed);
        Some(index)
    }

    /// Returns an entry that nobody can find any more.
    pub(super) fn push(&self, entries: &Arena, index: u32) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            entries[index as usize].0[NEXT].store(head & 0xffff_ffff, Ordering::Relaxed);
            let new = head & !0xffff_ffff | u64::from(index + 1);
            match self.head.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}
