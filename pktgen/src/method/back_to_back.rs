//! `back-to-back`: the longest burst at full speed that loses nothing (RFC 9004, which updates RFC 2544, section 26.4).

use std::time::Duration;

use clap::Args;

use super::{MethodError, Session};
use crate::{
    engine::Load,
    quantity::{count, time},
    rate::Rate,
};

/// How long a burst may take to send: it is the number of packets that ends it.
const LONGEST: Duration = Duration::from_secs(60);

/// How to search.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Back to back")]
pub struct Options {
    /// The longest burst to try, in packets.
    #[arg(long, value_name = "PACKETS", default_value_t = 1 << 20)]
    pub most: u64,
    /// How narrow the bounds must be in the end, in packets.
    #[arg(long, value_name = "PACKETS", default_value_t = 16)]
    pub resolution: u64,
    /// How often the search is repeated (RFC 9004: 50 times).
    #[arg(long, value_name = "TIMES", default_value_t = 10)]
    pub repeat: u32,
    /// The throughput without loss, as a search found it: gives the time of buffering, corrected for what the path
    /// forwards meanwhile.
    #[arg(long, value_name = "RATE")]
    pub throughput: Option<Rate>,
}

/// Searches.
///
/// # Errors
/// As [`Session::trial`]; [`MethodError::Refused`] if nothing is received or the options make no sense.
pub fn back_to_back(session: &mut Session<'_>, options: &Options) -> Result<(), MethodError> {
    session.must_receive()?;
    for (name, value) in [("most", options.most), ("resolution", options.resolution), ("repeat", options.repeat.into())]
    {
        if value == 0 {
            return Err(MethodError::Refused(format!("--{name}: 0 makes no sense")));
        }
    }
    let mut lengths = Vec::new();
    let mut speed = 0.0_f64;
    for round in 1..=options.repeat {
        let (length, sent_pps) = longest(session, options, round)?;
        lengths.push(length as f64);
        speed = speed.max(sent_pps);
    }
    let count_of = lengths.len() as f64;
    let mean = lengths.iter().sum::<f64>() / count_of;
    let deviation = (lengths.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / count_of).sqrt();
    let least = lengths.iter().copied().fold(f64::INFINITY, f64::min);
    let most = lengths.iter().copied().fold(0.0, f64::max);
    let all = if most >= options.most as f64 { "; the longest that was tried lost nothing" } else { "" };
    let note = format!(
        "mean of {}: from {} to {}, standard deviation {}{all}",
        options.repeat,
        count(least as u64),
        count(most as u64),
        count(deviation.round() as u64)
    );
    session.find("longest burst", Some(mean), "packets", note);
    let profile = session.profile();
    let throughput = options.throughput.and_then(|rate| rate.pps(profile.mean_size(), profile.line));
    if let Some(throughput) = throughput.filter(|_| speed > 0.0) {
        // RFC 9004, section 6.4: what is buffered is what comes in and does not go out meanwhile.
        let implied = mean / speed * 1e9;
        let corrected = implied * (1.0 - throughput / speed).max(0.0);
        session.find("buffer time", Some(corrected), "ns", format!("{} before correction", time(implied.round())));
    }
    Ok(())
}

/// The longest burst without loss, by halving, and how fast bursts were sent.
fn longest(session: &mut Session<'_>, options: &Options, round: u32) -> Result<(u64, f64), MethodError> {
    let (mut low, mut high) = (0, options.most + 1);
    let mut length = options.most;
    let mut speed = 0.0_f64;
    while high - low > options.resolution {
        let load = Load {
            packets: Some(length),
            warm_up: Duration::ZERO,
            ..session.load(format!("burst of {} packets, round {round}", count(length)), None, LONGEST)
        };
        let verdict = session.judged(&load)?;
        speed = speed.max(verdict.sent_pps);
        if verdict.kept_up && verdict.loss == 0.0 {
            low = length
        } else {
            high = length
        }
        if low == options.most {
            break;
        }
        length = low + (high - low) / 2;
    }
    Ok((low, speed))
}
