//! The stage on which all contenders play: two veth pairs in a namespace of our own.
//!
//! ```text
//!   core 0                                 core 1
//!   source --> src ==== in [ contender ] out ==== sink --> dropped
//! ```
//!
//! Frames that the source redirects into `src` are received by `in` in a NAPI poll, by default in softirq on the core
//! of the source. `sink` counts and drops in its XDP program, in softirq on the core that sent.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};
use shunt_dataplane::{net::MacAddr, xsk::Interface};

use crate::{
    Error,
    scratch::{Scratch, mortal},
};

pub const SOURCE_CORE: usize = 0;
pub const SWITCH_CORE: usize = 1;

/// How long one transaction of nft's may take.
const NFT_LIMIT: Duration = Duration::from_secs(60);
/// The status by which timeout(1) says that it ended the program.
const TIMED_OUT: i32 = 124;

/// Where the receive side of `in` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// In softirq on the core of the source, as with a NIC whose interrupt goes to another core.
    SourceCore,
    /// In a NAPI thread on the core of the contender, which thus pays for everything but the source.
    SwitchCore,
}

/// The two pairs and the namespace.
pub struct Topology {
    pub input: Interface,
    pub output: Interface,
    pub source_mac: MacAddr,
    pub sink_mac: MacAddr,
}

impl Topology {
    /// Runs `body` on a thread in a network namespace of its own (with a /sys that shows it), with the pairs in it. The
    /// namespace, and whatever `body` left in it, goes when the thread ends, and so do the processes it started.
    pub fn with<T: Send>(body: impl FnOnce(&Topology) -> Result<T, Error> + Send) -> Result<T, Error> {
        // The thread's error may hold what must not leave it; its text may.
        let run = || Topology::build().and_then(|topology| body(&topology)).map_err(|error| error.to_string());
        thread::scope(|scope| match scope.spawn(run).join() {
            Ok(result) => result.map_err(Error::from),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn build() -> Result<Topology, Error> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing)?;

        run("ip link set dev lo up")?;
        for (near, far) in [("in", "src"), ("out", "sink")] {
            let queues = "numtxqueues 1 numrxqueues 1";
            run(&format!("ip link add {near} {queues} type veth peer name {far} {queues}"))?;
            for end in [near, far] {
                run(&format!("ip link set dev {end} addrgenmode none"))?;
                run(&format!("ip link set dev {end} up"))?;
            }
        }
        Ok(Topology {
            input: Interface::query("in")?,
            output: Interface::query("out")?,
            source_mac: Interface::query("src")?.mac,
            sink_mac: Interface::query("sink")?.mac,
        })
    }
}

/// Makes `in` receive where `receive` says. It must have NAPI: an XDP program, or GRO.
pub fn place_receive(receive: Receive) -> Result<(), Error> {
    let threaded = receive == Receive::SwitchCore;
    fs::write("/sys/class/net/in/threaded", if threaded { "1" } else { "0" })?;
    if !threaded {
        return Ok(());
    }
    // The thread is named napi/<interface>-<id>.
    for _ in 0..50 {
        let mut found = false;
        for entry in fs::read_dir("/proc")?.flatten() {
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if comm.starts_with("napi/in-") {
                let pid = entry.file_name().to_string_lossy().parse()?;
                let mut cores = CpuSet::new();
                cores.set(SWITCH_CORE)?;
                sched_setaffinity(Pid::from_raw(pid), &cores)?;
                found = true;
            }
        }
        if found {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err("interface in has no NAPI thread: does it have NAPI?".into())
}

/// What the kernel counts at the two ends.
#[derive(PartialEq, Eq)]
pub struct Counters {
    /// Frames that `in` has processed. Those that its XDP program could not pass on are among them.
    processed: u64,
    /// Frames for which `in` had no room, and those that its XDP program could not pass on.
    dropped: u64,
    /// Frames that `sink` received.
    arrived: u64,
}

/// Frames that are not the source's and may arrive during a trial: what a contender says to its neighbours.
const STRAY: u64 = 16;

impl Counters {
    pub fn read() -> Result<Counters, Error> {
        let read = |interface: &str, name: &str| -> Result<u64, Error> {
            let path = format!("/sys/class/net/{interface}/statistics/{name}");
            Ok(fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?.trim().parse()?)
        };
        Ok(Counters {
            processed: read("in", "rx_packets")?,
            dropped: read("in", "rx_dropped")?,
            arrived: read("sink", "rx_packets")?,
        })
    }

    /// Checks our counts of what happened since `before` with the kernel's.
    pub fn agree(&self, before: &Counters, sent: u64, arrived: u64) -> Result<(), Error> {
        let (processed, dropped) = (self.processed - before.processed, self.dropped - before.dropped);
        let kernel_arrived = self.arrived - before.arrived;
        // Equal where nothing is dropped.
        if sent + STRAY < processed || processed + dropped + STRAY < sent {
            return Err(format!(
                "the source counts {sent} packets sent, the kernel {processed} and {dropped} dropped at interface in"
            )
            .into());
        }
        if kernel_arrived.abs_diff(arrived) > STRAY {
            return Err(
                format!("the sink counts {arrived} packets, the kernel {kernel_arrived} at that interface").into()
            );
        }
        Ok(())
    }
}

/// Runs a command that must succeed.
pub fn run(command: &str) -> Result<(), Error> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().ok_or("an empty command")?)
        .args(words)
        .output()
        .map_err(|e| format!("cannot run '{command}': {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("'{command}' failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Applies nftables rules on the source's core, as `nft -f` does for kube-proxy, and tells how long it took.
pub fn nft(rules: &str) -> Result<Duration, Error> {
    let scratch = Scratch::create("nft")?;
    let file = scratch.write("rules", rules)?;
    let core = SOURCE_CORE.to_string();
    let limit = NFT_LIMIT.as_secs().to_string();
    let mut command = mortal("timeout");
    command.args(["--kill-after=1", &limit, "taskset", "--cpu-list", &core, "nft", "-f"]).arg(file);
    let start = Instant::now();
    let output = command.output().map_err(|e| format!("cannot run nft: {e}"))?;
    let taken = start.elapsed();
    match output.status.code() {
        Some(0) => Ok(taken),
        Some(TIMED_OUT) => Err(format!("nft was not done in {limit} s").into()),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("nft refused the rules: {}", said.lines().take(3).collect::<Vec<_>>().join(" ")).into())
        }
    }
}

/// Pins the calling thread.
pub fn pin(core: usize) {
    assert!(core_affinity::set_for_current(core_affinity::CoreId { id: core }), "core {core} is there");
}
