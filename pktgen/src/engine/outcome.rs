//! What a trial's lanes and sources found, put together.

use std::collections::BTreeMap;

use super::{lane::LaneOutcome, live::Sent};
use crate::{
    measure::{Histogram, distribution},
    report::model::{Counts, Stream, Trial},
};

/// What a trial was to do.
pub struct Asked<'a> {
    pub label: &'a str,
    pub pps: Option<f64>,
    /// Packets.
    pub offered: Option<u64>,
    /// When it began, in ns of the clock.
    pub start: u64,
    /// How long it was to send, in seconds; `None`: until its packets were sent.
    pub seconds: Option<f64>,
    /// The streams' names, and their shares.
    pub streams: &'a [(String, f64)],
}

/// Adds up.
pub fn trial(asked: &Asked<'_>, lanes: &[LaneOutcome], sources: &[Sent]) -> Trial {
    let names = asked.streams;
    let mut streams = BTreeMap::new();
    let mut total = Counts::default();
    for (index, (name, share)) in names.iter().enumerate() {
        let of_lanes = lanes.iter().filter_map(|lane| lane.sequences.get(index));
        let of_sources = sources.iter().map(|sent| &sent.sequences[index]);
        let sent = of_lanes.chain(of_sources).map(|count| u64::from(*count)).sum();
        let mut latency = Histogram::new(2);
        let mut jitter = Histogram::new(2);
        let sent_bytes = sources.iter().map(|sent| sent.bytes[index]).sum();
        let mut counts = Counts { sent, sent_bytes, ..Counts::default() };
        let mut arrived = 0;
        for lane in lanes {
            let meter = &lane.meter.streams[index];
            counts.sent_bytes += lane.sent_bytes[index];
            counts.received += meter.received;
            counts.received_bytes += meter.bytes;
            counts.reordered += meter.reordered;
            counts.duplicates += meter.duplicates;
            counts.corrupt += meter.corrupt;
            arrived += lane.meter.arrived_of(index);
            latency.merge(&meter.latency);
            jitter.merge(&meter.jitter);
        }
        counts.offered = asked.offered.map_or(sent, |offered| (offered as f64 * share).round() as u64);
        counts.lost = sent.saturating_sub(arrived);
        add(&mut total, &counts);
        let stream = Stream { counts, latency: distribution(&latency), jitter: distribution(&jitter) };
        streams.insert(name.clone(), stream);
    }
    total.offered = asked.offered.unwrap_or(total.sent);
    total.foreign = lanes.iter().map(|lane| lane.meter.foreign).sum();
    let merged = |of: fn(&LaneOutcome) -> &Histogram| {
        let mut all = Histogram::new(3);
        lanes.iter().for_each(|lane| all.merge(of(lane)));
        all
    };
    let mut departures = merged(|lane| &lane.departures);
    sources.iter().for_each(|sent| departures.merge(&sent.departures));
    let ended = lanes.iter().map(|lane| lane.ended).chain(sources.iter().map(|sent| sent.ended)).max();
    let lasted = ended.unwrap_or(0).saturating_sub(asked.start).max(1) as f64 / 1e9;
    Trial {
        label: asked.label.to_owned(),
        // A trial that sent all it was to send took as long as it was to take: the gap behind the last packet counts.
        seconds: asked.seconds.filter(|_| total.sent >= total.offered).map_or(lasted, |seconds| lasted.max(seconds)),
        offered_pps: asked.pps,
        total,
        streams,
        latency: distribution(&merged(|lane| &lane.meter.latency)),
        latency_uncorrected: distribution(&merged(|lane| &lane.meter.uncorrected)),
        departures: distribution(&departures),
        connections: None,
        samples: Vec::new(),
    }
}

fn add(total: &mut Counts, counts: &Counts) {
    total.sent += counts.sent;
    total.sent_bytes += counts.sent_bytes;
    total.received += counts.received;
    total.received_bytes += counts.received_bytes;
    total.lost += counts.lost;
    total.reordered += counts.reordered;
    total.duplicates += counts.duplicates;
    total.corrupt += counts.corrupt;
}
