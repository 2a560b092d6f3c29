//! An in-memory device that deals out prepared packets, takes what is sent, and keeps the time in between.

use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use shunt_dataplane::io::{Frame, FramePool, Occupancy, PacketIo};

use crate::{measure, packets::Packets};

/// Time between a batch being in hand and being queued for sending.
#[derive(Debug, Default)]
pub struct Clock {
    start: AtomicU64,
    cycles: AtomicU64,
    allocations_at_start: AtomicU64,
    allocations: AtomicU64,
    sent: AtomicU64,
}

impl Clock {
    /// Cycles, packets sent and allocator calls since the last call.
    pub fn take(&self) -> (u64, u64, u64) {
        (self.cycles.swap(0, Relaxed), self.sent.swap(0, Relaxed), self.allocations.swap(0, Relaxed))
    }

    fn start(&self) {
        self.allocations_at_start.store(measure::allocations(), Relaxed);
        self.start.store(measure::cycles(), Relaxed);
    }

    fn stop(&self, sent: usize) {
        self.cycles.fetch_add(measure::cycles() - self.start.load(Relaxed), Relaxed);
        self.allocations.fetch_add(measure::allocations() - self.allocations_at_start.load(Relaxed), Relaxed);
        self.sent.fetch_add(sent as u64, Relaxed);
    }
}

/// Receives the prepared packets, in order and round again.
pub struct Source {
    packets: Arc<Packets>,
    at: usize,
    clock: Arc<Clock>,
}

impl Source {
    /// A source that starts `clock` whenever a burst is in hand.
    pub fn new(packets: Arc<Packets>, clock: Arc<Clock>) -> Source {
        Source { packets, at: 0, clock }
    }
}

/// Takes what is sent, and keeps copies if asked to.
pub struct Sink {
    clock: Arc<Clock>,
    sent: Vec<Frame>,
    copies: Option<Arc<std::sync::Mutex<Vec<Vec<u8>>>>>,
}

impl Sink {
    /// A sink that stops `clock` whenever a burst was handed to it.
    pub fn new(clock: Arc<Clock>, copies: Option<Arc<std::sync::Mutex<Vec<Vec<u8>>>>>) -> Sink {
        Sink { clock, sent: Vec::with_capacity(1024), copies }
    }
}

impl PacketIo for Source {
    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let mut taken = 0;
        while taken < max {
            let Some(mut frame) = pool.take() else { break };
            let packet = &self.packets.bytes[self.at..self.at + self.packets.len];
            assert!(frame.fill(packet), "prepared packets fit a frame");
            out.push(frame);
            self.at =
                if self.at + self.packets.len < self.packets.bytes.len() { self.at + self.packets.len } else { 0 };
            taken += 1;
        }
        self.clock.start();
        taken
    }

    fn tx_burst(&mut self, _frames: &mut Vec<Frame>) {}

    fn kick(&mut self) {}

    fn reclaim(&mut self, _pool: &mut FramePool) {}

    fn occupancy(&self) -> Occupancy {
        Occupancy::default()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }

    fn missed(&self) -> u64 {
        0
    }

    fn close(self: Box<Self>) -> Vec<Frame> {
        Vec::new()
    }
}

impl PacketIo for Sink {
    fn rx_burst(&mut self, _pool: &mut FramePool, _out: &mut Vec<Frame>, _max: usize) -> usize {
        // Sources and sinks are read in turns; the batch is in hand after the last.
        self.clock.start();
        0
    }

    fn tx_burst(&mut self, frames: &mut Vec<Frame>) {
        let n = frames.len();
        self.sent.append(frames);
        self.clock.stop(n);
    }

    fn kick(&mut self) {}

    fn reclaim(&mut self, pool: &mut FramePool) {
        for frame in self.sent.drain(..) {
            if let Some(copies) = &self.copies {
                copies.lock().expect("no holder panics").push(frame.bytes().to_vec());
            }
            pool.give(frame);
        }
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy { receive: 0, transmit: self.sent.len() as u32 }
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }

    fn missed(&self) -> u64 {
        0
    }

    fn close(self: Box<Self>) -> Vec<Frame> {
        self.sent
    }
}
