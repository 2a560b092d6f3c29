//! Made-up runs that the tests of the renderers share.

use std::collections::BTreeMap;

use super::model::*;

/// A distribution that looks like a queue: most values near `median`, a tail of `tail`.
pub fn distribution(count: u64, median: u64, tail: f64) -> Distribution {
    let value =
        |share: f64| (median as f64 * (0.6 + 0.8 * share) + tail * (1.0 / (1.0 - share) - 1.0).powf(0.8)) as u64;
    let mut shares: Vec<f64> = (0..90).map(|i| f64::from(i) / 100.0).collect();
    for nines in 1..5 {
        let left = 10_f64.powi(-nines);
        shares.extend((0..9).map(|i| 1.0 - left * (1.0 - f64::from(i) / 10.0)));
    }
    // Decimal fractions, as a report has them.
    let shares = shares.into_iter().chain([0.99999]).map(|share| (share * 1e7).round() / 1e7);
    let percentiles: Vec<_> = shares.map(|share| Percentile { share, value_ns: value(share) }).collect();
    let max_ns = value(0.999995);
    Distribution { count, min_ns: percentiles[0].value_ns, mean_ns: median as f64 * 1.1, max_ns, percentiles }
}

fn counts(offered: u64, sent: u64, lost: u64) -> Counts {
    let received = sent - lost;
    Counts { offered, sent, sent_bytes: sent * 60, received, received_bytes: received * 60, lost, ..Counts::default() }
}

/// A trial of ten seconds.
pub fn trial(label: &str, pps: f64, loss: f64) -> Trial {
    let sent = (pps * 10.0) as u64;
    let lost = (sent as f64 * loss) as u64;
    let samples = (1..=20).map(|i| {
        let wobble = 1.0 + 0.004 * (f64::from(i) * 1.7).sin();
        let received_pps = pps * (1.0 - loss) * wobble;
        Sample {
            at_s: f64::from(i) / 2.0,
            sent_pps: pps,
            received_pps,
            received_bps: received_pps * 480.0,
            lost: lost * i as u64 / 20,
            p50_ns: Some((9_000.0 * wobble) as u64),
            p99_ns: Some((38_000.0 * wobble * wobble) as u64),
            established_per_s: None,
            open_connections: None,
        }
    });
    let latency = distribution(sent - lost, (pps / 100.0) as u64, 1500.0);
    let stream = |share: u64, median| Stream {
        counts: counts(sent / share, sent / share, lost / share),
        latency: Some(distribution((sent - lost) / share, median, 900.0)),
        jitter: Some(distribution((sent - lost) / share, 700, 60.0)),
    };
    Trial {
        label: label.to_owned(),
        seconds: 10.0,
        offered_pps: Some(pps),
        total: counts(sent, sent, lost),
        streams: BTreeMap::from([("bulk".to_owned(), stream(2, 9000)), ("voice".to_owned(), stream(2, 7000))]),
        latency: Some(latency.clone()),
        latency_uncorrected: Some(latency),
        departures: Some(distribution(sent, (1e9 / pps) as u64, 40.0)),
        connections: None,
        samples: samples.collect(),
    }
}

/// A plain run of one trial, all as wanted.
pub fn run() -> Report {
    let mut trial = trial("500 kpps", 500_000.0, 0.0);
    trial.total.reordered = 3;
    Report {
        version: "0.1.0".to_owned(),
        started: "2026-11-20T10:31:55Z".to_owned(),
        duration_s: 12.4,
        complete: true,
        machine: Machine {
            host: "node-a".to_owned(),
            kernel: "6.18.0".to_owned(),
            processor: "AMD EPYC".to_owned(),
            processors: 2,
        },
        setup: Setup {
            method: "run".to_owned(),
            command: ["pktgen", "run", "flood-64.toml", "--rate", "500kpps"].map(str::to_owned).to_vec(),
            profile: "flood-64".to_owned(),
            profile_text: "name = \"flood-64\"\n\n[[stream]]\nname = \"bulk\"\nsize = 64\n".to_owned(),
            engine: "af_xdp".to_owned(),
            interfaces: vec!["pg0 (native)".to_owned(), "pg1 (native)".to_owned()],
            pinned: vec![0, 1],
            seed: 1,
        },
        trials: vec![trial],
        findings: Vec::new(),
        requirements: vec![Requirement { condition: "loss<=0.001".to_owned(), measured: "0%".to_owned(), met: true }],
        warnings: Vec::new(),
    }
}

/// A search that found a throughput, and was told to want more.
pub fn search() -> Report {
    let finding = |name: &str, value, unit: &str, note: &str| Finding {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
        note: note.to_owned(),
    };
    let mut report = run();
    report.setup.method = "search".to_owned();
    report.duration_s = 95.2;
    let loads = [(400e3, 0.0), (800e3, 0.0), (1.2e6, 0.31), (1e6, 0.04), (900e3, 0.000_2), (850e3, 0.0)];
    report.trials = loads.map(|(pps, loss)| trial(&crate::quantity::pps(pps), pps, loss)).to_vec();
    report.findings = vec![
        finding("NDR", Some(850e3), "pps", "no loss in 10 s; found to within 2%"),
        finding("PDR", Some(900e3), "pps", "loss of at most 0.1%"),
        finding("longest burst", None, "packets", "the generator's ring is shorter"),
    ];
    report.requirements.push(Requirement {
        condition: "rate>=1Mpps".to_owned(),
        measured: "850.0 kpps".to_owned(),
        met: false,
    });
    report.warnings = vec!["pg0: the generator reached 1.2 Mpps, so more could not be offered".to_owned()];
    report
}

/// Connections instead of packets.
pub fn connections() -> Report {
    let mut report = run();
    report.setup.method = "connections".to_owned();
    report.requirements.clear();
    let trial = &mut report.trials[0];
    trial.label = "20,000 connections/s".to_owned();
    trial.offered_pps = None;
    trial.streams.clear();
    (trial.departures, trial.latency, trial.latency_uncorrected) = (None, None, None);
    trial.total.reordered = 0;
    trial.connections = Some(Connections {
        opened: 200_010,
        established: 200_000,
        answered: 199_990,
        closed: 199_950,
        reset: 4,
        timed_out: 6,
        peak: 812,
        established_per_s: 20_000.0,
        handshake: Some(distribution(200_000, 21_000, 2000.0)),
        request: Some(distribution(199_990, 48_000, 5000.0)),
    });
    for (i, sample) in trial.samples.iter_mut().enumerate() {
        sample.established_per_s = Some(20_000.0 + 40.0 * (i as f64).sin());
        sample.open_connections = Some(700 + 10 * (i as u64 % 5));
    }
    report
}
