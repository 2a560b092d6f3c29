//! A table laid over another one, for walks that must leave no trace (see [`explain`](crate::explain)).
//!
//! It shows the flows of the table below as if they were its own: one that is looked for and not found here is copied from
//! there. Whatever becomes of it afterwards becomes of the copy. The table below is only ever read.
//!
//! Which kind a table is, its type says, so one of its own costs no instruction more.

use std::{cell::RefCell, collections::HashSet, fmt};

use super::{
    Addresses, COUNTED, Conntrack, Direction, Hit, NewFlow, Slot, Strays,
    free::FreeList,
    load::Loads,
    pressure::{Hand, LOOKED_AT, TURNS},
};
use crate::{
    flow::FlowKey,
    tables::arena::{Arena, AtomicU32, Ordering},
};

/// Flows a table over another one can copy and open: one packet's walk looks at few.
const ROOM: usize = 512;

/// What is below a table.
pub trait Below: fmt::Debug {
    /// The table below, if there is one.
    fn base(&self) -> Option<&Base<'_>>;
}

/// Below a table of its own.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Below for Nothing {
    #[inline(always)]
    fn base(&self) -> Option<&Base<'_>> {
        None
    }
}

/// A table with others above it.
pub struct Base<'a> {
    table: &'a Conntrack,
    /// Entries that were copied: what became of them is to be seen above.
    copied: RefCell<HashSet<u32>>,
}

impl fmt::Debug for Base<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base").field("copied", &self.copied).finish_non_exhaustive()
    }
}

impl Below for Base<'_> {
    fn base(&self) -> Option<&Base<'_>> {
        Some(self)
    }
}

impl<'a> Conntrack<Base<'a>> {
    /// A table over `table`, as that is now.
    pub fn over(table: &'a Conntrack) -> Self {
        let buckets = ROOM / 2;
        Conntrack {
            buckets: Arena::new(buckets),
            entries: Arena::new(ROOM),
            addresses: Addresses::new(ROOM),
            free: FreeList::new(),
            strays: Strays::new(buckets),
            hand: Hand(AtomicU32::new(0)),
            loads: Loads::new(table.capacity()),
            ports: table.ports.copy(),
            seed: table.seed,
            complete_from: AtomicU32::new(table.complete_from.load(Ordering::Relaxed)),
            below: Base { table, copied: RefCell::default() },
        }
    }
}

impl Base<'_> {
    /// Flows the table below can hold.
    pub(super) fn capacity(&self) -> u32 {
        self.table.capacity()
    }

    /// Flows of the table below that were not copied.
    pub(super) fn in_use(&self) -> u32 {
        self.table.in_use().saturating_sub(self.copied.borrow().len() as u32)
    }

    /// Counted flows of a backend in the table below, by the backend's hash.
    pub(super) fn load(&self, backend: u64) -> u32 {
        self.table.loads.of(backend).load(Ordering::Relaxed)
    }

    /// Copies the flow with this key to the table `above`, where it was not found; `None` if there is none, or it was
    /// copied before and is gone.
    pub(super) fn copy_to<N, B: Below, K: FlowKey<N>>(
        &self,
        above: &Conntrack<B>,
        key: K,
        hash: u64,
    ) -> Option<Hit<K>> {
        let hit = self.table.find(key, hash)?;
        if !self.copied.borrow_mut().insert(hit.slot.entry()) {
            return None;
        }
        let direction = match hit.slot.direction() {
            Direction::Forward => Direction::Reply,
            Direction::Reply => Direction::Forward,
        };
        let other = self.table.read(Slot::new(hit.slot.entry(), direction), hit.other)?;
        let [(forward, to), (reply, back)] = match direction {
            Direction::Reply => [(key, hit), (hit.other, other)],
            Direction::Forward => [(hit.other, other), (key, hit)],
        };
        let keys = [forward, reply].map(|key| (key, above.hash(key)));
        let counted = hit.activity & COUNTED != 0;
        let next_hops = [to.next_hop(), back.next_hop()];
        let (generation, state, tick) = (to.generation(), hit.state(), hit.last_seen());
        above.insert(&NewFlow { keys, next_hops, generation, state, tick, counted }).ok()?;
        if counted {
            // It counts below.
            above.loads.of(above.backend_hash(reply.known_as(&above.seed))).fetch_sub(1, Ordering::Relaxed);
        }
        let copy = above.find_own(reply, keys[1].1)?;
        above.redecide(&copy, back.next_hop(), back.generation());
        // Whoever knows the flow by what stands for its addresses has not brought these.
        above
            .addresses
            .set(copy.slot.entry(), self.table.addresses.of(Slot::new(hit.slot.entry(), Direction::Forward)));
        above.find_own(key, hash)
    }

    /// The flow that would be the next one of the table below to give way, as it is `above`.
    pub(super) fn next_to_give_way<B: Below>(&self, above: &Conntrack<B>, tick: u32) -> Option<Hit> {
        let hand = self.table.hand.0.load(Ordering::Relaxed);
        (0..TURNS.len() as u32 * LOOKED_AT).find_map(|n| {
            let entry = hand.wrapping_add(n) % self.capacity();
            self.table.may_give_way(entry, TURNS[(n / LOOKED_AT) as usize], tick)?;
            let [forward, _] = self.table.keys_of(entry);
            above.find(forward, above.hash(forward))
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::ops::RangeInclusive;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        flow::{FiveTuple, FlowSeed},
        tables::conntrack::{Flow, FlowState, InsertError, Key},
    };

    /// So few of everything that flows meet, and the table is full soon.
    const CAPACITY: u32 = 6;
    const PORTS: RangeInclusive<u16> = 61_000..=61_002;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Insert { client: u16, backend: u32, counted: bool, state: FlowState, tick: u32 },
        Find { client: u16, backend: u32, reply: bool },
        Touch { client: u16, state: FlowState },
        Remove { client: u16, backend: u32, reply: bool },
        MakeRoom,
        TakePort { backend: u32, random: u64 },
        TakePreferred { backend: u32, hash: u64 },
        GiveBack { backend: u32, port: u16 },
    }

    fn op() -> impl Strategy<Value = Op> {
        let (client, backend) = (0..5u16, 0..3u32);
        let state = prop::sample::select(FlowState::ALL.to_vec());
        prop_oneof![
            4 => (client.clone(), backend.clone(), any::<bool>(), state.clone(), 0..200u32).prop_map(
                |(client, backend, counted, state, tick)| Op::Insert { client, backend, counted, state, tick }
            ),
            2 => (client.clone(), backend.clone(), any::<bool>())
                .prop_map(|(client, backend, reply)| Op::Find { client, backend, reply }),
            1 => (client.clone(), state).prop_map(|(client, state)| Op::Touch { client, state }),
            2 => (client, backend.clone(), any::<bool>())
                .prop_map(|(client, backend, reply)| Op::Remove { client, backend, reply }),
            1 => Just(Op::MakeRoom),
            2 => (backend.clone(), any::<u64>()).prop_map(|(backend, random)| Op::TakePort { backend, random }),
            1 => (backend.clone(), any::<u64>()).prop_map(|(backend, hash)| Op::TakePreferred { backend, hash }),
            1 => (backend, PORTS).prop_map(|(backend, port)| Op::GiveBack { backend, port }),
        ]
    }

    fn forward(client: u16) -> FiveTuple {
        FiveTuple { src: 0x0a00_0001, dst: 0x0a60_0001, src_port: client, dst_port: 80, protocol: 6 }
    }

    /// Two clients share a port, so that answers to them look alike.
    fn reply(client: u16, backend: u32) -> FiveTuple {
        let (src, dst_port) = (0x0af4_0000 + backend, PORTS.start() + client / 2);
        FiveTuple { src, dst: 0xc0a8_0001, src_port: 8080, dst_port, protocol: 6 }
    }

    type Seen = (Option<(Key, FlowState, u32, u32, u32)>, Option<Result<(), InsertError>>, Option<u16>, bool, u32, u32);

    /// Does it, and tells everything that shows of it.
    fn apply<B: Below>(table: &Conntrack<B>, op: Op) -> Seen {
        let find = |tuple: FiveTuple| {
            let key = tuple.to_words();
            table.find(key, table.hash(key))
        };
        let end = |client, backend, is_reply| if is_reply { reply(client, backend) } else { forward(client) };
        let (mut hit, mut inserted, mut port, mut done) = (None, None, None, false);
        match op {
            Op::Insert { client, backend, counted, state, tick } => {
                let keys = [forward(client), reply(client, backend)].map(FiveTuple::to_words);
                let keys = keys.map(|key| (key, table.hash(key)));
                let next_hops = [backend, u32::from(client)];
                let flow = NewFlow { keys, next_hops, generation: tick + 1, state, tick, counted };
                inserted = Some(table.insert(&flow));
            }
            Op::Find { client, backend, reply } => hit = find(end(client, backend, reply)),
            Op::Touch { client, state } => {
                hit = find(forward(client));
                hit.iter().for_each(|hit| table.touch(hit, state, 7));
            }
            Op::Remove { client, backend, reply } => {
                done = find(end(client, backend, reply)).is_some_and(|hit| table.remove(&hit));
            }
            // As it is done: when there are no entries.
            Op::MakeRoom if table.in_use() < table.capacity() => {}
            Op::MakeRoom => {
                let entry = table.make_room(100);
                done = entry.is_some();
                table.give_entries(&mut entry.into_iter().collect());
            }
            Op::TakePort { backend, random } => port = table.take_port(reply(0, backend).to_words(), &PORTS, random),
            Op::TakePreferred { backend, hash } => {
                port = table.take_preferred_port(reply(0, backend).to_words(), &PORTS, hash);
            }
            Op::GiveBack { backend, port } => {
                let answer = FiveTuple { dst_port: port, ..reply(0, backend) };
                table.give_back([forward(9), answer].map(FiveTuple::to_words));
            }
        }
        let shown = hit.map(|hit| (hit.other, hit.state(), hit.next_hop(), hit.generation(), hit.last_seen()));
        let load = (0..3).map(|backend| table.load(reply(0, backend).to_words()) << (8 * backend)).sum();
        (shown, inserted, port, done, table.in_use(), load)
    }

    /// Everything in a table.
    fn content(table: &Conntrack) -> (Vec<Flow>, Vec<u64>, u32, u32) {
        let ports = (0..1024).map(|index| table.ports.word(0, index).load(Ordering::Relaxed)).collect();
        let load = (0..3).map(|backend| table.load(reply(0, backend).to_words()) << (8 * backend)).sum();
        (table.flows().collect(), ports, table.hand.0.load(Ordering::Relaxed), load)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_table_over_another_one_is_like_a_copy_and_leaves_no_trace(
            before in prop::collection::vec(op(), 0..30),
            after in prop::collection::vec(op(), 1..6),
        ) {
            let [table, twin] = [(); 2].map(|()| Conntrack::new(CAPACITY, FlowSeed::from_number(7)));
            for op in before {
                prop_assert_eq!(apply(&table, op), apply(&twin, op));
            }
            let content_before = content(&table);
            let over = Conntrack::over(&table);
            // One packet needs room once.
            let first = after.iter().position(|op| matches!(op, Op::MakeRoom));
            let is_later = |(at, op): &(usize, &Op)| matches!(op, Op::MakeRoom) && Some(*at) != first;
            for (_, &op) in after.iter().enumerate().filter(|step| !is_later(step)) {
                prop_assert_eq!(apply(&over, op), apply(&twin, op), "{:?}", op);
            }
            prop_assert_eq!(content(&table), content_before);
        }
    }
}
