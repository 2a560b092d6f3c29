//! What every end-to-end test is made of: a lab, something done in it, and the accounts checked at the end.

use std::{
    sync::{PoisonError, RwLock},
    thread,
};

use crate::{checks, error::Result, plan::Plan, report::Finding, topology::Lab};

/// Held by each test while it runs: shared, or alone. Who waits to have it alone goes before who would share it. That it is this
/// program's only is enough: cargo runs test programs one after the other.
static MACHINE: RwLock<()> = RwLock::new(());

/// Builds `plan`, runs `body` in it, then checks that each daemon's packets and frames are conserved and that it ends
/// cleanly when asked. Daemons' logs and counters are printed if anything fails. Other trials may run meanwhile: a lab waits more
/// than it works.
///
/// # Panics
/// When `body` or one of these checks fails: this is for tests.
pub fn trial(plan: Plan, body: impl FnOnce(&mut Lab) -> Result<()>) {
    // A trial that failed has left nothing half done: its lab is gone.
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    run(plan, body);
}

/// As [`trial`] while no other one runs: for what measures time or load, or must keep pace.
///
/// # Panics
/// As [`trial`].
pub fn trial_alone(plan: Plan, body: impl FnOnce(&mut Lab) -> Result<()>) {
    let _machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    run(plan, body);
}

fn run(plan: Plan, body: impl FnOnce(&mut Lab) -> Result<()>) {
    let mut witness = Witness(expect(Lab::build(plan)));
    let lab = &mut witness.0;
    expect(body(lab));
    for (node, shunt) in lab.daemons() {
        expect(checks::conservation(shunt)).must_hold(&format!("conservation on {}", node.plan.name()));
    }
    for node in &mut lab.nodes {
        if let Ok((shunt, _)) = node.shunt_mut() {
            expect(shunt.stop());
        }
    }
}

/// Makes two tests of each scenario (a function of the [`Forwarder`](crate::plan::Forwarder) of node-a and node-b):
/// `shunt::NAME` is the test, `kernel::NAME` is the test of the test.
#[macro_export]
macro_rules! for_both_forwarders {
    ($($scenario:ident),* $(,)?) => {
        mod kernel {
            $(#[test] fn $scenario() { super::$scenario($crate::plan::Forwarder::Kernel) })*
        }
        mod shunt {
            $(#[test] fn $scenario() { super::$scenario($crate::plan::Forwarder::Shunt) })*
        }
    };
}

fn expect<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// A lab that tells what its daemons know when a test fails.
struct Witness(Lab);

impl Drop for Witness {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for (node, shunt) in self.0.daemons() {
            let name = node.plan.name();
            if let Ok(daemon) = shunt.daemon() {
                eprintln!("---- log of {name}\n{}", daemon.log());
            }
            for what in ["status", "counters", "drops"] {
                match shunt.ctl(&[what]) {
                    Ok(text) => eprintln!("---- {what} of {name}\n{text}"),
                    Err(error) => eprintln!("---- {what} of {name}: {error}"),
                }
            }
        }
    }
}

impl Finding {
    /// Panics with what was seen unless the finding holds.
    ///
    /// # Panics
    /// See above: this is for tests.
    pub fn must_hold(&self, name: &str) {
        assert!(self.holds, "{name}: {}", self.seen);
    }
}
