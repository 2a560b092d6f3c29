//! Waiting for something to become true.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use crate::error::{LabError, Result};

const PAUSE: Duration = Duration::from_millis(20);

/// Calls `attempt` until it succeeds, at most for `patience`, and returns its value.
///
/// # Errors
/// [`LabError::Timeout`] with the last failure.
pub fn until<T, E: Display>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> std::result::Result<T, E>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() >= patience => {
                return Err(LabError::Timeout { what: what.to_owned(), waited: patience, last: last.to_string() });
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
