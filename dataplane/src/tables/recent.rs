//! A small, fixed, lock-free map of what was seen lately: where there is no room, what was seen longest ago gives way.
//!
//! For knowledge whose loss does little harm. An entry is half a cache line; a key is looked for in four of them:
//!
//! ```text
//! 0  version (32) | tick when last seen (32)       odd while a writer is at it; 0: never written
//! 1  key
//! 2  key
//! 3  value
//! ```
//!
//! Readers copy an entry between two reads of its version (a seqlock). A writer takes an entry by compare-and-swap, and
//! does without if another one has it: nobody ever waits. Two writers of one key may put it into two entries; so what is
//! put under a key must not depend on who puts it.

use super::arena::{Arena, AtomicU64, Ordering, fence};
use crate::flow::FlowSeed;

/// Two words. Not both zero.
pub type Key = [u64; 2];

/// Entries in one line of eight words.
const PER_LINE: usize = 2;
/// Entries a key can be in: two lines.
const WAYS: usize = 2 * PER_LINE;

const HEAD: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 3;
/// The version's step; odd versions are being written.
const STEP: u64 = 1 << 32;

/// The map.
#[derive(Debug)]
pub struct Recent {
    lines: Arena,
    seed: FlowSeed,
}

/// What is known under a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The value.
    pub value: u64,
    /// The tick at which it was put.
    pub tick: u32,
}

impl Recent {
    /// A map of `entries` entries, rounded up to a power of two and at least four. Memory: 32 bytes each.
    pub fn new(entries: usize, seed: FlowSeed) -> Recent {
        Recent { lines: Arena::new(entries.next_power_of_two().max(WAYS) / PER_LINE), seed }
    }

    /// What was put under `key` last, however long ago, unless it has given way.
    pub fn get(&self, key: Key) -> Option<Seen> {
        self.ways(key)
            .find_map(|entry| read(entry).filter(|(_, found, _)| *found == key))
            .map(|(head, _, value)| Seen { value, tick: head as u32 })
    }

    /// Puts `value` under `key`, seen at `tick`. Returns what gave way to it: the tick at which that was seen.
    ///
    /// Nothing is put if other writers have all entries it could go to.
    pub fn put(&self, key: Key, value: u64, tick: u32) -> Option<u32> {
        let mut oldest = None;
        for entry in self.ways(key) {
            let head = entry[HEAD].load(Ordering::Relaxed);
            let age = tick.wrapping_sub(head as u32) as i32;
            match read(entry) {
                Some((head, found, _)) if found == key => {
                    write(entry, head, key, value, tick);
                    return None;
                }
                _ if head & STEP != 0 => {}
                _ if head == 0 => {
                    oldest = oldest.filter(|(_, _, rank)| *rank == i64::MAX).or(Some((entry, head, i64::MAX)))
                }
                _ if oldest.is_none_or(|(_, _, rank)| i64::from(age) > rank) => {
                    oldest = Some((entry, head, age.into()))
                }
                _ => {}
            }
        }
        let (entry, head, _) = oldest?;
        let gave_way = write(entry, head, key, value, tick) && head != 0;
        gave_way.then_some(head as u32)
    }

    /// The entries a key can be in.
    fn ways(&self, key: Key) -> impl Iterator<Item = &[AtomicU64]> {
        let home = self.seed.hash(key) as usize & (self.lines.len() - 1);
        [home, home ^ 1].into_iter().flat_map(|line| self.lines[line].0.chunks_exact(8 / PER_LINE))
    }
}

/// An entry's head, key and value, if nobody is writing it.
fn read(entry: &[AtomicU64]) -> Option<(u64, Key, u64)> {
    // Acquire: the words read below are at least as new as this version.
    let head = entry[HEAD].load(Ordering::Acquire);
    let load = |at: usize| entry[at].load(Ordering::Relaxed);
    let (key, value) = ([load(KEY), load(KEY + 1)], load(VALUE));
    // The words above are read before the version is read again.
    fence(Ordering::Acquire);
    let sound = head & STEP == 0 && entry[HEAD].load(Ordering::Relaxed) == head;
    sound.then_some((head, key, value))
}

/// Writes an entry whose head is still `head`. False if it is not.
fn write(entry: &[AtomicU64], head: u64, key: Key, value: u64, tick: u32) -> bool {
    let taken = head.wrapping_add(STEP);
    // Acquire: the words of the writer before us are not written after ours.
    if entry[HEAD].compare_exchange(head, taken, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return false;
    }
    // The odd version is visible before any of the words below.
    fence(Ordering::Release);
    entry[KEY].store(key[0], Ordering::Relaxed);
    entry[KEY + 1].store(key[1], Ordering::Relaxed);
    entry[VALUE].store(value, Ordering::Relaxed);
    let version = taken.wrapping_add(STEP) & !0xffff_ffff;
    // Version 0 says that nothing was ever written here.
    let version = if version == 0 { 2 * STEP } else { version };
    // Release: whoever sees the new version sees the words.
    entry[HEAD].store(version | u64::from(tick), Ordering::Release);
    true
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
