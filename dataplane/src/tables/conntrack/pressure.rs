//! Making room in a full table: what anybody can fill it with gives way, what two sides have agreed on never does.

use super::{ACTIVITY, Below, Conntrack, FlowState, Key, LIVE, PHASE, STATE, VERSION, expire::is_idle};
use crate::tables::arena::{AtomicU32, Ordering};

/// Entries looked at for one that may go: about a microsecond's worth where none is found.
pub(super) const LOOKED_AT: u32 = 64;

/// So many entries ahead of the hand the buckets of a flow that may go are asked for: its removal touches them, and by
/// then they are in the cache.
const AHEAD: u32 = 8;

/// Who goes: in each turn of so many entries, those of which this is true.
pub(super) const TURNS: [fn(FlowState) -> bool; 2] = [FlowState::gives_way, FlowState::gives_way_last];

/// Where the search for an entry that may give way goes on. On a line of its own, as [`FreeList`](super::free::FreeList).
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Hand(pub(super) AtomicU32);

impl<B: Below> Conntrack<B> {
    /// Forgets a flow that is half open or over, or has been silent for too long, if one is found quickly; see
    /// [`FlowState::gives_way`]; if none is, one that another node [remembers](FlowState::gives_way_last). A hand goes round
    /// the table, and the entry that it frees is the next to be used: so flows go in about the order in which they came.
    ///
    /// The entry is the caller's.
    pub fn make_room(&self, tick: u32) -> Option<u32> {
        if let Some(base) = self.below.base() {
            return self.take_out(&base.next_to_give_way(self, tick)?);
        }
        TURNS.into_iter().find_map(|goes| self.turn_hand(goes, tick))
    }

    fn turn_hand(&self, goes: fn(FlowState) -> bool, tick: u32) -> Option<u32> {
        (0..LOOKED_AT).find_map(|_| {
            let entry = self.hand.0.fetch_add(1, Ordering::Relaxed) % self.capacity();
            self.look_ahead(entry, goes, tick);
            let (version, activity) = self.may_give_way(entry, goes, tick)?;
            self.give_way(entry, version, activity).then_some(entry)
        })
    }

    /// Makes room for the key with this hash where all the slots it can have are taken: forgets the flow in one of them that
    /// gives way and was silent for the longest time. True if there was one.
    ///
    /// By the time it is looked at, an entry may be another flow's, elsewhere in the table: which then gives way in vain,
    /// but no other than one that may.
    pub fn make_room_for(&self, hash: u64, tick: u32) -> bool {
        let silence = |&(_, (_, activity)): &(u32, (u64, u64))| tick.wrapping_sub((activity >> 32) as u32) as i32;
        let mut oldest = TURNS.into_iter().filter_map(|goes| {
            let found = self.neighbours(hash).filter_map(|entry| Some((entry, self.may_give_way(entry, goes, tick)?)));
            found.max_by_key(silence)
        });
        let freed =
            oldest.find_map(|(entry, (version, activity))| self.give_way(entry, version, activity).then_some(entry));
        freed.is_some_and(|entry| {
            self.free.give(&self.entries, &[entry]);
            true
        })
    }

    /// Forgets an entry's flow if it is still as it was found. True if this call did it: then the entry is the caller's.
    fn give_way(&self, entry: u32, version: u64, activity: u64) -> bool {
        // Marked first: an answer that arrives at this very moment either makes this fail or comes too late.
        let over = activity & !STATE | FlowState::Reset as u64;
        let word = &self.entries[entry as usize].0[ACTIVITY];
        let marked = word.compare_exchange(activity, over, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        marked && self.take_out_version(entry, version)
    }

    /// The version and activity of an entry whose flow gives way; `None` if it has none such.
    pub(super) fn may_give_way(&self, entry: u32, goes: fn(FlowState) -> bool, tick: u32) -> Option<(u64, u64)> {
        let words = &self.entries[entry as usize].0;
        let version = words[VERSION].load(Ordering::Acquire);
        let activity = words[ACTIVITY].load(Ordering::Relaxed);
        let gives_way = goes(FlowState::from_number(activity as u8)) || is_idle(activity, tick);
        (version & PHASE == LIVE && gives_way).then_some((version, activity))
    }

    /// Brings into the cache what will be needed when the hand gets further.
    fn look_ahead(&self, entry: u32, goes: fn(FlowState) -> bool, tick: u32) {
        self.entries.prefetch((entry + 2 * AHEAD) as usize);
        let next = entry + AHEAD;
        if next < self.capacity() && self.may_give_way(next, goes, tick).is_some() {
            self.keys_of(next).into_iter().for_each(|key| self.prefetch_bucket(self.hash(key)));
        }
    }

    /// The keys in an entry, as they are.
    pub(super) fn keys_of(&self, entry: u32) -> [Key; 2] {
        let words = &self.entries[entry as usize].0;
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        [[word(0), word(1)], [word(2), word(3)]]
    }
}
