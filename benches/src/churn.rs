//! Flows that come and go: what a new one costs when another one has to go for it, and how long a worker stands still for
//! that. And what the table of many flows takes of the memory.

use shunt_control_lab::memory;
use shunt_dataplane::{flow::FlowSeed, packet::BATCH, tables::Conntrack};
use shunt_pktgen::quantity::count;

use crate::{
    family::IpVersion,
    measure,
    rows::{Ledger, Part, Unit, median},
    scenario::{Path, Scale, Scenario, Turn},
};

/// How much to measure.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Flows that the table has room for.
    pub capacity: u32,
    /// Flows of the table whose memory is measured.
    pub many: u32,
    /// Batches of a case.
    pub batches: usize,
}

/// Seconds after which a flow that nobody answered is idle, as the engine has it for UDP.
const IDLE: u64 = 30;
/// In these, too, every entry has been looked at.
const SWEPT: u64 = 10;

/// Measures all of it.
pub fn run(plan: Plan, scale: Scale, ledger: &mut Ledger) {
    let of = count(plan.capacity.into());
    steady(plan, scale, &format!("churn: flows expire as others come, room for {of}"), ledger);
    flood(plan, scale, &format!("churn: the table is full of half open flows, {of}"), ledger);
    of_many(plan.many, ledger);
}

/// As many flows expire as are opened, and the table is six tenths to eight tenths full.
fn steady(plan: Plan, scale: Scale, case: &str, ledger: &mut Ledger) {
    eprintln!("engine: {case}");
    let batches_of_a_life = u64::from(plan.capacity) * 6 / 10 / BATCH as u64;
    let tick = IDLE * 1_000_000_000 / batches_of_a_life;
    // No flow comes again before it has expired.
    let scale = Scale { flows: 2 * plan.capacity, ..scale };
    let mut scenario = Scenario::with(IpVersion::V4, Path::NewFlow, scale, plan.capacity, tick);
    for _ in 0..batches_of_a_life * (IDLE + SWEPT) / IDLE {
        scenario.turn();
    }
    let usual: Vec<_> = (0..plan.batches / 10).map(|_| scenario.turn().expiring as f64).collect();
    let usual = median(&usual).expect("a plan has batches");
    let before = Figures::of(&scenario);
    let (mut pauses, mut computed) = (Vec::new(), Vec::new());
    measured(&mut scenario, plan.batches, case, ledger, |turn| {
        pauses.push(turn.expiring as f64);
        computed.push(measure::compute(usual) as f64);
    });
    let Figures { opened, expired, gave_way, lost } = Figures::of(&scenario).since(before);
    assert_eq!((opened, gave_way, lost), ((plan.batches * BATCH) as u64, 0, 0), "every flow finds room in time");
    assert!(expired.abs_diff(opened) * 5 < opened, "{expired} flows expired while {opened} came");
    // How much of a long pause is the machine's, which takes the core for others: to compute takes as long each time.
    for (contender, mut cycles) in [("Shunt", pauses), ("computing for as long", computed)] {
        cycles.sort_unstable_by(f64::total_cmp);
        let last = cycles.len() - 1;
        for (which, at) in [("median", last / 2), ("99.9 of 100", last * 999 / 1000), ("longest", last)] {
            let metric = format!("pause to expire flows, {which}");
            let time = cycles[at] * 1e9 / measure::cycles_per_second();
            ledger.record(Part::Engine, case, contender, &metric, Unit::Nanoseconds, time);
        }
    }
    let share = f64::from(scenario.switch().conntrack().in_use()) / f64::from(plan.capacity);
    ledger.record(Part::Engine, case, "Shunt", "table in use", Unit::Share, share);
}

/// Every flow that is opened makes a half open one give way.
fn flood(plan: Plan, scale: Scale, case: &str, ledger: &mut Ledger) {
    eprintln!("engine: {case}");
    let scale = Scale { flows: 2 * plan.capacity, ..scale };
    let mut scenario = Scenario::with(IpVersion::V4, Path::NewFlow, scale, plan.capacity, 1_000);
    for _ in 0..plan.capacity as usize / BATCH + 1 {
        scenario.turn();
    }
    let before = Figures::of(&scenario);
    measured(&mut scenario, plan.batches.min(plan.capacity as usize / BATCH - 1), case, ledger, |_| ());
    let Figures { opened, gave_way, lost, .. } = Figures::of(&scenario).since(before);
    // Where a key's slots are all taken, one of the flows there gives way, and its entry is the next flow's.
    assert!(gave_way.abs_diff(opened) <= BATCH as u64, "{gave_way} gave way for {opened}");
    ledger.record(Part::Engine, case, "Shunt", "found no place", Unit::Share, lost as f64 / (opened + lost) as f64);
    assert_eq!(lost, 0, "every flow finds a place");
}

/// Turns of a scenario, each of which `each` sees: costs are recorded.
fn measured(scenario: &mut Scenario, batches: usize, case: &str, ledger: &mut Ledger, mut each: impl FnMut(&Turn)) {
    let (mut opening, mut expiring) = (Vec::new(), Vec::new());
    for _ in 0..batches {
        let turn = scenario.turn();
        opening.push(turn.cycles as f64 / BATCH as f64);
        expiring.push(turn.expiring as f64 / BATCH as f64);
        each(&turn);
    }
    let [opening, expiring] = [opening, expiring].map(|cycles| median(&cycles).expect("a plan has batches"));
    let mut record = |metric, unit, value| ledger.record(Part::Engine, case, "Shunt", metric, unit, value);
    record("cycles per new flow", Unit::Cycles, opening);
    record("cycles to expire, per new flow", Unit::Cycles, expiring);
    record("new flows", Unit::FlowsPerSecond, measure::cycles_per_second() / (opening + expiring));
}

/// What has happened to flows so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Figures {
    opened: u64,
    expired: u64,
    gave_way: u64,
    /// Packets that were not sent on.
    lost: u64,
}

impl Figures {
    fn of(scenario: &Scenario) -> Figures {
        let counters = scenario.switch().counters(0);
        let port = counters.port(Path::NewFlow.ports().0);
        Figures {
            opened: counters.flows_opened.get(),
            expired: counters.flows_expired.get(),
            gave_way: counters.flows_gave_way.get(),
            lost: port.drops.iter().chain(&port.answers).map(|counter| counter.get()).sum(),
        }
    }

    fn since(self, before: Figures) -> Figures {
        Figures {
            opened: self.opened - before.opened,
            expired: self.expired - before.expired,
            gave_way: self.gave_way - before.gave_way,
            lost: self.lost - before.lost,
        }
    }
}

/// What the table takes for so many flows.
fn of_many(flows: u32, ledger: &mut Ledger) {
    let case = format!("churn: memory of the connection table, {} flows", count(flows.into()));
    eprintln!("engine: {case}");
    let resident = || memory::resident("self").expect("Linux tells");
    let before = resident();
    let table = Conntrack::new(flows, FlowSeed::from_number(1));
    let taken = resident() - before;
    assert_eq!(table.capacity(), flows);
    ledger.record(Part::Engine, &case, "Shunt", "resident", Unit::Bytes, taken as f64);
    ledger.record(Part::Engine, &case, "Shunt", "bytes per flow", Unit::Number, taken as f64 / f64::from(flows));
}
