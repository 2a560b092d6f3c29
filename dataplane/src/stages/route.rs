//! Looks destinations up in the FIB.

use std::hint::cold_path;

use crate::{
    next_hop::NextHop,
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step, Way},
    snapshot::{NO_ROUTE, Snapshot},
    tables::fib,
};

/// The tables that say where packets go. A copy of where they lie, which no write to a packet can be suspected to change.
pub struct Routes<'a> {
    fib: fib::View<'a>,
    next_hops: &'a [NextHop],
    none: &'a NextHop,
}

impl<'a> Routes<'a> {
    /// Those of a snapshot.
    pub fn of(snapshot: &'a Snapshot) -> Routes<'a> {
        let next_hops = &snapshot.next_hops[..];
        Routes { fib: snapshot.fib.view(), next_hops, none: &next_hops[NO_ROUTE as usize] }
    }

    /// Where a packet goes: as its flow decided, else by its destination.
    #[inline(always)]
    pub fn next_hop(&self, meta: &mut Meta, env: &Env<impl Recorder>) -> &'a NextHop {
        if !meta.has(Meta::ROUTED) {
            meta.next_hop = self.fib.lookup(meta.dst());
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

fn found(meta: &Meta, next_hop: &NextHop, snapshot: &Snapshot) -> Step {
    let destination = if meta.has(Meta::TRANSLATE) { (meta.other[0] >> 32) as u32 } else { meta.dst() };
    let (prefix, by_flow) = (snapshot.prefix(destination), meta.has(Meta::ROUTED));
    Step::Route { destination, prefix, by_flow, way: Way::of(next_hop) }
}
