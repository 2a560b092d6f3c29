//! Looks destinations up in the FIB.

use std::hint::cold_path;

use crate::{
    flow::FlowKey,
    next_hop::NextHop,
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step, Way},
    snapshot::{Family, NO_ROUTE, Snapshot},
};

/// The tables that say where packets go. A copy of where they lie, which no write to a packet can be suspected to change.
pub struct Routes<'a, N: Family> {
    fib: N::View<'a>,
    next_hops: &'a [NextHop],
    none: &'a NextHop,
}

impl<'a, N: Family> Routes<'a, N> {
    /// Those of a snapshot.
    pub fn of(snapshot: &'a Snapshot) -> Routes<'a, N> {
        let next_hops = &snapshot.next_hops[..];
        Routes { fib: N::view(&snapshot.of::<N>().fib), next_hops, none: &next_hops[NO_ROUTE as usize] }
    }

    /// Where a packet goes: as its flow decided, else by its destination.
    #[inline(always)]
    pub fn next_hop(&self, meta: &mut Meta<N>, env: &Env<impl Recorder>) -> &'a NextHop {
        if !meta.has(Meta::ROUTED) {
            meta.next_hop = N::look_up(self.fib, meta.dst());
        }
        // An index from another snapshot may be beyond the end: that is no route.
        let next_hop = match self.next_hops.get(meta.next_hop as usize) {
            Some(next_hop) => next_hop,
            None => {
                cold_path();
                self.none
            }
        };
        env.recorder.note(|| found(meta, next_hop, env.snapshot));
        next_hop
    }
}

fn found<N: Family>(meta: &Meta<N>, next_hop: &NextHop, snapshot: &Snapshot) -> Step {
    let destination = if meta.has(Meta::TRANSLATE) { meta.other.src() } else { meta.dst() };
    let (prefix, by_flow) = (snapshot.prefix(destination), meta.has(Meta::ROUTED));
    Step::Route { destination: destination.address().into(), prefix, by_flow, way: Way::of(next_hop) }
}
