//! `latency`: latency and jitter at stated shares of a rate (RFC 2544, section 26.2, at more loads than one).

use clap::Args;

use super::{MethodError, Session};
use crate::{
    quantity::{pps, share},
    rate::Rate,
};

/// Which loads.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Latency")]
pub struct Options {
    /// Loads, as shares of the profile's rate (or of --of).
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', default_values_t = vec![10.0, 50.0, 90.0])]
    pub at: Vec<f64>,
    /// The rate that the shares are of, for example the throughput that a search found.
    #[arg(long, value_name = "RATE")]
    pub of: Option<Rate>,
}

/// Measures.
///
/// # Errors
/// As [`Session::trial`]; [`MethodError::Refused`] if nothing is received or the options make no sense.
pub fn latency(session: &mut Session<'_>, options: &Options) -> Result<(), MethodError> {
    session.must_receive()?;
    if let Some(at) = options.at.iter().find(|at| !(**at > 0.0 && **at <= 100.0)) {
        return Err(MethodError::Refused(format!("--at: {at} percent is not above 0 and at most 100")));
    }
    let duration = session.profile().duration;
    let profile = session.profile();
    let of = options.of.and_then(|rate| rate.pps(profile.mean_size(), profile.line));
    let full = match of {
        Some(pps) => pps,
        None => session.full_rate(duration)?,
    };
    for percent in &options.at {
        let rate = full * percent / 100.0;
        let load = session.load(format!("{percent}% of {}", pps(full)), Some(rate), duration);
        let verdict = session.judged(&load)?;
        if !verdict.kept_up {
            session.warnings.push(format!(
                "{percent}%: the generator sent {} of what was offered: the latency holds its own lateness",
                share(verdict.sent_pps / rate)
            ));
        }
        let at = session
            .trials
            .last()
            .and_then(|trial| trial.latency.as_ref())
            .map(|latency| (latency.at(0.5), latency.at(0.99)));
        let note = if verdict.loss > 0.0 { format!("{} lost", share(verdict.loss)) } else { "no loss".to_owned() };
        session.find(&format!("p50 at {percent}%"), at.map(|at| at.0 as f64), "ns", note.clone());
        session.find(&format!("p99 at {percent}%"), at.map(|at| at.1 as f64), "ns", note);
    }
    Ok(())
}
