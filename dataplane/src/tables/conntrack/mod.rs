//! Connection tracking: one fixed, lock-free table that all workers share.
//!
//! A flow is one 64-byte entry, found under two keys: the forward one (client to VIP) and the reply one (backend to
//! client). What a packet is rewritten to is the reverse of the other direction's key, so the entry needs no separate
//! translation. An established packet touches two lines of table memory:
//!
//! ```text
//! hash ──> bucket: 8 slots of 8 bytes                 entry: 8 words
//!          ┌──────────┬──────────────┬─┐              0 1  forward key
//!          │ tag (31) │c│ index + 1   │d│ ──────────>  2 3  reply key
//!          └──────────┴──────────────┴─┘              4    forward decision  next hop | incarnation | generation
//!          c: committed   d: direction                5    reply decision
//!                                                     6    activity          tick | incarnation | state
//!                                                     7    version           incarnation | phase
//! ```
//!
//! A key lives in the bucket its hash names. Where that is full, it lives in the bucket's neighbour (index xor 1), or in one
//! of three more pairs that the hash names: lookups go there only while there are such [strays] of the bucket.
//!
//! - **Readers** take no lock: they copy an entry's words between two reads of its version (a seqlock).
//! - **Writers** claim slots and entries by compare-and-swap; see `insert`.
//! - **Updates of a live entry** (decision, activity) are compare-and-swaps of one word, each of which carries the low
//!   bits of the version: an update meant for a flow that has gone meanwhile fails.
//! - **Expiry** is a sweep that every worker runs over its own share, a few entries per burst.

mod association;
mod expire;
mod free;
mod insert;
mod load;
mod overlay;
mod ports;
mod pressure;
mod state;
mod strays;
mod wide;

pub use expire::{Sweep, Swept};
pub use insert::{InsertError, NewFlow};
pub use overlay::{Base, Below, Nothing};
pub use state::{Direction, FlowState};

use std::{hint::cold_path, net::IpAddr, num::NonZeroU32};

use self::{free::FreeList, load::Loads, ports::Ports, pressure::Hand, strays::Strays, wide::Addresses};
use super::arena::{Arena, AtomicU32, Ordering, fence};
use crate::flow::{FiveTuple, FlowKey, FlowSeed, Packed, WIDE};

/// What a five-tuple is [known as](FlowKey::known_as) here: that of IPv4 packets as it is.
pub type Key = [u64; 2];

/// Slots of a bucket.
const SLOTS: usize = 8;
/// Buckets that a key can be in: so many that of ten million flows in a table for as many none lacked a slot. Of four,
/// 65 did.
const HOMES: usize = 8;
const COMMITTED: u64 = 1 << 32;

const DECISION: usize = 4;
const ACTIVITY: usize = 6;
const VERSION: usize = 7;

/// The state's part of an activity word.
const STATE: u64 = 0b1_1111;
/// Set in the activity word of a flow that counts as its backend's load.
const COUNTED: u64 = 1 << 7;

/// Next hops a decision can name.
pub const MAX_NEXT_HOPS: u32 = 1 << 20;
const INCARNATION_BITS: u32 = 12;

/// The two lowest bits of a version. An entry goes round: free, linking (its owner is putting it into the buckets; only
/// other inserts look at it), live, free again with the next incarnation. Whoever takes it out of *live* owns it.
const PHASE: u64 = 0b11;
const FREE: u64 = 0;
const LINKING: u64 = 1;
const LIVE: u64 = 2;
const NEXT_INCARNATION: u64 = 4;

/// The table: one of its own, unless its type says what is [`Below`] it.
#[derive(Debug)]
pub struct Conntrack<B: Below = Nothing> {
    buckets: Arena,
    entries: Arena,
    /// Of entries whose keys stand for longer ones.
    addresses: Addresses,
    free: FreeList,
    /// Counted before a key is put elsewhere.
    strays: Strays,
    hand: Hand,
    loads: Loads,
    ports: Ports,
    seed: FlowSeed,
    /// Before this tick there may be flows that the table does not know.
    complete_from: AtomicU32,
    below: B,
}

/// Where a key was found: an entry, and which of its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(NonZeroU32);

impl Slot {
    /// The entry's index.
    #[inline(always)]
    pub fn entry(self) -> u32 {
        (self.0.get() >> 1) - 1
    }

    /// Which key.
    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.0.get() & 1 == 0 { Direction::Forward } else { Direction::Reply }
    }

    fn new(entry: u32, direction: Direction) -> Slot {
        Slot(NonZeroU32::new((entry + 1) << 1 | direction as u32).expect("the one makes it so"))
    }

    /// What a word of a bucket holds; `None` if it is empty.
    #[inline(always)]
    fn from_word(word: u64) -> Option<Slot> {
        NonZeroU32::new(word as u32).map(Slot)
    }

    /// Its part of a word of a bucket.
    #[inline(always)]
    fn to_word(self) -> u64 {
        u64::from(self.0.get())
    }
}

/// What an entry said about a packet, and the words as they were, for updates.
#[derive(Clone, Copy, Debug)]
pub struct Hit<K = Key> {
    /// Where.
    pub slot: Slot,
    /// The key of packets the other way.
    pub other: K,
    decision: u64,
    activity: u64,
}

impl<K> Hit<K> {
    /// The next hop that was decided on, as an index into the next hops of [`Hit::generation`].
    #[inline(always)]
    pub fn next_hop(&self) -> u32 {
        (self.decision >> 44) as u32
    }

    /// The snapshot generation of the decision.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.decision as u32
    }

    /// Tick of the flow's packet before this one.
    pub fn last_seen(&self) -> u32 {
        (self.activity >> 32) as u32
    }

    /// The flow's state before this packet.
    #[inline(always)]
    pub fn state(&self) -> FlowState {
        FlowState::from_number(self.activity as u8)
    }
}

#[inline(always)]
fn pack_decision(next_hop: u32, version: u64, generation: u32) -> u64 {
    debug_assert!(next_hop < MAX_NEXT_HOPS);
    u64::from(next_hop) << 44 | incarnation(version) << 32 | u64::from(generation)
}

#[inline(always)]
fn pack_activity(tick: u32, version: u64, state: FlowState) -> u64 {
    u64::from(tick) << 32 | incarnation(version) << 8 | state as u64
}

/// The slot of its bucket that a key is put into if it is empty.
#[inline(always)]
fn preferred_slot(hash: u64) -> usize {
    (hash >> 61) as usize
}

#[inline(always)]
fn incarnation(version: u64) -> u64 {
    version >> 2 & ((1 << INCARNATION_BITS) - 1)
}

/// A live entry, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Client to VIP.
    pub forward: FiveTuple<IpAddr>,
    /// Backend to client.
    pub reply: FiveTuple<IpAddr>,
    /// Its state.
    pub state: FlowState,
    /// Tick of the last packet.
    pub last_seen: u32,
    /// Snapshot generation of the forward decision.
    pub generation: u32,
    /// Where it is in the table.
    pub entry: u32,
}

impl Conntrack {
    /// A table for `capacity` flows. Memory, taken at once: 64 bytes a flow, 32 for its slots, and at most 2 MiB for
    /// masquerade ports.
    pub fn new(capacity: u32, seed: FlowSeed) -> Conntrack {
        let capacity = capacity.clamp(1, (1 << 30) - 1);
        // Two keys a flow in buckets of 8, half full. Rounded up to a power of two, they could be twice as many, and the fewer
        // pages and lines there are, the less it costs to get at one.
        let buckets = (capacity as usize).div_ceil(2).next_multiple_of(HOMES);
        Conntrack {
            buckets: Arena::new(buckets),
            entries: Arena::new(capacity as usize),
            addresses: Addresses::new(capacity as usize),
            free: FreeList::new(),
            strays: Strays::new(buckets),
            hand: Hand(AtomicU32::new(0)),
            loads: Loads::new(capacity),
            ports: Ports::new(capacity),
            seed,
            complete_from: AtomicU32::new(0),
            below: Nothing,
        }
    }
}

impl<B: Below> Conntrack<B> {
    /// Flows the table can hold.
    pub fn capacity(&self) -> u32 {
        self.below.base().map_or(self.entries.len() as u32, Base::capacity)
    }

    /// Flows it holds.
    pub fn in_use(&self) -> u32 {
        self.free.in_use() + self.below.base().map_or(0, Base::in_use)
    }

    /// Says that flows were lost, by a restart or a flush, and that their clients have until this tick to bring them back.
    pub fn complete_from(&self, tick: u32) {
        self.complete_from.store(tick, Ordering::Relaxed);
    }

    /// Whether a flow that the table does not know is none that was [lost](Conntrack::complete_from).
    pub fn is_complete(&self, tick: u32) -> bool {
        tick >= self.complete_from.load(Ordering::Relaxed)
    }

    /// Takes up to `wanted` free entries, appended to `out`: fewer only if there are no more, but for a few that
    /// another worker has in hand at this moment. They are the caller's until
    /// flows are [put](Conntrack::put) there or they are given back, and count as used.
    pub fn take_entries(&self, wanted: usize, out: &mut Vec<u32>) {
        let left = self.below.base().map_or(usize::MAX, |_| (self.capacity() - self.in_use()) as usize);
        self.free.take(&self.entries, wanted.min(left), out);
    }

    /// Gives back entries that were not used.
    pub fn give_entries(&self, entries: &mut Vec<u32>) {
        self.free.give(&self.entries, entries);
        entries.clear();
    }

    /// Entries at or above this index were never used.
    pub fn high_water(&self) -> u32 {
        self.free.high_water(&self.entries)
    }

    /// The hash of a key; it also selects backends and entropy ports.
    #[inline(always)]
    pub fn hash<N>(&self, key: impl FlowKey<N>) -> u64 {
        self.seed.hash(key.known_as(&self.seed))
    }

    /// What a tuple is known as in the table.
    #[inline]
    pub fn known_as<N>(&self, key: impl FlowKey<N>) -> Key {
        key.known_as(&self.seed)
    }

    /// Brings a hash's bucket into the cache.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.buckets.prefetch(self.home(hash, 0));
    }

    /// Brings into the cache what tells whether a key with this hash is in the table: its bucket and whether that has strays.
    #[inline(always)]
    pub fn prefetch_place(&self, hash: u64) {
        self.prefetch_bucket(hash);
        self.strays.prefetch(self.home(hash, 0));
    }

    /// Brings an entry into the cache.
    #[inline(always)]
    pub fn prefetch_entry(&self, entry: u32) {
        self.entries.prefetch(entry as usize);
    }

    /// The first slot of the hash's own bucket whose tag matches, unverified: the caller prefetches its entry and then
    /// calls [`Conntrack::read`]. `None` also asks for what [`Conntrack::find_elsewhere`] reads.
    #[inline(always)]
    pub fn probe(&self, hash: u64) -> Option<Slot> {
        let bucket = self.home(hash, 0);
        // Mostly it is where it was to be put first.
        let word = self.buckets[bucket].0[preferred_slot(hash)].load(Ordering::Acquire);
        if word >> 32 == (hash | COMMITTED) >> 32 {
            return Slot::from_word(word);
        }
        let found = self.probe_bucket(bucket, hash);
        if found.is_none() {
            self.strays.prefetch(bucket);
        }
        found
    }

    #[inline(always)]
    fn probe_bucket(&self, bucket: usize, hash: u64) -> Option<Slot> {
        let matches = self.committed(bucket, hash);
        if matches == 0 {
            return None;
        }
        // Acquire pairs with the release of the commit: the entry was written before its slot was committed.
        let word = self.buckets[bucket].0[matches.trailing_zeros() as usize % SLOTS].load(Ordering::Acquire);
        // The slot may have been emptied since.
        Slot::from_word(word)
    }

    /// The slots of a bucket, a bit each, that hold the hash's tag and are committed. Every slot is compared, without a
    /// branch: which one matches is unpredictable.
    #[inline(always)]
    fn committed(&self, bucket: usize, hash: u64) -> u32 {
        let wanted = (hash | COMMITTED) >> 32;
        let words = self.buckets[bucket].0.iter().enumerate();
        words.fold(0, |matches, (at, word)| matches | u32::from(word.load(Ordering::Relaxed) >> 32 == wanted) << at)
    }

    /// Copies what the entry at `slot` says about packets with `key`; `None` if it is not that flow's.
    #[inline(always)]
    pub fn read<N, K: FlowKey<N>>(&self, slot: Slot, key: K) -> Option<Hit<K>> {
        self.read_in(|phase| phase == LIVE, slot, key)
    }

    #[inline(always)]
    fn read_in<N, K: FlowKey<N>>(&self, believed: impl FnOnce(u64) -> bool, slot: Slot, key: K) -> Option<Hit<K>> {
        let wanted = key.known_as(&self.seed);
        let words = &self.entries[slot.entry() as usize].0;
        let at = slot.direction() as usize;
        // Acquire: the words read below are at least as new as this version.
        let version = words[VERSION].load(Ordering::Acquire);
        let load = |at: usize| words[at].load(Ordering::Relaxed);
        let (own, other) = ([load(2 * at), load(2 * at + 1)], [load(2 - 2 * at), load(3 - 2 * at)]);
        let [its_own, its_other] = if K::WIDE { self.addresses.of(slot) } else { [[0; 4]; 2] };
        let other = K::restore(other, its_other);
        let hit = Hit { slot, other, decision: load(DECISION + at), activity: load(ACTIVITY) };
        // The words above are read before the version is read again.
        fence(Ordering::Acquire);
        let unchanged = words[VERSION].load(Ordering::Relaxed) == version && believed(version & PHASE);
        (unchanged && own == wanted && (!K::WIDE || its_own == key.addresses())).then_some(hit)
    }

    /// Finds a key, looking at every slot it can be in.
    #[inline]
    pub fn find<N, K: FlowKey<N>>(&self, key: K, hash: u64) -> Option<Hit<K>> {
        self.find_own(key, hash).or_else(|| self.below.base()?.copy_to(self, key, hash))
    }

    /// As [`Conntrack::find`], for a hash of which [`Conntrack::probe`] has just found nothing.
    #[inline]
    pub fn find_elsewhere<N, K: FlowKey<N>>(&self, key: K, hash: u64) -> Option<Hit<K>> {
        self.find_stray(key, hash).or_else(|| self.below.base()?.copy_to(self, key, hash))
    }

    #[inline]
    fn find_own<N, K: FlowKey<N>>(&self, key: K, hash: u64) -> Option<Hit<K>> {
        self.find_in(self.home(hash, 0), key, hash).or_else(|| self.find_stray(key, hash))
    }

    /// Looks into the other buckets that a key can be in, if any key of its own bucket is there.
    #[inline]
    fn find_stray<N, K: FlowKey<N>>(&self, key: K, hash: u64) -> Option<Hit<K>> {
        if !self.strays.any(self.home(hash, 0), Ordering::Relaxed) {
            return None;
        }
        cold_path();
        (1..HOMES).find_map(|at| self.find_in(self.home(hash, at), key, hash))
    }

    #[inline]
    fn find_in<N, K: FlowKey<N>>(&self, bucket: usize, key: K, hash: u64) -> Option<Hit<K>> {
        // A tag may match by chance, once in two billion, so more than one slot may have to be read.
        let mut alike = self.committed(bucket, hash);
        while alike != 0 {
            let word = self.buckets[bucket].0[alike.trailing_zeros() as usize % SLOTS].load(Ordering::Acquire);
            let hit = Slot::from_word(word).and_then(|slot| self.read(slot, key));
            if hit.is_some() {
                return hit;
            }
            alike &= alike - 1;
        }
        None
    }

    /// Notes a packet of a flow: writes only if its state changes or it was not seen for a tick, so that two workers
    /// do not pull the line back and forth for every packet.
    #[inline(always)]
    pub fn touch<K>(&self, hit: &Hit<K>, state: FlowState, tick: u32) {
        let activity = hit.activity & !(0xffff_ffff_0000_0000 | STATE) | u64::from(tick) << 32 | state as u64;
        if activity != hit.activity {
            self.exchange(hit.slot, ACTIVITY, hit.activity, activity);
        }
    }

    /// Replaces the decision that `hit` carried. If the flow has gone or another worker was faster, nothing happens.
    pub fn redecide<K>(&self, hit: &Hit<K>, next_hop: u32, generation: u32) {
        let at = DECISION + hit.slot.direction() as usize;
        let decision = u64::from(next_hop) << 44 | hit.decision & (0xfff << 32) | u64::from(generation);
        self.exchange(hit.slot, at, hit.decision, decision);
    }

    #[cold]
    fn exchange(&self, slot: Slot, at: usize, old: u64, new: u64) {
        let word = &self.entries[slot.entry() as usize].0[at];
        // A failure means that another worker noted a packet of the same flow, or that the flow has gone: both leave
        // the entry right, so the result does not matter.
        let _ = word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Forgets a flow that was read before. True if it was still there and this call removed it.
    pub fn forget(&self, flow: &Flow) -> bool {
        let [forward, _] = self.keys_of(flow.entry);
        let hit = self.read(Slot::new(flow.entry, Direction::Forward), forward);
        // Read after that: if it is the flow, the hit is on it, or on one that has gone.
        let is_it = |now: Flow| (now.forward, now.reply) == (flow.forward, flow.reply);
        hit.is_some_and(|hit| self.flow(flow.entry).is_some_and(is_it) && self.remove(&hit))
    }

    /// Reads every live flow, in table order. Each is consistent in itself; the whole is not a moment's picture.
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        (0..self.high_water()).filter_map(|entry| self.flow(entry))
    }

    /// The flow of an entry, for people.
    fn flow(&self, entry: u32) -> Option<Flow> {
        let slot = Slot::new(entry, Direction::Forward);
        let [forward, _] = self.keys_of(entry);
        if forward[1] & WIDE == 0 {
            self.told::<u32>(slot, forward)
        } else {
            let [addresses, _] = self.addresses.of(slot);
            self.told::<u128>(slot, FlowKey::restore(forward, addresses))
        }
    }

    /// The flow with this key, if it is the one at `slot`.
    fn told<N: Packed>(&self, slot: Slot, key: N::Key) -> Option<Flow> {
        let hit = self.read(slot, key)?;
        Some(Flow {
            forward: FiveTuple::<N>::from_words(key).told(),
            reply: FiveTuple::<N>::from_words(hit.other).told(),
            state: hit.state(),
            last_seen: hit.last_seen(),
            generation: hit.generation(),
            entry: slot.entry(),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
