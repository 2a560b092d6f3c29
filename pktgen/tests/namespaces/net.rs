//! A network namespace per test, veth pairs in it, and what the kernel counts there.

use std::{
    fs,
    process::Command,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use shunt_dataplane::{
    spec::PortRole,
    xsk::{Classifier, Interface, UplinkFilter, XdpMode},
};

/// Held by each test while it runs: shared, or alone by those that measure. pktgen keeps a core busy, and their figures would
/// tell of another one beside it.
static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    /// A test's turn, which lasts as long as its thread.
    static SHARED: RwLockReadGuard<'static, ()> = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    static ALONE: RwLockWriteGuard<'static, ()> = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
}

/// Moves the calling test's thread into a new, empty network namespace, which goes away with the thread. Threads and commands
/// started from it are in the same one. Other tests may run meanwhile.
pub fn new_namespace() {
    SHARED.with(|_| ());
    enter_new_namespace();
}

/// As [`new_namespace`], once the machine is the calling test's: no other test runs meanwhile.
pub fn new_namespace_alone() {
    ALONE.with(|_| ());
    enter_new_namespace();
}

fn enter_new_namespace() {
    assert!(Uid::effective().is_root(), "these tests make network namespaces and AF_XDP sockets: run them as root");
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
    run("ip link set lo up");
}

/// Runs a command that must succeed, and returns its standard output.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    assert!(output.status.success(), "'{command}' failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair `a` and `b`, both up, and nothing on it but what is sent: no IPv6, no offloads.
pub fn veth(a: &str, b: &str) {
    run(&format!(
        "ip link add name {a} numtxqueues 1 numrxqueues 1 type veth peer name {b} numtxqueues 1 numrxqueues 1"
    ));
    for end in [a, b] {
        run(&format!("ip link set dev {end} addrgenmode none"));
        run(&format!("ethtool -K {end} tx off gso off tso off"));
        run(&format!("ip link set dev {end} up"));
    }
}

/// What the kernel counts at an interface: packets received and sent.
pub fn counters(interface: &str) -> (u64, u64) {
    // Not /proc/net, which shows the namespace of the process's first thread.
    let text = fs::read_to_string("/proc/thread-self/net/dev").expect("the kernel's counters");
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:"))).expect(interface);
    let values: Vec<u64> = line.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    (values[1], values[9])
}

/// Drops all that arrives at an interface in its driver, from now on until dropped itself.
pub fn discard(interface: &str) -> Classifier {
    let facts = Interface::query(interface).expect("an interface");
    // Without a socket, a port's classifier drops every frame.
    Classifier::attach(&facts, PortRole::Pod, XdpMode::Native, &UplinkFilter::default()).expect("XDP")
}
