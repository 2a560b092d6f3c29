//! Which ports masqueraded flows may take: a hint, for the table itself to be asked about few of them.
//!
//! A port may serve flows to many remote endpoints, one to each: whether it is free for an endpoint is the same as whether
//! the table has no flow with that reply key. Asking the table port by port would take long where nearly all are taken.
//! So ports are given out of pools, bitmaps of those in use, and a remote endpoint's hash says which pool: in it a port is
//! used once, as long as there are others. Which flow took a port out of a pool shows in its keys, and whoever removes the
//! flow gives the port back.
//!
//! Endpoints share pools, so a port that its pool says is taken may be free for an endpoint; it is asked about in the
//! table once the pool is empty. Then a bit may be cleared while another flow still uses the port. That costs a failed
//! insert later, which sets it again, and nothing else: the table has the last word.

use std::ops::RangeInclusive;

use super::{Below, Conntrack, Key};
use crate::{
    flow::{FiveTuple, FlowKey},
    tables::{
        arena::{Arena, AtomicU64, Ordering},
        hash::among,
    },
};

/// Bits for all ports, in cache lines; for few where loom tracks every word.
const POOL_LINES: usize = if cfg!(loom) { 4 } else { (1 << 16) / 512 };

/// One pool for so many flows: each is then rarely needed by more than one busy endpoint.
const FLOWS_PER_POOL: usize = 1 << 15;

const MAX_POOLS: usize = 256;

/// Ports that are asked about in the table when a pool is empty.
const CANDIDATES: usize = 32;

/// Ports that a client's flows have before others. With some, most clients have one port towards all of their peers also
/// where half of the range is taken.
const PREFERENCES: usize = 4;

/// The pools of ports.
#[derive(Debug)]
pub(super) struct Ports(Arena);

impl Ports {
    /// Pools for a table of `capacity` flows: 8 KiB each, at most 2 MiB.
    pub(super) fn new(capacity: u32) -> Ports {
        let pools = (capacity as usize / FLOWS_PER_POOL).next_power_of_two().clamp(1, MAX_POOLS);
        Ports(Arena::new(pools * POOL_LINES))
    }

    /// The same ports taken, in memory of its own.
    pub(super) fn copy(&self) -> Ports {
        let copy = Arena::new(self.0.len());
        for (from, to) in self.0.iter().zip(copy.iter()) {
            from.0.iter().zip(&to.0).for_each(|(from, to)| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed));
        }
        Ports(copy)
    }

    pub(super) fn word(&self, pool: u64, index: usize) -> &AtomicU64 {
        let pools = self.0.len() / POOL_LINES;
        let line = (pool as usize & (pools - 1)) * POOL_LINES + index / 8;
        &self.0[line].0[index % 8]
    }

    /// Takes a port of the pool; which one, `random` decides. `None` if all of the range are taken.
    fn take(&self, pool: u64, range: &RangeInclusive<u16>, random: u64) -> Option<u16> {
        let (first, last) = (usize::from(*range.start()), usize::from(*range.end()));
        let (low, words) = (first / 64, last / 64 - first / 64 + 1);
        let start = (random >> 32) as usize % words;
        (0..words).find_map(|n| {
            let index = low + (start + n) % words;
            let below = if index == low { (1 << (first % 64)) - 1 } else { 0 };
            let above = if index == last / 64 { !(u64::MAX >> (63 - last % 64)) } else { 0 };
            let word = self.word(pool, index);
            let mut taken = word.load(Ordering::Relaxed);
            loop {
                let free = !(taken | below | above);
                if free == 0 {
                    return None;
                }
                let turn = random as u32 % 64;
                let bit = (free.rotate_right(turn).trailing_zeros() + turn) % 64;
                taken = word.fetch_or(1 << bit, Ordering::Relaxed);
                if taken & 1 << bit == 0 {
                    return Some((index * 64) as u16 + bit as u16);
                }
            }
        })
    }

    fn mark(&self, pool: u64, port: u16) {
        self.word(pool, usize::from(port) / 64).fetch_or(1 << (port % 64), Ordering::Relaxed);
    }

    fn give_back(&self, pool: u64, port: u16) {
        self.word(pool, usize::from(port) / 64).fetch_and(!(1 << (port % 64)), Ordering::Relaxed);
    }
}

impl<B: Below> Conntrack<B> {
    /// A port of `range` for a flow whose answers are to have `reply` as their key, with that port as the destination's.
    /// It is the caller's until the flow is in the table or [`Conntrack::give_back`] is called. `None`: all are taken.
    pub fn take_port<N>(&self, reply: impl FlowKey<N>, range: &RangeInclusive<u16>, random: u64) -> Option<u16> {
        let reply = reply.known_as(&self.seed);
        let pool = self.pool(reply);
        self.ports.take(pool, range, random).or_else(|| self.find_port::<CANDIDATES>(reply, range, random))
    }

    /// As [`Conntrack::take_port`], but one of the few ports of `range` that `client` (a hash of the flow's source) prefers
    /// whatever the remote endpoint. Its pool is not asked: the port may be in use towards other endpoints of that pool.
    /// `None`: the table has a flow to this endpoint with each of them.
    pub fn take_preferred_port<N>(
        &self,
        reply: impl FlowKey<N>,
        range: &RangeInclusive<u16>,
        client: u64,
    ) -> Option<u16> {
        let reply = reply.known_as(&self.seed);
        let port = self.find_port::<PREFERENCES>(reply, range, client)?;
        self.ports.mark(self.pool(reply), port);
        Some(port)
    }

    /// Whether no flow that goes on has this reply key.
    fn is_free(&self, reply: Key, hash: u64) -> bool {
        self.find(reply, hash).is_none_or(|hit| hit.state().is_over())
    }

    /// Gives back the port of a masqueraded flow that is not in the table, or no longer.
    pub fn give_back<N>(&self, keys: [impl FlowKey<N>; 2]) {
        let keys @ [_, reply] = keys.map(|key| key.known_as(&self.seed));
        // What of it is hashes of addresses stands for these.
        let [forward_tuple, reply_tuple] = keys.map(FiveTuple::<u32>::from_words);
        if (forward_tuple.src, forward_tuple.src_port) != (reply_tuple.dst, reply_tuple.dst_port) {
            self.ports.give_back(self.pool(reply), reply_tuple.dst_port);
        }
    }

    /// That of a remote endpoint: source, source port, family and protocol of the reply key.
    fn pool(&self, [addresses, ports]: Key) -> u64 {
        self.hash([addresses & !0xffff_ffff, ports & 0xffff_0000_0000_01ff]) >> 16
    }

    /// Asks the table about some ports, all at once for their cache misses to overlap.
    #[cold]
    fn find_port<const N: usize>(
        &self,
        [addresses, ports]: Key,
        range: &RangeInclusive<u16>,
        random: u64,
    ) -> Option<u16> {
        let candidates: [u16; N] =
            std::array::from_fn(|n| nth(range, random.wrapping_add(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let key = |port: &u16| [addresses, ports & !(0xffff << 32) | u64::from(*port) << 32];
        let hashes = candidates.map(|port| self.hash(key(&port)));
        hashes.iter().for_each(|hash| self.prefetch_place(*hash));
        candidates.iter().zip(hashes).find(|(port, hash)| self.is_free(key(port), *hash)).map(|(port, _)| *port)
    }
}

/// The port of `range` that a hash's high bits name.
fn nth(range: &RangeInclusive<u16>, hash: u64) -> u16 {
    let count = usize::from(*range.end() - *range.start()) + 1;
    range.start() + among(count, hash) as u16
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        flow::FlowSeed,
        tables::conntrack::{FlowState, NewFlow},
    };

    const RANGE: RangeInclusive<u16> = 61_003..=61_202;

    fn flow(n: u32, remote: u32, port: u16) -> [Key; 2] {
        let forward = FiveTuple { src: 0x0a00_0000 + n, dst: 0x0a60_0001, src_port: 7, dst_port: 80, protocol: 17 };
        [forward.to_words(), answer(remote, port).to_words()]
    }

    fn answer(remote: u32, port: u16) -> FiveTuple {
        FiveTuple { src: 0x0af4_0000 + remote, dst: 0xc0a8_0001, src_port: 8080, dst_port: port, protocol: 17 }
    }

    /// Masquerades flow `n` to `remote`, as the service stage does.
    fn open(table: &Conntrack, n: u32, remote: u32) -> Option<u16> {
        for attempt in 0..64 {
            let random = u64::from(n + attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let port = table.take_port(answer(remote, 0).to_words(), &RANGE, random)?;
            let keys = flow(n, remote, port).map(|key| (key, table.hash(key)));
            let flow = NewFlow {
                keys,
                next_hops: [0, 0],
                generation: 1,
                state: FlowState::Unreplied,
                tick: 0,
                counted: false,
            };
            if table.insert(&flow).is_ok() {
                return Some(port);
            }
        }
        None
    }

    fn close(table: &Conntrack, n: u32) {
        let key = flow(n, 0, 0)[0];
        table.remove(&table.find(key, table.hash(key)).expect("it is there"));
    }

    #[test]
    fn one_endpoint_is_given_every_port_of_the_range_and_no_other() {
        let table = Conntrack::new(1000, FlowSeed::from_number(7));
        let ports: HashSet<_> = (0..200).map(|n| open(&table, n, 1).expect("one is left")).collect();
        assert_eq!(ports, RANGE.collect());
        assert_eq!(open(&table, 200, 1), None, "none is left");
        close(&table, 77);
        assert!(open(&table, 200, 1).is_some(), "the one that came back");
    }

    /// One pool, two endpoints: each may have all ports, though the pool has them once.
    #[test]
    fn a_port_serves_another_endpoint_too() {
        let table = Conntrack::new(1000, FlowSeed::from_number(7));
        (0..200).for_each(|n| assert!(open(&table, n, 1).is_some()));
        let more = (200..400).filter(|n| open(&table, *n, 2).is_some()).count();
        assert!(more > 180, "{more}: what 32 questions find");
        assert_eq!(open(&table, 1000, 1), None);
        // All of the first endpoint's end: its ports are found again, whichever bits say so.
        (0..200).for_each(|n| close(&table, n));
        (400..590).for_each(|n| assert!(open(&table, n, 1).is_some(), "{n}"));
    }

    #[test]
    fn a_flow_that_keeps_its_source_gives_nothing_back() {
        let table = Conntrack::new(1000, FlowSeed::from_number(7));
        let port = table.take_port(answer(1, 0).to_words(), &RANGE, 1).unwrap();
        let kept = FiveTuple { src: 0xc0a8_0001u32, dst: 9, src_port: port, dst_port: 80, protocol: 17 };
        table.give_back([kept.to_words(), answer(1, port).to_words()]);
        let pool = table.pool(answer(1, 0).to_words());
        let others: HashSet<_> = std::iter::from_fn(|| table.ports.take(pool, &RANGE, 5)).collect();
        assert_eq!(others.len(), 199);
        assert!(!others.contains(&port));
    }

    #[test]
    fn every_range_is_given_out_to_its_edges() {
        for range in [1024..=1024, 1024..=1087, 1087..=1088, 65_535..=65_535, 65_000..=65_535, 1024..=65_535] {
            let ports = Ports::new(1);
            let given: HashSet<_> = (0u64..).map_while(|n| ports.take(0, &range, n << 30 | n)).collect();
            assert_eq!(given, range.collect());
        }
    }
}
