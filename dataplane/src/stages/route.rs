//! Looks destinations up in the FIB.

use crate::{
    next_hop::NextHop,
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step, Way},
};

/// Where a packet goes: as its flow decided, else by its destination.
#[inline(always)]
pub fn next_hop<'a>(meta: &mut Meta, env: &Env<'a, impl Recorder>) -> &'a NextHop {
    if !meta.has(Meta::ROUTED) {
        meta.next_hop = env.snapshot.fib.lookup(meta.dst());
    }
    let next_hop = env.snapshot.next_hop(meta.next_hop);
    env.recorder
        .note(|| Step::Route { destination: (!meta.has(Meta::ROUTED)).then_some(meta.dst()), way: Way::of(next_hop) });
    next_hop
}
