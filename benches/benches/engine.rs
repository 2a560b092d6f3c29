//! The engine's cost per packet, from a batch in hand to the batch queued for sending, over in-memory devices, in
//! nanoseconds by criterion: `cargo bench -p shunt-benches --bench engine`. With `-- --table` it prints cycles of the time
//! stamp counter, allocations, and the ratio to the limit probe, which is run in turns with the engine, as
//! `./dev bench --part engine` has them.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use shunt_benches::{
    engine,
    family::IpVersion,
    measure::{self, Counting},
    rows::{Ledger, Part},
    scenario::{Path, Scale, Scenario},
    table,
};
use shunt_dataplane::packet::BATCH;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FLOWS: [u32; 3] = [1_000, 131_072, 1_000_000];
const FLOWS_OF_IPV6: [u32; 2] = [1_000, 131_072];

/// Batches measured for a row of the table.
const BATCHES: usize = 4_000;

fn main() {
    if !std::env::args().any(|argument| argument == "--table") {
        let mut criterion = Criterion::default().configure_from_args();
        Path::ALL.into_iter().for_each(|path| measure_with(&mut criterion, IpVersion::V4, path));
        Path::OF_IPV6.into_iter().for_each(|path| measure_with(&mut criterion, IpVersion::V6, path));
        criterion.final_summary();
        return;
    }
    let mut ledger = Ledger::default();
    for path in Path::ALL {
        for flows in FLOWS {
            let case = format!("{}: {flows} flows", path.name());
            engine::whole(path, Scale { flows, ..Scale::USUAL }, None, BATCHES, &case, &mut ledger);
        }
        if Path::OF_IPV6.contains(&path) {
            for flows in FLOWS_OF_IPV6 {
                let case = format!("{}: {flows} flows, IPv6", path.name());
                engine::beside_ipv4(path, Scale { flows, ..Scale::USUAL }, BATCHES, &case, &mut ledger);
            }
        }
    }
    for table in table::tables(&ledger.rows(), Part::Engine) {
        println!("{table}");
    }
}

/// Nanoseconds per packet, by criterion: an iteration is a packet.
fn measure_with(criterion: &mut Criterion, version: IpVersion, path: Path) {
    let (flows, name) = match version {
        IpVersion::V4 => (&FLOWS[..], path.name().to_owned()),
        IpVersion::V6 => (&FLOWS_OF_IPV6[..], format!("{}, IPv6", path.name())),
    };
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for &flows in flows {
        let mut scenario = None;
        let mut left = 0;
        group.bench_function(BenchmarkId::from_parameter(flows), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut cycles, mut packets) = (0, 0);
                for _ in 0..iterations.div_ceil(BATCH as u64) {
                    if left == 0 {
                        scenario = Some(Scenario::of(version, path, Scale { flows, ..Scale::USUAL }));
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
