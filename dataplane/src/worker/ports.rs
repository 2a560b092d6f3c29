//! The queues a worker serves, and what is about to be sent on them.

use mio::{Interest, Registry, Token, unix::SourceFd};

use crate::{
    counters::WorkerCounters,
    io::{Frame, FramePool, PacketIo},
    packet::BATCH,
    spec::{MAX_PORTS, PortId},
};

/// One queue of a port.
pub struct Attached {
    /// The port.
    pub port: PortId,
    /// Its device.
    pub device: Box<dyn PacketIo>,
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
    pub fn add(&mut self, port: PortId, mut device: Box<dyn PacketIo>, pool: &mut FramePool) {
        device.reclaim(pool);
        self.attached.push(Attached { port, device, tx: Vec::with_capacity(2 * BATCH), watched: false });
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

    /// Hands everything queued to the devices. What finds no room, also after the device was made to send, is dropped.
    pub fn flush(&mut self, pool: &mut FramePool, counters: &WorkerCounters, registry: &Registry) {
        for sender in self.dirty.drain(..) {
            self.attached[usize::from(sender)].unwatch(registry);
            let Attached { port, device, tx, .. } = &mut self.attached[usize::from(sender)];
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
