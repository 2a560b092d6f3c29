//! `search`: the highest rate at which no more than a stated share of packets is lost (RFC 2544, section 26.1, by halving).
//!
//! The rate without loss is the non-drop rate (NDR), those with some loss are partial drop rates (PDR). All of them are
//! looked for in one go: a trial narrows the bounds of each.

use std::time::Duration;

use clap::Args;

use super::{MethodError, Session, Verdict};
use crate::quantity::{pps, share};

/// A rate that fails its confirmation is lowered and tried again, so often.
const CONFIRMATIONS: u32 = 8;

/// How to search.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Search")]
pub struct Options {
    /// Share of packets that may be lost; give it again for more than one rate. 0 is the NDR.
    #[arg(long = "loss", value_name = "PERCENT", default_values_t = vec![0.0, 0.5])]
    pub losses: Vec<f64>,
    /// How narrow the bounds must be in the end, as a share of the rate.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    pub precision: f64,
    /// How long a trial sends.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub trial: Duration,
    /// How long the rate that was found is sent to confirm it; 0s for no confirmation.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub confirm: Duration,
}

impl Options {
    fn check(&self) -> Result<(), MethodError> {
        let refuse = |text: String| Err(MethodError::Refused(text));
        if let Some(loss) = self.losses.iter().find(|loss| !(0.0..100.0).contains(*loss)) {
            return refuse(format!("--loss: {loss} percent is not from 0 to below 100"));
        }
        if !(0.01..50.0).contains(&self.precision) {
            return refuse(format!("--precision: {} percent is not from 0.01 to below 50", self.precision));
        }
        if self.trial.is_zero() {
            return refuse("--trial: a trial of no length measures nothing".into());
        }
        Ok(())
    }
}

/// What trials have shown so far: rates and the share lost, where all that was offered was sent.
#[derive(Default)]
struct Known(Vec<(f64, f64)>);

impl Known {
    /// The highest rate below every rate that lost more than `allowed`, and the lowest of those.
    fn bounds(&self, allowed: f64, top: f64) -> (f64, f64) {
        let failed =
            self.0.iter().filter(|(_, loss)| *loss > allowed).map(|(pps, _)| *pps).fold(f64::INFINITY, f64::min);
        let held = self.0.iter().filter(|(pps, loss)| *loss <= allowed && *pps < failed).map(|(pps, _)| *pps);
        (held.fold(0.0, f64::max), failed.min(top))
    }
}

/// Searches.
///
/// # Errors
/// As [`Session::trial`]; [`MethodError::Refused`] if nothing is received or the options make no sense.
pub fn search(session: &mut Session<'_>, options: &Options) -> Result<(), MethodError> {
    options.check()?;
    session.must_receive()?;
    let mut known = Known::default();
    let (top, at_full_speed) = top(session, options, &mut known)?;
    let mut losses = options.losses.clone();
    losses.sort_by(f64::total_cmp);
    losses.dedup();
    for percent in losses {
        let name = name(percent);
        let found = halve(session, options, &mut known, percent / 100.0, top)?;
        let confirmed = match found {
            Some(pps) => confirm(session, options, &mut known, percent / 100.0, pps)?,
            None => None,
        };
        let allowed = if percent == 0.0 { "no loss".to_owned() } else { format!("loss of at most {percent}%") };
        let note = match (found, confirmed) {
            (None, _) => format!("every rate tried lost more than {percent}%"),
            (Some(_), None) => format!("no rate held {allowed} for {} s", options.confirm.as_secs_f64()),
            (Some(_), Some(_)) if at_full_speed.is_some_and(|loss| loss <= percent / 100.0) => {
                format!("{allowed}; the generator was the limit, the path may carry more")
            }
            (Some(_), Some(pps)) if pps >= top => format!("{allowed}; the highest rate that was asked for"),
            _ => format!("{allowed}; to within {}%", options.precision),
        };
        session.find(&name, confirmed, "pps", note);
    }
    Ok(())
}

/// `NDR` and `PDR 0.5%`.
fn name(percent: f64) -> String {
    if percent == 0.0 { "NDR".to_owned() } else { format!("PDR {percent}%") }
}

/// Where to begin: the profile's rate, or what the generator can send if that is less, with the share lost then.
fn top(session: &mut Session<'_>, options: &Options, known: &mut Known) -> Result<(f64, Option<f64>), MethodError> {
    let wanted = session.profile().pps();
    let load = session.load("the highest rate".to_owned(), wanted, options.trial);
    let verdict = Verdict::of(session.trial(&load)?);
    match wanted {
        Some(wanted) if verdict.kept_up => {
            known.0.push((wanted, verdict.loss));
            Ok((wanted, None))
        }
        _ => Ok((verdict.sent_pps, Some(verdict.loss))),
    }
}

/// Halves the bounds until they are narrow enough; the lower one, if any rate held.
fn halve(
    session: &mut Session<'_>,
    options: &Options,
    known: &mut Known,
    allowed: f64,
    top: f64,
) -> Result<Option<f64>, MethodError> {
    loop {
        let (low, high) = known.bounds(allowed, top);
        let untried = !known.0.iter().any(|(pps, _)| *pps == top);
        if !untried && (low >= high || high - low <= high * options.precision / 100.0) {
            return Ok((low > 0.0).then_some(low));
        }
        if high < top * options.precision / 1e4 {
            return Ok(None);
        }
        let rate = if untried { top } else { (low + high) / 2.0 };
        let load = session.load(pps(rate), Some(rate), options.trial);
        let verdict = session.judged(&load)?;
        // A rate that cannot be sent does not hold.
        known.0.push((rate, if verdict.kept_up { verdict.loss } else { 1.0 }));
    }
}

/// Sends at the rate for longer, and lowers it until it holds.
fn confirm(
    session: &mut Session<'_>,
    options: &Options,
    known: &mut Known,
    allowed: f64,
    found: f64,
) -> Result<Option<f64>, MethodError> {
    if options.confirm.is_zero() {
        return Ok(Some(found));
    }
    let mut rate = found;
    for _ in 0..CONFIRMATIONS {
        let label = format!("{}, to confirm loss of at most {}", pps(rate), share(allowed));
        let load = session.load(label, Some(rate), options.confirm);
        let verdict = session.judged(&load)?;
        if verdict.kept_up && verdict.loss <= allowed {
            return Ok(Some(rate));
        }
        known.0.push((rate, if verdict.kept_up { verdict.loss } else { 1.0 }));
        rate *= 1.0 - 2.0 * options.precision / 100.0;
    }
    Ok(None)
}
