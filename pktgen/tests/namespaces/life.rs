//! Starting, being refused, being interrupted.

use std::{fs, process::Command, thread, time::Duration};

use tempfile::TempDir;

use crate::{
    net::{counters, new_namespace, run, veth},
    tool::{Background, pktgen, profile, until, urgent},
};

/// What pktgen says when it refuses, and its exit code.
fn refusal(arguments: &str) -> (String, Option<i32>) {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let output = pktgen(&arguments);
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

#[test]
fn what_cannot_be_done_is_refused_with_what_to_do() {
    new_namespace();
    veth("src", "in");
    run("ip link set dev src mtu 1400");
    let (flood, imix) = (profile("flood"), profile("imix"));
    let (flood, imix) = (flood.display(), imix.display());
    let folder = TempDir::new().expect("a directory");
    let wrong = folder.path().join("wrong.toml");
    let text = fs::read_to_string(profile("flood")).expect("a profile");
    fs::write(&wrong, format!("{text}\nspeed = 3\n")).expect("a file");
    let before = counters("src").1;
    for (arguments, part, code) in [
        (format!("run {} --memory", wrong.display()), "wrong.toml: stream[0].speed: unknown field `speed`", 2),
        ("run missing.toml --memory".to_owned(), "missing.toml: cannot be read", 2),
        (format!("run {flood}"), "--tx <INTERFACE>", 2),
        (format!("run {flood} --tx nowhere --to-mac 02:00:00:00:00:01"), "interface nowhere: not found", 1),
        (format!("run {flood} --tx src"), "--to-mac: missing", 2),
        (format!("run {flood} --tx src --rx in --rate 0pps"), "'0pps' would send nothing", 2),
        (format!("run {flood} --tx src --rx in --rate soon"), "'soon' is not a rate", 2),
        (format!("run {flood} --tx src --rx in --duration 0s"), "--duration: a trial of no length", 2),
        (format!("run {flood} --tx src --rx in --cores 99"), "--cores: this process may not use core 99", 2),
        (format!("run {flood} --tx src --rx in --queues 5"), "there is no queue 5", 1),
        (format!("run {flood} --tx src --rx in --cores 0 --queues 0,1"), "--queues: 2 queues for 1 cores", 2),
        (format!("run {imix} --tx src --rx in"), "stream[0].frame: frames of 1518 bytes do not fit src", 2),
        (format!("search {flood} --tx src --to-mac 02:00:00:00:00:01"), "--rx: missing", 2),
        (format!("search {flood} --tx src --rx in --loss 100"), "--loss: 100 percent", 2),
        (format!("loss-sweep {flood} --tx src --rx in --step 0"), "--step: 0 percent", 2),
        (format!("latency {flood} --tx src --rx in --at 0"), "--at: 0 percent", 2),
        (format!("back-to-back {flood} --tx src --rx in --repeat 0"), "--repeat: 0", 2),
        (format!("run {flood} --tx src --rx in --json /nowhere/report.json"), "/nowhere/report.json", 1),
    ] {
        let (said, status) = refusal(&arguments);
        assert!(said.contains(part) && status == Some(code), "{arguments}: expected {part}, got {status:?}: {said}");
    }
    assert_eq!(counters("src").1, before, "who is refused sends nothing");
}

#[test]
fn without_permission_it_says_which_capability_is_missing() {
    new_namespace();
    veth("src", "in");
    let flood = profile("flood").display().to_string();
    for engine in [None, Some("--live")] {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"]);
        // The test's own directory may be closed to others.
        let folder = TempDir::new().expect("a directory");
        let (program, profile) = (folder.path().join("pktgen"), folder.path().join("flood.toml"));
        fs::copy(env!("CARGO_BIN_EXE_pktgen"), &program).expect("a copy");
        fs::copy(&flood, &profile).expect("a copy");
        run(&format!("chmod 755 {}", folder.path().display()));
        command
            .arg(&program)
            .arg("run")
            .arg(&profile)
            .args(["--tx", "src", "--to-mac", "02:00:00:00:00:01"])
            .args(engine);
        let output = command.output().expect("setpriv runs: it is in the Debian package util-linux");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains("CAP_"), "{engine:?}: {said}");
    }
}

#[test]
fn a_dry_run_decodes_the_first_packets_and_sends_none() {
    new_namespace();
    veth("src", "in");
    let before = counters("src").1;
    for name in ["flood", "imix", "vxlan", "zipf", "services", "voip", "new-flows"] {
        let output =
            pktgen(&["run", &profile(name).display().to_string(), "--tx", "src", "--rx", "in", "--dry-run", "7"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said.lines().count(), 8, "{name}: {said}");
        assert!(said.lines().skip(1).all(|line| line.contains("checksums right")), "{name}: {said}");
    }
    assert_eq!(counters("src").1, before);
}

#[test]
fn ctrl_c_ends_a_run_with_its_report() {
    for engine in ["", "--live"] {
        new_namespace();
        veth("src", "in");
        let mut command = urgent(env!("CARGO_BIN_EXE_pktgen"));
        let flood = profile("flood").display().to_string();
        let arguments =
            format!("run {flood} --tx src --rx in --rate 1kpps --duration 1h --warm-up 0s --settle 100ms {engine}");
        command.args(arguments.split_whitespace());
        let running = Background::start(&mut command, "of ours");
        until("packets", || counters("in").0 > 100);
        thread::sleep(Duration::from_millis(200));
        let output = running.interrupt();
        assert_eq!(output.status.code(), Some(130), "{engine}: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("received") && said.contains("flood"), "{engine}: {said}");
        // Both ends are as they were: no program, no socket, no device left.
        let links = run("ip -details link");
        assert!(!links.contains("prog/xdp") && !links.contains("shunt-mem"), "{engine}: {links}");
    }
}
