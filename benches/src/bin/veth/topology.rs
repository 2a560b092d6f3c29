//! The stage on which all contenders play: two veth pairs in a namespace of our own.
//!
//! ```text
//!   core 0                                 core 1
//!   source --> src ==== in [ contender ] out ==== sink --> dropped
//! ```
//!
//! Frames that the source redirects into `src` are received by `in` in a NAPI poll, by default in softirq on the core
//! of the source. `sink` drops at its ingress hook, in softirq on the core that sent.

use std::{fs, process::Command, thread, time::Duration};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::{Pid, Uid},
};
use shunt_dataplane::{net::MacAddr, xsk::Interface};

use crate::Error;

pub const SOURCE_CORE: usize = 0;
pub const SWITCH_CORE: usize = 1;

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
    /// Moves this process into a new network namespace (with a /sys that shows it) and builds the pairs there. They go
    /// when the process ends.
    pub fn build() -> Result<Topology, Error> {
        if !Uid::effective().is_root() {
            return Err("this bench makes a network namespace and AF_XDP sockets: run it as root".into());
        }
        if thread::available_parallelism()?.get() < 2 {
            return Err("two cores are needed: one for the source, one for the contender".into());
        }
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
        // With GRO a veth has a receive queue of its own. Without, what is sent shares the core's backlog with what RPS
        // hands over, and is dropped for it.
        run("ethtool -K sink gro on")?;
        nft("table netdev sink { chain discard { type filter hook ingress device sink priority 0; policy drop; }; }")?;
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

/// Packets that have arrived at `sink`.
pub fn arrived() -> Result<u64, Error> {
    // Not /proc/net, which shows the namespace of the process's first thread.
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("sink:")).ok_or("no interface sink")?;
    Ok(line.split_whitespace().nth(1).ok_or("no packet counter")?.parse()?)
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

/// Applies nftables rules.
pub fn nft(rules: &str) -> Result<(), Error> {
    let output = Command::new("nft").arg(rules).output().map_err(|e| format!("cannot run nft: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("nft refused '{rules}': {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Pins the calling thread.
pub fn pin(core: usize) {
    assert!(core_affinity::set_for_current(core_affinity::CoreId { id: core }), "core {core} is there");
}
