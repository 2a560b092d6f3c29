//! Bandwidth limits of ports: a token bucket for each direction of a port that has one.
//!
//! A bucket is one word, the moment at which it will be full again: what a packet takes moves it on, and time catches up
//! with it. All workers take from it by compare-and-swap. A packet passes while there is anything in the bucket, and what
//! it takes beyond that is owed: so the rate is exact, and a burst shorter than a packet lets packets through, too.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    spec::{Bandwidth, MAX_PORTS, PortId, Rate},
    time::Now,
};

/// Ticks of a bucket in a nanosecond, as a power of two: a 64-byte frame at 100 Gbit/s is 328 of them.
const TICKS: u32 = 6;
/// Binary places of a byte's ticks.
const FRACTION: u32 = 16;

/// The limits of all ports.
#[derive(Debug)]
pub struct Limits {
    spec: BTreeMap<PortId, Bandwidth>,
    ports: Box<[PortLimits]>,
}

/// One port's.
#[derive(Clone, Debug, Default)]
pub struct PortLimits {
    /// Of what its station receives.
    pub ingress: Option<Limit>,
    /// Of what its station sends.
    pub egress: Option<Limit>,
}

/// A rate and its bucket.
#[derive(Clone, Debug)]
pub struct Limit {
    /// The rate.
    pub rate: Rate,
    /// Ticks that a byte takes, with [`FRACTION`] binary places.
    per_byte: u64,
    /// Ticks that a full bucket has.
    depth: u64,
    /// The tick at which the bucket is full again.
    full_at: Arc<AtomicU64>,
}

impl Limits {
    /// The limits of `spec`, whose ports exist; `None`: there are none. What is limited as before keeps its bucket.
    pub fn build(spec: &BTreeMap<PortId, Bandwidth>, previous: Option<&Arc<Limits>>) -> Option<Arc<Limits>> {
        if spec.is_empty() {
            return None;
        }
        if let Some(same) = previous.filter(|previous| previous.spec == *spec) {
            return Some(same.clone());
        }
        let mut ports = vec![PortLimits::default(); MAX_PORTS].into_boxed_slice();
        for (id, bandwidth) in spec {
            let before = previous.map(|previous| previous.port(*id).clone()).unwrap_or_default();
            let limit = |rate: Option<Rate>, before: Option<Limit>| {
                rate.map(|rate| before.filter(|before| before.rate == rate).unwrap_or_else(|| Limit::new(rate)))
            };
            ports[usize::from(id.0)] = PortLimits {
                ingress: limit(bandwidth.ingress, before.ingress),
                egress: limit(bandwidth.egress, before.egress),
            };
        }
        Some(Arc::new(Limits { spec: spec.clone(), ports }))
    }

    /// A port's limits. A number out of range has the last port's.
    #[inline]
    pub fn port(&self, id: PortId) -> &PortLimits {
        &self.ports[usize::from(id.0).min(MAX_PORTS - 1)]
    }
}

impl Limit {
    fn new(rate: Rate) -> Limit {
        let Rate { bits_per_second, burst_bits } = rate;
        let second = 1_000_000_000_u64 << TICKS;
        let depth = u128::from(burst_bits) * u128::from(second) / u128::from(bits_per_second.get());
        Limit {
            rate,
            per_byte: ((8 * second) << FRACTION) / bits_per_second,
            depth: u64::try_from(depth).unwrap_or(u64::MAX).max(1),
            full_at: Arc::default(),
        }
    }

    /// Takes a frame of so many bytes from the bucket. False: it is empty, and the frame is too much.
    #[inline]
    pub fn admits(&self, bytes: usize, now: Now) -> bool {
        let now = now.0 << TICKS;
        let takes = self.per_byte.saturating_mul(bytes as u64) >> FRACTION;
        // Another worker's clock may be a little ahead, so the bucket may seem fuller or emptier than it is by as much.
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let full_at = full_at.max(now);
            (full_at - now < self.depth).then(|| full_at.saturating_add(takes))
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZero, thread};

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(bits_per_second: u64, burst_bits: u64) -> Limit {
        Limit::new(Rate { bits_per_second: NonZero::new(bits_per_second).unwrap(), burst_bits })
    }

    proptest! {
        /// Whatever is offered, in each period no more than the rate and the burst gets through, and one frame that is owed;
        /// and no less if there is always something to take.
        #[test]
        fn what_gets_through_is_the_rate(
            rate in 1_000_u64..100_000_000_000,
            burst in 1_u64..10_000_000,
            bytes in 60_usize..2000,
            millis in 10_u64..1000,
        ) {
            let (limit, bits) = (limit(rate, burst), 8 * bytes as u64);
            // Twice what the rate lets through, but in no more than so many steps.
            let steps = (2 * rate * millis / 1000 / bits + 1).min(100_000);
            let span = steps * bits * SECOND / (2 * rate);
            let passed = (0..steps).filter(|step| limit.admits(bytes, Now(10 * SECOND + span * step / steps))).count();
            let (passed, fair) = (passed as f64 * bits as f64, span as f64 * rate as f64 / 1e9 + burst as f64);
            prop_assert!(passed <= fair * 1.005 + bits as f64, "{passed} of {fair}");
            let offered = steps as f64 * bits as f64;
            prop_assert!(passed >= (fair * 0.995).min(offered) - 2.0 * bits as f64, "{passed} of {fair}");
        }
    }

    #[test]
    fn a_burst_is_saved_up_and_no_more() {
        let limit = limit(8_000, 8_000);
        let passed = |second: u64| (0..100).filter(|_| limit.admits(100, Now(second * SECOND))).count();
        assert_eq!([passed(10), passed(10), passed(11), passed(100)], [10, 0, 10, 10]);
    }

    #[test]
    fn a_frame_longer_than_the_burst_passes_and_the_rest_is_owed() {
        let limit = limit(8_000, 1);
        assert!(limit.admits(1000, Now(10 * SECOND)));
        // Until there is more than the burst, a bit, to come.
        assert!(!limit.admits(1000, Now(11 * SECOND - SECOND / 8_000)));
        assert!(limit.admits(1000, Now(11 * SECOND)));
    }

    #[test]
    fn workers_share_a_bucket() {
        let limit = limit(8_000_000, 8_000_000);
        let worker = || (0..10_000).filter(|_| limit.admits(1000, Now(10 * SECOND))).count();
        let passed: usize = thread::scope(|scope| {
            [(); 4].map(|()| scope.spawn(worker)).map(|thread| thread.join().expect("it counts")).into_iter().sum()
        });
        assert_eq!(passed, 1000);
    }

    #[test]
    fn what_is_limited_as_before_keeps_its_bucket() {
        let rate = Rate { bits_per_second: NonZero::new(8_000).unwrap(), burst_bits: 8_000 };
        let both = Bandwidth { ingress: Some(rate), egress: Some(rate) };
        let of = |bandwidth| BTreeMap::from([(PortId(3), bandwidth)]);
        let first = Limits::build(&of(both), None).unwrap();
        let now = Now(10 * SECOND);
        let admits = |limits: &Limits| {
            let PortLimits { ingress, egress } = limits.port(PortId(3));
            [ingress, egress].map(|limit| limit.as_ref().unwrap().admits(1000, now))
        };
        assert_eq!(admits(&first), [true, true]);
        let faster = Rate { bits_per_second: NonZero::new(9_000).unwrap(), ..rate };
        let second = Limits::build(&of(Bandwidth { egress: Some(faster), ..both }), Some(&first)).unwrap();
        assert_eq!(admits(&second), [false, true]);
        assert!(Arc::ptr_eq(&second, &Limits::build(&second.spec, Some(&second)).unwrap()));
        assert!(Limits::build(&BTreeMap::new(), Some(&second)).is_none());
    }
}
