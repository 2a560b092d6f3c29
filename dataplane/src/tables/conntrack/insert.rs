//! Putting a flow into the table while other workers do the same.
//!
//! A key must be in the table at most once, though two workers may meet the same new flow at the same moment. Each
//! slot is therefore claimed in two steps:
//!
//! 1. *Pending*: an empty slot is exchanged for ours, with the committed bit clear. Readers do not see it.
//! 2. We look at all other slots the key can be in. A committed one with our key: the flow exists, we withdraw. A
//!    pending one in a later slot: we empty it, its owner will find out. A pending one in an earlier slot: we withdraw.
//! 3. *Committed*: our slot is exchanged for the same with the bit set. If that fails, another worker emptied it.
//!
//! Readers believe the entry only once both slots are committed (its version says so), and only then can it be removed.
//!
//! Of two workers that claim the same key, at least one sees the other's claim in step 2, because both claim before
//! they look and a full fence lies between; whichever sees it settles the matter, and only one commit succeeds.

use super::{
    ACTIVITY, COMMITTED, Conntrack, DECISION, Direction, FREE, FlowState, Key, LINKING, LIVE, NEXT_INCARNATION, PHASE,
    SLOTS, Slot, VERSION, pack_activity, pack_decision,
};
use crate::tables::arena::{AtomicU32, AtomicU64, Ordering, fence};

/// Why a flow was not put into the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// Another worker has just put it there, or is doing so: look it up again.
    Exists,
    /// Answers to this flow could not be told from those to another one.
    ReplyInUse,
    /// No entry, or no slot for the key, is free.
    Full,
}

/// A slot in the buckets.
struct Place<'a> {
    word: &'a AtomicU64,
    /// The counter of keys in second pairs, if the slot is in one.
    displaced: Option<&'a AtomicU32>,
}

enum Claim<'a> {
    Pending(Place<'a>, u64),
    Exists(Slot),
    Withdrawn,
    Full,
}

impl Conntrack {
    /// Tracks a new flow. `next_hops` are the decisions for forward and reply packets, as of `generation`.
    pub fn insert(
        &self,
        [forward, reply]: [Key; 2],
        next_hops: [u32; 2],
        generation: u32,
        state: FlowState,
        tick: u32,
    ) -> Result<(), InsertError> {
        let entry = self.free.pop(&self.entries).ok_or(InsertError::Full)?;
        let words = &self.entries[entry as usize].0;
        let free = words[VERSION].load(Ordering::Relaxed);
        debug_assert_eq!(free & PHASE, FREE);
        // The free version is visible before any of the words below.
        fence(Ordering::Release);
        let content = [
            forward[0],
            forward[1],
            reply[0],
            reply[1],
            pack_decision(next_hops[0], free, generation),
            pack_decision(next_hops[1], free, generation),
            pack_activity(tick, free, state),
        ];
        for (word, value) in words.iter().zip(content) {
            word.store(value, Ordering::Relaxed);
        }
        const _: () = assert!(DECISION == 4 && ACTIVITY == 6 && VERSION == 7);
        words[VERSION].store(free + LINKING, Ordering::Release);

        // Nobody else changes the version of an entry that is linking.
        let result = self.link_both(entry, [forward, reply], tick);
        if result.is_ok() {
            words[VERSION].store(free + LIVE, Ordering::Release);
        } else {
            words[VERSION].store(free + NEXT_INCARNATION, Ordering::Release);
            self.free.push(&self.entries, entry);
        }
        result
    }

    fn link_both(&self, entry: u32, [forward, reply]: [Key; 2], tick: u32) -> Result<(), InsertError> {
        let (forward_slot, forward_word) = match self.claim(forward, Slot::new(entry, Direction::Forward)) {
            Claim::Pending(slot, word) => (slot, word),
            Claim::Exists(_) | Claim::Withdrawn => return Err(InsertError::Exists),
            Claim::Full => return Err(InsertError::Full),
        };
        let failure = match self.claim(reply, Slot::new(entry, Direction::Reply)) {
            Claim::Pending(reply_slot, reply_word) => {
                // Release: whoever sees the committed slots sees the entry.
                let commit = |place: &Place, word: u64| {
                    place.word.compare_exchange(word, word | COMMITTED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                };
                if commit(&reply_slot, reply_word) {
                    if commit(&forward_slot, forward_word) {
                        return Ok(());
                    }
                    reply_slot.release(reply_word | COMMITTED);
                }
                InsertError::Exists
            }
            Claim::Exists(other) if self.remove_if_over(other, reply, tick) => InsertError::Exists,
            Claim::Exists(_) => InsertError::ReplyInUse,
            Claim::Withdrawn => InsertError::Exists,
            Claim::Full => InsertError::Full,
        };
        forward_slot.release(forward_word);
        Err(failure)
    }

    /// Steps 1 and 2 for one key.
    fn claim(&self, key: Key, slot: Slot) -> Claim<'_> {
        let hash = self.hash(key);
        let (home, second) = (hash as usize & self.bucket_mask, self.second_home(hash));
        let pair = |home: usize| self.buckets[home & !1].0.iter().chain(&self.buckets[home | 1].0);
        // All places the key can be in. The order is the same for all who want to put it somewhere.
        let places = || pair(home).chain(pair(second)).enumerate();
        let ours = hash & !(COMMITTED | 0xffff_ffff) | u64::from(slot.0);

        let empty = |place: &(usize, &AtomicU64)| {
            place.1.load(Ordering::Relaxed) == 0
                && place.1.compare_exchange(0, ours, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let in_home = |at: usize| at / SLOTS == home & 1;
        let near = || places().take(2 * SLOTS);
        let claimed = near()
            .filter(|&(at, _)| in_home(at))
            .find(empty)
            .or_else(|| near().filter(|&(at, _)| !in_home(at)).find(empty))
            .or_else(|| {
                self.displaced.fetch_add(1, Ordering::SeqCst);
                let far = places().skip(2 * SLOTS).find(empty);
                if far.is_none() {
                    self.displaced.fetch_sub(1, Ordering::SeqCst);
                }
                far
            });
        let Some((position, claimed)) = claimed else { return Claim::Full };
        let claimed = Place { word: claimed, displaced: (position >= 2 * SLOTS).then_some(&self.displaced) };
        // Orders our claim before our look at the others': see the module's description.
        fence(Ordering::SeqCst);

        let looked_at = if self.displaced.load(Ordering::SeqCst) == 0 { 2 * SLOTS } else { 4 * SLOTS };
        for (at, place) in places().take(looked_at).filter(|&(at, _)| at != position) {
            loop {
                let word = place.load(Ordering::Acquire);
                if (word | COMMITTED) >> 32 != (ours | COMMITTED) >> 32 || !self.entry_has(Slot(word as u32), key) {
                    break;
                }
                if word & COMMITTED != 0 {
                    claimed.release(ours);
                    return Claim::Exists(Slot(word as u32));
                }
                if at < position {
                    claimed.release(ours);
                    return Claim::Withdrawn;
                }
                let place = Place { word: place, displaced: (at >= 2 * SLOTS).then_some(&self.displaced) };
                if place.release(word) {
                    break;
                }
            }
        }
        Claim::Pending(claimed, ours)
    }

    fn entry_has(&self, slot: Slot, key: Key) -> bool {
        slot.0 > 1 && self.read_in(|phase| phase != FREE, slot, key).is_some()
    }

    /// Makes room for a flow whose answers would look like those of a flow that is over.
    fn remove_if_over(&self, slot: Slot, key: Key, tick: u32) -> bool {
        self.read(slot, key).is_some_and(|hit| {
            let over = hit.state().is_over() || super::is_idle(hit.activity, tick);
            if over {
                self.remove(&hit);
            }
            over
        })
    }

    /// Empties the slot of an entry that is being removed, wherever it is.
    pub(super) fn unlink(&self, hash: u64, slot: Slot) {
        let word = (hash | COMMITTED) & !0xffff_ffff | u64::from(slot.0);
        for (home, displaced) in
            [(hash as usize & self.bucket_mask, None), (self.second_home(hash), Some(&self.displaced))]
        {
            for place in self.buckets[home].0.iter().chain(&self.buckets[home ^ 1].0) {
                if place.load(Ordering::Relaxed) == word && (Place { word: place, displaced }).release(word) {
                    return;
                }
            }
        }
    }
}

impl Place<'_> {
    /// Empties the slot if it still holds `word`: another worker may have emptied it, and a third taken it since.
    fn release(&self, word: u64) -> bool {
        let emptied = self.word.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if emptied && let Some(displaced) = self.displaced {
            displaced.fetch_sub(1, Ordering::SeqCst);
        }
        emptied
    }
}
