//! Connections to and from other people's TCP: nginx on the kernel's stack counts what pktgen counts, and curl is served.

use std::{fs, path::Path, process::Command};

use shunt_pktgen::report::model::{Connections, Report};
use tempfile::TempDir;

use crate::{
    net::{new_namespace_alone, run, veth},
    tool::{Background, pktgen, report, until},
};

const SERVER: &str = "10.20.0.1";

/// nginx on the kernel's stack behind interface `in`; pktgen on the other end of the cable, `src`.
struct Nginx {
    folder: TempDir,
    _running: Background,
}

impl Nginx {
    fn start() -> Nginx {
        new_namespace_alone();
        veth("src", "in");
        run(&format!("ip addr add {SERVER}/24 dev in"));
        let folder = TempDir::new().expect("a directory");
        let root = folder.path().display();
        fs::write(folder.path().join("index.html"), [b'x'; 600]).expect("a file");
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {root}/{name};"))
            .concat();
        let configuration = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{ worker_connections 900; }}\n\
             http {{ {paths} access_log {root}/access.log; server {{ listen 80 backlog=1024; root {root}; }} }}\n"
        );
        fs::write(folder.path().join("nginx.conf"), configuration).expect("a file");
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(folder.path().join("nginx.conf")).arg("-e").arg(folder.path().join("error.log"));
        let running = Background::start(&mut nginx, "nginx-light");
        until("nginx to listen", || !run("ss -Htln sport = :80").is_empty());
        Nginx { folder, _running: running }
    }

    /// Requests it has answered with success.
    fn answered(&self) -> u64 {
        let log = fs::read_to_string(self.folder.path().join("access.log")).expect("nginx keeps a log");
        assert!(log.lines().all(|line| line.contains("\" 200 600 ")), "{log}");
        log.lines().count() as u64
    }
}

fn connections(report: &Report) -> &Connections {
    report.trials[0].connections.as_ref().expect("connections were made")
}

#[test]
fn nginx_counts_the_same() {
    let nginx = Nginx::start();
    let report = report("connections", "connections", "--interface src --rate 300 --duration 2s");
    let made = connections(&report);
    assert!(made.opened >= 500, "{made:?}");
    assert_eq!((made.answered, made.closed), (made.opened, made.opened), "{made:?}");
    assert_eq!((made.reset, made.timed_out), (0, 0), "{made:?}");
    until("nginx to write its log", || nginx.answered() >= made.answered);
    assert_eq!(nginx.answered(), made.answered);
    // Nothing is left of any of them, neither half closed nor waiting.
    assert_eq!(run("ss -Htn sport = :80"), "");
}

#[test]
fn open_connections_are_held() {
    let _nginx = Nginx::start();
    let folder = TempDir::new().expect("a directory");
    let file = folder.path().join("held.toml");
    let text = fs::read_to_string(crate::tool::profile("connections")).expect("a profile");
    fs::write(&file, text.replace("hold = \"0s\"", "hold = \"1s\"")).expect("a file");
    let json = folder.path().join("report.json");
    let arguments = format!(
        "connections {} --interface src --rate 2000 --concurrent 200 --duration 800ms --quiet --json {}",
        file.display(),
        json.display()
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
    let running = Background::start(command.args(arguments.split_whitespace()), "of ours");
    until("200 connections", || run("ss -Htn state established sport = :80").lines().count() == 200);
    let mut running = running;
    assert!(running.0.wait().expect("it ends").success());
    let report = shunt_pktgen::report::outputs::read(&json).expect("a report");
    let made = connections(&report);
    assert_eq!((made.peak, made.opened, made.closed), (200, 200, 200), "{made:?}");
    assert!(report.warnings.iter().any(|warning| warning.contains("connections.concurrent")), "{:?}", report.warnings);
}

#[test]
fn ctrl_c_ends_with_a_report_and_leaves_nothing_open() {
    let nginx = Nginx::start();
    let profile = crate::tool::profile("connections");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
    command.arg("connections").arg(profile).args(["--interface", "src", "--rate", "200", "--duration", "1h"]);
    let running = Background::start(&mut command, "of ours");
    until("connections to be made", || nginx.answered() >= 20);
    let output = running.interrupt();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("interrupted") && said.contains("established"), "{said}");
    until("the server to have nothing open", || run("ss -Htn state established sport = :80").is_empty());
}

#[test]
fn curl_is_served() {
    new_namespace_alone();
    veth("src", "in");
    run("ip addr add 10.20.0.9/24 dev src");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
    let serving = Background::start(
        command.arg("serve").arg(crate::tool::profile("connections")).args(["--interface", "in"]),
        "of ours",
    );
    until("the server to be there", || run("ip -details link show dev in").contains("prog/xdp"));
    for _ in 0..20 {
        let body = run(&format!("curl --silent --show-error --fail --max-time 10 http://{SERVER}/"));
        assert!(body.len() == 128 && body.starts_with("abcdefghij"), "{body}");
    }
    let output = serving.interrupt();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let line = |name: &str| said.lines().find(|line| line.starts_with(name)).expect(name).split_whitespace().nth(1);
    assert_eq!((line("answered"), line("closed"), line("reset")), (Some("20"), Some("20"), Some("0")), "{said}");
}

#[test]
fn a_port_nobody_listens_on_refuses() {
    new_namespace_alone();
    veth("src", "in");
    run(&format!("ip addr add {SERVER}/24 dev in"));
    let report = report("connections", "connections", "--interface src --rate 100 --duration 500ms");
    let made = connections(&report);
    assert!(made.opened > 0 && made.reset == made.opened && made.established == 0, "{made:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    new_namespace_alone();
    veth("src", "in");
    let profile = crate::tool::profile("connections").display().to_string();
    for (arguments, part, code) in [
        ("--interface src --rate 0", "connections.rate: ", 2),
        ("--interface src --concurrent 0", "connections.concurrent: ", 2),
        ("--interface none", "none", 1),
        ("--interface src", "10.20.0.1 does not answer ARP", 1),
    ] {
        let all: Vec<&str> =
            ["connections", &profile, "--quiet"].into_iter().chain(arguments.split_whitespace()).collect();
        let output = pktgen(&all);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(part) && output.status.code() == Some(code), "{arguments}: {said}");
    }
    assert!(Path::new(&profile).exists());
}
