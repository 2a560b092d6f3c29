//! Two reports beside each other.

use std::{fmt::Write, path::PathBuf};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{
    quantity::{self, of_unit},
    report::{
        model::{Distribution, Report, Trial},
        outputs::{FileError, read},
        text::place,
    },
};

/// What to compare.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The report to measure by, as `--json` wrote it.
    pub a: PathBuf,
    /// The report that is measured by it.
    pub b: PathBuf,
    /// Print the comparison as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// Reads both reports and returns the comparison as it is to be printed.
    pub fn run(&self) -> Result<String, FileError> {
        let name = |path: &PathBuf| path.display().to_string();
        let comparison = compare((&name(&self.a), &read(&self.a)?), (&name(&self.b), &read(&self.b)?));
        Ok(if self.json {
            serde_json::to_string_pretty(&comparison).expect("a comparison has only string keys") + "\n"
        } else {
            text(&comparison)
        })
    }
}

/// Two reports, figure by figure.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// What was compared.
    pub a: Side,
    /// With what.
    pub b: Side,
    /// In what the runs differ beyond their figures. Not empty: a ratio may come from there.
    pub differences: Vec<Difference>,
    /// The figures that both have.
    pub figures: Vec<Figure>,
}

/// One of the two.
#[derive(Debug, Serialize)]
pub struct Side {
    /// Its file.
    pub file: String,
    /// Method and profile.
    pub run: String,
    /// When it began.
    pub started: String,
}

/// Something in which the runs differ.
#[derive(Debug, PartialEq, Serialize)]
pub struct Difference {
    /// What it is.
    pub what: String,
    /// As A has it.
    pub a: String,
    /// As B has it.
    pub b: String,
}

/// A figure that both runs have.
#[derive(Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The trial it belongs to. Absent: the method's conclusion.
    pub trial: Option<String>,
    /// What was measured.
    pub metric: String,
    /// In what.
    pub unit: String,
    /// What A measured.
    pub a: f64,
    /// What B measured.
    pub b: f64,
    /// B divided by A. Absent where A is zero and B is not.
    pub ratio: Option<f64>,
}

/// Compares two reports, each with the name of its file.
pub fn compare(a: (&str, &Report), b: (&str, &Report)) -> Comparison {
    let side = |(file, report): (&str, &Report)| Side {
        file: file.to_owned(),
        run: format!("{} {}", report.setup.method, report.setup.profile),
        started: report.started.clone(),
    };
    let pairs = pairs(a.1, b.1);
    let mut differences = differences(a.1, b.1);
    let unpaired = |report: &Report, paired: &dyn Fn(&Trial) -> bool| {
        let labels: Vec<_> = report.trials.iter().filter(|t| !paired(t)).map(|t| t.label.as_str()).collect();
        labels.join(", ")
    };
    let only_a = unpaired(a.1, &|trial| pairs.iter().any(|(paired, _)| std::ptr::eq(*paired, trial)));
    let only_b = unpaired(b.1, &|trial| pairs.iter().any(|(_, paired)| std::ptr::eq(*paired, trial)));
    if (&only_a, &only_b) != (&String::new(), &String::new()) {
        differences.push(Difference { what: "trials without a counterpart".to_owned(), a: only_a, b: only_b });
    }
    let mut figures = Vec::new();
    for finding in &a.1.findings {
        let same = b.1.findings.iter().find(|other| (&other.name, &other.unit) == (&finding.name, &finding.unit));
        if let (Some(a), Some(b)) = (finding.value, same.and_then(|other| other.value)) {
            figures.push(figure(None, &finding.name, &finding.unit, a, b));
        }
    }
    for (a, b) in pairs {
        figures.extend(of_trials(a, b));
    }
    Comparison { a: side(a), b: side(b), differences, figures }
}

/// Trials that belong together: those of one label, or the only ones there are.
fn pairs<'a>(a: &'a Report, b: &'a Report) -> Vec<(&'a Trial, &'a Trial)> {
    if let ([a], [b]) = (a.trials.as_slice(), b.trials.as_slice()) {
        return vec![(a, b)];
    }
    let only = |report: &'a Report, label: &str| {
        let mut labelled = report.trials.iter().filter(|trial| trial.label == label);
        labelled.next().filter(|_| labelled.next().is_none())
    };
    a.trials.iter().filter_map(|trial| Some((only(a, &trial.label)?, only(b, &trial.label)?))).collect()
}

fn differences(a: &Report, b: &Report) -> Vec<Difference> {
    let of = |report: &Report| {
        let (setup, machine) = (&report.setup, &report.machine);
        [
            ("method", setup.method.clone()),
            ("profile", setup.profile.clone()),
            ("sending", place(report)),
            ("seed", setup.seed.to_string()),
            ("machine", machine.host.clone()),
            ("kernel", machine.kernel.clone()),
            ("processors", format!("{} x {}", machine.processors, machine.processor)),
            ("pktgen", report.version.clone()),
            ("complete", if report.complete { "yes" } else { "no, interrupted" }.to_owned()),
        ]
    };
    let mut differences: Vec<_> = of(a)
        .into_iter()
        .zip(of(b))
        .filter(|((_, a), (_, b))| a != b)
        .map(|((what, a), (_, b))| Difference { what: what.to_owned(), a, b })
        .collect();
    if a.setup.profile_text != b.setup.profile_text {
        let (a, b) = first_difference(&a.setup.profile_text, &b.setup.profile_text);
        differences.push(Difference { what: "profile's text".to_owned(), a, b });
    }
    differences
}

/// The first line in which two texts differ, of each.
fn first_difference(a: &str, b: &str) -> (String, String) {
    let (mut a, mut b) = (a.lines(), b.lines());
    for number in 1.. {
        let (of_a, of_b) = (a.next(), b.next());
        if of_a != of_b || of_a.is_none() {
            let line = |text: Option<&str>| text.map_or("ends".to_owned(), |text| format!("line {number}: {text}"));
            return (line(of_a), line(of_b));
        }
    }
    unreachable!("texts end")
}

fn figure(trial: Option<&str>, metric: &str, unit: &str, a: f64, b: f64) -> Figure {
    let ratio = if a == b { Some(1.0) } else { (a != 0.0).then(|| b / a) };
    Figure { trial: trial.map(str::to_owned), metric: metric.to_owned(), unit: unit.to_owned(), a, b, ratio }
}

/// The figures of two trials that belong together.
fn of_trials(a: &Trial, b: &Trial) -> Vec<Figure> {
    let label = if a.label == b.label { a.label.clone() } else { format!("{} | {}", a.label, b.label) };
    let figure = |metric: &str, unit: &str, a: f64, b: f64| figure(Some(&label), metric, unit, a, b);
    let mut figures = vec![
        figure("sent", "pps", a.per_second(a.total.sent), b.per_second(b.total.sent)),
        figure("received", "pps", a.per_second(a.total.received), b.per_second(b.total.received)),
        figure(
            "received bits",
            "bps",
            a.per_second(8 * a.total.received_bytes),
            b.per_second(8 * b.total.received_bytes),
        ),
    ];
    if a.tracks_loss() && b.tracks_loss() {
        figures.push(figure("loss", "share", a.total.loss(), b.total.loss()));
    }
    let mut times = vec![("latency", a.latency.as_ref(), b.latency.as_ref())];
    if let (Some(a), Some(b)) = (&a.connections, &b.connections) {
        let failed = |c: &crate::report::model::Connections| (c.reset + c.timed_out) as f64;
        figures.push(figure("new connections", "connections/s", a.established_per_s, b.established_per_s));
        figures.push(figure("failed", "connections", failed(a), failed(b)));
        times.push(("handshake", a.handshake.as_ref(), b.handshake.as_ref()));
        times.push(("request", a.request.as_ref(), b.request.as_ref()));
    }
    for (what, a, b) in times {
        if let (Some(a), Some(b)) = (a, b) {
            let at = |d: &Distribution, share| d.at(share) as f64;
            figures.extend([0.5, 0.9, 0.99, 0.999, 0.9999].map(|share| {
                figure(&format!("{what} {}", quantity::percentile(share)), "ns", at(a, share), at(b, share))
            }));
            figures.push(figure(&format!("{what} max"), "ns", a.max_ns as f64, b.max_ns as f64));
        }
    }
    figures
}

/// The comparison for a terminal.
pub fn text(comparison: &Comparison) -> String {
    let mut out = String::new();
    for (name, side) in [("A", &comparison.a), ("B", &comparison.b)] {
        let _ = writeln!(out, "{name}  {}: {}, {}", side.file, side.run, side.started);
    }
    if !comparison.differences.is_empty() {
        out += "\nThe runs differ in more than their figures; a ratio may come from there:\n";
        let mut table = table(["", "A", "B"]);
        for difference in &comparison.differences {
            table.add_row([&difference.what, &difference.a, &difference.b]);
        }
        let _ = writeln!(out, "{}", table.trim_fmt());
    }
    if comparison.figures.is_empty() {
        out += "\nThey have no figure in common.\n";
    }
    let mut figures = comparison.figures.as_slice();
    while let Some(first) = figures.first() {
        let (group, rest) = figures.split_at(figures.iter().take_while(|f| f.trial == first.trial).count());
        let mut table = table([first.trial.as_deref().unwrap_or("found"), "A", "B", "B/A"]);
        for figure in group {
            let ratio = figure.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
            table.add_row([
                figure.metric.clone(),
                of_unit(figure.a, &figure.unit),
                of_unit(figure.b, &figure.unit),
                ratio,
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _ = writeln!(out, "\n{}", table.trim_fmt());
        figures = rest;
    }
    out
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{fixture, outputs::json};

    #[test]
    fn like_with_like_has_no_differences_and_ratios_of_one() {
        let report = fixture::run();
        let comparison = compare(("a.json", &report), ("b.json", &report));
        assert_eq!(comparison.differences, []);
        assert!(!comparison.figures.is_empty());
        assert!(comparison.figures.iter().all(|f| f.ratio == Some(1.0)));
    }

    #[test]
    fn figures_and_setups_that_differ_are_shown() {
        let a = fixture::search();
        let mut b = a.clone();
        b.findings[0].value = Some(1.7e6);
        b.machine.kernel = "6.19.0".to_owned();
        b.setup.profile_text += "ttl = 3\n";
        b.trials.truncate(2);
        b.trials[1].label = "another".to_owned();
        b.trials[0].total.lost = 4000;
        insta::assert_snapshot!(text(&compare(("a.json", &a), ("b.json", &b))));
    }

    #[test]
    fn what_comes_from_nothing_has_no_ratio() {
        assert_eq!(figure(None, "loss", "share", 0.0, 0.1).ratio, None);
        assert_eq!(figure(None, "loss", "share", 0.0, 0.0).ratio, Some(1.0));
        assert_eq!(figure(None, "loss", "share", 0.2, 0.1).ratio, Some(0.5));
    }

    #[test]
    fn files_are_read_and_json_is_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("a.json"), json(&fixture::connections())).unwrap();
        std::fs::write(file("b.json"), json(&fixture::connections())).unwrap();
        let arguments = Arguments { a: file("a.json"), b: file("b.json"), json: true };
        let printed: serde_json::Value = serde_json::from_str(&arguments.run().unwrap()).unwrap();
        assert_eq!(printed["differences"], serde_json::json!([]));
        let metrics: Vec<_> = printed["figures"].as_array().unwrap().iter().map(|f| f["metric"].clone()).collect();
        assert!(!metrics.contains(&"loss".into()));
        assert!(metrics.contains(&"handshake p99".into()) && metrics.contains(&"new connections".into()));
        let missing = Arguments { b: file("c.json"), ..arguments };
        assert!(missing.run().unwrap_err().to_string().contains("c.json cannot be read"));
    }
}
