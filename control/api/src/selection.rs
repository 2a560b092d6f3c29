//! How a service's endpoints are chosen: session affinity, scheduler, weights.

use std::time::Duration;

use shunt_dataplane::spec::Scheduler;

use crate::{FieldError, v1};

/// Seconds that session affinity lasts unless told otherwise (Kubernetes `DefaultClientIPServiceAffinitySeconds`).
const DEFAULT_TIMEOUT: u32 = 10_800;
/// Seconds that it lasts at most (Kubernetes `MaxClientIPServiceAffinitySeconds`).
const LONGEST_TIMEOUT: u32 = 86_400;

/// The timeout of a service's session affinity; `None`: it has none.
pub fn affinity(affinity: Option<v1::ClientIpAffinity>) -> Result<Option<Duration>, FieldError> {
    let Some(v1::ClientIpAffinity { timeout_seconds }) = affinity else { return Ok(None) };
    match timeout_seconds.unwrap_or(DEFAULT_TIMEOUT) {
        seconds @ 1..=LONGEST_TIMEOUT => Ok(Some(Duration::from_secs(seconds.into()))),
        seconds => {
            let problem = format!("{seconds} is out of range; use 1 to {LONGEST_TIMEOUT}");
            Err(FieldError::new("client_ip_affinity.timeout_seconds", problem))
        }
    }
}

/// The message of a session affinity.
pub fn affinity_message(timeout: Option<Duration>) -> Option<v1::ClientIpAffinity> {
    timeout.map(|timeout| v1::ClientIpAffinity { timeout_seconds: Some(timeout.as_secs() as u32) })
}

/// A service's scheduler, by its number on the wire.
pub fn scheduler(number: i32) -> Result<Scheduler, FieldError> {
    match v1::Scheduler::try_from(number) {
        Ok(v1::Scheduler::Unspecified | v1::Scheduler::Maglev) => Ok(Scheduler::Maglev),
        Ok(v1::Scheduler::RoundRobin) => Ok(Scheduler::RoundRobin),
        Ok(v1::Scheduler::LeastConnections) => Ok(Scheduler::LeastConnections),
        Ok(v1::Scheduler::SourceHash) => Ok(Scheduler::SourceHash),
        Err(_) => Err(FieldError::new("scheduler", format!("{number} is unknown; use one of the Scheduler values"))),
    }
}

/// A scheduler's number on the wire. Maglev is what is meant by none.
pub fn scheduler_number(scheduler: Scheduler) -> i32 {
    match scheduler {
        Scheduler::Maglev => v1::Scheduler::Unspecified,
        Scheduler::RoundRobin => v1::Scheduler::RoundRobin,
        Scheduler::LeastConnections => v1::Scheduler::LeastConnections,
        Scheduler::SourceHash => v1::Scheduler::SourceHash,
    }
    .into()
}

/// An endpoint's weight.
pub fn weight(weight: Option<u32>) -> Result<u16, FieldError> {
    let weight = weight.unwrap_or(1);
    let too_much = |_| FieldError::new("weight", format!("{weight} is too much; use 0 to {}", u16::MAX));
    u16::try_from(weight).map_err(too_much)
}

/// The message's field for a weight.
pub fn weight_field(weight: u16) -> Option<u32> {
    (weight != 1).then_some(weight.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(timeout_seconds: Option<u32>) -> Result<Option<Duration>, String> {
        affinity(Some(v1::ClientIpAffinity { timeout_seconds })).map_err(|error| error.to_string())
    }

    #[test]
    fn the_affinity_timeout_has_a_default_and_limits() {
        assert_eq!(affinity(None), Ok(None));
        assert_eq!(after(None), Ok(Some(Duration::from_secs(10_800))));
        assert_eq!(after(Some(86_400)), Ok(Some(Duration::from_secs(86_400))));
        for wrong in [0, 86_401] {
            let refused = after(Some(wrong)).unwrap_err();
            assert!(refused.starts_with("client_ip_affinity.timeout_seconds: ") && refused.contains("1 to 86400"));
        }
    }

    #[test]
    fn schedulers_and_weights_read_back() {
        for known in [Scheduler::Maglev, Scheduler::RoundRobin, Scheduler::LeastConnections, Scheduler::SourceHash] {
            assert_eq!(scheduler(scheduler_number(known)), Ok(known));
        }
        assert!(scheduler(77).unwrap_err().to_string().starts_with("scheduler: 77 is unknown"));
        for known in [0, 1, 2, u16::MAX] {
            assert_eq!(weight(weight_field(known)), Ok(known));
        }
        assert!(weight(Some(65_536)).unwrap_err().to_string().starts_with("weight: 65536 is too much"));
    }
}
