//! Costs of the tables: lookups per element over a long run of independent keys, builds as a whole.

use std::{hint::black_box, net::Ipv4Addr, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::Ipv4Net;
use shunt_dataplane::{
    flow::{FiveTuple, FlowSeed},
    net::Protocol,
    service_set::ServiceSet,
    spec::{Backend, Endpoint, ServiceSpec},
    tables::{
        Conntrack, Fib, Maglev, Origin, ServiceTable, VtepTable,
        conntrack::{FlowState, NewFlow},
    },
};

/// Long enough that branch predictors cannot learn it by heart.
const BATCH: u64 = 1 << 16;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the same figures every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

fn prefix(address: u32, len: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(address), len).expect("at most 32")
}

/// Prefixes anywhere, mostly /24 as in a routing table at large.
fn random_routes(n: u32) -> Vec<(Ipv4Net, u32)> {
    let mut random = Random(n.into());
    let mut len = || [24, 24, 24, 24, 22, 20, 16, 32][(random.next() >> 61) as usize];
    let lens: Vec<u8> = (0..n).map(|_| len()).collect();
    lens.into_iter().zip(1..).map(|(len, hop)| (prefix(random.next() as u32, len), hop)).collect()
}

/// A cluster: 5,000 nodes' /24 out of 10.0.0.0/11 and 250 local pods.
fn cluster_routes() -> Vec<(Ipv4Net, u32)> {
    let nodes = (0..5000).map(|node| (prefix(0x0a00_0000 + (node << 8), 24), node));
    nodes.chain((0..250).map(|pod| (prefix(0x0a00_2a00 + pod, 32), 5000 + pod))).collect()
}

fn fib(c: &mut Criterion) {
    let mut random = Random(1);
    let mut anywhere = || (0..BATCH).map(|_| random.next() as u32).collect::<Vec<_>>();
    let routed = |routes: &[(Ipv4Net, u32)]| -> Vec<u32> {
        let mut random = Random(2);
        let mut pick = || routes[(random.next() % routes.len() as u64) as usize].0;
        (0..BATCH).map(|i| u32::from(pick().network()) | (i as u32 & 1)).collect()
    };
    // Half of the packets to local pods, half to other nodes' pods, in no order.
    let cluster = cluster_routes();
    let mut half = routed(&cluster[..5000]);
    let mut coin = Random(4);
    half.iter_mut().zip(routed(&cluster[5000..])).filter(|_| coin.next() & 1 == 0).for_each(|(to, pod)| *to = pod);
    let one = vec![(prefix(0x0a00_0000, 8), 1)];
    let (thousand, ten) = (random_routes(1_000), random_routes(10_000));

    let mut group = c.benchmark_group("fib");
    group.throughput(Throughput::Elements(BATCH));
    for (name, routes, addresses) in [
        ("1 route, any address", &one, anywhere()),
        ("1k routes, any address", &thousand, anywhere()),
        ("1k routes, routed addresses", &thousand, routed(&thousand)),
        ("10k routes, any address", &ten, anywhere()),
        ("10k routes, routed addresses", &ten, routed(&ten)),
        ("cluster, nodes and local pods", &cluster, half),
    ] {
        let fib = Fib::build(routes.iter().copied(), 0);
        group.bench_function(format!("lookup, {name}"), |b| {
            b.iter(|| black_box(&addresses).iter().map(|&address| u64::from(fib.lookup(address))).sum::<u64>())
        });
    }
    group.finish();

    let mut group = c.benchmark_group("fib build");
    for (name, routes) in [("cluster", cluster), ("10k routes", ten)] {
        group.bench_function(name, |b| b.iter(|| Fib::build(routes.iter().copied(), 0)));
    }
    group.finish();
}

fn endpoints(service: u32, n: u32) -> Arc<[Endpoint]> {
    let address = |i| Ipv4Addr::from(0x0a00_0000 + service * n + i);
    (0..n).map(|i| Backend { address: address(i), port: 8080 }.into()).collect()
}

fn services(n: u32) -> ServiceSet {
    let vip = |i| Ipv4Addr::from(0x0a60_0000 + i);
    let spec = |i| ServiceSpec::simple(vip(i), 80, Protocol::Tcp, endpoints(i, 10));
    (0..n).map(spec).collect()
}

fn maglev(c: &mut Criterion) {
    let mut group = c.benchmark_group("maglev build");
    for n in [2, 10, 100, 1000] {
        let endpoints = endpoints(0, n);
        group.bench_function(format!("{n} backends"), |b| b.iter(|| Maglev::build(&endpoints, 1)));
    }
    group.finish();
}

fn service(c: &mut Criterion) {
    for n in [1_000, 10_000, 100_000] {
        let specs = services(n);
        let table = ServiceTable::build(&specs, None, 1);
        let mut random = Random(3);
        let vips: Vec<(u32, u64)> =
            (0..BATCH).map(|_| (0x0a60_0000 + random.next() as u32 % n, random.next())).collect();

        let mut group = c.benchmark_group(format!("{n} services"));
        group.throughput(Throughput::Elements(BATCH));
        let hits = |vips: &[(u32, u64)], offset| {
            vips.iter().filter(|(vip, _)| table.lookup(vip + offset, 80, 6).is_some()).count()
        };
        group.bench_function("lookup, hits", |b| b.iter(|| hits(black_box(&vips), 0)));
        group.bench_function("lookup, misses", |b| b.iter(|| hits(black_box(&vips), 0x0100_0000)));
        group.bench_function("lookup and select", |b| {
            b.iter(|| {
                let select = |&(vip, hash)| table.get(table.lookup(vip, 80, 6)?).choice(Origin::Pod).select(hash);
                black_box(&vips).iter().filter_map(select).map(|backend| u64::from(backend.port)).sum::<u64>()
            })
        });
        group.finish();

        let mut group = c.benchmark_group(format!("{n} services build"));
        group.sample_size(10);
        let mut changed = specs.clone();
        changed.insert(ServiceSpec::simple(Ipv4Addr::from(0x0a60_0000 + n / 2), 80, Protocol::Tcp, endpoints(n, 9)));
        group.bench_function("cold", |b| b.iter(|| ServiceTable::build(&specs, None, 1)));
        group.bench_function("one changed", |b| {
            b.iter_batched(|| (), |()| ServiceTable::build(&changed, Some(&table), 1), BatchSize::PerIteration)
        });
        group.finish();
    }
}

/// What a port for a masqueraded flow costs, by how many of the range its destination has taken.
fn masquerade(c: &mut Criterion) {
    const RANGE: std::ops::RangeInclusive<u16> = 61_000..=65_535;
    let answer =
        |port| FiveTuple { src: 0x0af4_0001u32, dst: 0xc0a8_0001, src_port: 8080, dst_port: port, protocol: 6 };
    let flow = |port: u16| {
        let forward = FiveTuple { src: 0x0a00_0001u32, dst: 0x0a60_0001, src_port: port, dst_port: 80, protocol: 6 };
        [forward.to_words(), answer(port).to_words()]
    };
    let mut group = c.benchmark_group("masquerade port");
    for (name, taken) in [("none", 0), ("90%", 4083), ("all but one", 4535), ("all", 4536)] {
        let table = Conntrack::new(1 << 20, FlowSeed::from_number(7));
        let mut random = Random(9);
        for _ in 0..taken {
            let port = table.take_port(answer(0).to_words(), &RANGE, random.next()).expect("one is left");
            let keys = flow(port).map(|key| (key, table.hash(key)));
            let state = FlowState::Established;
            let flow = NewFlow { keys, next_hops: [0, 0], generation: 1, state, tick: 0, counted: false };
            table.insert(&flow).expect("the port is free");
        }
        group.bench_function(format!("taken and given back, {name} taken before"), |b| {
            b.iter(|| {
                let port = table.take_port(answer(0).to_words(), &RANGE, random.next());
                port.inspect(|port| table.give_back(flow(*port)))
            })
        });
    }
    group.finish();
}

fn vtep(c: &mut Criterion) {
    let table = VtepTable::build((0..5000).map(|i| 0x0a64_0000 + i), 1);
    let mut random = Random(5);
    let addresses: Vec<u32> = (0..BATCH).map(|_| 0x0a64_0000 + (random.next() % 5000) as u32).collect();
    let mut group = c.benchmark_group("5k VTEPs");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("lookup", |b| {
        b.iter(|| black_box(&addresses).iter().filter(|&&address| table.contains(address)).count())
    });
    group.finish();
}

criterion_group!(benches, fib, maglev, service, masquerade, vtep);
criterion_main!(benches);
