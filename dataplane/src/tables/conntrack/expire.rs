//! Removing flows: one that is over, and, a few entries at a time, those that have been silent for too long.

use super::{
    ACTIVITY, Below, COUNTED, Conntrack, Direction, FlowState, Hit, INCARNATION_BITS, LIVE, NEXT_INCARNATION, PHASE,
    Slot, VERSION, incarnation,
};
use crate::tables::arena::Ordering;

/// Flows that one call of [`Conntrack::sweep`] removes at most: some 25 microseconds' worth, and as many as a batch opens.
const REMOVED_AT_ONCE: usize = 256;

/// A worker's place in its share of the table, and what it is about to remove.
#[derive(Debug)]
pub struct Sweep {
    cursor: u32,
    /// Entries with the versions that were found to be idle.
    idle: Vec<(u32, u64)>,
    freed: Vec<u32>,
}

/// What a call of [`Conntrack::sweep`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Entries it looked at.
    pub looked_at: u32,
    /// Flows it removed.
    pub removed: u32,
}

impl Sweep {
    /// From the beginning.
    pub fn new() -> Sweep {
        Sweep { cursor: 0, idle: Vec::with_capacity(REMOVED_AT_ONCE), freed: Vec::with_capacity(REMOVED_AT_ONCE) }
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep::new()
    }
}

impl<B: Below> Conntrack<B> {
    /// Forgets the flow that `hit` described, if it is still there. True if this call did it.
    pub fn remove<K>(&self, hit: &Hit<K>) -> bool {
        let entry = self.take_out(hit);
        entry.is_some_and(|entry| {
            self.free.give(&self.entries, &[entry]);
            true
        })
    }

    /// As [`Conntrack::remove`]; the entry is the caller's.
    pub(super) fn take_out<K>(&self, hit: &Hit<K>) -> Option<u32> {
        let entry = hit.slot.entry();
        let version = self.entries[entry as usize].0[VERSION].load(Ordering::Acquire);
        let is_it = incarnation(version) == hit.activity >> 8 & ((1 << INCARNATION_BITS) - 1);
        (is_it && self.take_out_version(entry, version)).then_some(entry)
    }

    /// Forgets an entry's flow if its version is still `version`. True if this call did it: then the entry is the caller's.
    pub(super) fn take_out_version(&self, entry: u32, version: u64) -> bool {
        let words = &self.entries[entry as usize].0;
        let freed = (version & !PHASE) + NEXT_INCARNATION;
        if version & PHASE != LIVE
            || words[VERSION].compare_exchange(version, freed, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return false;
        }
        // No reader believes the entry any more, and this call alone owns it.
        let keys @ [forward, reply] = self.keys_of(entry);
        if words[ACTIVITY].load(Ordering::Relaxed) & COUNTED != 0 {
            self.loads.of(self.backend_hash(reply)).fetch_sub(1, Ordering::Relaxed);
        }
        self.unlink(self.hash(forward), Slot::new(entry, Direction::Forward));
        self.unlink(self.hash(reply), Slot::new(entry, Direction::Reply));
        self.give_back(keys);
        true
    }

    /// Expires idle flows among up to `budget` entries, within `share` of `shares`; fewer if it finds many of them. Goes on
    /// where it left off, round the share.
    ///
    /// In two passes, so that the cache misses of all removals overlap: first the buckets of all are asked for.
    pub fn sweep(&self, sweep: &mut Sweep, (share, shares): (u32, u32), budget: u32, tick: u32) -> Swept {
        let Sweep { cursor, idle, freed } = sweep;
        let used = u64::from(self.high_water());
        let edge = |share: u32| (used * u64::from(share) / u64::from(shares)) as u32;
        let (start, end) = (edge(share), edge(share + 1));
        let mut swept = Swept::default();
        while swept.looked_at < budget.min(end - start) && idle.len() < REMOVED_AT_ONCE {
            if *cursor < start || *cursor >= end {
                *cursor = start;
            }
            let words = &self.entries[*cursor as usize].0;
            let version = words[VERSION].load(Ordering::Acquire);
            if version & PHASE == LIVE && is_idle(words[ACTIVITY].load(Ordering::Relaxed), tick) {
                self.keys_of(*cursor).into_iter().for_each(|key| self.prefetch_bucket(self.hash(key)));
                idle.push((*cursor, version));
            }
            *cursor += 1;
            swept.looked_at += 1;
        }
        freed.extend(
            idle.drain(..).filter(|(entry, version)| self.take_out_version(*entry, *version)).map(|(entry, _)| entry),
        );
        self.free.give(&self.entries, freed);
        swept.removed = freed.len() as u32;
        freed.clear();
        swept
    }
}

/// True if a flow with this activity word has been silent for longer than its state allows.
pub(super) fn is_idle(activity: u64, tick: u32) -> bool {
    // Two workers' clocks may differ by a tick, so the difference may be slightly negative.
    let idle = tick.wrapping_sub((activity >> 32) as u32) as i32;
    idle > FlowState::from_number(activity as u8).idle_limit() as i32
}
