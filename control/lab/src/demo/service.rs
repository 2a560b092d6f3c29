//! Services: one address, several backends.

use std::net::SocketAddrV4;

use super::Tour;
use crate::{
    checks,
    plan::{DNS, WEB},
};

/// Where `web` and `dns` have their backends: one on each node.
const BACKENDS: [&str; 3] = ["a2", "b1", "c1"];
const FLOWS: u32 = 300;

impl Tour {
    /// New flows spread over the backends of a ClusterIP.
    pub(super) fn services(&mut self) {
        self.section("A ClusterIP leads each new flow to one of its backends on three nodes, here a2, b1 and c1.");
        let (web, dns) = (SocketAddrV4::new(WEB, 80), SocketAddrV4::new(DNS, 53));
        for (from, protocol, to) in
            [("a1", "tcp", web), ("b2", "tcp", web), ("a1", "udp", dns), ("b2", "udp", dns), ("node-a", "tcp", web)]
        {
            let command = format!("in {from}: shunt-lab probe ask {protocol} {to} {FLOWS}");
            self.check(&format!("{from} -> ClusterIP, {protocol}"), &command, |lab| {
                checks::spread(lab.station(from)?.0, protocol, to, FLOWS, &BACKENDS)
            });
        }
        self.check("a1 -> ClusterIP, 2 MB", &format!("in a1: shunt-lab probe transfer {web} 2000000"), |lab| {
            checks::echo(lab.station("a1")?.0, web, 2_000_000)
        });
    }
}
