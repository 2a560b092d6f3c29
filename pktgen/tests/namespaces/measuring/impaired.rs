//! A path with known faults, as pktgen measures it; and with a known delay, as sockperf does.

use std::{process::Command, time::Duration};

use shunt_pktgen::report::model::Trial;

use super::faults::{Account, Faults, Path};
use crate::{
    net::{new_namespace_alone, run, veth},
    tool::{Background, attempt, sound_run, urgent},
};

/// Within one percent, or within one packet of it.
fn close(found: u64, known: u64) -> bool {
    found.abs_diff(known) as f64 <= (known as f64 * 0.01).max(1.0)
}

/// A run over a path with faults from the first of three attempts in which pktgen was up to it, and the path's account of
/// just that run.
fn over(faults: Faults, profile: &str, arguments: &str) -> (Trial, Account) {
    new_namespace_alone();
    veth("src", "a");
    veth("b", "in");
    // Live frames go into a veth whose other end has NAPI.
    run("ethtool -K a gro on");
    let mut why = String::new();
    for _ in 0..3 {
        let path = Path::one_way("a", "b", faults);
        let trial = attempt(profile, &format!("--tx src --rx in --warm-up 0s --settle 1s {arguments}"));
        let account = path.finish();
        match trial {
            Ok(trial) if trial.total.sent == account.taken => return (trial, account),
            Ok(trial) => why = format!("{} sent, {} taken by the path", trial.total.sent, account.taken),
            Err(reason) => why = reason,
        }
    }
    panic!("no run was sound: {why}");
}

#[test]
fn loss_duplicates_and_reordering_are_found_as_they_happened() {
    for engine in ["", "--live"] {
        let faults = Faults { drop: 50, duplicate: 40, swap: 30, delay: Duration::from_millis(2) };
        let (trial, account) = over(faults, "imix", &format!("--rate 5kpps --duration 3s {engine}"));
        let total = trial.total;
        assert!(account.dropped >= 200 && account.duplicated >= 200 && account.swapped >= 200, "{account:?}");
        assert!(close(total.lost, account.dropped), "{engine}: {total:?}, but {}", account.dropped);
        assert!(close(total.duplicates, account.duplicated), "{engine}: {total:?}, but {}", account.duplicated);
        assert!(close(total.reordered, account.swapped), "{engine}: {total:?}, but {}", account.swapped);
        assert_eq!(total.corrupt, 0);
    }
}

#[test]
fn a_delay_is_found_as_long_as_it_was() {
    for engine in ["", "--live"] {
        let delay = Duration::from_millis(60);
        let faults = Faults { delay, ..Faults::default() };
        // A busy machine makes pktgen's clock late and never early: one of three that finds what was will do.
        let mut offs = Vec::new();
        let found = (0..3).any(|_| {
            let (trial, account) = over(faults, "flood", &format!("--rate 1kpps --duration 2s {engine}"));
            let mut kept = account.kept;
            kept.sort();
            let latency = trial.latency_uncorrected.expect("packets came back");
            assert!(latency.min_ns >= delay.as_nanos() as u64 * 99 / 100, "no packet was faster than the path");
            assert_eq!(trial.total.lost, 0);
            let off = latency.at(0.5) as f64 / kept[kept.len() / 2] as f64 - 1.0;
            offs.push(off);
            off.abs() < 0.01
        });
        assert!(found, "{engine}: off by these shares: {offs:?}");
    }
}

#[test]
fn sockperf_finds_the_same_latency_on_the_same_path() {
    new_namespace_alone();
    veth("src", "a");
    veth("b", "in");
    let path = Path::both_ways("a", "b", Faults { delay: Duration::from_millis(30), ..Faults::default() });
    let median = || {
        let trial = sound_run("flood", "--tx src --rx in --rate 1kpps --duration 2s --warm-up 0s --settle 1s");
        trial.latency_uncorrected.expect("packets came back").at(0.5) as f64
    };
    // As above, the machine makes them only longer: the best of three.
    let ours = (0..3).map(|_| median()).fold(f64::INFINITY, f64::min);
    // The same path, now with a kernel at each end: its far end is in a namespace of its own.
    let far = format!("pg-{}", std::process::id());
    run(&format!("ip netns add {far}"));
    let tidy = Namespace(far.clone());
    run(&format!("ip link set in netns {far}"));
    for line in ["link set lo up", "addr add 10.9.0.2/24 dev in", "link set in up"] {
        run(&format!("ip -n {far} {line}"));
    }
    run("ip addr add 10.9.0.1/24 dev src");
    let mut server = Command::new("nsenter");
    server
        .arg(format!("--net=/run/netns/{far}"))
        .args(["nice", "-n", "-20", "sockperf", "server", "-i", "10.9.0.2", "-p", "11111"]);
    let server = Background::start(&mut server, "sockperf");
    std::thread::sleep(Duration::from_millis(500));
    let output = urgent("sockperf")
        .args(["ping-pong", "-i", "10.9.0.2", "-p", "11111", "-t", "4", "-m", "64"])
        .output()
        .expect("sockperf runs: it is in the Debian package of this name");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    drop(server);
    drop(tidy);
    path.finish();
    // `---> percentile 50.000 =   30085.123`, in microseconds, of one way.
    let median = text.lines().find_map(|line| line.split_once("percentile 50.000 =")).map(|(_, value)| value.trim());
    let theirs: f64 = median.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("sockperf said: {text}"));
    let theirs = theirs * 1e3;
    assert!((ours / theirs - 1.0).abs() < 0.02, "pktgen finds {ours} ns, sockperf {theirs} ns");
}

/// A named namespace, removed when dropped.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&format!("ip netns del {}", self.0));
    }
}
