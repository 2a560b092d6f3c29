//! Memory that the kernel knows as a UMEM, and sockets on it.
#![allow(unsafe_code)]

use std::{
    mem::ManuallyDrop,
    num::NonZeroU32,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use xsk_rs::{
    Socket, Umem,
    config::{self, BindFlags, LibxdpFlags, QueueSize, SocketConfig},
    socket::SocketCreateError,
};

use super::{
    Interface, XskError,
    device::{Rings, XskDevice},
    error::os_error,
    interface::close_on_exec,
    memory::{RING_SIZE, Share},
    starts::Starts,
};
use crate::io::{Chunks, FramePool};

/// How long to wait for a queue that is busy: the kernel frees that of a closed socket on a work queue, a moment later.
const QUEUE_PATIENCE: Duration = Duration::from_millis(500);

/// Who moves packets between the wire and the frames. The same for all sockets of a memory: the kernel takes it from the
/// first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The kernel, by copying.
    Copy,
    /// The driver, without. It is woken only when it asks for it.
    ZeroCopy,
}

impl Transfer {
    fn flags(self) -> BindFlags {
        match self {
            // Why not XDP_USE_NEED_WAKEUP as well: docs/decisions/0002-one-umem-per-worker.md.
            Transfer::Copy => BindFlags::XDP_COPY,
            Transfer::ZeroCopy => BindFlags::XDP_ZEROCOPY | BindFlags::XDP_USE_NEED_WAKEUP,
        }
    }
}

/// A UMEM. It stays mapped for the rest of the process's life unless it is [released](Registered::release).
pub(super) struct Registered {
    umem: ManuallyDrop<Umem>,
    starts: Arc<Starts>,
    chunks: Mutex<Chunks>,
    transfer: Transfer,
}

impl Registered {
    /// Registers memory for `frames` frames with the kernel.
    pub(super) fn new(frames: NonZeroU32, transfer: Transfer) -> Result<(Registered, FramePool), XskError> {
        let (umem, starts) = Starts::mint(frames)?;
        let first = starts.to_receive(0);
        // SAFETY: the descriptor is of this UMEM, and its packet is empty.
        let packet = unsafe { umem.data(&first) }.contents().as_ptr().expose_provenance();
        let base = ptr::with_exposed_provenance_mut(packet - first.addr());
        let base = NonNull::new(base).expect("mapped memory is not at 0");
        // SAFETY: mmap aligns to pages, of which a frame is half; only `release` unmaps it; descriptors are only made into
        // frames by the devices, which own the chunks they name.
        let pool = unsafe { FramePool::from_raw(base, frames.get()) };
        let chunks = Mutex::new(pool.chunks());
        Ok((Registered { umem: ManuallyDrop::new(umem), starts: Arc::new(starts), chunks, transfer }, pool))
    }

    /// The UMEM itself.
    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Opens a socket on one receive queue of an interface, in the calling thread's network namespace.
    pub(super) fn open(&self, interface: &str, queue: u32, share: Share) -> Result<XskDevice, XskError> {
        let facts = Interface::query(interface)?;
        if queue >= facts.queues {
            return Err(XskError::NoQueue { interface: interface.into(), queue, queues: facts.queues });
        }
        let ring = QueueSize::new(RING_SIZE).expect("a power of two");
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(self.transfer.flags())
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
        let rings = Rings { rx, tx, fill, comp };
        Ok(XskDevice::new(rings, self.umem().clone(), self.starts.clone(), chunks, share, self.transfer))
    }

    /// Gives the memory back to the operating system once the last device on it is dropped.
    ///
    /// # Safety
    /// Neither a frame nor a pool of it may exist any more.
    pub(super) unsafe fn release(self) {
        ManuallyDrop::into_inner(self.umem);
    }
}

fn is_busy(error: &SocketCreateError) -> bool {
    os_error(error).raw_os_error() == Some(libc::EBUSY)
}
