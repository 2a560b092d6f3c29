//! A worker's memory: made once, shared by its ports, never unmapped.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    XskError,
    anchor::Anchor,
    device::XskDevice,
    registered::{Registered, Transfer},
};
use crate::{io::FramePool, spec::PortRole};

/// Entries of each ring of each socket: fill, RX, TX and completion.
pub const RING_SIZE: u32 = 2048;

/// The fewest frames a queue is given to receive into: what the kernel hands over in one go (`NAPI_POLL_WEIGHT`).
const LEAST_SHARE: u32 = 64;

/// The control thread's side of a worker's frames: opens sockets on them.
pub struct WorkerMemory {
    registered: Registered,
    frames: u32,
    budget: Arc<Mutex<u32>>,
    _anchor: Anchor,
}

impl WorkerMemory {
    /// Registers memory for `frames` frames of [`FRAME_SIZE`](crate::io::FRAME_SIZE) bytes with the kernel. The pool goes to the worker.
    ///
    /// The memory stays mapped for the rest of the process's life.
    ///
    /// # Errors
    /// [`XskError::Memory`] if the kernel refuses the memory, [`XskError::Anchor`] if it cannot be kept registered.
    ///
    /// # Panics
    /// If `frames` is 0.
    pub fn new(frames: u32) -> Result<(WorkerMemory, FramePool), XskError> {
        let count = NonZeroU32::new(frames).expect("a worker needs frames");
        let (registered, pool) = Registered::new(count, Transfer::Copy)?;
        let anchor = Anchor::new(registered.umem())?;
        // A quarter stays for what is in hand and being sent.
        let budget = Arc::new(Mutex::new(frames - frames / 4));
        Ok((WorkerMemory { registered, frames, budget, _anchor: anchor }, pool))
    }

    /// Opens a socket on one receive queue of an interface, in the calling thread's network namespace. While idle it
    /// holds `share` frames to receive into.
    ///
    /// It receives nothing until the classifier knows it ([`Classifier::register`](super::Classifier::register)) and its
    /// first [`reclaim`](crate::io::PacketIo::reclaim) has given it frames.
    ///
    /// # Errors
    /// [`XskError::NoInterface`], [`XskError::MtuTooLarge`], [`XskError::NoQueue`], [`XskError::FramesExhausted`] or
    /// [`XskError::Socket`], each naming the interface.
    pub fn open(&self, interface: &str, queue: u32, share: u32) -> Result<XskDevice, XskError> {
        let share = Share::take(&self.budget, share)
            .ok_or_else(|| XskError::FramesExhausted { interface: interface.into(), frames: self.frames })?;
        self.registered.open(interface, queue, share)
    }

    /// The share of each of the `queues` queues that this worker serves of a port: an eighth of all frames for an uplink,
    /// a thirty-second for the host port, so that 256 pods find theirs in the default of 32768. What a busy port needs
    /// more it borrows.
    pub fn share(&self, role: PortRole, queues: u32) -> u32 {
        let part = match role {
            PortRole::Uplink => 8,
            PortRole::Host => 32,
            PortRole::Pod => 512,
        };
        (self.frames / part / queues.max(1)).clamp(LEAST_SHARE, RING_SIZE)
    }

    /// Frames of this worker, wherever they are.
    pub fn frames(&self) -> u32 {
        self.frames
    }
}

/// The frames one device may hold to receive into. Returned to the budget they come out of, if any, when the device is
/// dropped.
pub(super) struct Share {
    frames: u32,
    budget: Option<Arc<Mutex<u32>>>,
}

impl Share {
    fn take(budget: &Arc<Mutex<u32>>, frames: u32) -> Option<Share> {
        let mut left = budget.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.checked_sub(frames)?;
        drop(left);
        Some(Share { frames, budget: Some(budget.clone()) })
    }

    /// Of a memory with frames for all of its devices.
    pub(super) fn unshared(frames: u32) -> Share {
        Share { frames, budget: None }
    }

    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// True if it is of a port's own memory.
    pub(super) fn is_own(&self) -> bool {
        self.budget.is_none()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            *budget.lock().unwrap_or_else(PoisonError::into_inner) += self.frames;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xsk::{Classifier, PortMemory};

    #[test]
    fn the_control_thread_may_be_any_thread() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<WorkerMemory>();
        shared::<PortMemory>();
        sent::<Classifier>();
        sent::<XskDevice>();
    }
}
