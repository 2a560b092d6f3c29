//! A memory that one port has for itself: what zero-copy mode asks for, since all sockets of a memory copy or none does,
//! and a worker that serves pods serves veths.
//!
//! It needs no anchor, and could have none in zero-copy mode: its first socket is the port's own, on which the memory is
//! registered. libxdp closes that one with the memory only, so a port's devices and its memory go together.
#![allow(unsafe_code)]

use std::{num::NonZeroU32, thread};

use super::{
    XskError,
    device::{DRAIN, XskDevice},
    memory::{RING_SIZE, Share},
    registered::{Registered, Transfer},
};
use crate::{
    io::{FramePool, PacketIo},
    packet::BATCH,
};

/// Frames per queue, so that a packet which comes from another memory finds a free one whenever the TX ring has room:
/// the fill and RX rings hold at most one ring's worth, TX and completion ring one each, and a batch may be in hand.
const FRAMES_PER_QUEUE: u32 = 3 * RING_SIZE + BATCH as u32;

/// Which memory a port's queues use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MemoryChoice {
    /// The one that the worker's ports share: the kernel copies every packet.
    #[default]
    Shared,
    /// One of the port's own, into and out of which the driver moves packets itself. Where it cannot, the shared one.
    ZeroCopy,
    /// One of the port's own, into and out of which the kernel copies: every packet is copied twice. It shows on any
    /// interface what crossing memories does and costs.
    OwnCopying,
}

/// The control thread's side of a port's own frames at one worker.
pub struct PortMemory {
    registered: Registered,
    interface: String,
}

impl PortMemory {
    /// Registers memory for `queues` queues of `interface`. The pool goes to the worker.
    ///
    /// # Errors
    /// [`XskError::Memory`] if the kernel refuses the memory.
    pub fn new(interface: &str, queues: u32, transfer: Transfer) -> Result<(PortMemory, FramePool), XskError> {
        let frames = NonZeroU32::new(queues.max(1) * FRAMES_PER_QUEUE).expect("at least one queue");
        let (registered, pool) = Registered::new(frames, transfer)?;
        Ok((PortMemory { registered, interface: interface.into() }, pool))
    }

    /// Opens a socket on one of the queues. See [`WorkerMemory::open`](super::WorkerMemory::open).
    ///
    /// # Errors
    /// [`XskError::NoInterface`], [`XskError::MtuTooLarge`], [`XskError::NoQueue`] or [`XskError::Socket`].
    pub fn open(&self, queue: u32) -> Result<XskDevice, XskError> {
        self.registered.open(&self.interface, queue, Share::unshared(RING_SIZE))
    }

    /// Closes the port's devices and gives the memory back. Waits a little for what they have still to send.
    ///
    /// # Errors
    /// [`XskError::FramesMissing`] if not every frame is free or in one of the devices. Then the memory stays mapped, since
    /// a frame of it may be anywhere, and its first queue stays taken until the process ends.
    pub fn dissolve(self, mut pool: FramePool, mut devices: Vec<Box<dyn PacketIo>>) -> Result<(), XskError> {
        let steps = 50;
        for _ in 0..steps {
            devices.iter_mut().for_each(|device| {
                device.kick();
                device.reclaim(&mut pool);
            });
            if devices.iter().all(|device| device.occupancy().transmit == 0) {
                break;
            }
            thread::sleep(DRAIN / steps);
        }
        let held: u32 = devices.iter().map(|device| device.occupancy()).map(|held| held.receive + held.transmit).sum();
        let missing = pool.capacity().abs_diff(pool.free() + held);
        if missing > 0 {
            return Err(XskError::FramesMissing { interface: self.interface, missing });
        }
        drop((devices, pool));
        // SAFETY: every frame was free or in one of the devices, as a number: no frame of it existed, and neither the
        // numbers nor the pool do now. The kernel keeps the pages until its driver has let go of them.
        unsafe { self.registered.release() };
        Ok(())
    }
}
