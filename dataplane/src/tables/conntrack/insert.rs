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
//! they look, in one order that all agree on; whichever sees it settles the matter, and only one commit succeeds.

use std::hint::cold_path;

use super::{
    ACTIVITY, Below, COMMITTED, COUNTED, Conntrack, DECISION, Direction, FREE, FlowState, HOMES, Key, LINKING, LIVE,
    NEXT_INCARNATION, PHASE, SLOTS, Slot, Strays, VERSION, expire::is_idle, pack_activity, pack_decision,
    preferred_slot,
};
use crate::{
    flow::FlowKey,
    tables::{
        arena::{AtomicU64, Ordering, fence},
        hash::among,
    },
};

/// Why a flow was not put into the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// Another worker has just put it there, or is doing so: look it up again.
    Exists,
    /// Answers to this flow could not be told from those to another one.
    ReplyInUse,
    /// No entry is free.
    Full,
    /// No slot is free for the key with this hash.
    Crowded(u64),
}

/// A flow to be tracked.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<K = Key> {
    /// The forward and the reply key, each with its hash.
    pub keys: [(K, u64); 2],
    /// The decisions for packets of either direction, as of `generation`.
    pub next_hops: [u32; 2],
    /// The snapshot's.
    pub generation: u32,
    /// Its state.
    pub state: FlowState,
    /// When its first packet was seen.
    pub tick: u32,
    /// It counts as its backend's load while it lives.
    pub counted: bool,
}

/// A slot in the buckets.
struct Place<'a> {
    word: &'a AtomicU64,
    /// The key's own bucket, if the slot is in another one.
    strays_from: Option<(&'a Strays, usize)>,
}

enum Claim<'a> {
    Pending(Place<'a>, u64),
    Exists(Slot),
    Withdrawn,
    Crowded,
}

impl<B: Below> Conntrack<B> {
    /// Tracks a new flow in an entry of its own choice. For more than one, see [`Conntrack::put`].
    pub fn insert<N, K: FlowKey<N>>(&self, flow: &NewFlow<K>) -> Result<(), InsertError> {
        let mut entries = Vec::new();
        self.take_entries(1, &mut entries);
        let put = self.put(*entries.last().ok_or(InsertError::Full)?, flow);
        if put.is_err() {
            self.give_entries(&mut entries);
        }
        put
    }

    /// Tracks a new flow in `entry`, which is [the caller's](Conntrack::take_entries), and stays so if it fails.
    pub fn put<N, K: FlowKey<N>>(&self, entry: u32, flow: &NewFlow<K>) -> Result<(), InsertError> {
        let NewFlow { keys, next_hops, generation, state, tick, counted } = *flow;
        if self.below.base().is_some() {
            // What it would meet in the table below.
            keys.into_iter().for_each(|(key, hash)| _ = self.find(key, hash));
        }
        let words = &self.entries[entry as usize].0;
        let free = words[VERSION].load(Ordering::Relaxed);
        debug_assert_eq!(free & PHASE, FREE);
        // The free version is visible before any of the words below.
        fence(Ordering::Release);
        if K::WIDE {
            self.addresses.set(entry, keys.map(|(key, _)| key.addresses()));
        }
        let keys = keys.map(|(key, hash)| (key.known_as(&self.seed), hash));
        let [(forward, _), (reply, _)] = keys;
        let content = [
            forward[0],
            forward[1],
            reply[0],
            reply[1],
            pack_decision(next_hops[0], free, generation),
            pack_decision(next_hops[1], free, generation),
            pack_activity(tick, free, state) | if counted { COUNTED } else { 0 },
        ];
        for (word, value) in words.iter().zip(content) {
            word.store(value, Ordering::Relaxed);
        }
        const _: () = assert!(DECISION == 4 && ACTIVITY == 6 && VERSION == 7);
        words[VERSION].store(free + LINKING, Ordering::Release);

        // Nobody else changes the version of an entry that is linking.
        let result = self.link_both(entry, keys, tick);
        if result.is_ok() {
            if counted {
                self.loads.of(self.backend_hash(reply)).fetch_add(1, Ordering::Relaxed);
            }
            words[VERSION].store(free + LIVE, Ordering::Release);
        } else {
            words[VERSION].store(free + NEXT_INCARNATION, Ordering::Release);
        }
        result
    }

    #[inline(always)]
    fn link_both(&self, entry: u32, keys: [(Key, u64); 2], tick: u32) -> Result<(), InsertError> {
        let [(forward, forward_hash), (reply, reply_hash)] = keys;
        let (forward_slot, forward_word) = match self.claim(forward, forward_hash, Slot::new(entry, Direction::Forward))
        {
            Claim::Pending(slot, word) => (slot, word),
            Claim::Exists(_) | Claim::Withdrawn => return Err(InsertError::Exists),
            Claim::Crowded => return Err(InsertError::Crowded(forward_hash)),
        };
        let failure = match self.claim(reply, reply_hash, Slot::new(entry, Direction::Reply)) {
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
            Claim::Crowded => InsertError::Crowded(reply_hash),
        };
        forward_slot.release(forward_word);
        Err(failure)
    }

    /// Steps 1 and 2 for one key.
    #[inline]
    fn claim(&self, key: Key, hash: u64, slot: Slot) -> Claim<'_> {
        let ours = hash & !(COMMITTED | 0xffff_ffff) | slot.to_word();
        let Some((position, claimed)) = self.claim_any(hash, ours) else { return Claim::Crowded };
        let alike = |at| self.alike(self.home(hash, at), ours >> 33) << (at * SLOTS);
        let mut others = alike(0);
        // SeqCst, as the count and the claims: who does not see another's count claimed before that one did, and is seen.
        if self.strays.any(self.home(hash, 0), Ordering::SeqCst) {
            cold_path();
            others |= (1..HOMES).fold(0, |others, at| others | alike(at));
        }
        others &= !(1 << position);
        // Mostly nobody else has the tag.
        if others == 0 {
            Claim::Pending(claimed, ours)
        } else {
            self.settle_all(key, hash, ours, position, claimed, others)
        }
    }

    /// What the claims of the same tag in the slots `others` mean for ours.
    #[cold]
    fn settle_all<'a>(
        &'a self,
        key: Key,
        hash: u64,
        ours: u64,
        position: usize,
        claimed: Place<'a>,
        mut others: u64,
    ) -> Claim<'a> {
        while others != 0 {
            let other = others.trailing_zeros() as usize;
            others &= others - 1;
            if let Some(claim) = self.settle(self.place(hash, other), key, position < other) {
                claimed.release(ours);
                return claim;
            }
        }
        Claim::Pending(claimed, ours)
    }

    /// Puts `ours` into an empty slot: the preferred one, else any of the key's bucket, of its neighbour, of the other
    /// pairs. SeqCst here and in [`Conntrack::alike`] orders our claim before our look at the others'.
    fn claim_any(&self, hash: u64, ours: u64) -> Option<(usize, Place<'_>)> {
        let take = |position: usize| {
            let place = self.place(hash, position);
            let empty = place.word.load(Ordering::Relaxed) == 0
                && place.word.compare_exchange(0, ours, Ordering::SeqCst, Ordering::Relaxed).is_ok();
            empty.then_some((position, place))
        };
        let claimed = take(preferred_slot(hash)).or_else(|| (0..SLOTS).find_map(take)).or_else(|| {
            cold_path();
            let own = self.home(hash, 0);
            self.strays.add(own);
            let elsewhere = (SLOTS..HOMES * SLOTS).find_map(take);
            if elsewhere.is_none() {
                self.strays.remove(own);
            }
            elsewhere
        });
        // Loom does not model SeqCst accesses, only fences; on x86 a fence would cost as much as the rest.
        #[cfg(loom)]
        fence(Ordering::SeqCst);
        claimed
    }

    /// The slots of a bucket, a bit each, that hold `tag` (31 bits), committed or pending.
    #[inline(always)]
    fn alike(&self, bucket: usize, tag: u64) -> u64 {
        let words = self.buckets[bucket].0.iter().enumerate();
        words.fold(0, |alike, (at, word)| alike | u64::from(word.load(Ordering::SeqCst) >> 33 == tag) << at)
    }

    /// What another worker's claim of the same tag means for ours: nothing, or that we must go.
    fn settle(&self, place: Place, key: Key, ours_is_earlier: bool) -> Option<Claim<'_>> {
        loop {
            let word = place.word.load(Ordering::Acquire);
            let slot = Slot::from_word(word).filter(|slot| self.entry_has(*slot, key))?;
            if word & COMMITTED != 0 {
                return Some(Claim::Exists(slot));
            }
            if !ours_is_earlier {
                return Some(Claim::Withdrawn);
            }
            if place.release(word) {
                return None;
            }
        }
    }

    /// The buckets a key can be in, in the order in which all who want to put it somewhere look at them: its own, that one's
    /// neighbour, and the other pairs.
    #[inline(always)]
    pub(super) fn home(&self, hash: u64, at: usize) -> usize {
        // By the lower half: the tag is of the upper one.
        let first = among(self.buckets.len(), hash << 32);
        let own_of_pair = if at < 2 { first } else { self.other_pair(hash, first, at / 2) };
        own_of_pair ^ at & 1
    }

    /// A bucket of the `nth` pair, which has little to do with the one the hash names directly, `first`: of any group of
    /// [`HOMES`] buckets, and in each another pair of it, so that no two are the same.
    #[cold]
    fn other_pair(&self, hash: u64, first: usize, nth: usize) -> usize {
        let other = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(16 * (nth as u32 - 1));
        among(self.buckets.len(), other) & !(HOMES - 1) | (first ^ (2 * nth)) & (HOMES - 1)
    }

    #[inline(always)]
    fn place(&self, hash: u64, position: usize) -> Place<'_> {
        let word = &self.buckets[self.home(hash, position / SLOTS)].0[position % SLOTS];
        Place { word, strays_from: (position >= SLOTS).then(|| (&self.strays, self.home(hash, 0))) }
    }

    fn entry_has(&self, slot: Slot, key: Key) -> bool {
        self.read_in(|phase| phase != FREE, slot, key).is_some()
    }

    /// The entries that a key's slots lead to now, committed or pending.
    pub(super) fn neighbours(&self, hash: u64) -> impl Iterator<Item = u32> {
        let words = (0..HOMES * SLOTS).map(move |position| self.place(hash, position).word.load(Ordering::Acquire));
        words.filter_map(|word| Some(Slot::from_word(word)?.entry()))
    }

    /// Makes room for a flow whose answers would look like those of a flow that is over.
    fn remove_if_over(&self, slot: Slot, key: Key, tick: u32) -> bool {
        self.read(slot, key).is_some_and(|hit| {
            let over = hit.state().is_over() || is_idle(hit.activity, tick);
            if over {
                self.remove(&hit);
            }
            over
        })
    }

    /// Empties the slot of an entry that is being removed, wherever it is.
    pub(super) fn unlink(&self, hash: u64, slot: Slot) {
        let word = (hash | COMMITTED) & !0xffff_ffff | slot.to_word();
        let empty = |position| {
            let place = self.place(hash, position);
            place.word.load(Ordering::Relaxed) == word && place.release(word)
        };
        // Mostly it is where it was to be put first.
        let _ = empty(preferred_slot(hash)) || (0..HOMES * SLOTS).any(empty);
    }
}

impl Place<'_> {
    /// Empties the slot if it still holds `word`: another worker may have emptied it, and a third taken it since.
    fn release(&self, word: u64) -> bool {
        let emptied = self.word.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if emptied && let Some((strays, bucket)) = self.strays_from {
            strays.remove(bucket);
        }
        emptied
    }
}
