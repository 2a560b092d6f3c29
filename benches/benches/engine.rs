//! The engine's cost per packet, from a batch in hand to the batch queued for sending, over in-memory devices.
//!
//! `cargo bench -p shunt-benches --bench engine` lets criterion measure nanoseconds; then a table gives cycles of the
//! time stamp counter, allocations, and the ratio to the limit probe, which is run in turns with the engine.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use shunt_benches::{
    measure::{self, Counting},
    probe::Probe,
    scenario::{Path, Scenario},
};
use shunt_dataplane::packet::BATCH;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FLOWS: [u32; 3] = [1_000, 131_072, 1_000_000];

/// Batches measured for a row of the table.
const ROUNDS: usize = 4_000;

fn main() {
    let table_only = std::env::args().any(|argument| argument == "--table");
    if !table_only {
        let mut criterion = Criterion::default().configure_from_args();
        Path::ALL.into_iter().for_each(|path| measure_with(&mut criterion, path));
        criterion.final_summary();
    }
    println!(
        "{:<26} {:>9} {:>10} {:>8} {:>7} {:>7} {:>11}",
        "path", "flows", "cycles", "ns", "probe", "ratio", "allocations"
    );
    for path in Path::ALL {
        FLOWS.into_iter().for_each(|flows| row(path, flows));
    }
}

/// Nanoseconds per packet, by criterion: an iteration is a packet.
fn measure_with(criterion: &mut Criterion, path: Path) {
    let mut group = criterion.benchmark_group(path.name());
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for flows in FLOWS {
        let mut scenario = None;
        let mut left = 0;
        group.bench_function(BenchmarkId::from_parameter(flows), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut cycles, mut packets) = (0, 0);
                for _ in 0..iterations.div_ceil(BATCH as u64) {
                    if left == 0 {
                        scenario = Some(Scenario::new(path, flows));
                        left = scenario.as_ref().map_or(0, Scenario::batches);
                    }
                    let (c, p, _) = scenario.as_mut().expect("made above").batch();
                    cycles += c;
                    packets += p;
                    left -= 1;
                }
                let seconds = cycles as f64 / packets as f64 / measure::cycles_per_second();
                Duration::from_secs_f64(seconds * iterations as f64)
            });
        });
    }
    group.finish();
}

/// Medians over many batches, engine and probe in turns.
fn row(path: Path, flows: u32) {
    let mut scenario = Scenario::new(path, flows);
    let mut probe = Probe::new(flows as usize, Scenario::new(Path::ServiceEncap, flows).packets());
    let (mut engine, mut limit, mut allocations) = (Vec::new(), Vec::new(), 0);
    let mut left = scenario.batches();
    for _ in 0..ROUNDS {
        if left == 0 {
            scenario = Scenario::new(path, flows);
            left = scenario.batches();
        }
        let (cycles, packets, calls) = scenario.batch();
        left -= 1;
        assert_eq!(packets, BATCH as u64, "{}: every packet is sent", path.name());
        engine.push(cycles as f64 / packets as f64);
        limit.push(probe.batch() as f64 / BATCH as f64);
        allocations += calls;
    }
    let (engine, limit) = (median(&mut engine), median(&mut limit));
    println!(
        "{:<26} {flows:>9} {engine:>10.1} {:>8.1} {limit:>7.1} {:>7.2} {:>11}",
        path.name(),
        engine * 1e9 / measure::cycles_per_second(),
        engine / limit,
        allocations as f64 / (ROUNDS * BATCH) as f64,
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
