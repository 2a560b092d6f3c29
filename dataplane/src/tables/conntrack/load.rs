//! How many flows each backend has, of those that are counted: what the least connections are measured by.
//!
//! A counter for each of so many hashes, not for each backend: two backends share one once in a while, and then both look
//! busier than they are.

use super::{Below, Conntrack, Key};
use crate::{
    flow::FlowKey,
    tables::arena::{AtomicU32, Ordering},
};

/// Counters at most: 256 KiB.
const MOST: u32 = 1 << 16;

/// The counters.
#[derive(Debug)]
pub(super) struct Loads(Box<[AtomicU32]>);

impl Loads {
    /// Counters for a table of `capacity` flows.
    pub(super) fn new(capacity: u32) -> Loads {
        Loads((0..capacity.next_power_of_two().clamp(1, MOST)).map(|_| AtomicU32::new(0)).collect())
    }

    pub(super) fn of(&self, hash: u64) -> &AtomicU32 {
        &self.0[hash as usize & (self.0.len() - 1)]
    }
}

impl<B: Below> Conntrack<B> {
    /// Counted flows of the backend whose answers have this reply key, whichever its client.
    pub fn load<N>(&self, reply: impl FlowKey<N>) -> u32 {
        let backend = self.backend_hash(reply.known_as(&self.seed));
        let own = self.loads.of(backend).load(Ordering::Relaxed);
        self.below.base().map_or(own, |base| own.wrapping_add(base.load(backend)))
    }

    /// The hash of what reply keys of one backend have in common: source, source port, family, protocol.
    pub(super) fn backend_hash(&self, reply: Key) -> u64 {
        self.hash([reply[0] >> 32, reply[1] & 0xffff_0000_0000_01ff])
    }
}
