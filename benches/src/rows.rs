//! What was measured: samples as they come, and the rows they end in.

use serde::{Deserialize, Serialize};
use shunt_pktgen::plot;

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Engine,
    Veth,
    Applications,
    Control,
    Generators,
}

impl Part {
    /// All of them, in the report's order.
    pub const ALL: [Part; 5] = [Part::Engine, Part::Veth, Part::Applications, Part::Control, Part::Generators];

    /// Its name on the command line and in rows.
    pub fn name(self) -> &'static str {
        match self {
            Part::Engine => "engine",
            Part::Veth => "veth",
            Part::Applications => "applications",
            Part::Control => "control",
            Part::Generators => "generators",
        }
    }
}

/// What a value is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "pps")]
    PacketsPerSecond,
    #[serde(rename = "bit/s")]
    BitsPerSecond,
    #[serde(rename = "requests/s")]
    RequestsPerSecond,
    #[serde(rename = "updates/s")]
    UpdatesPerSecond,
    #[serde(rename = "flows/s")]
    FlowsPerSecond,
    #[serde(rename = "bytes")]
    Bytes,
    #[serde(rename = "ns")]
    Nanoseconds,
    #[serde(rename = "cycles")]
    Cycles,
    /// A number of times something, or of things.
    #[serde(rename = "1")]
    Number,
    /// From 0 to 1.
    #[serde(rename = "share")]
    Share,
}

impl Unit {
    /// The same for plots and texts.
    pub fn shown(self) -> plot::Unit {
        match self {
            Unit::PacketsPerSecond => plot::Unit::Si("pps"),
            Unit::BitsPerSecond => plot::Unit::Si("bit/s"),
            Unit::RequestsPerSecond => plot::Unit::Si("/s"),
            Unit::UpdatesPerSecond | Unit::FlowsPerSecond => plot::Unit::Si("/s"),
            Unit::Bytes => plot::Unit::Si("B"),
            Unit::Nanoseconds => plot::Unit::Nanoseconds,
            Unit::Cycles => plot::Unit::Plain("cycles"),
            Unit::Number => plot::Unit::Plain(""),
            Unit::Share => plot::Unit::Share,
        }
    }
}

/// One figure, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub part: Part,
    /// What was to be done.
    pub case: String,
    /// Who did it.
    pub contender: String,
    /// What was measured of it; empty where nothing could be.
    pub metric: String,
    /// The median of all rounds.
    pub value: Option<f64>,
    pub unit: Option<Unit>,
    /// The least and the greatest value of any round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

struct Entry {
    row: Row,
    samples: Vec<f64>,
}

/// Samples of all rounds, in the order in which they first came.
#[derive(Default)]
pub struct Ledger(Vec<Entry>);

impl Ledger {
    /// Adds a sample.
    ///
    /// # Panics
    /// If it is no number: then a measurement is wrong that should have failed.
    pub fn record(&mut self, part: Part, case: &str, contender: &str, metric: &str, unit: Unit, value: f64) {
        assert!(value.is_finite(), "{case}, {contender}, {metric}: {value} is no figure");
        let entry = self.entry(part, case, contender, metric, Some(unit));
        entry.samples.push(value);
    }

    /// Notes why a contender could not be measured in a case.
    pub fn refuse(&mut self, part: Part, case: &str, contender: &str, reason: &str) {
        eprintln!("{case}, {contender}: {reason}");
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        self.entry(part, case, contender, "", None).row.reason = Some(reason);
    }

    /// Whether a contender has been found unable to do a case.
    pub fn is_refused(&self, part: Part, case: &str, contender: &str) -> bool {
        self.0.iter().any(|Entry { row, .. }| {
            row.part == part && row.case == case && row.contender == contender && row.reason.is_some()
        })
    }

    /// Everything, with one row a figure.
    pub fn rows(&self) -> Vec<Row> {
        let row = |entry: &Entry| {
            let mut row = entry.row.clone();
            row.value = median(&entry.samples);
            if entry.samples.len() > 1 {
                let least = entry.samples.iter().copied().fold(f64::INFINITY, f64::min);
                let greatest = entry.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                row.range = Some([least, greatest]);
            }
            row
        };
        self.0.iter().map(row).collect()
    }

    fn entry(&mut self, part: Part, case: &str, contender: &str, metric: &str, unit: Option<Unit>) -> &mut Entry {
        let same = |entry: &Entry| {
            let row = &entry.row;
            row.part == part && row.case == case && row.contender == contender && row.metric == metric
        };
        let at = self.0.iter().position(same).unwrap_or_else(|| {
            let (case, contender, metric) = (case.to_owned(), contender.to_owned(), metric.to_owned());
            let row = Row { part, case, contender, metric, value: None, unit, range: None, reason: None };
            self.0.push(Entry { row, samples: Vec::new() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

/// The middle of the samples, or of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    (n > 0).then(|| (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_object_with_the_median_and_the_range_of_its_samples() {
        let mut ledger = Ledger::default();
        for value in [3.0, 1.0, 2.0] {
            ledger.record(Part::Veth, "64 bytes", "Shunt", "no loss", Unit::PacketsPerSecond, value);
        }
        let text = serde_json::to_string(&ledger.rows()).unwrap();
        assert_eq!(
            text,
            r#"[{"part":"veth","case":"64 bytes","contender":"Shunt","metric":"no loss","value":2.0,"unit":"pps","range":[1.0,3.0]}]"#
        );
    }

    #[test]
    fn a_refusal_is_a_row_with_its_reason_and_no_value() {
        let mut ledger = Ledger::default();
        ledger.refuse(Part::Veth, "64 bytes", "VPP", "not in\n the archive");
        let text = serde_json::to_string(&ledger.rows()).unwrap();
        assert_eq!(
            text,
            r#"[{"part":"veth","case":"64 bytes","contender":"VPP","metric":"","value":null,"unit":null,"reason":"not in the archive"}]"#
        );
        let rows: Vec<Row> = serde_json::from_str(&text).unwrap();
        assert_eq!(rows, ledger.rows());
    }

    #[test]
    #[should_panic(expected = "is no figure")]
    fn what_is_no_number_is_no_sample() {
        Ledger::default().record(Part::Veth, "", "", "", Unit::Number, f64::NAN);
    }
}
