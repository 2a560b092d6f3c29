//! What each stage of the pipeline costs: the stages of [`shunt_dataplane::pipeline`] in their order, each timed by itself
//! over batches as the whole path has them.

use std::sync::Arc;

use shunt_dataplane::{
    counters::WorkerCounters,
    flow::FlowSeed,
    io::{FramePool, PacketIo},
    packet::{BATCH, Batch, Meta},
    pipeline::Env,
    record::Off,
    stages::{
        forward,
        fragments::DATAGRAMS,
        parse,
        select::CLIENTS,
        service::{self, Opening},
        track::{self, Slots},
    },
    tables::Recent,
};

use crate::{
    device::Source,
    measure,
    rows::{Ledger, Part, Unit, median},
    scenario::{Path, Scale, Scenario},
};

const STAGES: [&str; 4] = ["parse", "track", "service", "forward"];

/// Medians over many batches.
pub fn run(path: Path, scale: Scale, batches: usize, ledger: &mut Ledger) {
    eprintln!("engine: stages of {}", path.name());
    let mut scenario = Scenario::new(path, scale);
    let batches = batches.min(scenario.batches());
    let mut source = Source::new(scenario.packets(), Arc::default());
    let mut pool = FramePool::on_heap(2 * BATCH as u32);
    let mut batch = Batch::new();
    let counters = WorkerCounters::default();
    let (fragments, clients) = [DATAGRAMS, CLIENTS].map(|room| Recent::new(room, FlowSeed::from_number(1))).into();
    let mut slots: Box<Slots> = Box::new([None; BATCH]);
    let (mut opening, mut ip_id) = (Opening::new(), 0);
    let mut cycles: [Vec<f64>; STAGES.len()] = Default::default();
    for _ in 0..batches {
        let now = scenario.tick();
        let switch = scenario.switch();
        let (snapshot, conntrack) = (switch.snapshot(), switch.conntrack());
        let (fragments, clients, counters) = (&fragments, &clients, &counters);
        let env = Env { snapshot, conntrack, fragments, clients, counters, now, recorder: Off };
        source.rx_burst(&mut pool, &mut batch.frames, BATCH);
        batch.received_on(path.ports().0);
        let mut at = measure::cycles();
        let mut lap = |stage: usize| {
            let now = measure::cycles();
            cycles[stage].push((now - at) as f64 / BATCH as f64);
            at = now;
        };
        let flags = parse::run(&mut batch, &env);
        let unusual = u16::from(Meta::ICMP_ERROR | Meta::FRAGMENT) | parse::IPV6;
        assert_eq!(flags & unusual, 0, "{}: the usual stages are enough", path.name());
        lap(0);
        let all_known = track::run(&mut batch, &mut slots, &env);
        lap(1);
        if !all_known {
            service::run(&mut batch, &mut opening, &env);
        }
        lap(2);
        forward::run(&mut batch, &mut ip_id, &env);
        lap(3);
        assert!(!batch.owes, "{}: no packet is to be answered", path.name());
        batch.frames.drain(..).for_each(|frame| pool.give(frame));
        batch.clear();
    }
    for (stage, cycles) in STAGES.into_iter().zip(&cycles) {
        let cycles = median(cycles).expect("at least one batch");
        let case = format!("stages: {}", path.name());
        ledger.record(Part::Engine, &case, "Shunt", stage, Unit::Cycles, cycles);
    }
}
