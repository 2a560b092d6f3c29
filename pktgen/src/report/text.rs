//! A report as text, for a terminal.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::model::{Connections, Counts, Distribution, Report, Trial};
use crate::quantity::{bps, count, of_unit, pps, seconds, share, time};

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    heading(&mut out, report);
    if !report.findings.is_empty() {
        findings(&mut out, report);
    }
    match report.trials.as_slice() {
        [] => out += "\nno trial was run\n",
        [trial] => single(&mut out, trial),
        trials => several(&mut out, trials),
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "\nwarning: {warning}");
    }
    if !report.requirements.is_empty() {
        requirements(&mut out, report);
    }
    out
}

fn heading(out: &mut String, report: &Report) {
    let (setup, machine) = (&report.setup, &report.machine);
    let ended = if report.complete { "" } else { ", interrupted: these are the figures until then" };
    let duration = seconds(report.duration_s);
    let _ = writeln!(out, "{} {}, {}, {duration}{ended}", setup.method, setup.profile, report.started);
    let _ = writeln!(out, "{}; seed {}", place(report), setup.seed);
    let _ = writeln!(out, "{}: Linux {}, {} x {}", machine.host, machine.kernel, machine.processors, machine.processor);
}

/// How and where packets were sent, in one line.
pub fn place(report: &Report) -> String {
    let setup = &report.setup;
    let mut place = setup.engine.clone();
    if !setup.interfaces.is_empty() {
        let _ = write!(place, " on {}", setup.interfaces.join(", "));
    }
    if !setup.pinned.is_empty() {
        let pinned: Vec<_> = setup.pinned.iter().map(u32::to_string).collect();
        let _ = write!(place, "; pinned to processors {}", pinned.join(", "));
    }
    place
}

fn findings(out: &mut String, report: &Report) {
    let mut table = table(&[]);
    for finding in &report.findings {
        let value = finding.value.map_or("unknown".to_owned(), |value| of_unit(value, &finding.unit));
        table.add_row([finding.name.clone(), value, finding.note.clone()]);
    }
    right(&mut table, &[1]);
    print(out, &mut table);
}

/// One trial: all that is known of it.
fn single(out: &mut String, trial: &Trial) {
    let mut table = table(&[]);
    let total = &trial.total;
    if let Some(offered) = trial.offered_pps {
        table.add_row(["offered".to_owned(), pps(offered), format!("{} packets", count(total.offered))]);
    }
    for (name, packets, bytes) in directions(trial) {
        let bits = bps(trial.per_second(bytes * 8));
        table.add_row([name.to_owned(), pps(trial.per_second(packets)), format!("{} packets", count(packets)), bits]);
    }
    if trial.tracks_loss() {
        table.add_row(["lost".to_owned(), share(total.loss()), format!("{} packets", count(total.lost))]);
    }
    for (name, packets) in oddities(total) {
        table.add_row([name.to_owned(), String::new(), format!("{} packets", count(packets))]);
    }
    right(&mut table, &[1, 2, 3]);
    print(out, &mut table);
    if let Some(connections) = &trial.connections {
        self::connections(out, connections);
    }
    distributions(out, trial);
    streams(out, trial);
}

/// Packets and bytes each way, as far as anything went that way.
fn directions(trial: &Trial) -> impl Iterator<Item = (&'static str, u64, u64)> {
    let total = &trial.total;
    let back = ("received", total.received, total.received_bytes);
    let back = (trial.tracks_loss() || total.received > 0).then_some(back);
    std::iter::once(("sent", total.sent, total.sent_bytes)).chain(back)
}

/// What should not happen to packets, and did.
pub fn oddities(counts: &Counts) -> impl Iterator<Item = (&'static str, u64)> {
    [
        ("reordered", counts.reordered),
        ("duplicates", counts.duplicates),
        ("corrupt", counts.corrupt),
        ("foreign", counts.foreign),
    ]
    .into_iter()
    .filter(|(_, packets)| *packets > 0)
}

fn connections(out: &mut String, connections: &Connections) {
    let mut table = table(&["connections", "", ""]);
    let rate = of_unit(connections.established_per_s.round(), "connections/s");
    table.add_row(["opened".to_owned(), count(connections.opened)]);
    table.add_row(["established".to_owned(), count(connections.established), rate]);
    for (name, number) in [
        ("answered", connections.answered),
        ("closed", connections.closed),
        ("reset", connections.reset),
        ("timed out", connections.timed_out),
        ("most at once", connections.peak),
    ] {
        table.add_row([name.to_owned(), count(number)]);
    }
    right(&mut table, &[1, 2]);
    print(out, &mut table);
}

fn distributions(out: &mut String, trial: &Trial) {
    let of_connections = trial.connections.as_ref();
    let as_sent = trial.latency_uncorrected.as_ref().filter(|_| trial.latency != trial.latency_uncorrected);
    let named = [
        ("latency", trial.latency.as_ref()),
        ("latency from sending", as_sent),
        ("handshake", of_connections.and_then(|c| c.handshake.as_ref())),
        ("request", of_connections.and_then(|c| c.request.as_ref())),
        ("between departures", trial.departures.as_ref()),
    ];
    let mut table = table(&["times", "min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
    for (name, distribution) in named {
        if let Some(d) = distribution {
            let mut row = vec![name.to_owned(), time(d.min_ns as f64), time(d.mean_ns)];
            row.extend([0.5, 0.9, 0.99, 0.999, 0.9999].map(|share| time(d.at(share) as f64)));
            row.push(time(d.max_ns as f64));
            table.add_row(row);
        }
    }
    if table.row_count() > 0 {
        right(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8]);
        print(out, &mut table);
    }
}

fn streams(out: &mut String, trial: &Trial) {
    if trial.streams.is_empty() {
        return;
    }
    let mut table = table(&[
        "stream",
        "sent",
        "received",
        "lost",
        "loss",
        "reordered",
        "duplicates",
        "p50",
        "p99",
        "p99.9",
        "jitter p50",
    ]);
    let at = |d: &Option<Distribution>, share| d.as_ref().map_or(String::new(), |d| time(d.at(share) as f64));
    for (name, stream) in &trial.streams {
        let mut row = vec![name.clone()];
        let c = &stream.counts;
        row.extend([c.sent, c.received, c.lost].map(count));
        row.push(share(c.loss()));
        row.extend([c.reordered, c.duplicates].map(count));
        row.extend([0.5, 0.99, 0.999].map(|share| at(&stream.latency, share)));
        row.push(at(&stream.jitter, 0.5));
        table.add_row(row);
    }
    right(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    print(out, &mut table);
}

/// Several trials: a line each.
fn several(out: &mut String, trials: &[Trial]) {
    let mut table =
        table(&["trial", "offered", "sent", "received", "lost", "loss", "p50", "p90", "p99", "p99.9", "max"]);
    for trial in trials {
        let rate = |packets: u64| pps(trial.per_second(packets));
        let mut row = vec![trial.label.clone(), trial.offered_pps.map_or("max".to_owned(), pps)];
        row.extend([rate(trial.total.sent), rate(trial.total.received)]);
        row.extend([count(trial.total.lost), share(trial.total.loss())]);
        if let Some(d) = &trial.latency {
            row.extend([0.5, 0.9, 0.99, 0.999].map(|share| time(d.at(share) as f64)));
            row.push(time(d.max_ns as f64));
        }
        table.add_row(row);
    }
    right(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    print(out, &mut table);
}

fn requirements(out: &mut String, report: &Report) {
    let mut table = table(&["required", "measured", ""]);
    for requirement in &report.requirements {
        let verdict = if requirement.met { "met" } else { "NOT MET" };
        table.add_row([requirement.condition.as_str(), &requirement.measured, verdict]);
    }
    print(out, &mut table);
}

/// An empty table in the style of all of them.
pub(super) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if !headings.is_empty() {
        table.set_header(headings);
    }
    table
}

/// Sets columns to the right: numbers.
pub(super) fn right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Writes a table under an empty line.
pub(super) fn print(out: &mut String, table: &mut Table) {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let _ = writeln!(out, "\n{}", table.trim_fmt());
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    #[test]
    fn a_run() {
        insta::assert_snapshot!(text(&fixture::run()));
    }

    #[test]
    fn a_search() {
        insta::assert_snapshot!(text(&fixture::search()));
    }

    #[test]
    fn connections_made() {
        insta::assert_snapshot!(text(&fixture::connections()));
    }

    #[test]
    fn an_interrupted_run_without_a_trial_says_so() {
        let mut report = fixture::run();
        report.complete = false;
        report.trials.clear();
        let text = text(&report);
        assert!(text.contains("interrupted") && text.contains("no trial was run"), "{text}");
    }
}
