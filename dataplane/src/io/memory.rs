//! A device made of two queues in memory: what tests, fuzzers and benches plug in where a NIC would sit.

use std::{
    collections::VecDeque,
    os::fd::RawFd,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{Frame, FramePool, Occupancy, PacketIo};

/// The far end of a [`MemoryDevice`]: what to receive is put in, what was sent comes out.
#[derive(Clone, Debug, Default)]
pub struct MemoryWire(Arc<Mutex<Queues>>);

#[derive(Debug, Default)]
struct Queues {
    to_switch: VecDeque<Vec<u8>>,
    from_switch: VecDeque<Vec<u8>>,
}

impl MemoryWire {
    /// Puts a packet on the wire towards the switch.
    pub fn send(&self, packet: impl Into<Vec<u8>>) {
        self.queues().to_switch.push_back(packet.into());
    }

    /// Takes the oldest packet the switch sent.
    pub fn recv(&self) -> Option<Vec<u8>> {
        self.queues().from_switch.pop_front()
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().expect("no holder of the wire panics")
    }
}

/// A device in memory. `tx_room` frames fit into its TX ring until the next [`PacketIo::kick`] sends them.
#[derive(Debug)]
pub struct MemoryDevice {
    wire: MemoryWire,
    tx_room: usize,
    tx: Vec<Frame>,
    sent: Vec<Frame>,
    missed: u64,
}

impl MemoryDevice {
    /// A device and the far end of its wire.
    pub fn new(tx_room: usize) -> (MemoryDevice, MemoryWire) {
        let wire = MemoryWire::default();
        (MemoryDevice { wire: wire.clone(), tx_room, tx: Vec::new(), sent: Vec::new(), missed: 0 }, wire)
    }
}

impl PacketIo for MemoryDevice {
    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let mut queues = self.wire.queues();
        let mut taken = 0;
        while taken < max && !queues.to_switch.is_empty() {
            let Some(mut frame) = pool.take() else { break };
            let packet = queues.to_switch.pop_front().expect("checked above");
            if frame.fill(&packet) {
                out.push(frame);
                taken += 1;
            } else {
                pool.give(frame);
                self.missed += 1;
            }
        }
        taken
    }

    fn tx_burst(&mut self, frames: &mut Vec<Frame>) {
        let n = frames.len().min(self.tx_room - self.tx.len());
        self.tx.extend(frames.drain(..n));
    }

    fn kick(&mut self) {
        let mut queues = self.wire.queues();
        queues.from_switch.extend(self.tx.iter().map(|f| f.bytes().to_vec()));
        drop(queues);
        self.sent.append(&mut self.tx);
    }

    fn reclaim(&mut self, pool: &mut FramePool) {
        self.sent.drain(..).for_each(|f| pool.give(f));
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy { receive: 0, transmit: (self.tx.len() + self.sent.len()) as u32 }
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }

    fn missed(&self) -> u64 {
        self.missed
    }

    fn close(self: Box<Self>) -> Vec<Frame> {
        self.tx.into_iter().chain(self.sent).collect()
    }
}
