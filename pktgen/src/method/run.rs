//! `run`: one trial at the profile's rate.

use super::{MethodError, Session, Verdict};
use crate::quantity::{pps, share};

/// Sends for the profile's duration and says how it went.
///
/// # Errors
/// As [`Session::trial`].
pub fn run(session: &mut Session<'_>) -> Result<(), MethodError> {
    let profile = session.profile();
    let (wanted, duration) = (profile.pps(), profile.duration);
    let label = wanted.map_or("full speed".to_owned(), pps);
    let load = session.load(label, wanted, duration);
    let verdict = Verdict::of(session.trial(&load)?);
    if let Some(wanted) = wanted.filter(|_| !verdict.kept_up) {
        session.warnings.push(format!(
            "the generator could not keep up: it sent {} of the {} that were offered ({}); the loss is that of the rate sent",
            pps(verdict.sent_pps),
            pps(wanted),
            share(verdict.sent_pps / wanted)
        ));
    }
    Ok(())
}
