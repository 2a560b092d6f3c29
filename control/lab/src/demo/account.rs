//! Every packet and every frame is accounted for.

use super::{Tour, indented, say};
use crate::{checks, topology::Lab};

impl Tour {
    /// Counters balance on each node, after everything that went before.
    pub(super) fn accounts(&mut self) {
        self.section(
            "Every packet received was forwarded, given to the host or dropped for a reason; no frame is lost.",
        );
        let nodes: Vec<_> = self.lab.daemons().map(|(node, _)| node.plan.name()).collect();
        for node in nodes {
            self.check(&format!("counters balance on {node}"), &format!("on {node}: shuntctl conservation"), |lab| {
                show_counters(lab, &node)?;
                checks::conservation(lab.node(&node)?.shunt()?)
            });
        }
    }
}

fn show_counters(lab: &Lab, node: &str) -> crate::error::Result<()> {
    say(&indented(&lab.node(node)?.shunt()?.ctl(&["counters"])?));
    Ok(())
}
