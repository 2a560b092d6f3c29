//! The methods: which trials to run, and what to conclude from them.

pub mod back_to_back;
pub mod latency;
pub mod loss_sweep;
pub mod reflect;
pub mod run;
pub mod search;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    engine::{EngineError, Load, Tester},
    profile::Profile,
    progress::Progress,
    quantity,
    report::model::{Finding, Trial},
};

/// Of trials that are to be judged, this many attempts are made where the generator was not up to it.
const ATTEMPTS: u32 = 2;

/// The part of a rate that must be sent for it to count as held.
const LEAST_RATE: f64 = 0.99;

/// One invocation's trials, as a method asks for them.
pub struct Session<'a> {
    tester: &'a mut Tester,
    profile: &'a Profile,
    progress: &'a mut Progress,
    stop: Arc<AtomicBool>,
    /// Packets of the last trial that pktgen itself dropped.
    missed: u64,
    /// All trials so far.
    pub trials: Vec<Trial>,
    /// What a reader must know.
    pub warnings: Vec<String>,
    /// What the method concluded.
    pub findings: Vec<Finding>,
}

/// Why a method ended early.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    /// A trial could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The method makes no sense here.
    #[error("{0}")]
    Refused(String),
    /// Ctrl-C: what was measured is in the session.
    #[error("interrupted")]
    Interrupted,
}

impl<'a> Session<'a> {
    /// A session without trials. `stop` ends the one that runs, and all.
    pub fn new(
        tester: &'a mut Tester,
        profile: &'a Profile,
        progress: &'a mut Progress,
        stop: Arc<AtomicBool>,
    ) -> Session<'a> {
        let (trials, warnings, findings) = (Vec::new(), Vec::new(), Vec::new());
        Session { tester, profile, progress, stop, missed: 0, trials, warnings, findings }
    }

    /// The profile of all trials.
    pub fn profile(&self) -> &Profile {
        self.profile
    }

    /// A load as the profile has it, at another rate.
    pub fn load(&self, label: String, pps: Option<f64>, duration: Duration) -> Load {
        let Profile { warm_up, settle, .. } = *self.profile;
        Load { label, pps, packets: None, duration, warm_up, settle }
    }

    /// Runs a trial and keeps it.
    ///
    /// # Errors
    /// [`MethodError::Interrupted`] after Ctrl-C; the trial is kept as far as it went.
    pub fn trial(&mut self, load: &Load) -> Result<&Trial, MethodError> {
        if self.stop.load(Relaxed) {
            return Err(MethodError::Interrupted);
        }
        self.progress.begin(&load.label, load.duration.as_secs_f64(), load.pps);
        self.tester.missed();
        let progress = &mut *self.progress;
        let trial = self.tester.trial(load, &mut |sample| progress.sample(sample), &self.stop)?;
        self.missed = self.tester.missed();
        if self.missed > 0 {
            let count = quantity::count(self.missed);
            self.warnings.push(format!(
                "{}: {count} packets arrived and were dropped because pktgen did not take them in time; they count as lost",
                trial.label
            ));
        }
        self.trials.push(trial);
        if self.stop.load(Relaxed) {
            return Err(MethodError::Interrupted);
        }
        Ok(self.trials.last().expect("just pushed"))
    }

    /// Runs a trial whose outcome is only worth something if all that was offered was sent and nothing was lost on our
    /// own side, once more if not so.
    ///
    /// # Errors
    /// As [`Session::trial`].
    pub fn judged(&mut self, load: &Load) -> Result<Verdict, MethodError> {
        for _ in 1..ATTEMPTS {
            let verdict = Verdict::of(self.trial(load)?);
            if verdict.kept_up && self.missed == 0 {
                return Ok(verdict);
            }
        }
        Ok(Verdict::of(self.trial(load)?))
    }

    /// Refuses a method that needs packets to come back.
    ///
    /// # Errors
    /// [`MethodError::Refused`] if nothing can.
    pub fn must_receive(&self) -> Result<(), MethodError> {
        if self.tester.receives() {
            return Ok(());
        }
        Err(MethodError::Refused("--rx: missing: without a port to receive from, loss cannot be told".into()))
    }

    /// Notes a conclusion.
    pub fn find(&mut self, name: &str, value: Option<f64>, unit: &str, note: String) {
        self.progress.say(&match value {
            Some(value) => format!("{name}: {}", quantity::of_unit(value, unit)),
            None => format!("{name}: not found: {note}"),
        });
        self.findings.push(Finding { name: name.into(), value, unit: unit.into(), note });
    }
}

/// What a trial says about its rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The share of packets lost.
    pub loss: f64,
    /// Whether all that was offered was sent, and its rate held to within 1%: only then is its loss that of the rate it
    /// asked for.
    pub kept_up: bool,
    /// What was sent, in packets per second.
    pub sent_pps: f64,
}

impl Verdict {
    /// Of a trial.
    pub fn of(trial: &Trial) -> Verdict {
        let total = &trial.total;
        let sent_pps = total.sent as f64 / trial.seconds;
        let held = trial.offered_pps.is_none_or(|wanted| sent_pps >= wanted * LEAST_RATE);
        Verdict { loss: total.loss(), kept_up: total.sent >= total.offered && held, sent_pps }
    }
}
