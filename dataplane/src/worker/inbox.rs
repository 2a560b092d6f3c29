//! Packets for a port that only another worker can send on: a port with fewer queues than there are workers.
//!
//! Frames belong to their worker's pool, so the packet is copied: into a parcel here, into a frame there. Parcels are
//! made once and go round.

use std::sync::atomic::{AtomicU16, Ordering};

use crossbeam::queue::ArrayQueue;

use super::Alarm;
use crate::{
    io::MAX_FRAME_LEN,
    spec::{MAX_PORTS, PortId},
};

/// Packets that can be on their way to one worker.
const PARCELS: usize = 512;

/// A copied packet.
pub struct Parcel {
    port: PortId,
    len: u16,
    packet: [u8; MAX_FRAME_LEN],
}

impl Parcel {
    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.packet[..usize::from(self.len)]
    }

    /// Where it goes.
    pub fn port(&self) -> PortId {
        self.port
    }
}

/// One worker's.
pub struct Inbox {
    empty: ArrayQueue<Box<Parcel>>,
    full: ArrayQueue<Box<Parcel>>,
    alarm: Alarm,
}

impl Inbox {
    /// An empty inbox, whose owner is woken by `alarm`.
    pub fn new(alarm: Alarm) -> Inbox {
        let inbox = Inbox { empty: ArrayQueue::new(PARCELS), full: ArrayQueue::new(PARCELS), alarm };
        for _ in 0..PARCELS {
            let parcel = Box::new(Parcel { port: PortId(0), len: 0, packet: [0; MAX_FRAME_LEN] });
            assert!(inbox.empty.push(parcel).is_ok(), "there is room for all parcels");
        }
        inbox
    }

    /// How to wake its owner.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty()
    }

    /// Takes the oldest parcel.
    pub(super) fn open(&self) -> Option<Box<Parcel>> {
        self.full.pop()
    }

    /// Returns a parcel for further use.
    pub(super) fn recycle(&self, parcel: Box<Parcel>) {
        // As many places as parcels: there is always room.
        let _ = self.empty.push(parcel);
    }

    /// Copies a packet in; false if it is longer than a frame or too many are on their way.
    fn put(&self, port: PortId, packet: &[u8]) -> bool {
        if packet.len() > MAX_FRAME_LEN {
            return false;
        }
        let Some(mut parcel) = self.empty.pop() else { return false };
        parcel.port = port;
        parcel.len = packet.len() as u16;
        parcel.packet[..packet.len()].copy_from_slice(packet);
        let _ = self.full.push(parcel);
        self.alarm.ring();
        true
    }
}

/// Which worker sends on which port.
#[derive(Debug)]
pub struct Owners(Box<[AtomicU16]>);

const NOBODY: u16 = u16::MAX;

impl Default for Owners {
    fn default() -> Self {
        Owners((0..MAX_PORTS).map(|_| AtomicU16::new(NOBODY)).collect())
    }
}

impl Owners {
    /// The worker has a queue of the port.
    pub(super) fn set(&self, port: PortId, worker: usize) {
        self.0[usize::from(port.0)].store(worker as u16, Ordering::Relaxed);
    }

    /// The worker has none any more.
    pub(super) fn clear(&self, port: PortId, worker: usize) {
        let owner = &self.0[usize::from(port.0)];
        // If another worker has a queue too and is named, it stays so.
        let _ = owner.compare_exchange(worker as u16, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Hands a packet to a worker that can send it; false if there is none or its inbox is full.
    pub(super) fn hand_over(&self, inboxes: &[Inbox], port: PortId, packet: &[u8]) -> bool {
        let owner = self.0.get(usize::from(port.0)).map_or(NOBODY, |owner| owner.load(Ordering::Relaxed));
        inboxes.get(usize::from(owner)).is_some_and(|inbox| inbox.put(port, packet))
    }
}
