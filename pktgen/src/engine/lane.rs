//! One thread's part of a trial: sends what is due, takes what has come, and never sleeps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crossbeam::channel::Sender;

use super::Station;
use crate::{
    clock,
    measure::{Histogram, Interval, Meter},
    pace::Pacer,
    player::Player,
    script::Script,
};

/// Packets that are sent before looking at what has come.
const BURST: usize = 32;

/// How much longer than its time a trial may go on to send what was due before: a machine that did something else for a
/// moment makes up for it. ns.
const GRACE: u64 = 100_000_000;

/// A lane: a station, and the processor whose thread serves it.
pub struct Lane {
    pub station: Box<dyn Station>,
    /// `None`: wherever the kernel puts the thread.
    pub core: Option<usize>,
    /// Which of the sending lanes it is, if it sends.
    pub sends_as: Option<usize>,
}

/// What all lanes of a trial work by.
pub struct Task {
    pub script: Arc<Script>,
    pub epoch: u8,
    /// How many lanes send (of whichever kind).
    pub senders: usize,
    /// When to begin, in ns of the clock.
    pub start: u64,
    /// When to send no more.
    pub end: u64,
    pub settle: Duration,
    /// Packets per second of one lane.
    pub pps: Option<f64>,
    /// Packets of one lane.
    pub limit: u64,
    /// Length of a sample in ns.
    pub sample: u64,
    pub stop: Arc<AtomicBool>,
    pub progress: Progress,
}

/// How far the trial is, for lanes to know when nothing more will come.
#[derive(Default)]
pub struct Progress {
    /// Lanes that may still send.
    pub sending: AtomicUsize,
    pub sent: AtomicU64,
    pub arrived: AtomicU64,
}

/// A stretch of a trial as one lane saw it.
pub struct Part {
    pub index: u64,
    pub sent: u64,
    pub interval: Interval,
}

/// A trial as one lane saw it.
pub struct LaneOutcome {
    pub meter: Meter,
    /// Packets sent of each stream.
    pub sequences: Vec<u32>,
    pub sent: u64,
    pub sent_bytes: Vec<u64>,
    pub departures: Histogram,
    /// When the last packet left.
    pub ended: u64,
}

impl Task {
    /// Until when a lane still sends what was due before the end: a hiccup of the machine is made up for.
    pub fn deadline(&self) -> u64 {
        if self.pps.is_some() { self.end + GRACE } else { self.end }
    }
}

/// Serves one lane through one trial.
pub fn drive(lane: &mut Lane, task: &Task, parts: &Sender<Part>) -> LaneOutcome {
    let mut player = Player::new(task.script.clone(), lane.sends_as.unwrap_or(0), task.senders, task.epoch);
    let mut outcome = LaneOutcome {
        meter: Meter::new(task.epoch, task.script.streams, task.senders),
        sequences: Vec::new(),
        sent: 0,
        sent_bytes: vec![0; task.script.streams],
        departures: Histogram::new(3),
        ended: task.start,
    };
    let limit = if lane.sends_as.is_some() { task.limit } else { 0 };
    // Lanes take turns, so that together they are as even as one.
    let offset = task.pps.map_or(0.0, |pps| 1e9 / pps * lane.sends_as.unwrap_or(0) as f64 / task.senders as f64);
    let mut pacer = Pacer::new(task.start + offset as u64, task.pps, task.script.burst, limit);
    let mut samples = Samples { index: 0, at: task.start + task.sample, sent: 0, arrived: 0 };
    let mut sending = limit > 0;
    let mut last = None;
    let mut settled = u64::MAX;
    loop {
        let now = clock::now();
        if sending {
            send(lane.station.as_mut(), &mut player, &mut pacer, now.min(task.end), &mut last, &mut outcome);
            let over = now >= task.end && (pacer.due(task.end).is_none() || now >= task.deadline());
            if over || pacer.done() || task.stop.load(Relaxed) {
                sending = false;
                outcome.ended = if pacer.done() { last.unwrap_or(now) } else { now };
                task.progress.sent.fetch_add(outcome.sent, Relaxed);
                task.progress.sending.fetch_sub(1, Relaxed);
            }
        }
        lane.station.receive(&mut |frame| outcome.meter.take(frame, clock::now()));
        if now >= samples.at {
            samples.take(task, &mut outcome, parts);
        }
        if !sending {
            lane.station.flush();
            if task.progress.sending.load(Relaxed) > 0 {
                continue;
            }
            if settled == u64::MAX {
                settled = now + task.settle.as_nanos() as u64;
            }
            samples.share(task, &outcome);
            if now >= settled || task.progress.arrived.load(Relaxed) >= task.progress.sent.load(Relaxed) {
                break;
            }
        }
    }
    samples.take(task, &mut outcome, parts);
    outcome.sequences = if lane.sends_as.is_some() { player.sequences().to_vec() } else { Vec::new() };
    outcome
}

/// Sends what is due, up to a burst.
fn send(
    station: &mut dyn Station,
    player: &mut Player,
    pacer: &mut Pacer,
    until: u64,
    last: &mut Option<u64>,
    outcome: &mut LaneOutcome,
) {
    for _ in 0..BURST {
        let Some(due) = pacer.due(until) else { break };
        let (len, stream) = player.peek();
        let mut sent = 0;
        let pushed = station.push(len, &mut |frame| {
            sent = clock::now();
            player.write(frame, sent, sent - due.min(sent));
        });
        if !pushed {
            break;
        }
        if let Some(last) = last.replace(sent) {
            outcome.departures.record(sent - last);
        }
        pacer.advance();
        outcome.sent += 1;
        outcome.sent_bytes[stream] += len as u64;
    }
    station.flush();
}

/// Cuts a trial into samples.
struct Samples {
    index: u64,
    /// When the current one ends.
    at: u64,
    /// Counted in earlier ones.
    sent: u64,
    /// Told to the other lanes.
    arrived: u64,
}

impl Samples {
    fn take(&mut self, task: &Task, outcome: &mut LaneOutcome, parts: &Sender<Part>) {
        self.share(task, outcome);
        let sent = outcome.sent - std::mem::replace(&mut self.sent, outcome.sent);
        let part = Part { index: self.index, sent, interval: outcome.meter.interval() };
        // The receiver lives as long as the trial.
        let _ = parts.send(part);
        self.index += 1;
        self.at += task.sample;
    }

    fn share(&mut self, task: &Task, outcome: &LaneOutcome) {
        let arrived = outcome.meter.arrived();
        task.progress.arrived.fetch_add(arrived - std::mem::replace(&mut self.arrived, arrived), Relaxed);
    }
}
