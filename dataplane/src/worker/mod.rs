//! One worker: a pinned thread that takes bursts from its ports through the pipeline, to completion.
//!
//! While there is traffic it polls; when its [`Patience`] ends it sleeps until a socket becomes readable or it is woken.
//! Control reaches it through [`Command`]s, which it takes between bursts; nothing it does for control allocates or
//! frees much, and nothing waits.

mod inbox;
mod memories;
mod patience;
mod ports;
mod stepped;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, Sender};
use mio::{Events, Poll, Token, Waker};

pub use self::{
    inbox::{Inbox, Owners},
    stepped::Stepped,
};
use self::{memories::Memories, patience::Patience, ports::Ports};
use crate::{
    counters::WorkerCounters,
    io::{Frame, FramePool, PacketIo},
    packet::{BATCH, Batch},
    pipeline::{Env, Pipeline},
    publish::Subscriber,
    record::Off,
    snapshot::Snapshot,
    spec::PortId,
    tables::{Conntrack, Recent, conntrack::Sweep},
    time::Now,
    verdict::Verdict,
};

/// How long a worker sleeps at most, so that flows expire on an idle switch too.
const NAP: Duration = Duration::from_millis(500);

/// How long it sleeps at most while fragments wait: another worker may have got what they wait for.
const HOLDING_NAP: Duration = Duration::from_millis(1);

/// In this time, in nanoseconds, a worker looks at its whole share of the connection table once.
const SWEEP_NANOS: u64 = 8_000_000_000;

/// Entries looked at for every flow that the worker opens, beside that: so a table that fills quickly is swept as quickly.
const SWEEP_PER_FLOW: u64 = 4;

/// Entries looked at per burst at most: about 5 microseconds, and what [removing](Conntrack::sweep) costs.
const SWEEP_BURST: u64 = 1024;

const WAKE: Token = Token(usize::MAX);

/// What control asks of a worker.
pub enum Command {
    /// The port's queues, attached after this, have a memory of their own.
    Lend(PortId, FramePool),
    /// Serve one more queue of a port.
    Attach(PortId, Box<dyn PacketIo>),
    /// Give back the queues of a port, and the memory if it has its own. What was still to be sent on it is dropped.
    Detach(PortId, Sender<Detached>),
    /// Frames of the shared memory that closed devices held.
    Return(Vec<Frame>),
    /// Tell where the frames are, at a moment when none is in hand.
    Census(Sender<Census>),
    /// End.
    Stop,
}

/// What a worker had of a port.
pub struct Detached {
    /// Its queues.
    pub devices: Vec<Box<dyn PacketIo>>,
    /// Its own memory: every frame of it is free, or in one of the devices.
    pub own: Option<FramePool>,
}

/// Where a worker's frames are, and what its devices missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Its memories, the shared one first.
    pub memories: Vec<MemoryCensus>,
    /// Frames that devices dropped before the switch saw them, by port.
    pub missed: Vec<(PortId, u64)>,
}

/// Where a memory's frames are. `capacity = free + in_hand + receive + transmit`, exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryCensus {
    /// The port that has it for itself; `None`: the one that all others share.
    pub port: Option<PortId>,
    /// All frames.
    pub capacity: u32,
    /// Free ones.
    pub free: u32,
    /// Taken from a device and not yet handed to another or freed: between bursts, fragments that wait.
    pub in_hand: u32,
    /// In fill and RX rings.
    pub receive: u32,
    /// In TX and completion rings.
    pub transmit: u32,
}

impl MemoryCensus {
    /// Frames that are where they should be.
    pub fn accounted(&self) -> u32 {
        self.free + self.in_hand + self.receive + self.transmit
    }
}

/// What a worker shares with others.
#[derive(Clone)]
pub struct Shared {
    /// The connection table.
    pub conntrack: Arc<Conntrack>,
    /// What is known of fragmented datagrams.
    pub fragments: Arc<Recent>,
    /// The endpoints of clients of services with session affinity.
    pub clients: Arc<Recent>,
    /// Which worker sends on a port.
    pub owners: Arc<Owners>,
    /// The inboxes of all workers, by index.
    pub inboxes: Arc<[Inbox]>,
    /// The clock's zero.
    pub epoch: Instant,
}

/// The worker's own.
pub struct Worker {
    index: usize,
    memories: Memories,
    pipeline: Pipeline,
    batch: Batch,
    ports: Ports,
    snapshot: Subscriber<Arc<Snapshot>>,
    counters: Arc<WorkerCounters>,
    shared: Shared,
    commands: Receiver<Command>,
    poll: Poll,
    sweep: Sweep,
    swept_at: Now,
    /// Flows that this worker had opened when it swept last.
    opened: u64,
}

/// How control and other workers wake one that sleeps.
#[derive(Debug)]
pub struct Alarm {
    asleep: AtomicBool,
    waker: Waker,
}

impl Alarm {
    /// An alarm for the worker that will wait on `poll`.
    pub fn new(poll: &Poll) -> std::io::Result<Alarm> {
        Ok(Alarm { asleep: AtomicBool::new(false), waker: Waker::new(poll.registry(), WAKE)? })
    }

    /// Wakes the worker if it sleeps or is about to. What it should find must be in place before.
    pub fn ring(&self) {
        // SeqCst, as in `Worker::sleep`: either we see that it is going to sleep, or it sees what we put in place.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // It fails only when the kernel has no memory for a counter; the nap's end then does the waking.
            let _ = self.waker.wake();
        }
    }
}

impl Worker {
    /// A worker that serves no port yet. Ports share the frames of `pool`.
    pub fn new(
        index: usize,
        pool: FramePool,
        snapshot: Subscriber<Arc<Snapshot>>,
        counters: Arc<WorkerCounters>,
        shared: Shared,
        commands: Receiver<Command>,
        poll: Poll,
    ) -> Worker {
        let swept_at = now(shared.epoch);
        Worker {
            index,
            memories: Memories::new(pool),
            // Far apart, so that two workers' outer headers to one VTEP do not carry the same identification soon.
            pipeline: Pipeline::new((index as u16).wrapping_mul(0x3fff)),
            batch: Batch::new(),
            ports: Ports::new(),
            snapshot,
            counters,
            shared,
            commands,
            poll,
            sweep: Sweep::new(),
            swept_at,
            opened: 0,
        }
    }

    /// Works until told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut patience = Patience::new(Instant::now());
        while self.obey() {
            let time = Instant::now();
            let moved = self.round(at(self.shared.epoch, time));
            if moved {
                patience.moved(time);
            } else if !patience.lasts(time) {
                self.sleep(&mut events);
                patience.slept(time, Instant::now());
            }
        }
    }

    /// Carries out what control asked for. False: stop.
    pub fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Lend(port, pool) => self.memories.add(port, pool),
                Command::Attach(port, device) => {
                    self.ports.add(port, device, &mut self.memories);
                    self.shared.owners.set(port, self.index);
                }
                Command::Detach(port, reply) => {
                    self.shared.owners.clear(port, self.index);
                    let (devices, unsent) = self.ports.remove(port, self.poll.registry());
                    self.counters.port(port).tx_dropped.add(unsent.len() as u64);
                    unsent.into_iter().for_each(|frame| self.memories.give(frame));
                    self.pipeline.give_up(&self.counters).for_each(|frame| self.memories.give(frame));
                    let own = self.memories.remove(port);
                    self.ports.renumber(&self.memories);
                    // Nobody waits for the devices any more: then they are closed here.
                    let _ = reply.send(Detached { devices, own });
                }
                Command::Return(frames) => frames.into_iter().for_each(|frame| self.memories.give(frame)),
                Command::Census(reply) => {
                    let _ = reply.send(self.census());
                }
                Command::Stop => return false,
            }
        }
        true
    }

    /// One round: adopts what was published, takes a burst through, expires some flows. True if packets moved.
    pub fn round(&mut self, now: Now) -> bool {
        let moved = self.move_packets(now);
        self.sweep(now);
        moved
    }

    fn move_packets(&mut self, now: Now) -> bool {
        self.snapshot.refresh();
        self.burst(now)
    }

    fn burst(&mut self, now: Now) -> bool {
        let Worker { memories, batch, ports, counters, .. } = self;
        ports.for_each_from_next(|attached| {
            let pool = memories.pool(attached.memory);
            // Sends what the kernel had no time for at an earlier kick.
            attached.device.kick();
            attached.device.reclaim(pool);
            let room = batch.room();
            let before = batch.frames.len();
            let received = attached.device.rx_burst(pool, &mut batch.frames, room);
            if received > 0 {
                batch.received_on(attached.port);
                let port = counters.port(attached.port);
                port.rx_packets.add(received as u64);
                port.rx_bytes.add(batch.frames[before..].iter().map(|frame| frame.len() as u64).sum());
            }
        });
        let delivered = self.take_deliveries();
        let received = self.batch.len();
        let works = received > 0 || self.pipeline.holds_any();
        if works {
            self.process(now);
        }
        if works || delivered {
            self.ports.flush(&mut self.memories, &self.counters, self.poll.registry());
        }
        received > 0 || delivered
    }

    fn process(&mut self, now: Now) {
        let Worker { batch, ports, memories, pipeline, shared, counters, snapshot, poll, .. } = self;
        let Shared { conntrack, fragments, clients, .. } = &*shared;
        let snapshot = snapshot.current();
        let env = Env { snapshot, conntrack, fragments, clients, counters, now, recorder: Off };
        counters.bursts.add(u64::from(!batch.is_empty()));
        counters.packets.add(batch.len() as u64);
        pipeline.run(batch, &env);
        loop {
            hand_out(batch, ports, memories, shared, counters);
            if !pipeline.rest(batch, memories.pool(0), &env) {
                break;
            }
            // What is about to be sent on a port is never more than a batch and deliveries.
            ports.flush(memories, counters, poll.registry());
        }
    }

    /// Queues what other workers handed over.
    fn take_deliveries(&mut self) -> bool {
        let inbox = &self.shared.inboxes[self.index];
        let mut delivered = false;
        for _ in 0..BATCH {
            let Some(parcel) = inbox.open() else { break };
            delivered = true;
            let port = self.counters.port(parcel.port());
            match self.ports.memory(parcel.port()).map(|memory| self.memories.pool(memory).take()) {
                Some(Some(mut frame)) => {
                    // A parcel holds at most what a frame does.
                    frame.fill(parcel.bytes());
                    self.ports.sender(parcel.port()).expect("it has a memory").push(frame);
                }
                Some(None) => port.tx_no_frame.add(1),
                None => port.tx_dropped.add(1),
            }
            inbox.recycle(parcel);
        }
        delivered
    }

    /// Expires idle flows, as many entries as the time since the last call and the flows opened since are worth, up to
    /// [`SWEEP_BURST`].
    fn sweep(&mut self, now: Now) {
        let by_time = self.sweep_due(now);
        let opened = self.counters.flows_opened.get();
        let by_flows = SWEEP_PER_FLOW * (opened - std::mem::replace(&mut self.opened, opened));
        let budget = (by_time + by_flows).min(SWEEP_BURST);
        if budget == 0 {
            return;
        }
        let place = (self.index as u32, self.shared.inboxes.len() as u32);
        let swept = self.shared.conntrack.sweep(&mut self.sweep, place, budget as u32, now.seconds());
        self.counters.flows_expired.add(u64::from(swept.removed));
        if by_time > 0 {
            // Only what is looked at is paid for: a burst's limit leaves the rest due.
            let elapsed = now.0.saturating_sub(self.swept_at.0).min(SWEEP_NANOS);
            let paid = u64::from(swept.looked_at).saturating_sub(by_flows).min(by_time);
            self.swept_at = Now(now.0 - elapsed + SWEEP_NANOS * paid / self.share());
        }
    }

    /// Entries of the connection table that are this worker's to look at.
    fn share(&self) -> u64 {
        u64::from(self.shared.conntrack.high_water()).div_ceil(self.shared.inboxes.len() as u64)
    }

    /// Those that it should have looked at by now.
    fn sweep_due(&self, now: Now) -> u64 {
        self.share() * now.0.saturating_sub(self.swept_at.0).min(SWEEP_NANOS) / SWEEP_NANOS
    }

    fn sleep(&mut self, events: &mut Events) {
        let alarm = self.shared.inboxes[self.index].alarm();
        alarm.asleep.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        // What arrived before the flag was set rang no alarm. Sockets need no second look: they are edge-triggered,
        // and an edge since the last burst ends the wait at once, as does a frame on a socket registered only now.
        let nothing = self.commands.is_empty()
            && self.shared.inboxes[self.index].is_empty()
            && !self.snapshot.has_news()
            && self.sweep_due(now(self.shared.epoch)) <= SWEEP_BURST;
        if nothing {
            self.ports.watch(self.poll.registry());
            self.counters.sleeps.add(1);
            // An interrupted wait is as good as a finished one.
            let nap = if self.pipeline.holds_any() { HOLDING_NAP } else { NAP };
            let _ = self.poll.poll(events, Some(nap));
        }
        self.shared.inboxes[self.index].alarm().asleep.store(false, Ordering::SeqCst);
    }

    /// Frames that are neither free nor in a device: a batch's, and those of fragments that wait.
    fn in_hand(&self) -> impl Iterator<Item = &Frame> {
        self.batch.frames.iter().chain(self.pipeline.held())
    }

    /// Where the frames are.
    pub fn census(&self) -> Census {
        let memories = self.memories.iter().map(|memory| MemoryCensus {
            port: memory.port,
            capacity: memory.pool.capacity(),
            free: memory.pool.free(),
            in_hand: self.in_hand().filter(|frame| memory.pool.owns(frame)).count() as u32,
            ..MemoryCensus::default()
        });
        let mut census = Census { memories: memories.collect(), missed: Vec::new() };
        for attached in self.ports.iter() {
            let held = attached.device.occupancy();
            let memory = &mut census.memories[attached.memory];
            memory.receive += held.receive;
            memory.transmit += held.transmit;
            census.missed.push((attached.port, attached.device.missed()));
        }
        census
    }
}

/// Queues a batch's frames on the ports that they leave by, here or at another worker, and gives back the others.
#[inline(always)]
fn hand_out(batch: &mut Batch, ports: &mut Ports, memories: &mut Memories, shared: &Shared, counters: &WorkerCounters) {
    let mut frames = batch.frames.drain(..);
    for run in &batch.runs {
        // Its length is known to whoever takes it, other than `take`'s.
        let frames = (0..run.len).map(|_| frames.next().expect("runs are of the batch"));
        match run.verdict {
            Verdict::Tx(port) | Verdict::Answer(_, port) => match ports.sender(port) {
                Some(tx) => tx.extend(frames),
                // No queue of that port is ours: another worker sends it.
                None => frames.for_each(|frame| {
                    if !shared.owners.hand_over(&shared.inboxes, port, frame.bytes()) {
                        counters.port(port).tx_dropped.add(1);
                    }
                    memories.give(frame);
                }),
            },
            Verdict::Drop(_) | Verdict::Pending | Verdict::Owed(_) | Verdict::Oversized | Verdict::Ipv6 => {
                frames.for_each(|frame| memories.give(frame));
            }
        }
    }
    drop(frames);
    batch.clear();
}

/// The engine's clock.
pub fn now(epoch: Instant) -> Now {
    at(epoch, Instant::now())
}

/// What the clock says at a moment. It starts at ten seconds, so that nothing that looks back a little goes below zero.
fn at(epoch: Instant, moment: Instant) -> Now {
    Now((Duration::from_secs(10) + (moment - epoch)).as_nanos() as u64)
}
