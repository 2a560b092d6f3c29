//! Offers a load and sees what comes of it; finds the highest load that loses nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    sink::{Arrivals, Sink},
    topology::Counters,
    traffic::{Pace, Source},
};
use crate::Error;

/// How long nothing may arrive until a trial counts as over, and how long that may take.
const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// The lowest and the highest rate of a search, in packets per second.
const RANGE: (f64, f64) = (20e3, 4e6);

/// A source that sends less than this share of what it was asked for is itself the limit.
const KEPT_UP: f64 = 0.97;

/// How long and how finely to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Of one trial.
    pub time: Duration,
    /// Trials of a search, each of which halves what is left of the range (on a logarithmic scale).
    pub steps: usize,
    /// Trials of one load before it is given up: one of them may have met an interruption of the machine.
    pub tries: usize,
}

impl Effort {
    /// Finds rates to 2%.
    pub const FULL: Effort = Effort { time: Duration::from_millis(300), steps: 8, tries: 3 };
    /// Finds rates to 40%.
    pub const QUICK: Effort = Effort { time: Duration::from_millis(50), steps: 4, tries: 1 };
}

/// One load and what arrived.
pub struct Trial {
    pub sent: u64,
    pub time: Duration,
    pub arrivals: Arrivals,
}

impl Trial {
    /// Packets sent per second.
    pub fn offered(&self) -> f64 {
        self.sent as f64 / self.time.as_secs_f64()
    }

    /// Packets received per second.
    pub fn forwarded(&self) -> f64 {
        self.arrivals.received() as f64 / self.time.as_secs_f64()
    }

    /// Share of packets that did not arrive.
    pub fn loss(&self) -> f64 {
        1.0 - self.arrivals.received() as f64 / self.sent.max(1) as f64
    }
}

/// A contender between source and sink.
pub struct Bench {
    pub source: Source,
    pub sink: Sink,
    pub effort: Effort,
}

impl Bench {
    /// Sends at `pace` for some time.
    pub fn trial(&mut self, pace: Pace, time: Duration) -> Result<Trial, Error> {
        let trial = self.counted(|source| source.send(pace, time))?;
        Ok(Trial { time, ..trial })
    }

    /// Sends at `pace` until `meanwhile` is done.
    pub fn trial_while(&mut self, pace: Pace, meanwhile: impl FnOnce() -> Result<(), Error>) -> Result<Trial, Error> {
        self.counted(|source| source.send_while(pace, meanwhile))
    }

    /// Counts what arrives of what is sent, and checks both counts with the kernel's.
    fn counted(&mut self, send: impl FnOnce(&mut Source) -> Result<u64, Error>) -> Result<Trial, Error> {
        let (before, kernel) = (self.sink.arrivals()?, Counters::read()?);
        let start = Instant::now();
        let sent = send(&mut self.source)?;
        let time = start.elapsed();
        self.settle()?;
        let arrivals = self.sink.arrivals()?.since(&before);
        Counters::read()?.agree(&kernel, sent, arrivals.received())?;
        Ok(Trial { sent, time, arrivals })
    }

    /// Waits until the last packets have arrived.
    pub fn settle(&self) -> Result<(), Error> {
        let start = Instant::now();
        let mut last = (Counters::read()?, self.sink.arrivals()?.received());
        while start.elapsed() < SETTLE_LIMIT {
            thread::sleep(SETTLE);
            let now = (Counters::read()?, self.sink.arrivals()?.received());
            if now == last {
                break;
            }
            last = now;
        }
        Ok(())
    }

    /// The highest rate, in packets per second, at which no more than `loss` of the packets is lost; 0 if even the lowest
    /// rate loses more.
    pub fn search(&mut self, loss: f64) -> Result<f64, Error> {
        let (mut low, mut high) = (RANGE.0.ln(), RANGE.1.ln());
        let mut found: f64 = 0.0;
        for _ in 0..self.effort.steps {
            let middle = (low + high) / 2.0;
            let mut passed = false;
            for _ in 0..self.effort.tries {
                let trial = self.trial(Pace::PerSecond(middle.exp()), self.effort.time)?;
                // What the source could not send, the contender has not forwarded.
                let kept_up = trial.offered() >= KEPT_UP * middle.exp();
                if trial.loss() <= loss {
                    found = found.max(trial.offered());
                    passed = kept_up;
                }
                if passed {
                    break;
                }
            }
            if passed {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(found)
    }
}
