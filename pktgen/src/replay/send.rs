//! Sends a capture, frame by frame, when each is due.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::Schedule;
use crate::{
    clock,
    engine::{AfXdpStation, Station},
    measure::{Histogram, distribution},
    progress::Progress,
    report::model::{Counts, Sample, Trial},
};

/// Frames that are queued before the kernel is told to send.
const BURST: u64 = 32;

/// Time between samples, in ns.
const SAMPLE: u64 = 500_000_000;

/// A wait longer than this, in ns, is slept until this much before its end; the rest is spun.
const SPIN: u64 = 200_000;

/// How long the last frames may take to leave.
const DRAIN: Duration = Duration::from_secs(1);

/// What was sent.
pub struct Outcome {
    /// The figures; nothing is received.
    pub trial: Trial,
    /// False if it was stopped before its end.
    pub complete: bool,
    /// How late the latest frame was, in ns.
    pub latest_ns: u64,
}

/// Sends what the schedule says, until its end or `stop`. `offered` frames are due in all.
pub fn send(
    schedule: Schedule<'_>,
    label: &str,
    (offered, offered_pps): (u64, Option<f64>),
    station: &mut AfXdpStation,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Outcome {
    let start = clock::now();
    let mut sent = Counts::default();
    let mut sampler = Sampler { start, last: (start, Counts::default()), samples: Vec::new() };
    let (mut departures, mut departed, mut latest_ns) = (Histogram::new(3), None, 0);
    let mut complete = true;
    for (due, frame) in schedule {
        let mut now = clock::now();
        if start + due > now {
            station.flush();
            now = wait(start + due, stop, &mut |now| sampler.tick(now, sent, progress));
        }
        let mut queued = false;
        while !queued && !stop.load(Relaxed) {
            queued = station.push(frame.len(), &mut |room| room.copy_from_slice(frame));
            if !queued {
                station.flush();
                now = clock::now();
            }
        }
        if !queued {
            complete = false;
            break;
        }
        sent.sent += 1;
        sent.sent_bytes += frame.len() as u64;
        latest_ns = latest_ns.max(if due > 0 { now.saturating_sub(start + due) } else { 0 });
        if let Some(before) = departed.replace(now) {
            departures.record(now - before);
        }
        if sent.sent.is_multiple_of(BURST) {
            station.flush();
            sampler.tick(now, sent, progress);
        }
    }
    let ended = clock::now();
    drain(station);
    sent.offered = offered;
    let trial = Trial {
        label: label.to_owned(),
        seconds: (ended - start) as f64 / 1e9,
        offered_pps,
        total: sent,
        streams: Default::default(),
        latency: None,
        latency_uncorrected: None,
        departures: distribution(&departures),
        connections: None,
        samples: sampler.samples,
    };
    Outcome { trial, complete, latest_ns }
}

/// Waits until `until`, or until told to stop. Returns the time.
fn wait(until: u64, stop: &AtomicBool, meanwhile: &mut dyn FnMut(u64)) -> u64 {
    loop {
        let now = clock::now();
        if now >= until || stop.load(Relaxed) {
            return now;
        }
        meanwhile(now);
        if until - now > SPIN {
            thread::sleep(Duration::from_nanos((until - now - SPIN).min(SAMPLE / 10)));
        }
    }
}

/// Lets what is queued leave.
fn drain(station: &mut AfXdpStation) {
    let give_up = clock::now() + DRAIN.as_nanos() as u64;
    while !station.is_idle() && clock::now() < give_up {
        station.flush();
        thread::yield_now();
    }
}

/// Makes the samples.
struct Sampler {
    start: u64,
    last: (u64, Counts),
    samples: Vec<Sample>,
}

impl Sampler {
    fn tick(&mut self, now: u64, sent: Counts, progress: &mut Progress) {
        let (before, counts) = self.last;
        if now < before + SAMPLE {
            return;
        }
        let sample = Sample {
            at_s: (now - self.start) as f64 / 1e9,
            sent_pps: (sent.sent - counts.sent) as f64 * 1e9 / (now - before) as f64,
            received_pps: 0.0,
            received_bps: 0.0,
            lost: 0,
            p50_ns: None,
            p99_ns: None,
            established_per_s: None,
            open_connections: None,
        };
        progress.sample(&sample);
        self.samples.push(sample);
        self.last = (now, sent);
    }
}
