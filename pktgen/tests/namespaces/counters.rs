//! What pktgen says it sent and received, beside the kernel's counters.

use crate::{
    net::{counters, new_namespace, veth},
    tool::report,
};

#[test]
fn the_kernel_counts_the_same() {
    for engine in ["", "--live"] {
        new_namespace();
        veth("src", "in");
        let run = format!("--tx src --rx in --rate 10kpps --duration 400ms --warm-up 0s {engine}");
        for profile in ["flood", "imix", "zipf", "services", "vxlan"] {
            // Frames of 1518 bytes inside VXLAN do not fit an MTU of 1500; none of these has them.
            let (before, arrived) = (counters("src").1, counters("in").0);
            let report = report("run", profile, &run);
            let total = report.trials[0].total;
            assert_eq!(total.sent, counters("src").1 - before, "{profile} {engine}");
            assert_eq!(total.received + total.foreign, counters("in").0 - arrived, "{profile} {engine}");
            assert!(total.sent >= 3_600, "{profile} {engine}: {total:?}");
            assert_eq!((total.corrupt, total.duplicates, total.reordered, total.foreign), (0, 0, 0, 0));
        }
    }
}
