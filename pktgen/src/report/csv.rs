//! A report as CSV (RFC 4180), for spreadsheets and scripts. A value that does not exist is an empty field.

use super::model::{Connections, Counts, Distribution, Report, Stream, Trial};

/// Percentiles that have a column, with its name.
const PERCENTILES: [(f64, &str); 5] =
    [(0.5, "p50_ns"), (0.9, "p90_ns"), (0.99, "p99_ns"), (0.999, "p999_ns"), (0.9999, "p9999_ns")];

/// What a row of [`trials`] says of its stream when it stands for all of them.
pub const ALL: &str = "(all)";

/// One row for each trial, with [`ALL`] as its stream, and one for each stream of it.
pub fn trials(report: &Report) -> String {
    let mut header: Vec<String> = ["trial", "label", "seconds", "offered_pps", "stream"].map(str::to_owned).to_vec();
    header.extend(COUNTS.map(|(name, _)| name.to_owned()));
    header.push("loss".to_owned());
    for prefix in ["latency", "jitter"] {
        header.extend(distribution_header(prefix));
    }
    header.extend(CONNECTIONS.map(|(name, _)| name.to_owned()));
    for prefix in ["handshake", "request"] {
        header.extend(distribution_header(prefix));
    }
    let mut rows = vec![header];
    for (number, trial) in (1..).zip(&report.trials) {
        let begin = |stream: &str| {
            let offered = trial.offered_pps.map(|pps| pps.to_string()).unwrap_or_default();
            vec![number.to_string(), trial.label.clone(), trial.seconds.to_string(), offered, stream.to_owned()]
        };
        rows.push([begin(ALL), all(trial)].concat());
        rows.extend(trial.streams.iter().map(|(name, stream)| [begin(name), one(stream)].concat()));
    }
    written(&rows)
}

/// One row for each sample of each trial.
pub fn samples(report: &Report) -> String {
    let mut rows = vec![
        [
            "trial",
            "at_s",
            "sent_pps",
            "received_pps",
            "received_bps",
            "lost",
            "p50_ns",
            "p99_ns",
            "established_per_s",
            "open_connections",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    fn or_empty<T: ToString>(value: Option<T>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    for (number, trial) in (1..).zip(&report.trials) {
        rows.extend(trial.samples.iter().map(|s| {
            let rates = [s.at_s, s.sent_pps, s.received_pps, s.received_bps].map(|value| value.to_string());
            let mut row = vec![number.to_string()];
            row.extend(rates);
            row.extend([s.lost.to_string(), or_empty(s.p50_ns), or_empty(s.p99_ns)]);
            row.extend([or_empty(s.established_per_s), or_empty(s.open_connections)]);
            row
        }));
    }
    written(&rows)
}

/// The counts of packets, by their columns.
const COUNTS: [(&str, OfCounts); 10] = [
    ("offered", |c| c.offered),
    ("sent", |c| c.sent),
    ("sent_bytes", |c| c.sent_bytes),
    ("received", |c| c.received),
    ("received_bytes", |c| c.received_bytes),
    ("lost", |c| c.lost),
    ("reordered", |c| c.reordered),
    ("duplicates", |c| c.duplicates),
    ("corrupt", |c| c.corrupt),
    ("foreign", |c| c.foreign),
];

type OfCounts = fn(&Counts) -> u64;
type OfConnections = fn(&Connections) -> String;

/// The figures of connections, by their columns.
const CONNECTIONS: [(&str, OfConnections); 8] = [
    ("connections_opened", |c| c.opened.to_string()),
    ("connections_established", |c| c.established.to_string()),
    ("connections_answered", |c| c.answered.to_string()),
    ("connections_closed", |c| c.closed.to_string()),
    ("connections_reset", |c| c.reset.to_string()),
    ("connections_timed_out", |c| c.timed_out.to_string()),
    ("connections_peak", |c| c.peak.to_string()),
    ("connections_per_s", |c| c.established_per_s.to_string()),
];

fn counts(counts: &Counts) -> Vec<String> {
    let mut row = COUNTS.map(|(_, count)| count(counts).to_string()).to_vec();
    row.push(counts.loss().to_string());
    row
}

/// A trial's columns behind its name.
fn all(trial: &Trial) -> Vec<String> {
    let connections = trial.connections.as_ref();
    [
        counts(&trial.total),
        distribution(trial.latency.as_ref()),
        distribution(None),
        CONNECTIONS.map(|(_, figure)| connections.map(figure).unwrap_or_default()).to_vec(),
        distribution(connections.and_then(|c| c.handshake.as_ref())),
        distribution(connections.and_then(|c| c.request.as_ref())),
    ]
    .concat()
}

/// A stream's columns behind its name.
fn one(stream: &Stream) -> Vec<String> {
    let mut row =
        [counts(&stream.counts), distribution(stream.latency.as_ref()), distribution(stream.jitter.as_ref())].concat();
    row.resize(row.len() + CONNECTIONS.len() + 2 * (PERCENTILES.len() + 3), String::new());
    row
}

fn distribution_header(prefix: &str) -> Vec<String> {
    let names = ["min_ns", "mean_ns"].into_iter().chain(PERCENTILES.map(|(_, name)| name)).chain(["max_ns"]);
    names.map(|name| format!("{prefix}_{name}")).collect()
}

fn distribution(distribution: Option<&Distribution>) -> Vec<String> {
    let Some(d) = distribution else { return vec![String::new(); PERCENTILES.len() + 3] };
    let mut row = vec![d.min_ns.to_string(), d.mean_ns.to_string()];
    row.extend(PERCENTILES.map(|(share, _)| d.at(share).to_string()));
    row.push(d.max_ns.to_string());
    row
}

fn written(rows: &[Vec<String>]) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(row).expect("rows are equally long and memory takes them all");
    }
    let bytes = writer.into_inner().expect("memory takes what is flushed");
    String::from_utf8(bytes).expect("all fields were strings")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{super::fixture, *};

    fn read(text: &str) -> Vec<HashMap<String, String>> {
        ::csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<_, _>>().expect("well-formed CSV")
    }

    #[test]
    fn each_trial_and_each_stream_has_a_row() {
        let mut report = fixture::search();
        report.trials[0].label = "a \"label\", with\nall of it".to_owned();
        let rows = read(&trials(&report));
        assert_eq!(rows.len(), report.trials.len() * 3);
        assert_eq!(rows[0]["label"], report.trials[0].label);
        assert_eq!(rows[0]["stream"], ALL);
        assert_eq!(rows[2]["stream"], "voice");
        let trial = &report.trials[3];
        let all = &rows[9];
        assert_eq!(all["lost"], trial.total.lost.to_string());
        assert_eq!(all["loss"].parse::<f64>(), Ok(trial.total.loss()));
        assert_eq!(all["latency_p999_ns"], trial.latency.as_ref().unwrap().at(0.999).to_string());
        assert_eq!(all["jitter_p50_ns"], "");
        assert_eq!(rows[10]["jitter_p50_ns"], trial.streams["bulk"].jitter.as_ref().unwrap().at(0.5).to_string());
        assert_eq!(rows[10]["connections_opened"], "");
    }

    #[test]
    fn connections_have_columns() {
        let rows = read(&trials(&fixture::connections()));
        assert_eq!(rows[0]["connections_established"], "200000");
        assert_eq!(rows[0]["connections_per_s"], "20000");
        assert_ne!(rows[0]["handshake_p99_ns"], "");
    }

    #[test]
    fn each_sample_has_a_row() {
        let mut report = fixture::connections();
        report.trials[0].samples[7].p99_ns = None;
        let rows = read(&samples(&report));
        assert_eq!(rows.len(), 20);
        assert_eq!((rows[7]["at_s"].as_str(), rows[7]["p99_ns"].as_str()), ("4", ""));
        assert_eq!(rows[7]["open_connections"], "720");
    }
}
