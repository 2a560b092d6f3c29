//! One lane's account of what it received.

use super::{
    distribution::Histogram,
    track::{Arrival, Track},
};
use crate::packet::inspect;

/// Significant digits of a stream's histograms: there may be a thousand streams.
const STREAM_DIGITS: u8 = 2;

/// Significant digits of a trial's histograms.
const TRIAL_DIGITS: u8 = 3;

/// What one lane received in one trial.
#[derive(Clone, Debug)]
pub struct Meter {
    epoch: u8,
    tracks: Vec<(Track, Option<u64>)>,
    /// By stream.
    pub streams: Vec<StreamMeter>,
    /// Latency from when a packet was due.
    pub latency: Histogram,
    /// Latency from when it was written.
    pub uncorrected: Histogram,
    /// Frames that are not this trial's packets.
    pub foreign: u64,
    /// Since the last [`Meter::interval`].
    current: Interval,
}

/// What was received of one stream.
#[derive(Clone, Debug)]
pub struct StreamMeter {
    /// Packets, duplicates included.
    pub received: u64,
    /// Bytes of them, without FCS.
    pub bytes: u64,
    /// Packets that came after one sent later.
    pub reordered: u64,
    /// Packets beyond their first time.
    pub duplicates: u64,
    /// Packets whose checksums do not hold.
    pub corrupt: u64,
    /// Latency from when a packet was due.
    pub latency: Histogram,
    /// Difference of latency to the packet received before (RFC 3393), from when they were written.
    pub jitter: Histogram,
}

/// What was received in a stretch of a trial.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Packets, duplicates included.
    pub received: u64,
    /// Bytes of them, without FCS.
    pub bytes: u64,
    /// Latency from when a packet was due.
    pub latency: Histogram,
    /// One more than the greatest sequence number of each track so far.
    passed: Vec<u64>,
    /// Packets that have arrived so far, each once.
    arrived: u64,
}

impl Interval {
    fn new() -> Interval {
        Interval { received: 0, bytes: 0, latency: Histogram::new(STREAM_DIGITS), passed: Vec::new(), arrived: 0 }
    }

    /// Adds what another lane received in the same stretch.
    pub fn merge(&mut self, other: &Interval) {
        self.received += other.received;
        self.bytes += other.bytes;
        self.latency.merge(&other.latency);
        self.arrived += other.arrived;
        self.passed.iter_mut().zip(&other.passed).for_each(|(passed, other)| *passed = (*passed).max(*other));
    }

    /// Packets passed over and not seen by its end.
    pub fn lost(&self) -> u64 {
        self.passed.iter().sum::<u64>().saturating_sub(self.arrived)
    }
}

impl Meter {
    /// For the packets of a trial that `lanes` lanes send.
    pub fn new(epoch: u8, streams: usize, lanes: usize) -> Meter {
        let stream = StreamMeter {
            received: 0,
            bytes: 0,
            reordered: 0,
            duplicates: 0,
            corrupt: 0,
            latency: Histogram::new(STREAM_DIGITS),
            jitter: Histogram::new(STREAM_DIGITS),
        };
        Meter {
            epoch,
            tracks: vec![(Track::new(), None); streams * lanes],
            streams: vec![stream; streams],
            latency: Histogram::new(TRIAL_DIGITS),
            uncorrected: Histogram::new(TRIAL_DIGITS),
            foreign: 0,
            current: Interval::new(),
        }
    }

    /// A frame has arrived.
    #[inline]
    pub fn take(&mut self, frame: &[u8], now: u64) {
        let seen = inspect(frame).filter(|seen| seen.signature.epoch == self.epoch);
        let Some(seen) = seen.filter(|seen| usize::from(seen.signature.track) < self.tracks.len()) else {
            self.foreign += 1;
            return;
        };
        let index = usize::from(seen.signature.track);
        let (track, before) = &mut self.tracks[index];
        let count = self.streams.len();
        let stream = &mut self.streams[index % count];
        stream.received += 1;
        stream.bytes += frame.len() as u64;
        stream.corrupt += u64::from(!seen.intact);
        self.current.received += 1;
        self.current.bytes += frame.len() as u64;
        match track.arrive(seen.signature.sequence) {
            Arrival::InOrder => {}
            Arrival::Reordered => stream.reordered += 1,
            Arrival::Duplicate => return stream.duplicates += 1,
        }
        let age = seen.signature.age(now);
        let latency = age + seen.signature.late;
        self.latency.record(latency);
        self.uncorrected.record(age);
        self.current.latency.record(latency);
        stream.latency.record(latency);
        if let Some(before) = before.replace(age) {
            stream.jitter.record(age.abs_diff(before));
        }
    }

    /// Packets that arrived, each once.
    pub fn arrived(&self) -> u64 {
        self.tracks.iter().map(|(track, _)| track.arrived()).sum()
    }

    /// Packets of a stream that arrived, each once.
    pub fn arrived_of(&self, stream: usize) -> u64 {
        self.tracks.iter().skip(stream).step_by(self.streams.len()).map(|(track, _)| track.arrived()).sum()
    }

    /// Ends a stretch and begins the next one.
    pub fn interval(&mut self) -> Interval {
        self.current.passed = self.tracks.iter().map(|(track, _)| track.passed()).collect();
        self.current.arrived = self.arrived();
        std::mem::replace(&mut self.current, Interval::new())
    }
}
