//! `loss-sweep`: the share lost at falling loads (RFC 2544, section 26.3).

use clap::Args;

use super::{MethodError, Session, Verdict};
use crate::quantity::{pps, share};

/// Which loads.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Loss sweep")]
pub struct Options {
    /// The first load, as a share of the profile's rate (or of what the port takes, if that is max).
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0)]
    pub from: f64,
    /// From load to load.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    pub step: f64,
    /// Go on to the lowest load, also when two in a row lost nothing.
    #[arg(long)]
    pub all: bool,
}

/// Sweeps.
///
/// # Errors
/// As [`Session::trial`]; [`MethodError::Refused`] if nothing is received or the options make no sense.
pub fn sweep(session: &mut Session<'_>, options: &Options) -> Result<(), MethodError> {
    session.must_receive()?;
    if !(options.from > 0.0 && options.from <= 100.0) {
        return Err(MethodError::Refused(format!("--from: {} percent is not above 0 and at most 100", options.from)));
    }
    if !(options.step > 0.0 && options.step <= options.from) {
        return Err(MethodError::Refused(format!("--step: {} percent gives no loads", options.step)));
    }
    let duration = session.profile().duration;
    let full = session.full_rate(duration)?;
    let mut clean = 0;
    let mut percent = options.from;
    while percent > options.step * 1e-6 {
        let rate = full * percent / 100.0;
        let load = session.load(format!("{percent}% of {}", pps(full)), Some(rate), duration);
        let verdict = session.judged(&load)?;
        if !verdict.kept_up {
            session.warnings.push(format!(
                "{percent}%: the generator sent {} of what was offered; the loss is that of the rate sent",
                share(verdict.sent_pps / rate)
            ));
        }
        clean = if verdict.kept_up && verdict.loss == 0.0 { clean + 1 } else { 0 };
        // RFC 2544: until two in succession lose nothing.
        if clean == 2 && !options.all {
            break;
        }
        percent -= options.step;
    }
    Ok(())
}

impl Session<'_> {
    /// The profile's rate, or what the generator sends as fast as it can.
    pub(super) fn full_rate(&mut self, duration: std::time::Duration) -> Result<f64, MethodError> {
        if let Some(pps) = self.profile().pps() {
            return Ok(pps);
        }
        let load = self.load("full speed".to_owned(), None, duration);
        Ok(Verdict::of(self.trial(&load)?).sent_pps)
    }
}
