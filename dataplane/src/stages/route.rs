//! Looks destinations up in the FIB.

use crate::{
    next_hop::NextHop,
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step, Way},
    snapshot::Snapshot,
};

/// Where a packet goes: as its flow decided, else by its destination.
#[inline(always)]
pub fn next_hop<'a>(meta: &mut Meta, env: &Env<'a, impl Recorder>) -> &'a NextHop {
    if !meta.has(Meta::ROUTED) {
        meta.next_hop = env.snapshot.fib.lookup(meta.dst());
    }
    let next_hop = env.snapshot.next_hop(meta.next_hop);
    env.recorder.note(|| found(meta, next_hop, env.snapshot));
    next_hop
}

fn found(meta: &Meta, next_hop: &NextHop, snapshot: &Snapshot) -> Step {
    let destination = if meta.has(Meta::TRANSLATE) { (meta.other[0] >> 32) as u32 } else { meta.dst() };
    let (prefix, by_flow) = (snapshot.prefix(destination), meta.has(Meta::ROUTED));
    Step::Route { destination, prefix, by_flow, way: Way::of(next_hop) }
}
