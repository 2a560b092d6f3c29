//! The queues a worker serves, and what is about to be sent on them.

use mio::{Interest, Registry, Token, unix::SourceFd};

use super::memories::Memories;
use crate::{
    counters::WorkerCounters,
    io::{Frame, PacketIo},
    packet::BATCH,
    spec::{MAX_PORTS, PortId},
};

/// One queue of a port.
pub struct Attached {
    /// The port.
    pub port: PortId,
    /// Its device.
    pub device: Box<dyn PacketIo>,
    /// The memory whose frames the device takes and gives.
    pub memory: usize,
    /// To be sent at the burst's end. Never longer than a batch and the deliveries of one round.
    tx: Vec<Frame>,
    /// Its descriptor is registered with the poll. Not while the port sends: see [`Ports::watch`].
    watched: bool,
}

/// All of them.
pub struct Ports {
    attached: Vec<Attached>,
    /// Which of them sends for a port; `NOBODY` if none.
    sender: Box<[u16; MAX_PORTS]>,
    /// Those with something in `tx`.
    dirty: Vec<u16>,
    /// Where the next round begins, so that no port is always last.
    first: usize,
}

const NOBODY: u16 = u16::MAX;

impl Ports {
    pub fn new() -> Ports {
        Ports { attached: Vec::new(), sender: Box::new([NOBODY; MAX_PORTS]), dirty: Vec::new(), first: 0 }
    }

    /// Adds a queue and gives it frames to receive into.
    pub fn add(&mut self, port: PortId, mut device: Box<dyn PacketIo>, memories: &mut Memories) {
        let memory = memories.of(port);
        device.reclaim(memories.pool(memory));
        self.attached.push(Attached { port, device, memory, tx: Vec::with_capacity(2 * BATCH), watched: false });
        self.dirty.reserve(self.attached.len());
        self.elect();
    }

    /// Takes out the queues of a port, and the frames that were about to be sent on it.
    pub fn remove(&mut self, port: PortId, registry: &Registry) -> (Vec<Box<dyn PacketIo>>, Vec<Frame>) {
        let (gone, kept) = std::mem::take(&mut self.attached).into_iter().partition(|attached| attached.port == port);
        self.attached = kept;
        self.dirty.clear();
        self.first = 0;
        self.elect();
        let (mut devices, mut unsent) = (Vec::new(), Vec::new());
        for mut attached in <Vec<Attached>>::into_iter(gone) {
            attached.unwatch(registry);
            unsent.append(&mut attached.tx);
            devices.push(attached.device);
        }
        (devices, unsent)
    }

    /// Looks up every queue's memory again, after one was removed.
    pub fn renumber(&mut self, memories: &Memories) {
        self.attached.iter_mut().for_each(|attached| attached.memory = memories.of(attached.port));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attached> {
        self.attached.iter()
    }

    /// Visits every queue once, each round beginning with another one.
    #[inline]
    pub fn for_each_from_next(&mut self, mut visit: impl FnMut(&mut Attached)) {
        self.first = if self.first + 1 < self.attached.len() { self.first + 1 } else { 0 };
        let (before, from) = self.attached.split_at_mut(self.first);
        from.iter_mut().chain(before).for_each(&mut visit);
    }

    /// The memory of the queue that sends for `port`; `None` if no queue of that port is here.
    pub fn memory(&self, port: PortId) -> Option<usize> {
        let sender = *self.sender.get(usize::from(port.0))?;
        self.attached.get(usize::from(sender)).map(|attached| attached.memory)
    }

    /// Where frames that leave by `port` go until the burst's end; `None` if no queue of that port is here.
    #[inline(always)]
    pub fn sender(&mut self, port: PortId) -> Option<&mut Vec<Frame>> {
        let sender = self.sender.get(usize::from(port.0)).copied().unwrap_or(NOBODY);
        let attached = self.attached.get_mut(usize::from(sender))?;
        if attached.tx.is_empty() {
            self.dirty.push(sender);
        }
        Some(&mut attached.tx)
    }

    /// Makes frames on any queue end the wait that follows. A queue that has some already ends it at once.
    ///
    /// Called before each wait and not once and for all: while a socket is registered, the kernel visits the poll for
    /// every packet that the socket has sent, at a tenth of what sending one costs. So sending unregisters it.
    pub fn watch(&mut self, registry: &Registry) {
        for attached in self.attached.iter_mut().filter(|attached| !attached.watched) {
            if let Some(fd) = attached.device.wait_fd() {
                // Tokens are not looked at: after waking, a worker looks at all its ports.
                let result = registry.register(&mut SourceFd(&fd), Token(0), Interest::READABLE);
                // Without it the worker would still see the port's frames, at the nap's end. It fails only for lack of
                // memory.
                debug_assert!(result.is_ok(), "{result:?}");
                attached.watched = result.is_ok();
            }
        }
    }

    /// Hands everything queued to the devices. What finds no room, also after the device was made to send, is dropped;
    /// so is what finds no frame in the device's memory.
    pub fn flush(&mut self, memories: &mut Memories, counters: &WorkerCounters, registry: &Registry) {
        for sender in self.dirty.drain(..) {
            let attached = &mut self.attached[usize::from(sender)];
            attached.unwatch(registry);
            if memories.are_several() {
                let lost = attached.bring_home(memories);
                counters.port(attached.port).tx_no_frame.add(lost as u64);
            }
            let Attached { port, device, memory, tx, .. } = attached;
            let pool = memories.pool(*memory);
            let (mut frames, mut bytes) = (tx.len() as u64, total(tx));
            device.tx_burst(tx);
            if !tx.is_empty() {
                device.kick();
                device.reclaim(pool);
                device.tx_burst(tx);
            }
            device.kick();
            let port = counters.port(*port);
            if !tx.is_empty() {
                frames -= tx.len() as u64;
                bytes -= total(tx);
                port.tx_dropped.add(tx.len() as u64);
                tx.drain(..).for_each(|frame| pool.give(frame));
            }
            port.tx_packets.add(frames);
            port.tx_bytes.add(bytes);
        }
    }

    /// The first queue of every port sends for it.
    fn elect(&mut self) {
        self.sender.fill(NOBODY);
        for (at, attached) in self.attached.iter().enumerate().rev() {
            self.sender[usize::from(attached.port.0)] = at as u16;
        }
    }
}

fn total(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| frame.len() as u64).sum()
}

impl Attached {
    /// Makes all queued frames ones of the device's memory. Returns how many found none.
    fn bring_home(&mut self, memories: &mut Memories) -> usize {
        let pool = memories.pool(self.memory);
        if (pool.free() as usize) < self.tx.len() {
            // Frames that have been sent meanwhile are free again.
            self.device.kick();
            self.device.reclaim(pool);
        }
        memories.bring_into(self.memory, &mut self.tx)
    }

    #[inline(always)]
    fn unwatch(&mut self, registry: &Registry) {
        if std::mem::take(&mut self.watched)
            && let Some(fd) = self.device.wait_fd()
        {
            // It is registered; and the kernel forgets it anyway once it is closed.
            let _ = registry.deregister(&mut SourceFd(&fd));
        }
    }
}
