//! Histograms of times, and what a report tells of them.

use crate::report::model::{Distribution, Percentile};

/// The longest time that is told apart from longer ones: a minute, in ns.
const LONGEST: u64 = 60_000_000_000;

/// Points of a distribution by how many halvings of what is left they lie from 0: 8 in each.
const STEPS_PER_HALVING: u32 = 8;

/// The last share of interest: five nines.
const LAST: f64 = 0.999_99;

/// The shares every distribution has.
const ALWAYS: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];

/// A histogram of nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Histogram {
    /// An empty one with so many significant digits.
    pub fn new(digits: u8) -> Histogram {
        Histogram(hdrhistogram::Histogram::new_with_bounds(1, LONGEST, digits).expect("bounds that make sense"))
    }

    /// Adds a time; one of more than a minute counts as a minute.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds a time so many times.
    pub fn record_n(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns, count);
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Histogram) {
        self.0.add(&other.0).expect("histograms of the same bounds");
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// The value below which a share of all lies; `None` if there is none.
    pub fn at(&self, share: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(share))
    }
}

/// What a report tells of a histogram; `None` if it is empty.
pub fn distribution(histogram: &Histogram) -> Option<Distribution> {
    let histogram = &histogram.0;
    if histogram.is_empty() {
        return None;
    }
    let mut shares = ALWAYS.to_vec();
    // Denser where it matters: at each halving of the rest as many points again.
    shares.extend(
        (0..).map(|n| 1.0 - 0.5_f64.powf(f64::from(n) / f64::from(STEPS_PER_HALVING))).take_while(|s| *s < LAST),
    );
    shares.push(LAST);
    shares.sort_by(f64::total_cmp);
    shares.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
    let percentiles =
        shares.into_iter().map(|share| Percentile { share, value_ns: histogram.value_at_quantile(share) }).collect();
    Some(Distribution {
        count: histogram.len(),
        min_ns: histogram.min(),
        mean_ns: histogram.mean(),
        max_ns: histogram.max(),
        percentiles,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_the_shares_that_are_promised() {
        let mut histogram = Histogram::new(3);
        assert_eq!(distribution(&histogram), None);
        (1..=10_000).for_each(|ns| histogram.record(ns));
        let told = distribution(&histogram).unwrap();
        assert_eq!((told.count, told.min_ns), (10_000, 1));
        for share in ALWAYS {
            let point = told.percentiles.iter().find(|p| p.share == share).expect("always there");
            assert!((point.value_ns as f64 / (share * 10_000.0) - 1.0).abs() < 0.002, "{point:?}");
        }
        assert!(told.percentiles.is_sorted_by(|a, b| a.share < b.share && a.value_ns <= b.value_ns));
        assert!((told.mean_ns - 5_000.5).abs() < 10.0);
    }
}
