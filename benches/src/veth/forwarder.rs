//! The least a program can do over AF_XDP: receive, swap the addresses, send.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use shunt_dataplane::{
    io::{FramePool, PacketIo},
    spec::PortRole,
    xsk::{Classifier, UplinkFilter, WorkerMemory, XdpMode, XskDevice},
};

use super::{
    Running,
    topology::{SWITCH_CORE, Topology, pin},
};
use crate::Error;

const FRAMES: u32 = 8192;
const BURST: usize = 64;

/// Forwards from `in` to `out`. Dropping it stops it.
pub struct Forwarder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
    _classifiers: [Classifier; 2],
}

impl Running for Forwarder {}

impl Forwarder {
    pub fn start(topology: &Topology) -> Result<Forwarder, Error> {
        let (memory, mut pool) = WorkerMemory::new(FRAMES)?;
        let ports = [&topology.input, &topology.output].map(|interface| -> Result<_, Error> {
            let filter = UplinkFilter::default();
            let mut classifier = Classifier::attach(interface, PortRole::Pod, XdpMode::Native, &filter)?;
            let mut device = memory.open(&interface.name, 0, PortRole::Uplink, 2)?;
            device.reclaim(&mut pool);
            classifier.register(0, &device)?;
            Ok((classifier, device))
        });
        let [input, output] = ports;
        let ((input_classifier, input), (output_classifier, output)) = (input?, output?);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("forwarder".into()).spawn(move || {
            let _memory = memory;
            pin(SWITCH_CORE);
            forward(&stopped, Box::new(input), Box::new(output), pool)
        })?;
        Ok(Forwarder { stop, thread: Some(thread), _classifiers: [input_classifier, output_classifier] })
    }
}

fn forward(
    stop: &AtomicBool,
    mut input: Box<XskDevice>,
    mut output: Box<XskDevice>,
    mut pool: FramePool,
) -> Result<(), String> {
    let mut frames = Vec::with_capacity(BURST);
    while !stop.load(Ordering::Relaxed) {
        output.reclaim(&mut pool);
        input.reclaim(&mut pool);
        input.rx_burst(&mut pool, &mut frames, BURST);
        for frame in &mut frames {
            let packet = frame.bytes_mut();
            for i in 0..6 {
                packet.swap(i, i + 6);
            }
        }
        output.tx_burst(&mut frames);
        output.kick();
        frames.drain(..).for_each(|frame| pool.give(frame));
    }
    for frame in input.close().into_iter().chain(output.close()) {
        pool.give(frame);
    }
    match (pool.free(), pool.capacity()) {
        (free, capacity) if free == capacity => Ok(()),
        (free, capacity) => Err(format!("{free} of {capacity} frames came back")),
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(lost))) = self.thread.take().map(JoinHandle::join) {
            panic!("the forwarder lost frames: {lost}");
        }
    }
}
