//! What happened, counted: one block per worker, written by it alone and read by anyone.
//!
//! At a quiet point, for every port: received + fragments made of that = forwarded + to the host + answers + drops + held.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    spec::{MAX_PORTS, PortId},
    verdict::{Answer, DropReason},
};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the worker that owns the block may: there is no lock on the bus.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes off again what was added: for a level that rises and falls.
    #[inline(always)]
    pub fn subtract(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    /// Reads, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One port's counters at one worker.
#[derive(Debug)]
pub struct PortCounters {
    /// Packets received here.
    pub rx_packets: Counter,
    /// Bytes received here, Ethernet header included.
    pub rx_bytes: Counter,
    /// Of those received here: packets that left by another port.
    pub forwarded: Counter,
    /// Of those received here: packets that left by the host port.
    pub to_host: Counter,
    /// Of those received here: packets the switch turned into an answer of its own.
    pub answers: [Counter; Answer::ALL.len()],
    /// Of those received here: packets dropped, by reason.
    pub drops: [Counter; DropReason::ALL.len()],
    /// Of those received here: fragments that wait now for the first one of their datagram.
    pub held: Counter,
    /// Fragments beyond the first that packets received here, too big for their next hop, were cut into.
    pub fragments: Counter,
    /// Packets handed to this port's device.
    pub tx_packets: Counter,
    /// Bytes handed to this port's device.
    pub tx_bytes: Counter,
    /// Packets to this port that its device, or the worker that serves it, had no room for.
    pub tx_dropped: Counter,
    /// Packets to this port that were in another memory, and for which this port's had no free frame.
    pub tx_no_frame: Counter,
    /// Packets to this port beyond its bandwidth limit: drops where they came in.
    pub tx_limited: Counter,
}

impl Default for PortCounters {
    fn default() -> Self {
        PortCounters {
            rx_packets: Counter::default(),
            rx_bytes: Counter::default(),
            forwarded: Counter::default(),
            to_host: Counter::default(),
            answers: std::array::from_fn(|_| Counter::default()),
            drops: std::array::from_fn(|_| Counter::default()),
            held: Counter::default(),
            fragments: Counter::default(),
            tx_packets: Counter::default(),
            tx_bytes: Counter::default(),
            tx_dropped: Counter::default(),
            tx_no_frame: Counter::default(),
            tx_limited: Counter::default(),
        }
    }
}

/// One worker's counters.
#[derive(Debug)]
pub struct WorkerCounters {
    ports: Box<[PortCounters]>,
    /// Bursts that carried at least one packet.
    pub bursts: Counter,
    /// Packets that went through the pipeline.
    pub packets: Counter,
    /// Times the worker went to sleep.
    pub sleeps: Counter,
    /// Flows put into the connection table.
    pub flows_opened: Counter,
    /// Flows that expired by this worker's sweep.
    pub flows_expired: Counter,
    /// Connections begun anew because their backend did not answer: another one gets them, if there is one.
    pub flows_unanswered: Counter,
    /// Clients of services with session affinity forgotten before their time, for want of room.
    pub clients_forgotten: Counter,
    /// Half open flows that this worker removed from a full table to make room.
    pub flows_gave_way: Counter,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        WorkerCounters {
            ports: (0..MAX_PORTS).map(|_| PortCounters::default()).collect(),
            bursts: Counter::default(),
            packets: Counter::default(),
            sleeps: Counter::default(),
            flows_opened: Counter::default(),
            flows_expired: Counter::default(),
            flows_unanswered: Counter::default(),
            clients_forgotten: Counter::default(),
            flows_gave_way: Counter::default(),
        }
    }
}

impl WorkerCounters {
    /// A port's counters. Numbers out of range share the last port's, so that nothing goes uncounted.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> &PortCounters {
        &self.ports[usize::from(id.0).min(MAX_PORTS - 1)]
    }
}
