//! Looks destinations up in the FIB.

use crate::{next_hop::NextHop, packet::Meta, snapshot::Snapshot};

/// Where a packet goes: as its flow decided, else by its destination.
#[inline(always)]
pub fn next_hop<'a>(meta: &mut Meta, snapshot: &'a Snapshot) -> &'a NextHop {
    if !meta.has(Meta::ROUTED) {
        meta.next_hop = snapshot.fib.lookup(meta.dst());
    }
    snapshot.next_hop(meta.next_hop)
}
