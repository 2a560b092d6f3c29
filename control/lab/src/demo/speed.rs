//! How fast it is, on this machine and over veth.

use super::Tour;
use crate::checks;

/// Far below what any machine reaches when segments flow, and far above what retransmission time-outs leave.
const LEAST_THROUGHPUT: f64 = 100e6;
/// Round trips in microseconds, middle of all: far above what forwarding takes, below a worker that sleeps too long.
const MOST_ROUND_TRIP: f64 = 5000.0;

impl Tour {
    /// Throughput and round-trip times between pods on two nodes.
    pub(super) fn speed(&mut self) {
        self.section("TCP throughput and round-trip time from pod to pod (veth, no NIC: the kernel's cost is in it).");
        for (from, to) in [("a1", "b1"), ("a1", "c1"), ("c1", "a1")] {
            self.check(&format!("TCP throughput {from} -> {to}"), &format!("in {from}: iperf3 -c {to} -t 2"), |lab| {
                let (from, _) = lab.station(from)?;
                let (to, address) = lab.station(to)?;
                checks::throughput(from, to, address, LEAST_THROUGHPUT, &lab.log("iperf3"))
            });
        }
        for (name, rate, count) in [("under load", 5000, 10_000), ("from sleep", 20, 60)] {
            let command = format!("in a1: shunt-lab probe stream b1 {rate} {count} 64");
            self.check(&format!("round trip a1 -> b1, {name}"), &command, |lab| {
                checks::round_trip(lab.station("a1")?.0, lab.station("b1")?.1, rate, count, MOST_ROUND_TRIP)
            });
        }
    }
}
