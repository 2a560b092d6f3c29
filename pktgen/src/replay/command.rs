//! `pktgen replay`.

use std::{path::PathBuf, process::ExitCode, str::FromStr};

use clap::Args;
use shunt_dataplane::xsk::Interface;

use super::{Capture, CaptureError, Pace, Schedule, Truncated, send::send};
use crate::{
    engine::{AfXdpStation, EngineError},
    progress::Progress,
    quantity::{seconds, time},
    rate::{FCS, Rate},
    report::{model::Setup, outputs::Outputs},
    session::{Begun, Failure, Found, on_ctrl_c, pin},
};

/// Bytes of an Ethernet header, which an MTU does not count.
const ETHERNET: usize = 14;

/// Lateness that is told, in ns.
const LATE: u64 = 10_000_000;

/// What to send, and how fast.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A pcap or pcapng file with Ethernet frames.
    pub capture: PathBuf,
    /// Send out of this interface.
    #[arg(long, value_name = "INTERFACE")]
    pub tx: String,
    /// How fast: captured, 2x (twice as fast as captured), a rate (10kpps, 1Gbps), or max.
    #[arg(long, default_value = "captured")]
    pub pace: WantedPace,
    /// How often to send the whole capture.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Fill packets that the capture has only the beginning of with zeros, instead of refusing the file.
    #[arg(long)]
    pub pad: bool,
    /// Queue to send on.
    #[arg(long, default_value_t = 0)]
    pub queue: u32,
    /// Processor to send from.
    #[arg(long)]
    pub core: Option<usize>,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// The report's files.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// A pace as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WantedPace {
    /// As captured, so many times faster.
    Captured(f64),
    /// At a rate.
    Rate(Rate),
}

impl FromStr for WantedPace {
    type Err = String;

    fn from_str(text: &str) -> Result<WantedPace, String> {
        if text == "captured" {
            return Ok(WantedPace::Captured(1.0));
        }
        if let Some(faster) = text.strip_suffix('x').and_then(|number| number.parse::<f64>().ok()) {
            let sensible = faster > 0.0 && faster.is_finite();
            return if sensible {
                Ok(WantedPace::Captured(faster))
            } else {
                Err(format!("'{text}' is no pace: write 2x"))
            };
        }
        match text.parse() {
            Ok(Rate::Line(_)) => Err(format!("'{text}': a capture has no line; write packets or bits per second")),
            Ok(rate) => Ok(WantedPace::Rate(rate)),
            Err(_) => Err(format!("'{text}' is no pace: write captured, 2x, 10kpps, 1Gbps or max")),
        }
    }
}

impl WantedPace {
    fn of(self, capture: &Capture) -> Pace {
        match self {
            WantedPace::Captured(faster) => Pace::Captured(faster),
            WantedPace::Rate(rate) => {
                let mean = capture.bytes() as f64 / capture.count() as f64 + FCS as f64;
                rate.pps(mean, f64::INFINITY).map_or(Pace::Max, Pace::Rate)
            }
        }
    }
}

/// A capture that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ReplayError {
    file: String,
    problem: CaptureError,
}

/// Sends the capture and prints the report.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.outputs.check()?;
    let stop = on_ctrl_c()?;
    let begun = Begun::now();
    arguments.core.map_or(Ok(()), pin)?;
    let facts = Interface::query(&arguments.tx).map_err(EngineError::Xsk)?;
    let truncated = if arguments.pad { Truncated::Pad } else { Truncated::Refuse };
    let file = arguments.capture.display().to_string();
    let capture = Capture::read(&arguments.capture, truncated, usize::from(facts.mtu) + ETHERNET)
        .map_err(|problem| ReplayError { file: file.clone(), problem })?;
    let mut station = AfXdpStation::open(&[(&arguments.tx, arguments.queue)], true)?;
    let mut progress = if arguments.quiet { Progress::nothing() } else { Progress::stderr() };
    let pace = arguments.pace.of(&capture);
    let schedule = Schedule::new(&capture, pace, arguments.rounds);
    let offered = capture.count() as u64 * arguments.rounds;
    let expected_s = schedule.length_ns().map(|ns| ns / 1e9);
    let offered_pps = expected_s.filter(|s| *s > 0.0).map(|s| offered as f64 / s);
    let label = match pace {
        Pace::Captured(1.0) => "as captured".to_owned(),
        Pace::Captured(faster) => format!("{faster} times as fast as captured"),
        Pace::Rate(pps) => crate::quantity::pps(pps),
        Pace::Max => "as fast as possible".to_owned(),
    };
    progress.begin_with(&label, expected_s.unwrap_or(0.0));
    let outcome = send(schedule, &label, (offered, offered_pps), &mut station, &stop, &mut progress);
    progress.end();
    let mut warnings = Vec::new();
    if outcome.latest_ns > LATE {
        warnings.push(format!("frames left up to {} late", time(outcome.latest_ns as f64)));
    }
    let length = seconds(capture.length_ns() as f64 / 1e9);
    let setup = Setup {
        method: "replay".into(),
        command: std::env::args().collect(),
        profile: file,
        profile_text: format!("{} frames, {} bytes, captured within {length}", capture.count(), capture.bytes()),
        engine: "af_xdp".into(),
        interfaces: vec![arguments.tx.clone()],
        pinned: arguments.core.iter().map(|core| *core as u32).collect(),
        seed: 0,
    };
    let found = Found { trials: vec![outcome.trial], findings: Vec::new(), warnings, complete: outcome.complete };
    begun.conclude(setup, found, &[], &arguments.outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_read_as_people_write_them() {
        assert_eq!("captured".parse(), Ok(WantedPace::Captured(1.0)));
        assert_eq!("2.5x".parse(), Ok(WantedPace::Captured(2.5)));
        assert_eq!("10kpps".parse(), Ok(WantedPace::Rate(Rate::Packets(1e4))));
        assert_eq!("max".parse(), Ok(WantedPace::Rate(Rate::Max)));
        for text in ["0x", "-1x", "x", "50%", "fast"] {
            let error = text.parse::<WantedPace>().expect_err(text);
            assert!(error.contains(text), "{error}");
        }
    }
}
