//! Making room in a full table: what anybody can fill it with gives way, what two sides have agreed on never does.

use super::{ACTIVITY, Below, Conntrack, FlowState, LIVE, PHASE, STATE, VERSION};
use crate::tables::arena::Ordering;

/// Entries looked at for one that may go: about a microsecond's worth where none is found.
pub(super) const LOOKED_AT: u32 = 64;

impl<B: Below> Conntrack<B> {
    /// Forgets a flow that is half open or over, if one is found quickly; see [`FlowState::gives_way`]. A hand goes round
    /// the table, and the entry that it frees is the next to be used: so flows go in about the order in which they came.
    ///
    /// True if there is room now.
    pub fn make_room(&self) -> bool {
        if self.in_use() < self.capacity() {
            return true;
        }
        if let Some(base) = self.below.base() {
            let found = base.next_to_give_way().and_then(|key| self.find(key, self.hash(key)));
            return found.is_some_and(|hit| self.remove(&hit));
        }
        (0..LOOKED_AT).any(|_| {
            let entry = self.hand.fetch_add(1, Ordering::Relaxed) % self.capacity();
            let Some((version, activity)) = self.may_give_way(entry) else { return false };
            let words = &self.entries[entry as usize].0;
            // Marked first: an answer that arrives at this very moment either makes this fail or comes too late.
            let over = activity & !STATE | FlowState::Reset as u64;
            let marked = words[ACTIVITY].compare_exchange(activity, over, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            marked && self.remove_version(entry, version)
        })
    }

    /// The version and activity of an entry whose flow gives way; `None` if it has none such.
    pub(super) fn may_give_way(&self, entry: u32) -> Option<(u64, u64)> {
        let words = &self.entries[entry as usize].0;
        let version = words[VERSION].load(Ordering::Acquire);
        let activity = words[ACTIVITY].load(Ordering::Relaxed);
        let gives_way = version & PHASE == LIVE && FlowState::from_number(activity as u8).gives_way();
        gives_way.then_some((version, activity))
    }
}
