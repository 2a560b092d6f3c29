//! The device seam: frames, the pool that owns them, and the small trait behind which every port sits.
//!
//! Frames belong to one memory, whose account is a [`FramePool`]. At any quiet point, for every memory,
//! `free + in hand + (fill + rx + tx + completion of its devices) = the pool's frames`, exactly. Every call of a device
//! is given the pool of the device's memory, and only frames of that.

mod frame;
mod memory;

pub(crate) use frame::Chunks;
pub use frame::{FRAME_SIZE, Frame, FramePool, MAX_FRAME_LEN, RX_HEADROOM};
pub use memory::{MemoryDevice, MemoryWire};

use std::os::fd::RawFd;

/// Frames a device holds, by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Given to the kernel to receive into, and received but not yet taken: fill ring plus RX ring.
    pub receive: u32,
    /// Given to the device to send and not yet reclaimed: TX ring plus completion ring.
    pub transmit: u32,
}

/// One (device, queue), as the worker that owns it sees it. No call blocks.
pub trait PacketIo: Send {
    /// Takes up to `max` received frames off the device and appends them to `out`. Returns how many.
    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize;

    /// Hands frames to the device, from the front of `frames`; those that found no room stay in `frames`, in order.
    /// Nothing need leave the machine before [`PacketIo::kick`].
    fn tx_burst(&mut self, frames: &mut Vec<Frame>);

    /// Makes the device send what it was handed, and what an earlier call could not send. No system call if there is
    /// nothing to send; otherwise as many as the kernel's budget per call asks for.
    fn kick(&mut self);

    /// Returns sent frames to `pool` and tops up the device's receive side from it.
    fn reclaim(&mut self, pool: &mut FramePool);

    /// The frames this device holds now.
    fn occupancy(&self) -> Occupancy;

    /// A descriptor that becomes readable when a frame arrives, for a worker that wants to sleep.
    fn wait_fd(&self) -> Option<RawFd>;

    /// Frames the device itself dropped before the switch saw them (no receive buffer, ring full), since it was made.
    fn missed(&self) -> u64;

    /// Closes the device and returns every frame it held. Slow (the kernel waits for readers to leave): never called
    /// on a worker.
    fn close(self: Box<Self>) -> Vec<Frame>;
}
