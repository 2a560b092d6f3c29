//! Who reaches whom.

use super::Tour;
use crate::checks;

impl Tour {
    /// Pods and nodes reach one another, whoever forwards.
    pub(super) fn reach(&mut self) {
        self.section("Pods talk across nodes: ping, numbered UDP datagrams, a megabyte over TCP, each echoed.");
        for (from, to) in [("a1", "b1"), ("a1", "c1"), ("c1", "a1"), ("b2", "a2"), ("a1", "a2")] {
            self.reaches(from, to);
        }
        self.section("Nodes talk to pods, and pods to nodes.");
        let pairs = [
            ("node-a", "a1"),
            ("node-a", "b1"),
            ("node-a", "c1"),
            ("node-c", "a1"),
            ("a1", "node-a"),
            ("a1", "node-b"),
            ("a1", "node-c"),
            ("c1", "node-b"),
        ];
        for (from, to) in pairs {
            self.reaches(from, to);
        }
    }

    fn reaches(&mut self, from: &str, to: &str) {
        let name = format!("{} -> {}", titled(from), titled(to));
        self.check(&name, &format!("in {from}: ping, UDP and TCP to {to}"), |lab| {
            checks::reach(lab.station(from)?.0, lab.station(to)?.1)
        });
    }
}

fn titled(name: &str) -> String {
    if name.starts_with("node") { name.to_owned() } else { format!("pod {name}") }
}
