//! Control: how long a change takes until it forwards, and what a storm of changes does to traffic.

use std::time::{Duration, Instant};

use shunt_pktgen::quantity::count;

use crate::{
    Error,
    rows::{Ledger, Part, Unit, median},
    veth::{
        self, CONTENDERS, Case, Contender, Frames, Work,
        cluster::{ENDPOINTS, Service},
        load::Effort,
        traffic::Pace,
    },
};

/// How much to measure.
pub struct Plan {
    pub rounds: u32,
    /// Numbers of services.
    pub sizes: &'static [u32],
    /// Changes of one service, of which the median counts.
    pub changes: u32,
    /// How long a storm is.
    pub storm: Duration,
    pub effort: Effort,
}

impl Plan {
    pub const FULL: Plan = Plan {
        rounds: 3,
        sizes: &[1_000, 10_000, 100_000],
        changes: 10,
        storm: Duration::from_secs(3),
        effort: Effort::FULL,
    };
    pub const QUICK: Plan =
        Plan { rounds: 1, sizes: &[1_000], changes: 3, storm: Duration::from_secs(1), effort: Effort::QUICK };
}

/// Services while a storm of changes goes on.
const STORM_SERVICES: u32 = 1_000;
/// The load that traffic has during a storm, as a share of what its contender carries without loss in quiet.
const STORM_LOAD: f64 = 0.5;

/// Who takes services and changes of them: Shunt by gRPC, the kernel by nft.
fn contenders() -> impl Iterator<Item = &'static Contender> {
    CONTENDERS.iter().filter(|contender| ["Shunt", "kernel, RPS"].contains(&contender.name))
}

/// Measures all of it.
pub fn run(plan: &Plan, ledger: &mut Ledger) -> Result<(), Error> {
    for round in 1..=plan.rounds {
        for &services in plan.sizes {
            let case = format!("{} services of {ENDPOINTS} endpoints", count(services.into()));
            for contender in contenders() {
                eprintln!("round {round} of {}: {case}: {}", plan.rounds, contender.name);
                // What took too long or was refused once is not tried again.
                if ledger.is_refused(Part::Control, &case, contender.name) {
                    continue;
                }
                if let Err(error) = updates(contender, services, plan, &case, ledger) {
                    ledger.refuse(Part::Control, &case, contender.name, &error.to_string());
                }
            }
        }
        for contender in contenders() {
            let case = format!("storm of changes, {} services", count(STORM_SERVICES.into()));
            eprintln!("round {round} of {}: {case}: {}", plan.rounds, contender.name);
            if let Err(error) = storm(contender, plan, &case, ledger) {
                ledger.refuse(Part::Control, &case, contender.name, &error.to_string());
            }
        }
    }
    Ok(())
}

fn updates(contender: &Contender, services: u32, plan: &Plan, case: &str, ledger: &mut Ledger) -> Result<(), Error> {
    let (cold, changes, memory) = contender.alone(|running| {
        let before = running.resident()?;
        let cold = running.load(services)?;
        let memory = running.resident()?.zip(before).map(|(now, before)| now.saturating_sub(before));
        let change = |n: u32| running.change(&Service::changed(n * 7 % services, n));
        Ok((cold, (0..plan.changes).map(change).collect::<Result<Vec<_>, _>>()?, memory))
    })?;
    let mut record =
        |metric: &str, unit, value| ledger.record(Part::Control, case, contender.name, metric, unit, value);
    for (what, all) in [("cold load", &[cold][..]), ("one change", &changes)] {
        let totals: Vec<_> = all.iter().map(|took| took.total.as_nanos() as f64).collect();
        record(what, Unit::Nanoseconds, median(&totals).ok_or("no change was measured")?);
        for (at, (step, _)) in all[0].steps.iter().enumerate() {
            let times: Vec<_> = all.iter().map(|took| took.steps[at].1.as_nanos() as f64).collect();
            record(&format!("{what}, {step}"), Unit::Nanoseconds, median(&times).ok_or("no change was measured")?);
        }
    }
    if let Some(bytes) = memory {
        record("memory", Unit::Bytes, bytes as f64);
    }
    Ok(())
}

fn storm(contender: &Contender, plan: &Plan, case: &str, ledger: &mut Ledger) -> Result<(), Error> {
    debug_assert_eq!(contender.work, Work::TranslateAndEncapsulate);
    let traffic = Case { frames: Frames::Bytes(64), services: STORM_SERVICES };
    veth::with_contender(contender, traffic, plan.effort, |bench, running| {
        let mut record = |metric: &str, unit, value| {
            ledger.record(Part::Control, case, contender.name, metric, unit, value);
        };
        let load = Pace::PerSecond(STORM_LOAD * bench.search(veth::LITTLE)?);
        let quiet = bench.trial(load, plan.storm)?;
        let mut changes = 0;
        let stormy = bench.trial_while(load, || {
            let start = Instant::now();
            while start.elapsed() < plan.storm {
                changes += 1;
                running.change(&Service::changed(changes * 7 % STORM_SERVICES, changes))?;
            }
            Ok(())
        })?;
        record("updates", Unit::UpdatesPerSecond, f64::from(changes) / stormy.time.as_secs_f64());
        record("load", Unit::PacketsPerSecond, stormy.offered());
        for (name, trial) in [("in quiet", &quiet), ("in the storm", &stormy)] {
            record(&format!("loss {name}"), Unit::Share, trial.loss());
            let p999 = trial.arrivals.within(0.999).ok_or("nothing arrived")?;
            record(&format!("p99.9 {name}"), Unit::Nanoseconds, p999);
        }
        Ok(())
    })
}
