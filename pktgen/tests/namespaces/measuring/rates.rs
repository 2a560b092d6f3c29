//! Loss on a path that has none, and rates beside the clock.

use shunt_pktgen::report::model::Trial;

use crate::{
    net::{discard, new_namespace_alone, veth},
    tool::{report, sound_run},
};

#[test]
fn nothing_is_lost_on_a_cable() {
    for engine in ["", "--live"] {
        new_namespace_alone();
        veth("src", "in");
        for profile in ["flood", "imix", "voip", "new-flows"] {
            let rate = if profile == "new-flows" { "20kpps" } else { "5kpps" };
            let run = format!("--tx src --rx in --rate {rate} --duration 500ms --warm-up 100ms {engine}");
            let trial = sound_run(profile, &run);
            assert_eq!((trial.total.sent, trial.total.lost), (trial.total.offered, 0), "{profile} {engine}");
            for (name, stream) in &trial.streams {
                assert_eq!(stream.counts.received, stream.counts.sent, "{profile} {name} {engine}");
                let bytes = (stream.counts.received_bytes, stream.counts.sent_bytes);
                assert_eq!(bytes.0, bytes.1, "{profile} {name} {engine}");
                assert!(stream.latency.is_some() && stream.jitter.is_some(), "{profile} {name} {engine}");
            }
        }
    }
}

#[test]
fn rates_are_held_to_one_percent() {
    for engine in ["", "--live"] {
        new_namespace_alone();
        veth("src", "sink");
        let _sink = discard("sink");
        for (rate, pps) in [("1kpps", 1e3), ("10kpps", 1e4), ("100kpps", 1e5)] {
            let run = format!(
                "--tx src --to-mac 02:00:00:00:00:01 --rate {rate} --duration 2s --warm-up 0s --settle 100ms {engine}"
            );
            let off = |trial: &Trial| (trial.total.sent as f64 / trial.seconds / pps - 1.0).abs();
            // The end of a trial may fall into a moment when the machine does something else: one of three will do.
            let mut offs = Vec::new();
            let trial = loop {
                let trial = report("run", "flood", &run).trials.remove(0);
                offs.push(off(&trial));
                if off(&trial) < 0.01 {
                    break trial;
                }
                assert!(offs.len() < 3, "{rate} {engine}: off by {offs:?}");
            };
            let gaps = trial.departures.expect("departures are seen");
            assert_eq!(gaps.count, trial.total.sent - 1);
            assert!((gaps.mean_ns * pps / 1e9 - 1.0).abs() < 0.02, "{rate} {engine}: every {} ns", gaps.mean_ns);
        }
    }
}
