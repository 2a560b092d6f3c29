//! How fast pktgen fills a veth, beside the public generators that Debian has.
//!
//! What arrives is dropped by an XDP program, so that receiving costs everybody the same little. The kernel counts: its
//! figure for packets sent out of the interface, whoever sends.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use shunt_control_lab::{command::Background, wait};
use shunt_dataplane::{
    spec::PortRole,
    xsk::{Classifier, UplinkFilter, XdpMode},
};
use shunt_pktgen::{
    engine::{Kind, Ports, Tester},
    profile::Profile,
};

use crate::{
    Error,
    peers::Peers,
    rows::{Ledger, Part, Unit},
    scratch::{Scratch, mortal},
    veth::{
        topology::{SOURCE_CORE, SWITCH_CORE, Topology},
        traffic::{Pace, load},
    },
};

/// How much to measure.
pub struct Plan {
    pub rounds: u32,
    /// How long a generator is counted.
    pub turn: Duration,
}

impl Plan {
    pub const FULL: Plan = Plan { rounds: 5, turn: Duration::from_secs(2) };
    pub const QUICK: Plan = Plan { rounds: 2, turn: Duration::from_millis(500) };
}

const CASE: &str = "64 bytes out of one veth";
/// By which pktgen sends live frames, in the rows.
pub const LIVE: &str = "pktgen, live frames";
const START_LIMIT: Duration = Duration::from_secs(20);
/// Until a generator that has begun is counted.
const WARM_UP: Duration = Duration::from_millis(300);

/// The same packet for trafgen: Ethernet, IPv4, UDP and 18 bytes.
const TRAFGEN: &str = "{ eth(da=02:00:00:00:00:01, sa=02:00:00:00:00:02), ipv4(sa=10.244.1.10, da=10.244.2.10, ttl=64), \
                       udp(sp=1024, dp=9), fill(0x00, 18) }";

/// Sends for one turn, and tells how many packets per second left.
type Turn = fn(&Topology, Duration) -> Result<f64, Error>;

const OURS: [(&str, Turn); 2] = [
    (LIVE, |topology, turn| ours(topology, Kind::Live, turn)),
    ("pktgen, AF_XDP", |topology, turn| ours(topology, Kind::AfXdp, turn)),
];
const OTHERS: [(&str, Turn); 2] = [("trafgen", trafgen), ("testpmd txonly, AF_XDP", testpmd)];

/// Measures all of them, in turns, each on the core that the contenders of other parts have.
pub fn run(plan: &Plan, ledger: &mut Ledger) -> Result<(), Error> {
    for round in 1..=plan.rounds {
        let mut fastest_other: f64 = 0.0;
        for (name, turn) in OTHERS.into_iter().chain(OURS) {
            eprintln!("round {round} of {}: generators: {name}", plan.rounds);
            let rate = Topology::with(|topology| {
                // A pod port's classifier drops every frame while no socket takes them.
                let filter = UplinkFilter::default();
                let _sink = Classifier::attach(&topology.input, PortRole::Pod, XdpMode::Native, &filter)?;
                turn(topology, plan.turn)
            });
            match rate {
                Ok(rate) => {
                    ledger.record(Part::Generators, CASE, name, "sent", Unit::PacketsPerSecond, rate);
                    if OTHERS.iter().any(|(other, _)| *other == name) {
                        fastest_other = fastest_other.max(rate);
                    } else if fastest_other > 0.0 {
                        let metric = "times the fastest other";
                        ledger.record(Part::Generators, CASE, name, metric, Unit::Number, rate / fastest_other);
                    }
                }
                Err(error) => ledger.refuse(Part::Generators, CASE, name, &error.to_string()),
            }
        }
    }
    Ok(())
}

fn ours(topology: &Topology, kind: Kind, turn: Duration) -> Result<f64, Error> {
    let ports = Ports {
        transmit: "src".into(),
        receive: None,
        queues: Vec::new(),
        cores: vec![SWITCH_CORE],
        receive_cores: Vec::new(),
        to_mac: Some(topology.input.mac),
        xdp_mode: XdpMode::Native,
    };
    let profile = Profile::parse(include_str!("../../configs/pktgen/flood.toml"))?;
    let mut tester = Tester::open(&profile, kind, &ports)?;
    let (before, start) = (sent()?, Instant::now());
    tester.trial(&load(Pace::Flood, turn), &mut |_| (), &Default::default())?;
    Ok((sent()? - before) as f64 / start.elapsed().as_secs_f64())
}

fn trafgen(_: &Topology, turn: Duration) -> Result<f64, Error> {
    let scratch = Scratch::create("trafgen")?;
    let packet = scratch.write("packet", TRAFGEN)?.display().to_string();
    let core = SWITCH_CORE.to_string();
    let words = ["taskset", "--cpu-list", &core, "trafgen", "--dev", "src", "--cpus", "1", "--conf", &packet];
    rate_of(mortal("unshare"), &words.map(String::from), &scratch, turn)
}

fn testpmd(_: &Topology, turn: Duration) -> Result<f64, Error> {
    let peers = Peers::find()?;
    peers.hide_installed_drivers()?;
    let scratch = Scratch::create("testpmd")?;
    let program = peers.program("dpdk-testpmd")?.display().to_string();
    let mut words = vec![program];
    words.extend(peers.dpdk_options());
    let cores = format!("{SOURCE_CORE},{SWITCH_CORE}");
    let rest = ["-l", &cores, "--main-lcore", &SOURCE_CORE.to_string(), "--vdev", "net_af_xdp0,iface=src", "--"];
    words.extend(rest.map(String::from));
    let rest = ["--nb-cores=1", "--forward-mode=txonly", "--txpkts=60", "--no-mlockall", "--total-num-mbufs=8192"];
    words.extend(rest.map(String::from));
    // Without a terminal it runs until its input ends, unless it has something to print now and then.
    words.extend(["--stats-period", "3600"].map(String::from));
    rate_of(peers.dress(mortal("unshare"), &scratch), &words, &scratch, turn)
}

/// Packets per second that leave while a program runs. `unshare` gives it a process namespace of its own, with which all
/// its children end.
fn rate_of(mut unshare: Command, words: &[String], scratch: &Scratch, turn: Duration) -> Result<f64, Error> {
    unshare.args(["--pid", "--fork", "--kill-child", "--"]).args(words);
    let before = sent()?;
    let mut running = Background::start(&mut unshare, &scratch.path().join("log"))?;
    wait::until("a generator to send", START_LIMIT, || match (running.ended(), sent()) {
        (Some(status), _) => Ok(Err(Peers::last_words(&words[0], status, &running.log()))),
        (None, Ok(now)) if now > before => Ok(Ok(())),
        (None, _) => Err(running.log()),
    })??;
    thread::sleep(WARM_UP);
    let (before, start) = (sent()?, Instant::now());
    thread::sleep(turn);
    Ok((sent()? - before) as f64 / start.elapsed().as_secs_f64())
}

/// Packets that the kernel has counted out of `src`.
fn sent() -> Result<u64, Error> {
    Ok(fs::read_to_string("/sys/class/net/src/statistics/tx_packets")?.trim().parse()?)
}
