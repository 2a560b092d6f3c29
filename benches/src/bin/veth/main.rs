//! Packets per second from one veth to another: the least program over AF_XDP, Shunt, and the kernel doing the same work.
//!
//! `cargo run --release -p shunt-benches --bin veth [-- OPTIONS]`, as root, with two cores. Options:
//! `--rounds N`, `--seconds S` per measurement, `--only NAME` (repeatable), `--json FILE`.
//!
//! 64-byte UDP packets of 4096 flows to a ClusterIP come from core 0 faster than anyone forwards them; core 1 belongs to
//! the contender. Contenders take turns in every round, so that a machine that drifts drifts for all of them.
#![deny(unsafe_code)]

mod forwarder;
mod kernel;
mod probe;
mod report;
mod shunt;
mod source;
mod topology;

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use probe::Work;
use report::{Report, Sample};
use source::{Source, Traffic};
use topology::{Receive, SOURCE_CORE, Topology, arrived, place_receive};

pub type Error = Box<dyn std::error::Error>;

/// The cluster that all contenders serve.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const VIP_PORT: u16 = 80;
pub const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 2, 10), Ipv4Addr::new(10, 244, 2, 11)];
pub const TARGET_PORT: u16 = 8080;
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
pub const REMOTE_VTEP_MAC: &str = "0a:58:00:00:00:02";
const FLOWS: u32 = 4096;

/// Who forwards, and where the receive side of its interface runs.
struct Contender {
    name: &'static str,
    receive: Receive,
    work: Work,
    /// Of what the source can send, one frame in so many is sent; the best of these counts. A kernel that is offered
    /// far more than it forwards spends its time on what it drops.
    loads: &'static [u32],
    start: fn(&Topology) -> Result<Box<dyn std::any::Any>, Error>,
}

const CONTENDERS: &[Contender] = &[
    Contender {
        name: "forwarder",
        receive: Receive::SourceCore,
        work: Work::Swap,
        loads: &[1],
        start: |topology| Ok(Box::new(forwarder::Forwarder::start(topology)?)),
    },
    Contender {
        name: "shunt",
        receive: Receive::SourceCore,
        work: Work::TranslateAndEncapsulate,
        loads: &[1],
        start: |topology| Ok(Box::new(shunt::Shunt::start(topology)?)),
    },
    Contender {
        name: "kernel, RPS",
        receive: Receive::SourceCore,
        work: Work::TranslateAndEncapsulate,
        loads: &[1, 12, 18, 24, 32],
        start: |topology| Ok(Box::new(kernel::Kernel::start(topology, true)?)),
    },
    Contender {
        name: "kernel, receive on its core",
        receive: Receive::SwitchCore,
        work: Work::TranslateAndEncapsulate,
        loads: &[1, 12, 18, 24, 32],
        start: |topology| Ok(Box::new(kernel::Kernel::start(topology, false)?)),
    },
];

struct Options {
    rounds: u32,
    seconds: f64,
    json: Option<String>,
    only: Vec<String>,
}

fn main() -> Result<(), Error> {
    let options = options()?;
    let topology = Topology::build()?;
    let traffic = Traffic {
        from_mac: topology.source_mac,
        to_mac: topology.input.mac,
        from: POD,
        to: VIP,
        to_port: VIP_PORT,
        flows: FLOWS,
        one_in: 1,
    };
    let chosen = |contender: &&Contender| options.only.is_empty() || options.only.iter().any(|o| o == contender.name);
    let contenders: Vec<&Contender> = CONTENDERS.iter().filter(chosen).collect();
    let mut report = Report::new(contenders.iter().map(|contender| contender.name));
    for round in 1..=options.rounds {
        for contender in &contenders {
            let sample = measure(contender, &topology, traffic, options.seconds)
                .map_err(|error| format!("{}: {error}", contender.name))?;
            eprintln!("round {round}: {:32} {sample}", contender.name);
            report.add(contender.name, sample);
        }
    }
    print!("{report}");
    // What we hold ourselves to: nine tenths of the least program, twice the kernel at its best.
    report.print_goal("shunt", &["forwarder"], 0.9);
    report.print_goal("shunt", &["kernel, RPS", "kernel, receive on its core"], 2.0);
    if let Some(path) = options.json {
        std::fs::write(path, report.json()?)?;
    }
    Ok(())
}

fn measure(contender: &Contender, topology: &Topology, traffic: Traffic, seconds: f64) -> Result<Sample, Error> {
    let _running = (contender.start)(topology)?;
    place_receive(contender.receive)?;
    probe::check(contender.work, || Source::start("src", traffic, SOURCE_CORE, Some(64)))?;
    let mut best = Sample::default();
    for &one_in in contender.loads {
        let sample = run(Traffic { one_in, ..traffic }, seconds)?;
        if sample.forwarded > best.forwarded {
            best = sample;
        }
    }
    place_receive(Receive::SourceCore)?;
    Ok(best)
}

/// The rate while `traffic` is sent.
fn run(traffic: Traffic, seconds: f64) -> Result<Sample, Error> {
    let source = Source::start("src", traffic, SOURCE_CORE, None)?;
    // All flows are known and all queues full before the clock starts.
    thread::sleep(Duration::from_millis(500));
    let (start, sent, received) = (Instant::now(), source.sent()?, arrived()?);
    thread::sleep(Duration::from_secs_f64(seconds));
    let (sent, received, elapsed) =
        (source.sent()?.wrapping_sub(sent), arrived()? - received, start.elapsed().as_secs_f64());
    Ok(Sample { offered: f64::from(sent) / elapsed, forwarded: received as f64 / elapsed })
}

fn options() -> Result<Options, Error> {
    let mut options = Options { rounds: 5, seconds: 2.0, json: None, only: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--rounds" => options.rounds = value.parse().map_err(|_| "--rounds takes a number")?,
            "--seconds" => options.seconds = value.parse().map_err(|_| "--seconds takes a number")?,
            "--json" => options.json = Some(value),
            "--only" => options.only.push(value),
            _ => return Err(format!("unknown option {word}: there are --rounds, --seconds, --only and --json").into()),
        }
    }
    if options.rounds == 0 || options.seconds <= 0.0 {
        return Err("--rounds and --seconds must be above 0".into());
    }
    Ok(options)
}
