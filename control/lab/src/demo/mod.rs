//! The guided tour: three nodes, what Shunt does between them, and a table of checks at the end.

mod account;
mod change;
mod reach;
mod service;
mod speed;

use std::io::{self, Write};

use crate::{
    error::Result,
    plan::{CLUSTER_CIDR, FRAMES, Forwarder, Plan, SERVICE_CIDR, VNI, VXLAN_PORT},
    report::{Finding, Report},
    tidy,
    topology::{Lab, PREFIX},
};

/// Shows the tour and returns whether all checks hold.
///
/// # Errors
/// When the lab cannot be built; a check that cannot be carried out fails in the table instead.
pub fn run(forwarder: Forwarder, keep: bool) -> Result<bool> {
    let mut tour = Tour::begin(forwarder)?;
    tour.reach();
    tour.services();
    tour.speed();
    if forwarder == Forwarder::Shunt {
        tour.changes();
        tour.accounts();
    }
    say(&format!("\n{}", tour.report));
    if keep {
        tour.explain_how_to_play()?;
        tidy::keep_everything();
    }
    let holds = tour.report.holds();
    if keep {
        // The namespaces stay, and so must the processes in them: no destructor may end them.
        std::mem::forget(tour.lab);
    }
    Ok(holds)
}

struct Tour {
    lab: Lab,
    report: Report,
    section: u32,
}

impl Tour {
    fn begin(forwarder: Forwarder) -> Result<Tour> {
        let plan = Plan { frames: FRAMES, ..Plan::three_nodes(forwarder) };
        say("Building three nodes in network namespaces ...");
        let lab = Lab::build(plan)?;
        say(&format!("Pods {CLUSTER_CIDR}, services {SERVICE_CIDR}, VXLAN {VNI} on UDP port {VXLAN_PORT}:"));
        for node in &lab.nodes {
            let forwarder = match node.plan.forwarder {
                Forwarder::Shunt => "Shunt",
                Forwarder::Kernel => "the kernel alone (flannel.1)",
            };
            let pods: Vec<_> = node.pods.iter().map(|pod| format!("{} {}", pod.plan.name, pod.address())).collect();
            let plan = &node.plan;
            say(&format!("  {}  {}  pods {}  forwarded by {forwarder}", plan.name(), plan.underlay(), pods.join(", ")));
        }
        if let Some((node, shunt)) = lab.daemons().next() {
            say(&format!("\n{} was told this cluster, through its API:", node.plan.name()));
            say("  $ shuntctl apply -f cluster.toml");
            for what in ["vteps", "ports", "services"] {
                say(&format!("  $ shuntctl list {what}"));
                say(&indented(&shunt.ctl(&["list", what])?));
            }
        }
        Ok(Tour { lab, report: Report::default(), section: 0 })
    }

    /// Begins a section: what will be shown, in a sentence.
    fn section(&mut self, sentence: &str) {
        self.section += 1;
        say(&format!("\n[{}] {sentence}", self.section));
    }

    /// Carries out a check, shows the command that shows it and what was seen.
    fn check(&mut self, name: &str, command: &str, find: impl FnOnce(&mut Lab) -> Result<Finding>) {
        say(&format!("  $ {command}"));
        let found = find(&mut self.lab);
        let finding = self.report.add(name, found);
        let mark = if finding.holds { "" } else { "FAILED: " };
        say(&indented(&format!("{mark}{}", finding.seen)));
    }

    fn explain_how_to_play(&self) -> Result<()> {
        let name = self.lab.name();
        say("\nEverything stays. Some things to try:");
        say(&format!("  nsenter --net=/run/netns/{name}-pod-a1 ping 10.244.3.10"));
        say(&format!("  nsenter --net=/run/netns/{name}-pod-a1 bash -c 'cat < /dev/tcp/10.96.0.10/80 & sleep 1'"));
        say(&format!("  nsenter --net=/run/netns/{name}-underlay tcpdump -ni node-a udp port {VXLAN_PORT}"));
        for (node, shunt) in self.lab.daemons() {
            for what in [&["status"][..], &["counters"], &["flow", "list"]] {
                let line = crate::error::command_line(&shunt.ctl_command(what)?);
                let line = line.trim_start_matches("timeout --kill-after=1 30 ");
                say(&format!("  {line}    # {}", node.plan.name()));
            }
        }
        say(&format!("Remove it with ./dev clean (network namespaces {PREFIX}-*).\n"));
        Ok(())
    }
}

/// Prints at once, so that a person sees each step when it happens.
fn say(text: &str) {
    println!("{text}");
    // A closed pipe ends the next `println!` with a message; nothing to add here.
    let _ = io::stdout().flush();
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
