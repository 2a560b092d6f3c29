//! Which plots a report has, and what goes into them.

use maud::Markup;

use super::model::{Distribution, Report, Sample, Trial};
use crate::{
    plot::{Axis, COLOURS, Lines, Mark, Scale, Series, Unit},
    quantity::time,
};

/// All plots that the report has figures for.
pub fn figures(report: &Report) -> Vec<Markup> {
    let trials = report.trials.as_slice();
    let plots = [
        throughput(trials),
        latency_percentiles(trials),
        against_load(report, "Loss against offered load", share_axis(), loss),
        against_load(report, "Latency against load", latency_axis(), latencies),
        latency_over_time(trials),
        connections(trials, "New connections over time", "connections per second", |s| s.established_per_s),
        connections(trials, "Open connections over time", "connections", |s| s.open_connections.map(|n| n as f64)),
        departures(trials),
    ];
    plots.into_iter().flatten().map(|plot| plot.figure()).collect()
}

fn seconds_axis(trials: &[Trial]) -> Axis {
    let label = if trials.len() > 1 { "seconds of all trials, one after the other" } else { "seconds" };
    Axis::new(label, Scale::Linear, Unit::Seconds)
}

fn share_axis() -> Axis {
    Axis::new("share of packets lost", Scale::LogAndZero, Unit::Share)
}

fn latency_axis() -> Axis {
    Axis::new("latency", Scale::Log, Unit::Nanoseconds)
}

/// Something of each sample over the time of all trials. Trials are joined without what lay between them; a gap in a line sets
/// them apart.
fn over_time(trials: &[Trial], name: &str, value: impl Fn(&Sample) -> Option<f64>) -> Option<Series> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut start = 0.0;
    for trial in trials {
        if let Some(last) = points.last() {
            points.push((last.0, f64::NAN));
        }
        points.extend(trial.samples.iter().map(|s| (start + s.at_s, value(s).unwrap_or(f64::NAN))));
        start += trial.samples.last().map_or(0.0, |s| s.at_s);
    }
    points.iter().any(|p| p.1.is_finite()).then(|| Series { name: name.to_owned(), broad: false, points })
}

fn throughput(trials: &[Trial]) -> Option<Lines> {
    let mut series = vec![Series { broad: true, ..over_time(trials, "sent", |s| Some(s.sent_pps))? }];
    if trials.iter().any(|trial| trial.tracks_loss() || trial.total.received > 0) {
        series.extend(over_time(trials, "received", |s| Some(s.received_pps)));
    }
    Some(Lines {
        title: "Throughput over time".to_owned(),
        x: seconds_axis(trials),
        y: Axis::new("packets per second", Scale::Linear, Unit::Si("pps")),
        series,
        marks: Vec::new(),
        dots: false,
        note: String::new(),
    })
}

fn latency_over_time(trials: &[Trial]) -> Option<Lines> {
    let series = vec![
        over_time(trials, "median", |s| s.p50_ns.map(|ns| ns as f64))?,
        over_time(trials, "99th percentile", |s| s.p99_ns.map(|ns| ns as f64))?,
    ];
    Some(Lines {
        title: "Latency over time".to_owned(),
        x: seconds_axis(trials),
        y: latency_axis(),
        series,
        marks: Vec::new(),
        dots: false,
        note: String::new(),
    })
}

fn connections(trials: &[Trial], title: &str, label: &str, value: fn(&Sample) -> Option<f64>) -> Option<Lines> {
    Some(Lines {
        title: title.to_owned(),
        x: seconds_axis(trials),
        y: Axis::new(label, Scale::Linear, Unit::Plain("connections")),
        series: vec![over_time(trials, label, value)?],
        marks: Vec::new(),
        dots: false,
        note: String::new(),
    })
}

fn curve(name: &str, distribution: &Distribution) -> Series {
    let points = distribution.percentiles.iter().map(|p| (p.share, p.value_ns as f64)).collect();
    Series { name: name.to_owned(), broad: false, points }
}

/// The distribution of latency: of the trial and its streams, or of several trials.
fn latency_percentiles(trials: &[Trial]) -> Option<Lines> {
    let (mut series, mut note) = (Vec::new(), String::new());
    if let [trial] = trials {
        let of_connections = trial.connections.as_ref();
        let total = if trial.streams.len() > 1 { "all streams" } else { "latency" };
        series.extend(trial.latency.iter().map(|d| curve(total, d)));
        let as_sent = trial.latency_uncorrected.iter().filter(|_| trial.latency != trial.latency_uncorrected);
        series.extend(as_sent.map(|d| curve("from sending", d)));
        series.extend(of_connections.and_then(|c| c.handshake.as_ref()).map(|d| curve("handshake", d)));
        series.extend(of_connections.and_then(|c| c.request.as_ref()).map(|d| curve("request", d)));
        if trial.streams.len() > 1 {
            series.extend(trial.streams.iter().filter_map(|(name, s)| Some(curve(name, s.latency.as_ref()?))));
        }
        if series.len() > COLOURS {
            note = format!("The first {COLOURS} of {} distributions.", series.len());
            series.truncate(COLOURS);
        }
    } else {
        let mut measured: Vec<(&Trial, &Distribution)> =
            trials.iter().filter_map(|t| Some((t, t.latency.as_ref()?))).collect();
        measured.sort_by(|a, b| load(a.0).total_cmp(&load(b.0)));
        let all = measured.len();
        if all > COLOURS {
            note = format!("{COLOURS} of {all} trials, from the least load to the greatest.");
            measured = (0..COLOURS).map(|i| measured[i * (all - 1) / (COLOURS - 1)]).collect();
        }
        series.extend(measured.into_iter().map(|(trial, d)| curve(&trial.label, d)));
    }
    (!series.is_empty()).then(|| Lines {
        title: "Latency by percentile".to_owned(),
        x: Axis::new("share that took at most as long", Scale::Nines, Unit::Share),
        y: latency_axis(),
        series,
        marks: Vec::new(),
        dots: false,
        note,
    })
}

/// The load of a trial: what was offered, or at full speed what was sent.
fn load(trial: &Trial) -> f64 {
    trial.offered_pps.unwrap_or(trial.per_second(trial.total.sent))
}

fn loss(trial: &Trial) -> Vec<(&'static str, f64)> {
    vec![("loss", trial.total.loss())]
}

/// Something of each trial against its load, if there is more than one load. What the method found is marked.
fn against_load(
    report: &Report,
    title: &str,
    y: Axis,
    values: fn(&Trial) -> Vec<(&'static str, f64)>,
) -> Option<Lines> {
    let mut trials: Vec<&Trial> = report.trials.iter().collect();
    trials.sort_by(|a, b| load(a).total_cmp(&load(b)));
    if trials.first().map(|t| load(t)) == trials.last().map(|t| load(t)) {
        return None;
    }
    let mut series: Vec<Series> = Vec::new();
    for trial in trials {
        for (name, value) in values(trial) {
            let point = (load(trial), value);
            match series.iter_mut().find(|s| s.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series { name: name.to_owned(), broad: false, points: vec![point] }),
            }
        }
    }
    let found = report.findings.iter().filter(|f| f.unit == "pps");
    let marks = found.filter_map(|f| Some(Mark { at: f.value?, label: f.name.clone() })).collect();
    let x = Axis::new("offered load in packets per second", Scale::Linear, Unit::Si("pps"));
    let (title, note) = (title.to_owned(), String::new());
    (!series.is_empty()).then_some(Lines { title, x, y, series, marks, dots: true, note })
}

fn latencies(trial: &Trial) -> Vec<(&'static str, f64)> {
    let Some(d) = &trial.latency else { return Vec::new() };
    let at = |share| d.at(share) as f64;
    vec![("median", at(0.5)), ("p90", at(0.9)), ("p99", at(0.99)), ("p99.9", at(0.999)), ("max", d.max_ns as f64)]
}

/// Stretches that a histogram divides its values into.
const STRETCHES: usize = 48;

/// The time between departures in the trial with the greatest load that has them.
fn departures(trials: &[Trial]) -> Option<Lines> {
    let measured = trials.iter().filter_map(|t| Some((t, t.departures.as_ref()?)));
    let (trial, distribution) = measured.max_by(|a, b| load(a.0).total_cmp(&load(b.0)))?;
    let wanted = trial.offered_pps.map(|pps| 1e9 / pps);
    let points = histogram(distribution)?;
    let of_trial = if trials.len() > 1 { format!(" ({})", trial.label) } else { String::new() };
    Some(Lines {
        title: format!("Time between departures{of_trial}"),
        x: Axis::new("time since the packet before", Scale::Log, Unit::Nanoseconds),
        y: Axis::new("share of departures", Scale::Linear, Unit::Share),
        series: vec![Series { name: "departures".to_owned(), broad: false, points }],
        marks: wanted.into_iter().map(|at| Mark { at, label: format!("even spacing: {}", time(at)) }).collect(),
        dots: false,
        note: "Drawn from the percentiles in the report, by equal steps of the logarithm.".to_owned(),
    })
}

/// A distribution as a stepped outline over equal steps of the logarithm.
fn histogram(distribution: &Distribution) -> Option<Vec<(f64, f64)>> {
    let least = (distribution.min_ns.max(1) as f64).ln();
    let most = (distribution.max_ns.max(2) as f64).ln();
    let step = (most - least).max(0.1) / STRETCHES as f64;
    let mut shares = [0.0; STRETCHES];
    let (mut below, mut from) = (0.0, least);
    let rest = [(1.0, distribution.max_ns)];
    let known = distribution.percentiles.iter().map(|p| (p.share, p.value_ns));
    for (share, value) in known.chain(rest) {
        let to = (value.max(1) as f64).ln().max(from);
        spread(&mut shares, (from - least) / step, (to - least) / step, share - below);
        (below, from) = (share, to);
    }
    let edge = |i: usize| (least + i as f64 * step).exp();
    let mut points = vec![(edge(0), 0.0)];
    points.extend(shares.iter().enumerate().flat_map(|(i, share)| [(edge(i), *share), (edge(i + 1), *share)]));
    points.push((edge(STRETCHES), 0.0));
    (distribution.count > 0).then_some(points)
}

/// Spreads `amount` evenly over the places `from` to `to`, given in stretches.
fn spread(shares: &mut [f64], from: f64, to: f64, amount: f64) {
    let last = shares.len() - 1;
    let (first, final_) = ((from as usize).min(last), (to as usize).min(last));
    if first == final_ {
        shares[first] += amount;
        return;
    }
    for (i, share) in shares.iter_mut().enumerate().take(final_ + 1).skip(first) {
        let within = (to.min(i as f64 + 1.0) - from.max(i as f64)).max(0.0);
        *share += amount * within / (to - from);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    #[test]
    fn a_histogram_holds_every_departure_once() {
        let distribution = fixture::distribution(1000, 2000, 40.0);
        let points = histogram(&distribution).unwrap();
        // Each stretch is two points of the same height.
        let sum: f64 = points.iter().map(|p| p.1).sum::<f64>() / 2.0;
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        assert!(points.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn equal_departures_stand_in_one_place() {
        let mut distribution = fixture::distribution(1000, 2000, 0.0);
        (distribution.min_ns, distribution.max_ns) = (2000, 2000);
        distribution.percentiles.iter_mut().for_each(|p| p.value_ns = 2000);
        let points = histogram(&distribution).unwrap();
        assert_eq!(points.iter().filter(|p| p.1 > 0.0).count(), 2, "{points:?}");
    }

    #[test]
    fn trials_follow_one_another_with_a_gap() {
        let trials = [fixture::trial("a", 1e5, 0.0), fixture::trial("b", 2e5, 0.0)];
        let series = over_time(&trials, "sent", |s| Some(s.sent_pps)).unwrap();
        assert_eq!(series.points.len(), 41);
        assert!(series.points[20].1.is_nan());
        assert_eq!(series.points.last(), Some(&(20.0, 2e5)));
    }

    #[test]
    fn one_load_gives_no_plot_against_load() {
        assert_eq!(figures(&fixture::search()).len(), 6);
        assert_eq!(figures(&fixture::run()).len(), 4);
        assert_eq!(figures(&fixture::connections()).len(), 5);
    }
}
