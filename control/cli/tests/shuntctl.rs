//! The real `shuntctl` against the real API over a unix socket; only the engine and the kernel are in memory.

#[path = "../../daemon/tests/shuntd/support.rs"]
mod support;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use support::{TestDaemon, config};

const CLUSTER: &str = r#"
[[vtep]]
node = "node-b"
address = "192.168.50.2"
mac = "0a:58:00:00:00:02"
pod_cidr = "10.244.2.0/24"
[[port]]
name = "default/pod-a1"
interface = "va1"
address = "10.244.1.10"
mac = "0a:58:0a:f4:01:0a"
[[route]]
prefix = "10.245.0.0/24"
via = "192.168.50.7"
[[service]]
namespace = "default"
name = "web"
cluster_ip = "10.96.0.10"
[[service.port]]
name = "http"
protocol = "tcp"
port = 80
[[endpoint_slice]]
namespace = "default"
service = "web"
name = "web-x7k2p"
[[endpoint_slice.port]]
name = "http"
port = 8080
[[endpoint_slice.endpoint]]
address = "10.244.1.10"
"#;

/// Runs shuntctl with a socket, arguments and standard input.
async fn shuntctl(socket: PathBuf, args: &[&str], input: &str) -> Output {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let input = input.to_owned();
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shuntctl"));
        command.arg("--socket").arg(socket).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may end without reading all of it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

struct Shell {
    dir: tempfile::TempDir,
    daemon: TestDaemon,
}

impl Shell {
    async fn start() -> Shell {
        let dir = tempfile::tempdir().unwrap();
        let daemon = TestDaemon::start(dir.path()).await;
        Shell { dir, daemon }
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn run(&self, args: &[&str]) -> Output {
        shuntctl(config(self.dir.path()).socket, args, "").await
    }

    async fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    async fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat()).await).unwrap()
    }

    /// Exit code and the one line of the error.
    async fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args).await;
        let message = text(&output.stderr);
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
        (output.status.code().unwrap(), message)
    }
}

#[tokio::test]
async fn a_file_is_applied_and_listed() {
    let shell = Shell::start().await;
    let file = shell.file("cluster.toml", CLUSTER);
    let said = shell.ok(&["apply", "-f", &file]).await;
    assert!(said.contains("5 created, 0 updated, 0 unchanged, 0 deleted"), "{said}");
    let again = shell.json(&["apply", "-f", &file, "--replace"]).await;
    assert_eq!((&again["unchanged"], &again["version"]), (&5.into(), &1.into()));

    for (what, expected) in [
        ("vteps", ["node-b", "192.168.50.2", "02:00:00:00:05:05"]),
        ("ports", ["default/pod-a1", "va1", "attached"]),
        ("routes", ["10.245.0.0/24", "192.168.50.7", "02:00:00:00:05:05"]),
        ("services", ["10.96.0.10", "80/tcp", "ClusterIP"]),
        ("endpoint-slices", ["web-x7k2p", "http:8080", "10.244.1.10"]),
    ] {
        let table = shell.ok(&["list", what]).await;
        assert!(expected.iter().all(|cell| table.contains(cell)), "{table}");
    }
    let one = shell.ok(&["get", "service", "default/web"]).await;
    assert_eq!(one.lines().count(), 2, "{one}");
    shell.daemon.stop().await;
}

#[tokio::test]
async fn a_packet_is_explained_for_people_and_machines() {
    let shell = Shell::start().await;
    shell.ok(&["apply", "-f", &shell.file("cluster.toml", CLUSTER)]).await;
    let told = shell.ok(&["explain", "10.244.2.10", "10.96.0.10:80", "--flags", "syn"]).await;
    for part in [
        "tcp SYN 10.244.2.10:40000 -> 10.96.0.10:80, in by uplink over the overlay from 192.168.50.2\n",
        "It came over the overlay from node-b (192.168.50.2), VNI 1.",
        "It is for default/web, port http at 10.96.0.10:80",
        "10.244.1.10:8080 (default/pod-a1) is chosen: the flow's hash names it.",
        "forwarded",
        "The answer to it: tcp SYN ACK 10.244.1.10:8080 -> 10.244.2.10:40000, in by default/pod-a1\n",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    let json = shell.json(&["explain", "10.244.1.10", "10.96.0.10:81", "--protocol", "udp", "--ttl", "9"]).await;
    let packet = &json["packet"];
    assert_eq!((&packet["fate"], &packet["reason"]), (&"answered".into(), &"port_unreachable".into()));
    assert_eq!(packet["steps"][0]["facts"]["destination"], "10.96.0.10:81");
    assert_eq!(json["answer"], Value::Null);
    let (code, message) = shell.fails(&["explain", "10.244.1.10", "10.96.0.10"]).await;
    assert_eq!(code, 1);
    assert!(message.contains("destination_port: 0 is not a port; use 1 to 65535"), "{message}");

    let dual = CLUSTER
        .replace("mac = \"0a:58:0a:f4:01:0a\"", "mac = \"0a:58:0a:f4:01:0a\"\nipv6_address = \"fd00:10:244:1::10\"");
    shell.ok(&["apply", "-f", &shell.file("dual.toml", &dual)]).await;
    let told = shell.ok(&["explain", "fd00:10:244:1::10", "fd00:10:244:1::", "--protocol", "icmp"]).await;
    assert!(told.starts_with("icmpv6 fd00:10:244:1::10 -> fd00:10:244:1::, in by default/pod-a1\n"), "{told}");
    assert!(told.contains("to_host  It is given to the node's kernel."), "{told}");
    let (code, message) = shell.fails(&["explain", "fd00:10:244:1::10", "[fd00:10:96::10]:80", "--may-fragment"]).await;
    assert!(code == 1 && message.contains("dont_fragment: is false, and IPv6"), "{message}");
    shell.daemon.stop().await;
}

#[tokio::test]
async fn a_service_shows_which_endpoints_are_chosen_and_why() {
    let shell = Shell::start().await;
    let second = r#"
        [[endpoint_slice.endpoint]]
        address = "10.244.2.10"
        node = "node-b"
        zone = "zone-2"
    "#;
    let cluster = CLUSTER.replace("cluster_ip =", "internal_traffic_policy = \"Local\"\ncluster_ip =");
    shell.ok(&["apply", "-f", &shell.file("cluster.toml", &format!("{cluster}node = \"node-a\"\n{second}"))]).await;
    let list = shell.ok(&["service", "list"]).await;
    assert!(
        ["10.96.0.10:80", "cluster-ip", "1 of 2", "1 of 2, masqueraded"].iter().all(|cell| list.contains(cell)),
        "{list}"
    );
    let get = shell.ok(&["service", "get", "default/web"]).await;
    assert!(get.starts_with("default/web, ClusterIP, internal policy Local\n\nhttp (tcp):\n"), "{get}");
    assert!(get.contains("It is on another node, and the policy is Local."), "{get}");
    let json = shell.json(&["service", "get", "default/web"]).await;
    let endpoints = &json["services"][0]["ports"][0]["endpoints"];
    assert_eq!((&endpoints[0]["chosen"], &endpoints[1]["chosen"]), (&true.into(), &false.into()));
    assert_eq!((&endpoints[1]["zone"], &endpoints[1]["serving"]), (&"zone-2".into(), &true.into()));
    assert_eq!(shell.fails(&["service", "get", "default/none"]).await.0, 5);
    shell.daemon.stop().await;
}

#[tokio::test]
async fn a_service_shows_every_place_where_it_is_had() {
    let shell = Shell::start().await;
    let service = r#"
        type = "LoadBalancer"
        load_balancer_ips = ["203.0.113.10"]
        load_balancer_source_ranges = ["192.0.2.0/24"]
        external_traffic_policy = "Local"
        external_ips = ["198.51.100.7"]
        cluster_ip ="#;
    let cluster = CLUSTER.replace("cluster_ip =", service).replace("port = 80\n", "port = 80\nnode_port = 30080\n");
    let cluster = format!("{cluster}node = \"node-b\"\n");
    shell.ok(&["apply", "-f", &shell.file("cluster.toml", &cluster)]).await;
    let list = shell.ok(&["service", "list"]).await;
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().skip(2).collect()).collect();
    let outside = ["1", "of", "1,", "masqueraded"];
    let inside = ["tcp", "1", "of", "1"];
    let expected = [
        [&["cluster-ip", "10.96.0.10:80"], &inside[..], &outside, &outside, &["all"]].concat(),
        [&["node-port", "192.168.50.1:30080"], &inside[..], &outside, &["dropped", "all"]].concat(),
        [&["load-balancer", "203.0.113.10:80"], &inside[..], &outside, &["dropped", "192.0.2.0/24"]].concat(),
        [&["external-ip", "198.51.100.7:80"], &inside[..], &outside, &["dropped", "all"]].concat(),
    ];
    assert_eq!(lines[1..], expected, "{list}");

    let get = shell.ok(&["service", "get", "default/web"]).await;
    let head = "default/web, LoadBalancer, internal policy Cluster, external policy Local\n";
    assert!(get.starts_with(head) && get.contains("It is on another node, and the policy is Local."), "{get}");
    let json = shell.json(&["service", "get", "default/web"]).await;
    let balancer = &json["services"][0]["ports"][0]["frontends"][2];
    assert_eq!(
        (&balancer["kind"], &balancer["from_outside"]["otherwise"]),
        (&"load-balancer".into(), &"dropped".into())
    );
    let listed = shell.ok(&["list", "services"]).await;
    assert!(listed.contains("203.0.113.10,198.51.100.7") && listed.contains("80:30080/tcp"), "{listed}");
    assert!(shell.ok(&["status"]).await.contains("node ports  at 192.168.50.1"));
    shell.daemon.stop().await;
}

#[tokio::test]
async fn what_is_listed_as_json_can_be_applied() {
    let shell = Shell::start().await;
    shell.ok(&["apply", "-f", &shell.file("cluster.toml", CLUSTER)]).await;
    let listed = shell.ok(&["list", "services", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap()["service"][0]["port"][0]["port"], 80);
    shell.ok(&["delete", "service", "default/web"]).await;
    let socket = config(shell.dir.path()).socket;
    let output = shuntctl(socket, &["apply", "-f", "-", "-o", "json"], &listed).await;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["created"], 1);
    assert_eq!(shell.ok(&["list", "services", "-o", "json"]).await, listed);
    shell.daemon.stop().await;
}

#[tokio::test]
async fn errors_are_one_line_and_have_their_codes() {
    let shell = Shell::start().await;
    let wrong_value = shell.file("value.toml", &CLUSTER.replace("port = 8080", "port = 0"));
    let (code, message) = shell.fails(&["apply", "-f", &wrong_value]).await;
    let expected =
        format!("shuntctl: {wrong_value}: endpoint_slice[0].port[0].port: 0 is not a port; use 1 to 65535\n");
    assert_eq!((code, message), (1, expected));
    assert_eq!(shell.json(&["status"]).await["version"], 0, "nothing was applied");

    let wrong_key = shell.file("key.toml", &CLUSTER.replace("cluster_ip", "clusterIP"));
    let (code, message) = shell.fails(&["apply", "-f", &wrong_key]).await;
    assert_eq!(code, 2);
    assert!(message.contains("service[0]") && message.contains("`clusterIP`"), "{message}");

    let file = shell.file("cluster.toml", CLUSTER);
    let (code, message) = shell.fails(&["apply", "-f", &file, "--expect-version", "7"]).await;
    assert_eq!(code, 4);
    assert!(message.contains("version 0, not 7"), "{message}");

    let (code, message) = shell.fails(&["delete", "port", "default/none"]).await;
    assert_eq!((code, message.as_str()), (5, "shuntctl: there is no port default/none; nothing was deleted\n"));
    assert_eq!(shell.fails(&["get", "vtep", "node-z"]).await.0, 5);
    shell.daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named() {
    let output = shuntctl(Path::new("/nonexistent/shuntd.sock").into(), &["status"], "").await;
    assert_eq!(output.status.code(), Some(3));
    let message = text(&output.stderr);
    assert!(message.contains("/nonexistent/shuntd.sock") && message.contains("No such file"), "{message}");
}

#[tokio::test]
async fn a_pending_port_is_a_warning_and_shows() {
    let shell = Shell::start().await;
    let file = shell.file("cluster.toml", &CLUSTER.replace("va1", "late0"));
    let said = shell.ok(&["apply", "-f", &file]).await;
    assert!(said.contains("warning: port[0].interface: interface late0 does not exist"), "{said}");
    let again = shell.json(&["apply", "-f", &file]).await;
    assert!(again["warnings"][0].as_str().unwrap().contains("late0"));
    assert!(shell.ok(&["list", "ports"]).await.contains("pending: interface late0"));
    let status = shell.json(&["status"]).await;
    let port = status["ports"].as_array().unwrap().iter().find(|port| port["name"] == "default/pod-a1").unwrap();
    assert!(port["attached"].is_null() && port["pending"].as_str().unwrap().contains("late0"));
    shell.daemon.stop().await;
}

#[tokio::test]
async fn counters_drops_and_conservation() {
    use shunt_dataplane::{spec::PortId, switch::PortReport, verdict::DropReason};
    let shell = Shell::start().await;
    let reason = DropReason::ALL[0];
    let mut report = PortReport {
        id: PortId(0),
        rx_packets: 98,
        fragments: 2,
        rx_bytes: 6400,
        missed: 0,
        tx_packets: 93,
        tx_bytes: 5952,
        forwarded: 90,
        to_host: 3,
        held: 1,
        drops: vec![(reason, 6)],
        ..PortReport::default()
    };
    shell.daemon.engine.set_reports(vec![report.clone()]);
    let counters = shell.json(&["counters"]).await;
    let port = &counters["ports"][0];
    assert_eq!((&port["interface"], &port["dropped"], &port["rx_packets"]), (&"eth0".into(), &6.into(), &98.into()));
    assert_eq!(counters["workers"][0]["memories"][0]["capacity"], 8192);
    assert!(shell.ok(&["counters"]).await.contains("8192"));
    let drops = shell.ok(&["drops"]).await;
    assert!(drops.contains(reason.name()) && drops.contains(reason.sentence()), "{drops}");

    let balanced = shell.ok(&["conservation"]).await;
    assert!(
        balanced.contains("98 packets received + 2 fragments made of them = 90 forwarded + 3 to the host + 0 answered + 6 dropped + 1 held"),
        "{balanced}"
    );
    report.rx_packets += 1;
    shell.daemon.engine.set_reports(vec![report]);
    let output = shell.run(&["conservation", "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(6));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&verdict["balanced"], verdict["imbalances"].as_array().unwrap().len()), (&false.into(), 1));
    shell.daemon.stop().await;
}

#[tokio::test]
async fn watch_prints_each_change_until_the_daemon_stops() {
    let shell = Shell::start().await;
    shell.ok(&["apply", "-f", &shell.file("cluster.toml", CLUSTER)]).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_shuntctl"));
    command.arg("--socket").arg(config(shell.dir.path()).socket).arg("watch").stdout(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let (printed, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let output = BufReader::new(watch.stdout.take().unwrap());
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| printed.send(line)));

    let initial = [
        "1 = vtep node-b",
        "1 = port default/pod-a1",
        "1 = route 10.245.0.0/24",
        "1 = service default/web",
        "1 = endpoint slice default/web/web-x7k2p",
    ];
    for expected in initial {
        assert_eq!(lines.recv().await.as_deref(), Some(expected));
    }
    shell.ok(&["delete", "route", "10.245.0.0/24"]).await;
    assert_eq!(lines.recv().await.as_deref(), Some("2 - route 10.245.0.0/24"));
    shell.daemon.stop().await;
    assert_eq!(lines.recv().await, None);
    assert!(tokio::task::spawn_blocking(move || watch.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn flows_are_listed() {
    use shunt_dataplane::{net::Protocol, switch::FlowRecord};
    let shell = Shell::start().await;
    shell.daemon.engine.set_flows(vec![FlowRecord {
        protocol: Protocol::Tcp,
        client: "10.244.1.10:40000".parse().unwrap(),
        vip: "10.96.0.10:80".parse().unwrap(),
        backend: "10.244.2.10:8080".parse().unwrap(),
        state: "established",
        idle: std::time::Duration::from_millis(1500),
        generation: 3,
    }]);
    let table = shell.ok(&["flow", "list"]).await;
    assert!(table.contains("10.244.2.10:8080") && table.contains("1.5s"), "{table}");
    let none = shell.json(&["flow", "list", "--protocol", "udp"]).await;
    assert_eq!(none["flows"].as_array().unwrap().len(), 0);
    let one = ["--client", "10.244.1.10", "--vip", "10.96.0.10:80", "--state", "established"];
    let here = shell.json(&[&["flow", "list"], &one[..]].concat()).await;
    assert_eq!(here["flows"].as_array().unwrap().len(), 1);

    // Not without saying which.
    assert_eq!(shell.run(&["flow", "flush"]).await.status.code(), Some(1));
    assert_eq!(shell.run(&["flow", "flush", "--vip", "web"]).await.status.code(), Some(2));
    assert_eq!(shell.json(&["flow", "flush", "--vip", "10.96.0.11"]).await["flushed"], 0);
    assert_eq!(shell.ok(&[&["flow", "flush"], &one[..]].concat()).await.trim(), "flushed 1 flows");
    shell.daemon.stop().await;
}

/// Cluster files of both families, and what is shown of them.
#[tokio::test]
async fn dual_stack_is_applied_listed_and_filtered() {
    use shunt_dataplane::{net::Protocol, switch::FlowRecord};
    let shell = Shell::start().await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/models/dual-stack-cluster.toml");
    shell.ok(&["apply", "-f", file]).await;
    let rows = shell.ok(&["service", "list"]).await;
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split_whitespace().skip(2).take(6).collect()).collect();
    let row = |frontend, chosen| vec!["cluster-ip", frontend, "tcp", chosen, "of", chosen];
    assert_eq!(rows[1..], [row("10.96.0.10:80", "1"), row("[fd00:10:96::10]:80", "2")]);
    for (kind, both) in [
        ("vteps", "10.244.2.0/24,fd00:10:244:2::/64"),
        ("ports", "10.244.1.10,fd00:10:244:1::10"),
        ("services", "10.96.0.10,fd00:10:96::10"),
    ] {
        let table = shell.ok(&["list", kind]).await;
        assert!(table.contains(both), "{table}");
    }
    let status = shell.ok(&["status"]).await;
    assert!(status.contains("10.244.1.0/24,fd00:10:244:1::/64"), "{status}");
    // What is listed can be applied.
    let port = shell.ok(&["-o", "json", "get", "port", "default/pod-a1"]).await;
    assert!(shell.ok(&["apply", "-f", &shell.file("port.json", &port)]).await.contains("1 unchanged"));

    shell.daemon.engine.set_flows(vec![FlowRecord {
        protocol: Protocol::Tcp,
        client: "[fd00:10:244:1::10]:40000".parse().unwrap(),
        vip: "[fd00:10:96::10]:80".parse().unwrap(),
        backend: "[fd00:10:244:2::10]:8080".parse().unwrap(),
        state: "established",
        idle: std::time::Duration::ZERO,
        generation: 3,
    }]);
    for filter in [["--vip", "[fd00:10:96::10]:80"], ["--client", "fd00:10:244:1::10"]] {
        let table = shell.ok(&[&["flow", "list"], &filter[..]].concat()).await;
        assert!(table.contains("[fd00:10:244:2::10]:8080"), "{table}");
    }
    let told = shell.ok(&["explain", "fd00:10:244:2::20", "[fd00:10:96::10]:80"]).await;
    for part in [
        "tcp SYN [fd00:10:244:2::20]:40000 -> [fd00:10:96::10]:80, in by uplink over the overlay from 192.168.50.2\n",
        "It is for default/web",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    shell.daemon.stop().await;
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(env!("CARGO_BIN_EXE_shuntctl")).args(["completion", shell]).output().unwrap();
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("conservation"), "{shell}");
    }
}
