//! `--require`: what a run must have measured for pktgen to end with success.

use std::{fmt, str::FromStr};

use crate::{
    quantity,
    report::model::{Connections, Distribution, Report, Requirement, Trial},
};

/// A condition as it is written on the command line, such as `loss<=0.1%`, `p99<=50us` or `rate>=1Mpps`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    metric: Metric,
    comparison: Comparison,
    bound: f64,
}

/// What can be required.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    /// The share of packets lost.
    Loss,
    /// Packets received per second.
    Rate,
    /// Bits received per second.
    Bits,
    /// Packets that arrived after one that was sent later.
    Reordered,
    /// Arrivals beyond the first.
    Duplicates,
    /// Packets that arrived changed.
    Corrupt,
    /// A time of a distribution.
    Time(Timed, Point),
    /// Finished handshakes per second.
    Connections,
    /// Connections reset or given up.
    Failed,
}

/// What takes time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Timed {
    Packets,
    Handshakes,
    Requests,
}

/// A point of a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    Percentile(f64),
    Mean,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    AtMost,
    Below,
    AtLeast,
    Above,
}

const METRICS: &str = "loss, rate, reordered, duplicates, corrupt, p50 to p99.999, mean, max, connections, failed, \
                       handshake-p99 or request-p99";

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let at = text.find(['<', '>', '=']).ok_or_else(|| {
            format!("'{text}' compares nothing: write a measure, <=, <, >= or >, and a value, as in loss<=0.1%")
        })?;
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let (comparison, value) = if let Some(value) = rest.strip_prefix("<=") {
            (Comparison::AtMost, value)
        } else if let Some(value) = rest.strip_prefix(">=") {
            (Comparison::AtLeast, value)
        } else if let Some(value) = rest.strip_prefix('<') {
            (Comparison::Below, value)
        } else if let Some(value) = rest.strip_prefix('>') {
            (Comparison::Above, value)
        } else {
            return Err(format!("'{text}': measured values are compared by <=, <, >= or >"));
        };
        let (metric, bound) = metric_and_bound(name, value.trim()).map_err(|problem| format!("'{text}': {problem}"))?;
        Ok(Condition { text: text.to_owned(), metric, comparison, bound })
    }
}

fn metric_and_bound(name: &str, value: &str) -> Result<(Metric, f64), String> {
    let plain = |metric| Ok((metric, number(value, &[("", 1.0), ("k", 1e3), ("M", 1e6)], "a number")?));
    match name {
        "loss" => {
            let share = number(value, &[("", 1.0), ("%", 0.01)], "a share from 0 to 1 or a percentage")?;
            if share > 1.0 { Err("more than all cannot be lost".to_owned()) } else { Ok((Metric::Loss, share)) }
        }
        "rate" => rate(value),
        "reordered" => plain(Metric::Reordered),
        "duplicates" => plain(Metric::Duplicates),
        "corrupt" => plain(Metric::Corrupt),
        "connections" => {
            let value = value.strip_suffix("/s").unwrap_or(value).trim_end();
            let bound = number(value, &[("", 1.0), ("k", 1e3), ("M", 1e6)], "connections per second, such as 20k/s")?;
            Ok((Metric::Connections, bound))
        }
        "failed" => plain(Metric::Failed),
        _ => {
            let (timed, point) = match name.split_once('-') {
                Some(("handshake", point)) => (Timed::Handshakes, point),
                Some(("request", point)) => (Timed::Requests, point),
                _ => (Timed::Packets, name),
            };
            let point = point_of(point).ok_or_else(|| format!("'{name}' is not measured; there are {METRICS}"))?;
            let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
            Ok((Metric::Time(timed, point), number(value, &units, "a time with its unit: ns, us, ms or s")?))
        }
    }
}

fn point_of(name: &str) -> Option<Point> {
    match name {
        "mean" => Some(Point::Mean),
        "max" => Some(Point::Max),
        _ => {
            let percent: f64 = name.strip_prefix('p')?.parse().ok()?;
            (0.0..=99.999).contains(&percent).then_some(Point::Percentile(percent / 100.0))
        }
    }
}

fn rate(value: &str) -> Result<(Metric, f64), String> {
    let packets = [("pps", 1.0), ("kpps", 1e3), ("Mpps", 1e6), ("Gpps", 1e9)];
    let bits = [("bps", 1.0), ("kbps", 1e3), ("Mbps", 1e6), ("Gbps", 1e9)];
    if value.ends_with("bps") {
        return Ok((Metric::Bits, number(value, &bits, "a rate")?));
    }
    Ok((Metric::Rate, number(value, &packets, "a rate with its unit, such as 1Mpps or 2Gbps")?))
}

/// A number of zero or more with one of `units`.
fn number(text: &str, units: &[(&str, f64)], wanted: &str) -> Result<f64, String> {
    let wrong = || format!("'{text}' is not {wanted}");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().map_err(|_| wrong())?;
    let unit = text[split..].trim();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    Ok(number * factor)
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Condition {
    /// Whether a finished run holds it. Where a search found a rate, its trials at that rate are judged, otherwise all
    /// trials; the worst of them counts. A rate is the one that was found, otherwise the best of all trials. What was not
    /// measured is not held.
    pub fn check(&self, report: &Report) -> Requirement {
        let (measured, met) = match self.measured(report) {
            Some(value) => (self.written(value), self.holds(value)),
            None => ("not measured".to_owned(), false),
        };
        Requirement { condition: self.text.clone(), measured, met }
    }

    fn measured(&self, report: &Report) -> Option<f64> {
        let found = found(report);
        let trials = report.trials.iter().filter(|trial| found.is_none() || trial.offered_pps == found);
        if self.metric == Metric::Rate && found.is_some() {
            return found;
        }
        // Of rates the greatest is the best, of all else it is the worst.
        trials.filter_map(|trial| self.of(trial)).reduce(f64::max)
    }

    /// What one trial measured.
    fn of(&self, trial: &Trial) -> Option<f64> {
        let total = &trial.total;
        let connections = trial.connections.as_ref();
        match self.metric {
            Metric::Loss => trial.tracks_loss().then(|| total.loss()),
            Metric::Rate => Some(trial.per_second(total.received)),
            Metric::Bits => Some(trial.per_second(total.received_bytes * 8)),
            Metric::Reordered => Some(total.reordered as f64),
            Metric::Duplicates => Some(total.duplicates as f64),
            Metric::Corrupt => Some(total.corrupt as f64),
            Metric::Connections => connections.map(|c| c.established_per_s),
            Metric::Failed => connections.map(|c| (c.reset + c.timed_out) as f64),
            Metric::Time(timed, point) => {
                let of = |pick: fn(&Connections) -> Option<&Distribution>| connections.and_then(pick);
                let distribution = match timed {
                    Timed::Packets => trial.latency.as_ref(),
                    Timed::Handshakes => of(|c| c.handshake.as_ref()),
                    Timed::Requests => of(|c| c.request.as_ref()),
                }?;
                Some(match point {
                    Point::Percentile(share) => distribution.at(share) as f64,
                    Point::Mean => distribution.mean_ns,
                    Point::Max => distribution.max_ns as f64,
                })
            }
        }
    }

    fn holds(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::AtMost => value <= self.bound,
            Comparison::Below => value < self.bound,
            Comparison::AtLeast => value >= self.bound,
            Comparison::Above => value > self.bound,
        }
    }

    fn written(&self, value: f64) -> String {
        match self.metric {
            Metric::Loss => quantity::share(value),
            Metric::Rate => quantity::pps(value),
            Metric::Bits => quantity::bps(value),
            Metric::Time(..) => quantity::time(value),
            Metric::Connections => format!("{}/s", quantity::count(value.round() as u64)),
            Metric::Reordered | Metric::Duplicates | Metric::Corrupt | Metric::Failed => quantity::count(value as u64),
        }
    }
}

/// The first rate that the method concluded.
fn found(report: &Report) -> Option<f64> {
    report.findings.iter().find(|finding| finding.unit == "pps").and_then(|finding| finding.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn check(condition: &str, report: &Report) -> (String, bool) {
        let requirement = condition.parse::<Condition>().unwrap().check(report);
        assert_eq!(requirement.condition, condition);
        (requirement.measured, requirement.met)
    }

    #[test]
    fn a_run_is_judged_by_its_trial() {
        let report = fixture::run();
        assert_eq!(check("loss<=0.1%", &report), ("0%".to_owned(), true));
        assert_eq!(check("loss<0", &report), ("0%".to_owned(), false));
        assert_eq!(check("rate >= 0.5Mpps", &report), ("500.0 kpps".to_owned(), true));
        assert_eq!(check("rate>240Mbps", &report), ("240.0 Mbit/s".to_owned(), false));
        assert_eq!(check("reordered<=2", &report), ("3".to_owned(), false));
        let p99 = report.trials[0].latency.as_ref().unwrap().at(0.99);
        assert!(check(&format!("p99<={p99}ns"), &report).1);
        assert!(!check(&format!("p99<{p99}ns"), &report).1);
        assert!(check("max<=1s", &report).1);
    }

    #[test]
    fn a_search_is_judged_where_it_found_its_rate() {
        let report = fixture::search();
        assert_eq!(check("rate>=1Mpps", &report), ("850.0 kpps".to_owned(), false));
        assert_eq!(check("loss<=0", &report), ("0%".to_owned(), true));
    }

    #[test]
    fn without_a_finding_the_worst_trial_counts() {
        let mut report = fixture::search();
        report.findings.clear();
        assert_eq!(check("loss<=1%", &report), ("31%".to_owned(), false));
        assert_eq!(check("rate>=900kpps", &report), ("960.0 kpps".to_owned(), true));
    }

    #[test]
    fn connections_have_conditions() {
        let report = fixture::connections();
        assert_eq!(check("connections>=20k/s", &report), ("20,000/s".to_owned(), true));
        assert_eq!(check("failed<=9", &report), ("10".to_owned(), false));
        assert!(check("handshake-p50<=1ms", &report).1);
        assert!(!check("request-p99.9<=1us", &report).1);
    }

    #[test]
    fn what_was_not_measured_is_not_held() {
        let mut report = fixture::run();
        assert_eq!(check("connections>=0", &report), ("not measured".to_owned(), false));
        report.trials.clear();
        assert_eq!(check("loss<=1", &report), ("not measured".to_owned(), false));
    }

    #[test]
    fn nonsense_is_refused_with_what_is_possible() {
        for (text, part) in [
            ("loss", "compares nothing"),
            ("loss=0", "<=, <, >= or >"),
            ("loss<=2", "more than all"),
            ("loss<=many", "'many' is not a share"),
            ("p99<=50", "'50' is not a time with its unit"),
            ("p100<=1ms", "'p100' is not measured"),
            ("speed>=1", "'speed' is not measured; there are loss"),
            ("rate>=1000", "'1000' is not a rate with its unit"),
            ("rate>=-1pps", "'-1pps' is not a rate"),
            ("", "compares nothing"),
        ] {
            let error = text.parse::<Condition>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
