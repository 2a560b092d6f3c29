//! Changes while traffic flows: none of them costs a packet.

use std::time::Duration;

use super::Tour;
use crate::{
    change::{self, Streams},
    checks,
    error::Result,
    report::Finding,
    topology::Lab,
};

/// How long streams flow during an update, in seconds.
const TRAFFIC: u32 = 6;

impl Tour {
    /// Updates, ports that come and go, and a restart.
    pub(super) fn changes(&mut self) {
        self.section(
            "The cluster changes while numbered datagrams flow, directly and through a service. None is lost.",
        );
        self.check("updates under traffic", "shuntctl apply -f services.toml, again and again", |lab| {
            under_traffic(lab, |lab, streams| {
                let mut updates = 0;
                while !streams.have_ended() {
                    updates += change::update_services(lab, updates)?;
                }
                Ok(format!("{updates} updates"))
            })
        });
        self.check(
            "ports come and go under traffic",
            "shuntctl apply -f port.toml; shuntctl delete port default/a3",
            |lab| {
                under_traffic(lab, |lab, streams| {
                    let mut rounds = 0;
                    while !streams.have_ended() {
                        change::pod_comes_and_goes(lab, 3)?;
                        rounds += 1;
                    }
                    Ok(format!("a pod came, was reached and went {rounds} times"))
                })
            },
        );
        self.section(
            "The daemon restarts: what it was told is still there, and a TCP connection across nodes lives on.",
        );
        self.check("daemon restart", "on node-b: systemctl restart shuntd (SIGTERM, then start)", |lab| {
            change::restart_under_a_connection(lab, "node-b", change::End::Stop)
        });
        self.check("pod a1 -> pod b1, after it", "in a1: ping, UDP and TCP to b1", |lab| {
            checks::reach(lab.station("a1")?.0, lab.station("b1")?.1)
        });
    }
}

/// Lets streams flow while `act` changes things; none of their datagrams may be lost.
fn under_traffic(lab: &mut Lab, act: impl FnOnce(&mut Lab, &mut Streams) -> Result<String>) -> Result<Finding> {
    let mut streams = Streams::start(lab, TRAFFIC)?;
    let done = act(lab, &mut streams)?;
    let finding = streams.finish(Duration::from_secs(30))?;
    Ok(Finding::of(finding.holds, format!("{done}; {}", finding.seen)))
}
