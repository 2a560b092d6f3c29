//! Looks destinations up in the FIB.

use crate::{
    packet::{Batch, Meta},
    snapshot::Snapshot,
};

/// Finds the next hop of every pending packet that has none yet.
#[inline(never)]
pub fn run(batch: &mut Batch, snapshot: &Snapshot) {
    for meta in &mut batch.metas {
        if meta.is_pending() && !meta.has(Meta::ROUTED) {
            meta.next_hop = snapshot.fib.lookup(meta.dst());
            meta.flags |= Meta::ROUTED;
        }
    }
}
