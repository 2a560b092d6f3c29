//! Workers without threads, kernel or clock: stepped by hand over devices that are given. For tests, fuzzing and
//! benches, and wherever a run must be repeatable to the byte.

use std::{io, sync::Arc, time::Instant};

use crossbeam::channel::{Sender, bounded, unbounded};

use super::{Alarm, Census, Command, Detached, Inbox, Shared, Worker};
use crate::{
    counters::WorkerCounters,
    explain::{self, DryRun},
    flow::FlowSeed,
    io::{FramePool, PacketIo},
    pipeline::Env,
    publish::Publisher,
    record::Off,
    snapshot::{CompileError, Snapshot},
    spec::{ForwardingSpec, PortId},
    stages::{fragments::DATAGRAMS, select::CLIENTS},
    tables::{Conntrack, Recent},
    time::Now,
};

/// Workers that share a connection table, and everything around them.
pub struct Stepped {
    // Before the publisher: workers end first.
    workers: Vec<Worker>,
    commands: Vec<Sender<Command>>,
    counters: Vec<Arc<WorkerCounters>>,
    shared: Shared,
    publisher: Publisher<Arc<Snapshot>>,
    current: Arc<Snapshot>,
    seed: u64,
    /// Frames for packets that are only thought of, and what counts them.
    explainer: (FramePool, WorkerCounters),
}

impl Stepped {
    /// As many workers as wanted, with so many heap frames each. The same `seed` gives the same run.
    ///
    /// # Errors
    /// If the kernel has no descriptors left for the workers' wakers.
    pub fn new(workers: usize, frames: u32, flows: u32, seed: u64) -> io::Result<Stepped> {
        let current = Arc::new(Snapshot::empty(seed));
        let publisher = Publisher::new(current.clone());
        let polls = (0..workers).map(|_| mio::Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let alarms = polls.iter().map(Alarm::new).collect::<io::Result<Vec<_>>>()?;
        let shared = Shared {
            conntrack: Arc::new(Conntrack::new(flows, FlowSeed::from_number(seed))),
            fragments: Arc::new(Recent::new(DATAGRAMS, FlowSeed::from_number(seed))),
            clients: Arc::new(Recent::new(CLIENTS, FlowSeed::from_number(seed))),
            owners: Arc::default(),
            inboxes: alarms.into_iter().map(Inbox::new).collect(),
            epoch: Instant::now(),
        };
        let explainer = (FramePool::on_heap(explain::FRAMES), WorkerCounters::default());
        let mut stepped = Stepped {
            workers: vec![],
            commands: vec![],
            counters: vec![],
            shared: shared.clone(),
            publisher,
            current,
            seed,
            explainer,
        };
        for (index, poll) in polls.into_iter().enumerate() {
            let (commands, inbox) = unbounded();
            let counters = Arc::new(WorkerCounters::default());
            let snapshot = stepped.publisher.subscribe(format!("worker {index}"));
            let pool = FramePool::on_heap(frames);
            let shared = shared.clone();
            stepped.workers.push(Worker::new(index, pool, snapshot, counters.clone(), shared, inbox, poll));
            stepped.commands.push(commands);
            stepped.counters.push(counters);
        }
        Ok(stepped)
    }

    /// Gives a worker a queue of a port.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn attach(&mut self, worker: usize, port: PortId, device: impl PacketIo + 'static) {
        self.command(worker, Command::Attach(port, Box::new(device)));
    }

    /// Makes a worker serve a port from a memory of its own with so many heap frames: the queues attached after this.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn lend(&mut self, worker: usize, port: PortId, frames: u32) {
        self.command(worker, Command::Lend(port, FramePool::on_heap(frames)));
    }

    /// Takes all queues of a port from a worker and closes them.
    ///
    /// # Panics
    /// If there is no such worker, or if the port had a memory of its own and not all frames of it came back.
    pub fn detach(&mut self, worker: usize, port: PortId) {
        let (reply, detached) = bounded(1);
        self.command(worker, Command::Detach(port, reply));
        let Detached { devices, own } = detached.recv().expect("a stepped worker answers");
        let frames: Vec<_> = devices.into_iter().flat_map(<dyn PacketIo>::close).collect();
        match own {
            None => self.command(worker, Command::Return(frames)),
            Some(mut pool) => {
                frames.into_iter().for_each(|frame| pool.give(frame));
                assert_eq!(pool.free(), pool.capacity(), "frames of port {port}'s memory are missing");
            }
        }
    }

    fn command(&mut self, worker: usize, command: Command) {
        let sent = self.commands[worker].send(command);
        assert!(sent.is_ok() && self.workers[worker].obey(), "a stepped worker does not end");
    }

    /// Compiles a spec; every worker adopts it at its next step.
    ///
    /// # Errors
    /// If the spec contradicts itself.
    pub fn publish(&mut self, spec: &ForwardingSpec) -> Result<(), CompileError> {
        let generation = self.current.generation + 1;
        self.current = Arc::new(Snapshot::compile(spec, Some(&self.current), generation, self.seed)?);
        self.publisher.publish(self.current.clone());
        Ok(())
    }

    /// Lets one worker make a round at the given time. True if packets moved.
    ///
    /// # Panics
    /// If there is no such worker.
    #[inline]
    pub fn step(&mut self, worker: usize, now: Now) -> bool {
        self.workers[worker].round(now)
    }

    /// What would become of packets that came in now.
    pub fn dry_run(&mut self, now: Now) -> DryRun<'_> {
        let Shared { conntrack, fragments, clients, .. } = &self.shared;
        let (snapshot, (pool, counters)) = (&*self.current, &mut self.explainer);
        let live = Env { snapshot, conntrack, fragments, clients, counters, now, recorder: Off };
        DryRun::new(live, pool)
    }

    /// The first half of a [step](Stepped::step): adopts what was published and takes a burst through. True if packets
    /// moved.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn burst(&mut self, worker: usize, now: Now) -> bool {
        self.workers[worker].move_packets(now)
    }

    /// The other half: lets flows expire.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn expire(&mut self, worker: usize, now: Now) {
        self.workers[worker].sweep(now);
    }

    /// A worker's counters.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn counters(&self, worker: usize) -> &WorkerCounters {
        &self.counters[worker]
    }

    /// Where a worker's frames are.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn census(&self, worker: usize) -> Census {
        self.workers[worker].census()
    }

    /// The connection table.
    pub fn conntrack(&self) -> &Conntrack {
        &self.shared.conntrack
    }

    /// The snapshot published last.
    pub fn snapshot(&self) -> &Snapshot {
        &self.current
    }
}
