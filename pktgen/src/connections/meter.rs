//! What becomes of connections, counted and timed.

use super::link::Tally;
use crate::{
    measure::{Histogram, distribution},
    report::model::{Connections, Sample},
};

/// Significant digits of times.
const DIGITS: u8 = 3;

/// Counts and times of all connections of a side.
pub struct Meter {
    /// Connections, without the figures that are made of histograms.
    pub counts: Connections,
    /// Open now.
    pub open: u64,
    handshakes: Histogram,
    requests: Histogram,
    /// Requests of the present sample.
    recent: Histogram,
    last: Last,
}

/// Where things stood at the end of the last sample.
#[derive(Default)]
struct Last {
    at_s: f64,
    sent: Tally,
    received: Tally,
    established: u64,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order, by both sides.
    Closed,
    /// Refused, reset, or closed before the answer was whole.
    Reset,
    /// Given up.
    TimedOut,
}

impl Meter {
    /// Nothing has happened.
    pub fn new() -> Meter {
        let [handshakes, requests, recent] = [(); 3].map(|()| Histogram::new(DIGITS));
        Meter { counts: Connections::default(), open: 0, handshakes, requests, recent, last: Last::default() }
    }

    /// A connection was begun.
    pub fn opened(&mut self) {
        self.counts.opened += 1;
        self.open += 1;
        self.counts.peak = self.counts.peak.max(self.open);
    }

    /// A handshake took so many nanoseconds.
    pub fn established(&mut self, ns: u64) {
        self.counts.established += 1;
        self.handshakes.record(ns);
    }

    /// A request was answered in so many nanoseconds.
    pub fn answered(&mut self, ns: u64) {
        self.counts.answered += 1;
        self.requests.record(ns);
        self.recent.record(ns);
    }

    /// A connection ended.
    pub fn ended(&mut self, end: End) {
        self.open -= 1;
        match end {
            End::Closed => self.counts.closed += 1,
            End::Reset => self.counts.reset += 1,
            End::TimedOut => self.counts.timed_out += 1,
        }
    }

    /// What happened since the last sample, `at_s` seconds after the beginning.
    pub fn sample(&mut self, at_s: f64, sent: Tally, received: Tally) -> Sample {
        let per_second = |now: u64, before: u64| (now - before) as f64 / (at_s - self.last.at_s);
        let sample = Sample {
            at_s,
            sent_pps: per_second(sent.packets, self.last.sent.packets),
            received_pps: per_second(received.packets, self.last.received.packets),
            received_bps: 8.0 * per_second(received.bytes, self.last.received.bytes),
            lost: 0,
            p50_ns: self.recent.at(0.5),
            p99_ns: self.recent.at(0.99),
            established_per_s: Some(per_second(self.counts.established, self.last.established)),
            open_connections: Some(self.open),
        };
        self.recent.clear();
        self.last = Last { at_s, sent, received, established: self.counts.established };
        sample
    }

    /// All of it, where connections were made for `seconds`.
    pub fn result(&self, seconds: f64) -> Connections {
        Connections {
            established_per_s: if seconds > 0.0 { self.counts.established as f64 / seconds } else { 0.0 },
            handshake: distribution(&self.handshakes),
            request: distribution(&self.requests),
            ..self.counts.clone()
        }
    }
}
