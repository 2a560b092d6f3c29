//! The engine in memory: cycles, nanoseconds and allocations per packet, and how they grow with flows, routes and
//! services. Of IPv6, the cost of a packet beside IPv4's.

use shunt_dataplane::packet::BATCH;
use shunt_pktgen::quantity::count;

use crate::{
    churn,
    family::IpVersion,
    measure,
    probe::Probe,
    rows::{Ledger, Part, Unit, median},
    scenario::{Path, Scale, Scenario},
    stages,
};

/// Flows that are few: what more of them cost is compared, in turns, with the cost of these.
const FEW: u32 = 10_000;
/// As few flows as are measured of IPv6.
const FEW_OF_IPV6: u32 = 1_000;
/// Batches that a side has in its turn. Were it one, each would find the caches as the other has left them, of addresses, too.
const TURN: usize = 32;
/// Scenarios whose new flows are measured of IPv6 at most: few flows are soon open, and to make a scenario takes long.
const SCENARIOS_OF_IPV6: usize = 8;

/// How much to measure.
pub struct Plan {
    /// Batches of a case.
    pub batches: usize,
    /// What there is of everything that does not grow.
    pub usual: Scale,
    pub flows: &'static [u32],
    pub routes: &'static [u32],
    pub services: &'static [u32],
    /// How flows come and go.
    pub churn: churn::Plan,
}

impl Plan {
    pub const FULL: Plan = Plan {
        batches: 4_000,
        usual: Scale::USUAL,
        flows: &[1_000, 10_000, 131_072, 1_000_000, 10_000_000],
        routes: &[1, 1_000, 10_000, 100_000],
        services: &[10, 1_000, 10_000, 100_000],
        churn: churn::Plan { capacity: 1_000_000, many: 10_000_000, batches: 3_000 },
    };
    pub const QUICK: Plan = Plan {
        batches: 50,
        usual: Scale { flows: 5_000, ..Scale::USUAL },
        flows: &[1_000, 10_000, 20_000],
        routes: &[1, 1_000],
        services: &[10, 1_000],
        churn: churn::Plan { capacity: 20_000, many: 1_000_000, batches: 60 },
    };
}

/// Measures all of it.
pub fn run(plan: &Plan, ledger: &mut Ledger) {
    for path in Path::ALL {
        // New ones are soon open where there are few.
        let mut few = (path != Path::NewFlow).then(|| Scenario::new(path, Scale { flows: FEW, ..plan.usual }));
        for &flows in plan.flows {
            let case = format!("{}: {} flows", path.name(), count(flows.into()));
            let few = few.as_mut().filter(|_| flows > FEW);
            whole(path, Scale { flows, ..plan.usual }, few, plan.batches, &case, ledger);
        }
        if Path::OF_IPV6.contains(&path) {
            for flows in [FEW_OF_IPV6, plan.usual.flows] {
                let case = format!("{}: {} flows, IPv6", path.name(), count(flows.into()));
                beside_ipv4(path, Scale { flows, ..plan.usual }, plan.batches / 4, &case, ledger);
            }
        }
    }
    for &routes in plan.routes {
        for path in [Path::Route, Path::RouteEncap] {
            let case = format!("routes, {}: {} routes", path.name(), count(routes.into()));
            whole(path, Scale { routes, ..plan.usual }, None, plan.batches, &case, ledger);
        }
    }
    for &services in plan.services {
        for path in [Path::ServiceEncap, Path::NewFlow] {
            let case = format!("services, {}: {} services", path.name(), count(services.into()));
            whole(path, Scale { services, ..plan.usual }, None, plan.batches, &case, ledger);
        }
    }
    for path in [Path::RouteEncap, Path::DecapRoute, Path::ServiceEncap, Path::NewFlow] {
        stages::run(path, plan.usual, plan.batches, ledger);
    }
    churn::run(plan.churn, plan.usual, ledger);
    let reason = "the engine has no policies yet";
    ledger.refuse(Part::Engine, "policies", "Shunt", reason);
}

/// Medians over many batches of a path with IPv6 packets, in turns with IPv4 packets.
pub fn beside_ipv4(path: Path, scale: Scale, batches: usize, case: &str, ledger: &mut Ledger) {
    eprintln!("engine: {case}");
    let make = || [IpVersion::V4, IpVersion::V6].map(|version| Scenario::of(version, path, scale));
    let scenarios = make();
    let each = scenarios[0].batches();
    let batches = batches.min(each.saturating_mul(SCENARIOS_OF_IPV6));
    let mut samples = [const { Vec::new() }; 2];
    in_turns(batches, each, scenarios, make, |scenarios, turn| {
        for (scenario, samples) in scenarios.iter_mut().zip(&mut samples) {
            samples.extend((0..turn).map(|_| one(scenario, path).0));
        }
    });
    let [ipv4, ipv6] = samples.map(|samples| median(&samples).expect("a plan has batches"));
    let mut record = |metric, unit, value| ledger.record(Part::Engine, case, "Shunt", metric, unit, value);
    record("cycles per packet", Unit::Cycles, ipv6);
    record("per packet", Unit::Nanoseconds, ipv6 * 1e9 / measure::cycles_per_second());
    record("times IPv4", Unit::Number, ipv6 / ipv4);
}

/// Medians over many batches of a path: engine, engine with a `few` flows, and limit probe in turns.
pub fn whole(
    path: Path,
    scale: Scale,
    mut few: Option<&mut Scenario>,
    batches: usize,
    case: &str,
    ledger: &mut Ledger,
) {
    eprintln!("engine: {case}");
    let make = || Scenario::new(path, scale);
    let scenario = make();
    let mut probe = Probe::new(scale.flows as usize, scenario.requests());
    let (mut engine, mut limit, mut times_few, mut allocations) = (Vec::new(), Vec::new(), Vec::new(), 0);
    in_turns(batches, scenario.batches(), scenario, make, |scenario, turn| {
        let start = engine.len();
        for _ in 0..turn {
            let (cycles, calls) = one(scenario, path);
            engine.push(cycles);
            allocations += calls;
        }
        if let Some(few) = &mut few {
            let few: Vec<_> = (0..turn).map(|_| one(few, path).0).collect();
            times_few.extend(median(&engine[start..]).zip(median(&few)).map(|(many, few)| many / few));
        }
        limit.extend((0..turn).map(|_| probe.batch() as f64 / BATCH as f64));
    });
    let cycles = median(&engine).expect("a plan has batches");
    let limit = median(&limit).expect("a plan has batches");
    let mut record = |metric, unit, value| ledger.record(Part::Engine, case, "Shunt", metric, unit, value);
    record("cycles per packet", Unit::Cycles, cycles);
    record("per packet", Unit::Nanoseconds, cycles * 1e9 / measure::cycles_per_second());
    record("limit probe", Unit::Cycles, limit);
    record("times the probe", Unit::Number, cycles / limit);
    record("allocations per packet", Unit::Number, allocations as f64 / (batches * BATCH) as f64);
    if path == Path::NewFlow {
        record("new flows", Unit::FlowsPerSecond, measure::cycles_per_second() / cycles);
    }
    if let Some(times) = median(&times_few) {
        record(&format!("times that of {} flows", count(FEW.into())), Unit::Number, times);
    }
}

/// Has `batches` played, so many a turn, by a scenario that has as many as `each`, and then by others like it.
fn in_turns<S>(
    batches: usize,
    each: usize,
    mut scenario: S,
    make: impl Fn() -> S,
    mut play: impl FnMut(&mut S, usize),
) {
    let (mut played, mut left) = (0, each);
    while played < batches {
        if left == 0 {
            scenario = make();
            left = each;
        }
        let turn = TURN.min(left).min(batches - played);
        play(&mut scenario, turn);
        played += turn;
        left -= turn;
    }
}

/// One batch: its cycles per packet, and calls of the allocator.
fn one(scenario: &mut Scenario, path: Path) -> (f64, u64) {
    let (cycles, packets, calls) = scenario.batch();
    assert_eq!(packets, BATCH as u64, "{}: every packet is sent", path.name());
    (cycles as f64 / packets as f64, calls)
}
