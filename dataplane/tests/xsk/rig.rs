//! A worker's memory with its pool, and ports on it, as tests drive them.

use std::{
    thread,
    time::{Duration, Instant},
};

use shunt_dataplane::{
    io::{Frame, FramePool, PacketIo},
    spec::PortRole,
    xsk::{Classifier, Interface, UplinkFilter, WorkerMemory, XdpMode, XskDevice, XskError},
};

pub const PATIENCE: Duration = Duration::from_secs(2);

pub struct Worker {
    pub memory: WorkerMemory,
    pub pool: FramePool,
}

pub struct Port {
    pub classifier: Classifier,
    pub device: Box<XskDevice>,
}

/// Tries again what a queue or an interface `is_held` against that was just given up: a command that another test starts holds
/// copies of all descriptors for an instant.
pub fn once_released<T>(
    mut attempt: impl FnMut() -> Result<T, XskError>,
    is_held: fn(&XskError) -> bool,
) -> Result<T, XskError> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_held(&error) && start.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(1)),
            result => return result,
        }
    }
}

impl Worker {
    pub fn new(frames: u32) -> Worker {
        let (memory, pool) = WorkerMemory::new(frames).expect("memory");
        Worker { memory, pool }
    }

    /// A socket with a pod's share of the frames to receive into.
    pub fn open(&self, interface: &str, queue: u32) -> Result<XskDevice, XskError> {
        self.memory.open(interface, queue, PortRole::Pod, 1)
    }

    /// A pod port on queue 0 of `interface`, ready to receive.
    pub fn port(&mut self, interface: &str) -> Port {
        let open = || self.port_as(interface, PortRole::Pod, XdpMode::Auto, &UplinkFilter::default());
        once_released(open, |error| matches!(error, XskError::Socket { .. })).expect("a port")
    }

    pub fn port_as(
        &mut self,
        interface: &str,
        role: PortRole,
        mode: XdpMode,
        filter: &UplinkFilter,
    ) -> Result<Port, XskError> {
        let mut device = Box::new(self.open(interface, 0)?);
        let mut classifier = Classifier::attach(&Interface::query(interface)?, role, mode, filter)?;
        device.reclaim(&mut self.pool);
        classifier.register(0, &device)?;
        Ok(Port { classifier, device })
    }

    /// Takes frames off `device` until there are `count` or none has come for [`PATIENCE`].
    pub fn receive(&mut self, device: &mut XskDevice, count: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut until = Instant::now() + PATIENCE;
        while frames.len() < count && Instant::now() < until {
            if device.rx_burst(&mut self.pool, &mut frames, 64) > 0 {
                until = Instant::now() + PATIENCE;
            }
            device.reclaim(&mut self.pool);
        }
        frames
    }

    /// A frame that carries `packet` from byte `start` of its chunk on.
    pub fn frame(&mut self, packet: &[u8], start: usize) -> Frame {
        let mut frame = self.pool.take().expect("a free frame");
        assert!(frame.fill(packet) && frame.move_to(start));
        frame
    }

    pub fn give(&mut self, frames: impl IntoIterator<Item = Frame>) {
        frames.into_iter().for_each(|frame| self.pool.give(frame));
    }

    /// Asserts that no frame is lost or doubled: `in_hand` are with the caller, the rest free or in `devices`.
    pub fn assert_conserved(&self, in_hand: usize, devices: &[&XskDevice]) {
        let held: u32 = devices.iter().map(|d| d.occupancy()).map(|o| o.receive + o.transmit).sum();
        assert_eq!(
            self.pool.free() + in_hand as u32 + held,
            self.pool.capacity(),
            "free {}, in hand {in_hand}, devices {:?}",
            self.pool.free(),
            devices.iter().map(|d| d.occupancy()).collect::<Vec<_>>()
        );
    }

    /// Closes `device` and checks that every frame of the pool is back, each once.
    pub fn close(&mut self, device: Box<XskDevice>) {
        let back = device.close();
        self.give(back);
    }

    pub fn assert_all_free(&mut self) {
        assert_eq!(self.pool.free(), self.pool.capacity());
        let mut starts: Vec<_> =
            std::iter::from_fn(|| self.pool.take()).map(|f| (f.bytes().as_ptr() as usize, f)).collect();
        starts.sort_by_key(|(address, _)| *address);
        starts.dedup_by_key(|(address, _)| *address);
        assert_eq!(starts.len() as u32, self.pool.capacity(), "a frame came back twice");
        self.give(starts.into_iter().map(|(_, frame)| frame));
    }
}
