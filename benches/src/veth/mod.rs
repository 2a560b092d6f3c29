//! End to end over veth: what each contender forwards from one veth to another without loss, and how long it takes.
//!
//! The source has core 0; core 1 belongs to the contender. Contenders take turns in every round, so that a machine that
//! drifts drifts for all of them; each starts afresh, in a network namespace of its own.

mod cases;
mod check;
pub mod cluster;
mod forwarder;
mod kernel;
pub mod load;
pub mod nftables;
mod ovs;
pub mod shunt;
mod sink;
mod testpmd;
pub mod topology;
pub mod traffic;

pub use cases::{Case, Frames};
pub use check::Work;

use std::{process::Command, time::Duration};

use check::check;
use cluster::Service;
use load::{Bench, Effort};
use sink::Sink;
use topology::{Receive, SOURCE_CORE, Topology, pin, place_receive};
use traffic::{FLOWS, Pace, Source};

use crate::{
    Error,
    rows::{Ledger, Part, Unit},
};

/// Loss that does not count as such where a second rate is given: one packet in a thousand.
pub const LITTLE: f64 = 0.001;
/// Loads at which latency is measured, as shares of the highest rate without loss.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// Every flow has had a packet by then, at 50,000 a second.
const WARM_UP: Duration = Duration::from_millis(2 * FLOWS as u64 / 50);
const SHARES: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];

/// How long a change took.
pub struct Took {
    /// From the request in hand to the answer.
    pub total: Duration,
    /// What the contender says of its steps, each with a name; the total has more in it.
    pub steps: Vec<(&'static str, Duration)>,
}

impl From<Duration> for Took {
    fn from(total: Duration) -> Took {
        Took { total, steps: Vec::new() }
    }
}

/// A contender at work. Dropping it stops it.
pub trait Running {
    /// Gives it the first `count` services of the cluster, and tells how long it took until it forwarded by them, from
    /// the request in hand. Who does I/O only has no services.
    fn load(&mut self, _count: u32) -> Result<Took, Error> {
        Err("it knows no services".into())
    }

    /// Changes one service, and tells how long that took.
    fn change(&mut self, _service: &Service) -> Result<Took, Error> {
        Err("it knows no services".into())
    }

    /// Memory that it has in use, in bytes; `None`: it is the kernel's, and not told apart.
    fn resident(&self) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    /// Whether it has kept its own promises.
    fn finish(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Who forwards, and where the receive side of its interface runs.
pub struct Contender {
    pub name: &'static str,
    pub receive: Receive,
    pub work: Work,
    start: fn(&Topology) -> Result<Box<dyn Running>, Error>,
}

/// All that can be measured here.
pub const CONTENDERS: &[Contender] = &[
    Contender {
        name: "Shunt",
        receive: Receive::SourceCore,
        work: Work::TranslateAndEncapsulate,
        start: |topology| Ok(Box::new(shunt::Shunt::start(topology)?)),
    },
    Contender {
        name: "kernel, RPS",
        receive: Receive::SourceCore,
        work: Work::TranslateAndEncapsulate,
        start: |topology| Ok(Box::new(kernel::Kernel::start(topology, true)?)),
    },
    Contender {
        name: "kernel, threaded NAPI",
        receive: Receive::SwitchCore,
        work: Work::TranslateAndEncapsulate,
        start: |topology| Ok(Box::new(kernel::Kernel::start(topology, false)?)),
    },
    Contender {
        name: "Open vSwitch, AF_XDP",
        receive: Receive::SourceCore,
        work: Work::TranslateAndEncapsulate,
        start: |topology| Ok(Box::new(ovs::Ovs::start(topology)?)),
    },
    Contender {
        name: "testpmd, AF_XDP (I/O only)",
        receive: Receive::SourceCore,
        work: Work::Swap,
        start: |topology| Ok(Box::new(testpmd::Testpmd::start(topology)?)),
    },
    Contender {
        name: "least AF_XDP forwarder (I/O only)",
        receive: Receive::SourceCore,
        work: Work::Swap,
        start: |topology| Ok(Box::new(forwarder::Forwarder::start(topology)?)),
    },
];

/// How much to measure.
pub struct Plan {
    pub rounds: u32,
    pub cases: &'static [Case],
    pub effort: Effort,
}

impl Plan {
    pub const FULL: Plan = Plan { rounds: 3, cases: &Case::FULL, effort: Effort::FULL };
    pub const QUICK: Plan = Plan { rounds: 1, cases: &Case::QUICK, effort: Effort::QUICK };
}

/// Measures all contenders in all cases.
pub fn run(plan: &Plan, ledger: &mut Ledger) -> Result<(), Error> {
    ledger.refuse(Part::Veth, &plan.cases[0].name(), "VPP", &no_vpp());
    for round in 1..=plan.rounds {
        for &case in plan.cases {
            for contender in CONTENDERS {
                // Who does I/O only knows no services.
                if contender.work == Work::Swap && case.services != plan.cases[0].services {
                    continue;
                }
                eprintln!("round {round} of {}: {}: {}", plan.rounds, case.name(), contender.name);
                if let Err(error) = measure(contender, case, plan.effort, ledger) {
                    ledger.refuse(Part::Veth, &case.name(), contender.name, &error.to_string());
                }
            }
        }
    }
    Ok(())
}

/// Why VPP is not among the contenders.
fn no_vpp() -> String {
    let said = Command::new("apt-cache").args(["show", "vpp"]).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    format!(
        "this report takes peers from the distribution's packages; apt-cache show vpp: {}",
        match said {
            Ok(text) if text.is_empty() => "there is one now: it can be added".to_owned(),
            Ok(text) => text,
            Err(error) => error.to_string(),
        }
    )
}

fn measure(contender: &Contender, case: Case, effort: Effort, ledger: &mut Ledger) -> Result<(), Error> {
    with_contender(contender, case, effort, |bench, _| {
        let mut record = |metric: &str, unit, value| {
            ledger.record(Part::Veth, &case.name(), contender.name, metric, unit, value);
        };
        let flood = bench.trial(Pace::Flood, effort.time)?;
        if flood.arrivals.received() == 0 {
            return Err("it forwards nothing of a flood".into());
        }
        record("forwarded when flooded", Unit::PacketsPerSecond, flood.forwarded());
        let none = bench.search(0.0)?;
        record("no loss", Unit::PacketsPerSecond, none);
        let little = bench.search(LITTLE)?;
        record("loss up to 0.1%", Unit::PacketsPerSecond, little.max(none));
        for load in LOADS {
            if none == 0.0 {
                break;
            }
            let trial = bench.trial(Pace::PerSecond(load * none), effort.time)?;
            let load = format!("at {:.0}%", load * 100.0);
            record(&format!("lost {load}"), Unit::Share, trial.loss());
            for (share, name) in SHARES {
                // Where nothing arrived there is no latency, and the loss has said so.
                if let Some(time) = trial.arrivals.within(share) {
                    record(&format!("{name} {load}"), Unit::Nanoseconds, time);
                }
            }
        }
        Ok(())
    })
}

impl Contender {
    /// Starts it in a namespace of its own, without services and traffic.
    pub fn alone<T: Send>(&self, body: impl FnOnce(&mut dyn Running) -> Result<T, Error> + Send) -> Result<T, Error> {
        Topology::with(|topology| {
            let mut running = (self.start)(topology)?;
            let result = body(&mut *running)?;
            running.finish()?;
            Ok(result)
        })
    }
}

/// Starts a contender, checks what it does to a packet, and hands it over between source and sink.
pub fn with_contender<T: Send>(
    contender: &Contender,
    case: Case,
    effort: Effort,
    body: impl FnOnce(&mut Bench, &mut dyn Running) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    Topology::with(|topology| {
        let mut running = (contender.start)(topology)?;
        if contender.work == Work::TranslateAndEncapsulate {
            running.load(case.services)?;
        }
        // The contender's core is its own from here on.
        pin(SOURCE_CORE);
        place_receive(contender.receive)?;
        let mut source = Source::open(topology, case)?;
        check(contender.work, case, &mut source)?;
        let sink = Sink::attach("sink", (contender.work.overhead() + Source::signature_at()) as u32)?;
        let mut bench = Bench { source, sink, effort };
        // What the check has sent has arrived, and all flows are known, before anything counts.
        bench.settle()?;
        bench.trial(Pace::PerSecond(50e3), WARM_UP)?;
        let result = body(&mut bench, &mut *running)?;
        running.finish()?;
        Ok(result)
    })
}
