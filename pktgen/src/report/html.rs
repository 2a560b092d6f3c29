//! A report as one self-contained HTML page.

use maud::{Markup, html};

use super::{
    model::{Report, Trial},
    plots, text,
};
use crate::{
    plot::page::{Cell, Tile, Tone, page, section, table, tiles},
    quantity::{bps, count, of_unit, pps, seconds, share, time},
};

/// The page.
pub fn page_of(report: &Report) -> String {
    let setup = &report.setup;
    let title = format!("{}: {}", setup.method, setup.profile);
    let subtitle = format!(
        "pktgen {} on {}, {}, {}{}",
        report.version,
        report.machine.host,
        report.started,
        seconds(report.duration_s),
        if report.complete { "" } else { ", interrupted: these are the figures until then" }
    );
    let body = html! {
        (tiles(&figures(report)))
        @if !report.warnings.is_empty() {
            ul.warnings { @for warning in &report.warnings { li { (warning) } } }
        }
        @if !report.requirements.is_empty() { (section("Requirements", &requirements(report))) }
        @let figures = plots::figures(report);
        @if !figures.is_empty() { (section("Plots", &crate::plot::page::plots(&figures))) }
        @let connections = connections(report);
        @if !connections.is_empty() { (section("Connections", &table(&CONNECTIONS, &connections))) }
        @else if !report.trials.is_empty() { (section("Trials", &trials(report))) }
        @let streams = streams(report);
        @if !streams.is_empty() { (section("Streams", &table(&STREAMS, &streams))) }
        (section("Setup", &setup_of(report)))
    };
    page(&title, &subtitle, &body)
}

/// What a reader should see first: what was concluded, or else what the only trial measured.
fn figures(report: &Report) -> Vec<Tile> {
    let tile = |name: &str, value: String, note: &str| Tile {
        name: name.to_owned(),
        value,
        note: note.to_owned(),
        tone: Tone::Plain,
    };
    let mut tiles: Vec<Tile> = report
        .findings
        .iter()
        .map(|f| tile(&f.name, f.value.map_or("unknown".to_owned(), |value| of_unit(value, &f.unit)), &f.note))
        .collect();
    if let [trial] = report.trials.as_slice() {
        let total = &trial.total;
        if let Some(c) = &trial.connections {
            let (rate, peak) = (count(c.established_per_s.round() as u64), count(c.peak));
            let note = format!("{} in all, {peak} at once", count(c.established));
            tiles.push(tile("new connections", format!("{rate} /s"), &note));
            let failed = tile("failed", count(c.reset + c.timed_out), "reset or timed out");
            tiles.push(Tile { tone: verdict(c.reset + c.timed_out == 0), ..failed });
        }
        let bits = |bytes: u64| bps(trial.per_second(bytes * 8));
        if !trial.tracks_loss() {
            tiles.push(tile("sent", pps(trial.per_second(total.sent)), &bits(total.sent_bytes)));
        } else {
            tiles.push(tile("received", pps(trial.per_second(total.received)), &bits(total.received_bytes)));
            let lost = format!("{} of {} packets", count(total.lost), count(total.sent));
            tiles.push(Tile { tone: verdict(total.lost == 0), ..tile("loss", share(total.loss()), &lost) });
        }
        let requests = trial.connections.as_ref().and_then(|c| c.request.as_ref());
        if let Some(requests) = requests {
            tiles.push(tile("median request", time(requests.at(0.5) as f64), ""));
            tiles.push(tile("99th percentile", time(requests.at(0.99) as f64), ""));
        }
        if let Some(latency) = &trial.latency {
            for (name, at) in [("median latency", 0.5), ("99th percentile", 0.99), ("99.9th percentile", 0.999)] {
                tiles.push(tile(name, time(latency.at(at) as f64), ""));
            }
        }
    }
    if !report.requirements.is_empty() {
        let met = report.requirements.iter().filter(|r| r.met).count();
        let all = report.requirements.len();
        let requirements = tile("requirements met", format!("{met} of {all}"), "");
        tiles.push(Tile { tone: verdict(met == all), ..requirements });
    }
    tiles
}

fn verdict(good: bool) -> Tone {
    if good { Tone::Good } else { Tone::Bad }
}

fn requirements(report: &Report) -> Markup {
    let row = |r: &super::model::Requirement| {
        let verdict = Cell::words(if r.met { "met" } else { "not met" }).toned(verdict(r.met));
        vec![Cell::words(&r.condition), Cell::words(&r.measured), verdict]
    };
    table(&["required", "measured", ""], &report.requirements.iter().map(row).collect::<Vec<_>>())
}

fn trials(report: &Report) -> Markup {
    let at = |trial: &Trial, share| trial.latency.as_ref().map_or(String::new(), |d| time(d.at(share) as f64));
    let row = |trial: &Trial| {
        let total = &trial.total;
        let rate = |packets: u64| Cell::number(pps(trial.per_second(packets)));
        let mut row = vec![
            Cell::words(&trial.label),
            Cell::number(seconds(trial.seconds)),
            Cell::number(trial.offered_pps.map_or("max".to_owned(), pps)),
            rate(total.sent),
            rate(total.received),
            Cell::number(if trial.tracks_loss() { count(total.lost) } else { String::new() }),
            Cell::number(if trial.tracks_loss() { share(total.loss()) } else { String::new() })
                .toned(if total.lost > 0 { Tone::Bad } else { Tone::Plain }),
            Cell::number(
                text::oddities(total).map(|(name, n)| format!("{name} {}", count(n))).collect::<Vec<_>>().join(", "),
            ),
        ];
        row.extend([0.5, 0.9, 0.99, 0.999].map(|share| Cell::number(at(trial, share))));
        row.push(Cell::number(trial.latency.as_ref().map_or(String::new(), |d| time(d.max_ns as f64))));
        row
    };
    let headings = [
        "trial",
        "length",
        "offered",
        "sent",
        "received",
        "lost",
        "loss",
        "otherwise",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
    ];
    table(&headings, &report.trials.iter().map(row).collect::<Vec<_>>())
}

const CONNECTIONS: [&str; 13] = [
    "trial",
    "length",
    "opened",
    "established",
    "answered",
    "closed",
    "reset",
    "timed out",
    "most at once",
    "handshake p50",
    "handshake p99",
    "request p50",
    "request p99",
];

/// What became of connections, in trials that made them.
fn connections(report: &Report) -> Vec<Vec<Cell>> {
    let row = |trial: &Trial| {
        let c = trial.connections.as_ref()?;
        let mut row = vec![Cell::words(&trial.label), Cell::number(seconds(trial.seconds))];
        row.extend([c.opened, c.established, c.answered, c.closed].map(|n| Cell::number(count(n))));
        let failed = |n: u64| Cell::number(count(n)).toned(if n > 0 { Tone::Bad } else { Tone::Plain });
        row.extend([failed(c.reset), failed(c.timed_out), Cell::number(count(c.peak))]);
        for distribution in [&c.handshake, &c.request] {
            let at = |share| distribution.as_ref().map_or(String::new(), |d| time(d.at(share) as f64));
            row.extend([0.5, 0.99].map(|share| Cell::number(at(share))));
        }
        Some(row)
    };
    report.trials.iter().filter_map(row).collect()
}

const STREAMS: [&str; 11] =
    ["stream", "sent", "received", "lost", "loss", "reordered", "duplicates", "p50", "p99", "p99.9", "jitter p50"];

/// The streams of the only trial. With several trials, the file in CSV or JSON has them.
fn streams(report: &Report) -> Vec<Vec<Cell>> {
    let [trial] = report.trials.as_slice() else { return Vec::new() };
    let row = |(name, stream): (&String, &super::model::Stream)| {
        let c = &stream.counts;
        let at = |d: &Option<super::model::Distribution>, share| {
            Cell::number(d.as_ref().map_or(String::new(), |d| time(d.at(share) as f64)))
        };
        let mut row = vec![Cell::words(name)];
        row.extend([c.sent, c.received, c.lost].map(|n| Cell::number(count(n))));
        row.push(Cell::number(share(c.loss())).toned(if c.lost > 0 { Tone::Bad } else { Tone::Plain }));
        row.extend([c.reordered, c.duplicates].map(|n| Cell::number(count(n))));
        row.extend([0.5, 0.99, 0.999].map(|share| at(&stream.latency, share)));
        row.push(at(&stream.jitter, 0.5));
        row
    };
    trial.streams.iter().map(row).collect()
}

fn setup_of(report: &Report) -> Markup {
    let (setup, machine) = (&report.setup, &report.machine);
    let rows = [
        ("command", setup.command.join(" ")),
        ("profile", setup.profile.clone()),
        ("sending", text::place(report)),
        ("seed", setup.seed.to_string()),
        ("machine", machine.host.clone()),
        ("kernel", format!("Linux {}", machine.kernel)),
        ("processors", format!("{} x {}", machine.processors, machine.processor)),
        ("pktgen", report.version.clone()),
    ];
    let rows = rows.map(|(name, value)| vec![Cell::words(name), Cell::words(value)]);
    html! {
        (table(&["", ""], &rows))
        h3 style="margin-top: 20px" { "The profile, to repeat the run" }
        pre { (setup.profile_text) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        for report in [fixture::run(), fixture::search(), fixture::connections()] {
            let page = page_of(&report);
            for outside in ["http:", "https:", "src=", "@import", "url(", "<link", "<script"] {
                assert!(!page.contains(outside), "{outside}");
            }
        }
    }

    #[test]
    fn a_page_holds_what_repeats_the_run() {
        let mut report = fixture::search();
        report.setup.profile_text = "name = \"<b>\" # & more".to_owned();
        let page = page_of(&report);
        assert!(page.contains("<pre>name = &quot;&lt;b&gt;&quot; # &amp; more</pre>"));
        for text in ["pktgen run flood-64.toml --rate 500kpps", "Linux 6.18.0", "pg0 (native)", "850.0 kpps", "not met"]
        {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn an_interrupted_run_without_a_trial_is_a_page_too() {
        let mut report = fixture::run();
        (report.complete, report.trials) = (false, Vec::new());
        let page = page_of(&report);
        assert!(page.contains("interrupted") && !page.contains("<svg"));
    }
}
