//! A worker's UMEM: made once, shared by all of its sockets, never unmapped.
#![allow(unsafe_code)]

use std::{
    mem,
    num::NonZeroU32,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use xsk_rs::{
    Socket, Umem,
    config::{self, LibxdpFlags, QueueSize, SocketConfig},
    socket::SocketCreateError,
};

use super::{
    Interface, XskError,
    anchor::Anchor,
    device::{Rings, XskDevice},
    error::os_error,
    interface::close_on_exec,
    starts::Starts,
};
use crate::io::{Chunks, FramePool};

/// Entries of each ring of each socket: fill, RX, TX and completion.
pub const RING_SIZE: u32 = 2048;

/// How long to wait for a queue that is busy: the kernel frees that of a closed socket on a work queue, a moment later.
const QUEUE_PATIENCE: Duration = Duration::from_millis(500);

/// The fewest frames a port is given to receive into.
const LEAST_SHARE: u32 = 64;

/// The control thread's side of a worker's frames: opens sockets on them.
pub struct WorkerMemory {
    umem: Umem,
    starts: Arc<Starts>,
    chunks: Mutex<Chunks>,
    frames: u32,
    budget: Arc<Mutex<u32>>,
    _anchor: Anchor,
}

impl WorkerMemory {
    /// Registers memory for `frames` frames of [`FRAME_SIZE`](crate::io::FRAME_SIZE) bytes with the kernel. The pool goes to the worker.
    ///
    /// The memory stays mapped for the rest of the process's life: that is what lets frames be plain values.
    ///
    /// # Errors
    /// [`XskError::Memory`] if the kernel refuses the memory, [`XskError::Anchor`] if it cannot be kept registered.
    ///
    /// # Panics
    /// If `frames` is 0.
    pub fn new(frames: u32) -> Result<(WorkerMemory, FramePool), XskError> {
        let count = NonZeroU32::new(frames).expect("a worker needs frames");
        let (umem, starts) = Starts::mint(count)?;
        mem::forget(umem.clone());
        let first = starts.to_receive(0);
        // SAFETY: the descriptor is of this UMEM, and its packet is empty.
        let packet = unsafe { umem.data(&first) }.contents().as_ptr().expose_provenance();
        let base = ptr::with_exposed_provenance_mut(packet - first.addr());
        let base = NonNull::new(base).expect("mapped memory is not at 0");
        // SAFETY: mmap aligns to pages, of which a frame is half; the forgotten clone keeps the mapping; descriptors are
        // only made into frames by the devices, which own the chunks they name.
        let pool = unsafe { FramePool::from_raw(base, frames) };
        let memory = WorkerMemory {
            _anchor: Anchor::new(&umem)?,
            umem,
            starts: Arc::new(starts),
            chunks: Mutex::new(pool.chunks()),
            frames,
            // A quarter stays for what is in hand and being sent.
            budget: Arc::new(Mutex::new(frames - frames / 4)),
        };
        Ok((memory, pool))
    }

    /// Opens a socket on one receive queue of an interface, in the calling thread's network namespace.
    ///
    /// It receives nothing until the classifier knows it ([`Classifier::register`](super::Classifier::register)) and its
    /// first [`reclaim`](crate::io::PacketIo::reclaim) has given it frames.
    ///
    /// # Errors
    /// [`XskError::NoInterface`], [`XskError::MtuTooLarge`], [`XskError::NoQueue`], [`XskError::FramesExhausted`] or
    /// [`XskError::Socket`], each naming the interface.
    pub fn open(&self, interface: &str, queue: u32) -> Result<XskDevice, XskError> {
        let facts = Interface::query(interface)?;
        if queue >= facts.queues {
            return Err(XskError::NoQueue { interface: interface.into(), queue, queues: facts.queues });
        }
        let share = Share::take(&self.budget)
            .ok_or_else(|| XskError::FramesExhausted { interface: interface.into(), frames: self.frames })?;
        let ring = QueueSize::new(RING_SIZE).expect("a power of two");
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .build();
        let name: config::Interface = interface.parse().expect("an interface of this name exists");
        // SAFETY: no program is loaded, so none can be detached twice.
        let mut opened = unsafe { Socket::new(config, &self.umem, &name, queue) };
        let until = Instant::now() + QUEUE_PATIENCE;
        while opened.as_ref().is_err_and(is_busy) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
            // SAFETY: as above.
            opened = unsafe { Socket::new(config, &self.umem, &name, queue) };
        }
        let (tx, rx, rings) = opened.map_err(|error| XskError::socket(interface, queue, &error))?;
        close_on_exec(rx.fd());
        // libxdp gives no fill ring to the second socket of the same queue; the kernel refuses that one before.
        let (fill, comp) = rings.expect("the first socket on a queue has its own fill and completion rings");
        let chunks = *self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(XskDevice::new(Rings { rx, tx, fill, comp }, self.umem.clone(), self.starts.clone(), chunks, share))
    }

    /// Frames of this worker, wherever they are.
    pub fn frames(&self) -> u32 {
        self.frames
    }
}

fn is_busy(error: &SocketCreateError) -> bool {
    os_error(error).raw_os_error() == Some(libc::EBUSY)
}

/// The frames one device may hold to receive into. Ports that are attached early get more (an eighth of what is left),
/// so that the uplink, which is first, has the deepest queue; returned when the device is dropped.
pub(super) struct Share {
    frames: u32,
    budget: Arc<Mutex<u32>>,
}

impl Share {
    fn take(budget: &Arc<Mutex<u32>>) -> Option<Share> {
        let mut left = budget.lock().unwrap_or_else(PoisonError::into_inner);
        let frames = (*left / 8).clamp(LEAST_SHARE, RING_SIZE);
        *left = left.checked_sub(frames)?;
        drop(left);
        Some(Share { frames, budget: budget.clone() })
    }

    pub(super) fn frames(&self) -> u32 {
        self.frames
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.lock().unwrap_or_else(PoisonError::into_inner) += self.frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xsk::Classifier;

    #[test]
    fn the_control_thread_may_be_any_thread() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<WorkerMemory>();
        sent::<Classifier>();
        sent::<XskDevice>();
    }
}
