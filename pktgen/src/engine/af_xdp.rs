//! A station on AF_XDP sockets.

use shunt_dataplane::{
    io::{Frame, FramePool, PacketIo},
    spec::PortRole,
    xsk::{WorkerMemory, XskDevice},
};

use super::{EngineError, Station};

/// Frames of a station: enough to receive for some milliseconds while the machine does something else.
const FRAMES: u32 = 16384;

/// Frames taken off a socket at a time.
const BURST: usize = 64;

/// Sockets that share one memory: one to send on at most, any number to receive from.
pub struct AfXdpStation {
    devices: Vec<XskDevice>,
    sends_on: Option<usize>,
    pool: FramePool,
    outgoing: Vec<Frame>,
    incoming: Vec<Frame>,
    _memory: WorkerMemory,
}

impl AfXdpStation {
    /// Opens sockets on `queues` (interface and queue each), and sends on the first of them if `sends`.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn open(queues: &[(&str, u32)], sends: bool) -> Result<AfXdpStation, EngineError> {
        let (memory, mut pool) = WorkerMemory::new(FRAMES)?;
        let mut devices = Vec::new();
        for (interface, queue) in queues {
            let mut device = memory.open(interface, *queue, PortRole::Uplink, queues.len() as u32)?;
            device.reclaim(&mut pool);
            devices.push(device);
        }
        Ok(AfXdpStation {
            devices,
            sends_on: sends.then_some(0),
            pool,
            outgoing: Vec::with_capacity(BURST),
            incoming: Vec::with_capacity(BURST),
            _memory: memory,
        })
    }

    /// Its sockets, in the order they were asked for.
    pub fn devices(&self) -> &[XskDevice] {
        &self.devices
    }

    /// Whether all that was queued has left.
    pub fn is_idle(&self) -> bool {
        self.outgoing.is_empty() && self.devices.iter().all(|device| device.occupancy().transmit == 0)
    }

    /// Sends every frame that has arrived back, or out of the socket it sends on, after `change` has had it; drops those
    /// for which it says no. Returns how many went.
    pub fn turn_round(&mut self, change: &mut dyn FnMut(&mut [u8]) -> bool) -> usize {
        let mut sent = 0;
        for at in 0..self.devices.len() {
            self.devices[at].reclaim(&mut self.pool);
            self.devices[at].rx_burst(&mut self.pool, &mut self.incoming, BURST);
            for mut frame in self.incoming.drain(..) {
                if change(frame.bytes_mut()) { self.outgoing.push(frame) } else { self.pool.give(frame) }
            }
            let device = &mut self.devices[at];
            sent += self.outgoing.len();
            device.tx_burst(&mut self.outgoing);
            device.kick();
            sent -= self.outgoing.len();
            self.outgoing.drain(..).for_each(|frame| self.pool.give(frame));
        }
        sent
    }
}

impl Station for AfXdpStation {
    #[inline]
    fn push(&mut self, len: usize, write: &mut dyn FnMut(&mut [u8])) -> bool {
        if self.outgoing.len() >= BURST {
            return false;
        }
        let Some(mut frame) = self.pool.take() else { return false };
        assert!(frame.set_len(len), "a profile's frames fit a buffer");
        write(frame.bytes_mut());
        self.outgoing.push(frame);
        true
    }

    #[inline]
    fn flush(&mut self) {
        let Some(at) = self.sends_on else { return };
        let device = &mut self.devices[at];
        device.tx_burst(&mut self.outgoing);
        device.kick();
        device.reclaim(&mut self.pool);
    }

    #[inline]
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        let mut taken = 0;
        for device in &mut self.devices {
            let n = device.rx_burst(&mut self.pool, &mut self.incoming, BURST);
            if n > 0 {
                self.incoming.iter().for_each(|frame| take(frame.bytes()));
                self.incoming.drain(..).for_each(|frame| self.pool.give(frame));
                device.reclaim(&mut self.pool);
            }
            taken += n;
        }
        taken
    }

    fn missed(&self) -> u64 {
        self.devices.iter().map(PacketIo::missed).sum()
    }
}
