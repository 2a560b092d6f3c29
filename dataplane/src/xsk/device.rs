//! One socket on one receive queue, as the worker sees it.
#![allow(unsafe_code)]

use std::{
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    thread,
    time::Duration,
};

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use super::{
    held::Held,
    interface::ETHERNET_HEADER,
    memory::{RING_SIZE, Share},
    registered::Transfer,
    starts::Starts,
};
use crate::io::{Chunks, FRAME_SIZE, Frame, FramePool, Occupancy, PacketIo};

/// Descriptors moved between a ring and the scratch array at a time.
const SCRATCH: usize = 64;

/// Packets in a burst from which on a port counts as pressed: what 100,000 packets a second make of a third of a millisecond
/// in which the worker did not come.
const PRESSED: u32 = 32;

/// For how many packets after such a burst it counts so. A worker that is kept from its core for some milliseconds is so again
/// before long, and what it finds then has to have found room.
const PRESSED_FOR: u32 = 1 << 16;

/// How long to wait for the kernel to finish sending when a port is closed.
pub(super) const DRAIN: Duration = Duration::from_millis(50);

pub(super) struct Rings {
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) fill: FillQueue,
    pub(super) comp: CompQueue,
}

/// An AF_XDP socket with its four rings. Who owns a frame when is told in the [module](super).
pub struct XskDevice {
    rings: Rings,
    /// Chunks in any of the rings.
    held: Held,
    /// Chunks in the fill and RX rings.
    receive: u32,
    /// Chunks in the TX and completion rings.
    transmit: u32,
    transfer: Transfer,
    /// Descriptors in the TX ring that the kernel had not taken when last looked at.
    unsent: u32,
    /// Packets for which the port still counts as pressed: the sender may overrun the fill ring.
    pressed: u32,
    scratch: [FrameDesc; SCRATCH],
    starts: Arc<Starts>,
    chunks: Chunks,
    umem: Umem,
    share: Share,
}

impl XskDevice {
    pub(super) fn new(
        rings: Rings,
        umem: Umem,
        starts: Arc<Starts>,
        chunks: Chunks,
        share: Share,
        transfer: Transfer,
    ) -> XskDevice {
        XskDevice {
            rings,
            held: Held::new(chunks.count()),
            receive: 0,
            transmit: 0,
            transfer,
            unsent: 0,
            pressed: 0,
            scratch: [FrameDesc::default(); SCRATCH],
            starts,
            chunks,
            umem,
            share,
        }
    }

    /// Frames the device holds to receive into when the pool has enough.
    pub fn receive_share(&self) -> u32 {
        self.share.frames()
    }

    /// Whether the driver moves packets to and from the frames itself, as the kernel says.
    pub fn zero_copy(&self) -> bool {
        let mut options = 0_u32;
        let mut length = size_of_val(&options) as libc::socklen_t;
        // SAFETY: `struct xdp_options` (linux/if_xdp.h) is one u32, and the kernel is told that there is room for it.
        let code = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_OPTIONS,
                (&raw mut options).cast(),
                &raw mut length,
            )
        };
        code == 0 && options & libc::XDP_OPTIONS_ZEROCOPY != 0
    }

    /// Frames to hold for receiving: the share, and up to a whole ring for as long as packets come in big bursts. A
    /// quarter of the pool is not lent, for what is in hand and being sent. What an idle port was lent it keeps until it
    /// receives again.
    fn receive_target(&self, pool: &FramePool) -> u32 {
        let share = self.share.frames();
        if self.pressed == 0 {
            return share;
        }
        let spare = pool.free().saturating_sub(pool.capacity() / 4);
        (self.receive + spare).clamp(share, RING_SIZE)
    }

    /// Wakes the driver if it asks for it; it goes on by itself as long as it finds something to send.
    fn kick_driver(&mut self) {
        if self.unsent > 0 {
            if self.rings.tx.needs_wakeup() {
                // What it did not take is still in the ring at the next kick.
                let _ = self.rings.tx.wakeup();
            }
            self.unsent = RING_SIZE - self.rings.tx.nb_free_exact();
        }
    }

    /// Takes completed descriptors off the completion ring, calling `done` with each chunk.
    fn complete(&mut self, mut done: impl FnMut(u32)) {
        loop {
            // SAFETY: the descriptors are filled by the kernel and only read.
            let n = unsafe { self.rings.comp.consume(&mut self.scratch) };
            if n == 0 {
                return;
            }
            for descriptor in &self.scratch[..n] {
                let index = (descriptor.addr() / FRAME_SIZE) as u32;
                self.held.remove(index);
                done(index);
            }
            self.transmit -= n as u32;
        }
    }
}

impl AsRawFd for XskDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.rings.rx.fd().as_raw_fd()
    }
}

impl PacketIo for XskDevice {
    fn rx_burst(&mut self, _pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let mut taken = 0;
        while taken < max {
            let want = SCRATCH.min(max - taken);
            // SAFETY: the descriptors are filled by the kernel and only read.
            let n = unsafe { self.rings.rx.consume(&mut self.scratch[..want]) };
            if n == 0 {
                break;
            }
            for descriptor in &self.scratch[..n] {
                let (index, head) = (descriptor.addr() / FRAME_SIZE, descriptor.addr() % FRAME_SIZE);
                self.held.remove(index as u32);
                // SAFETY: the kernel has returned a chunk it was given, as the line above checks, and does not touch it
                // any more; so it is ours and nobody else's.
                out.push(unsafe { self.chunks.adopt(index as u32, head as u16, descriptor.lengths().data() as u16) });
            }
            self.receive -= n as u32;
            taken += n;
        }
        let pressed = if taken as u32 >= PRESSED { PRESSED_FOR } else { self.pressed };
        self.pressed = pressed.saturating_sub(taken as u32);
        taken
    }

    fn tx_burst(&mut self, frames: &mut Vec<Frame>) {
        let mut unsendable = Vec::new();
        while !frames.is_empty() {
            let want = SCRATCH.min(frames.len()) as u32;
            let room = self.rings.tx.nb_free(want).min(want) as usize;
            if room == 0 {
                break;
            }
            let mut n = 0;
            for mut frame in frames.drain(..room) {
                let len = frame.len();
                let Some(table) = self.starts.to_send(&mut frame).filter(|_| len >= ETHERNET_HEADER) else {
                    unsendable.push(frame);
                    continue;
                };
                let index = self.chunks.index(frame);
                let mut descriptor = table[index as usize];
                // SAFETY: the chunk is the frame's, which was just dissolved, and not yet the kernel's.
                unsafe { self.umem.data_mut(&mut descriptor) }.cursor().set_pos(len);
                self.held.insert(index);
                self.scratch[n] = descriptor;
                n += 1;
            }
            // SAFETY: the chunks belong to this UMEM and, as `held` records, to nobody but the kernel from now on.
            let queued = unsafe { self.rings.tx.produce(&self.scratch[..n]) };
            assert_eq!(queued, n, "the ring had room for {room}");
            self.transmit += n as u32;
            self.unsent += n as u32;
        }
        if !unsendable.is_empty() {
            frames.splice(0..0, unsendable);
        }
    }

    fn kick(&mut self) {
        if self.transfer == Transfer::ZeroCopy {
            return self.kick_driver();
        }
        // In copy mode one call sends no more than the kernel's budget (32 descriptors), and stops early at one that
        // the interface dropped. Only a call that moves nothing means that the rest has to wait.
        while self.unsent > 0 {
            let sent = self.rings.tx.wakeup();
            let before = std::mem::replace(&mut self.unsent, RING_SIZE - self.rings.tx.nb_free_exact());
            if sent.is_err() || self.unsent == before {
                return;
            }
        }
    }

    fn reclaim(&mut self, pool: &mut FramePool) {
        if self.transmit > 0 {
            self.complete(|index| pool.give_index(index));
        }
        let target = self.receive_target(pool);
        while self.receive < target {
            let want = (target - self.receive).min(SCRATCH as u32);
            let room = self.rings.fill.nb_free(want).min(want) as usize;
            let mut n = 0;
            while n < room {
                let Some(index) = pool.take_index() else { break };
                self.held.insert(index);
                self.scratch[n] = self.starts.to_receive(index);
                n += 1;
            }
            if n == 0 {
                break;
            }
            // SAFETY: the chunks came from the pool and, as `held` records, belong to the kernel from now on.
            let given = unsafe { self.rings.fill.produce(&self.scratch[..n]) };
            assert_eq!(given, n, "the ring had room for {room}");
            self.receive += n as u32;
        }
        if self.transfer == Transfer::ZeroCopy && self.receive > 0 && self.rings.fill.needs_wakeup() {
            // The driver has run out of frames and not seen the new ones. If this fails it still asks the next time.
            let _ = self.rings.rx.poll(0);
        }
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy { receive: self.receive, transmit: self.transmit }
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.as_raw_fd())
    }

    fn missed(&self) -> u64 {
        // A frame that found the fill ring empty is counted in `rx_dropped` too, so those are not added.
        self.rings.rx.fd().xdp_statistics().map_or(0, |s| s.rx_dropped() + s.rx_ring_full())
    }

    fn close(mut self: Box<Self>) -> Vec<Frame> {
        let mut free = Vec::new();
        let steps = 50;
        for _ in 0..steps {
            self.kick();
            self.complete(|index| free.push(index));
            if self.transmit == 0 {
                break;
            }
            thread::sleep(DRAIN / steps);
        }
        let XskDevice { rings, mut held, chunks, share, .. } = *self;
        // Closes the socket: the kernel has left the rings and the frames when this returns.
        drop(rings);
        if share.is_own() {
            // Not so here: see `port_memory`.
            held = Held::new(0);
        }
        // SAFETY: the chunks were in this device's rings, which are gone, or came back from them above.
        free.into_iter().chain(held.iter()).map(|index| unsafe { chunks.adopt(index, 0, 0) }).collect()
    }
}
