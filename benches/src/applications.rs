//! Real applications between pods of two nodes, through a ClusterIP: iperf3, sockperf, wrk with nginx.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use shunt_control_lab::{
    checks,
    cluster::{Endpoint, EndpointPort, Policy, Service, ServicePort},
    command::Background,
    plan::{FRAMES, Forwarder, Plan as LabPlan},
    tools::{Nginx, await_listener, iperf3_through},
    topology::Lab,
    wait,
};
use shunt_dataplane::net::Protocol;

use crate::{
    Error,
    rows::{Ledger, Part, Unit},
};

/// How much to measure.
pub struct Plan {
    pub rounds: u32,
    /// Seconds that each tool runs.
    pub seconds: u32,
}

impl Plan {
    pub const FULL: Plan = Plan { rounds: 5, seconds: 5 };
    pub const QUICK: Plan = Plan { rounds: 1, seconds: 1 };
}

const CONTENDERS: [(&str, Forwarder); 2] = [("Shunt", Forwarder::Shunt), ("kernel", Forwarder::Kernel)];

/// The service that all tools talk to, and where its only endpoint listens for each.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 100);
const IPERF: (u16, u16) = (5201, 15201);
const SOCKPERF: (u16, u16) = (11111, 11211);
const HTTP: (u16, u16) = (80, 8000);

/// Bytes of a datagram's payload: it fits behind VXLAN in an MTU of 1500.
const DATAGRAM: u32 = 1400;
/// Megabits per second that iperf3 sends as UDP: more than either forwards here.
const UDP_LOAD: u32 = 3000;
/// Bytes that nginx serves to a request.
const BODY: &str = "Served by nginx in a pod of the other node.\n";

/// Measures all tools over both forwarders, a fresh cluster for each and each round.
pub fn run(plan: &Plan, ledger: &mut Ledger) -> Result<(), Error> {
    for round in 1..=plan.rounds {
        for (name, forwarder) in CONTENDERS {
            eprintln!("round {round} of {}: applications: {name}", plan.rounds);
            let lab = Lab::build(two_nodes(forwarder))?;
            for (case, tool) in TOOLS {
                match tool(&lab, plan.seconds) {
                    Ok(figures) => {
                        for (metric, unit, value) in figures {
                            ledger.record(Part::Applications, case, name, metric, unit, value);
                        }
                    }
                    Err(error) => ledger.refuse(Part::Applications, case, name, &error.to_string()),
                }
            }
            for (_, daemon) in lab.daemons() {
                let finding = checks::conservation(daemon)?;
                if !finding.holds {
                    return Err(format!("Shunt has lost packets or frames: {}", finding.seen).into());
                }
            }
        }
    }
    Ok(())
}

type Figures = Vec<(&'static str, Unit, f64)>;
type Tool = fn(&Lab, u32) -> Result<Figures, Error>;

const TOOLS: [(&str, Tool); 5] = [
    ("iperf3, TCP", iperf_tcp),
    ("iperf3, UDP", iperf_udp),
    ("sockperf, UDP request and response", |lab, seconds| sockperf(lab, seconds, false)),
    ("sockperf, TCP request and response", |lab, seconds| sockperf(lab, seconds, true)),
    ("wrk and nginx, 16 connections", wrk),
];

/// Two nodes with a pod each; the service's only endpoint is the pod of node-b.
fn two_nodes(forwarder: Forwarder) -> LabPlan {
    let mut plan = LabPlan { frames: FRAMES, ..LabPlan::three_nodes(forwarder) };
    plan.nodes.truncate(2);
    plan.nodes.iter_mut().for_each(|node| node.pods = 1);
    let ports = [
        ("iperf-tcp", Protocol::Tcp, IPERF),
        ("iperf-udp", Protocol::Udp, IPERF),
        ("sockperf-tcp", Protocol::Tcp, SOCKPERF),
        ("sockperf-udp", Protocol::Udp, SOCKPERF),
        ("http", Protocol::Tcp, HTTP),
    ];
    plan.services = vec![Service {
        namespace: "default".into(),
        name: "tools".into(),
        cluster_ip: Some(VIP),
        ipv6_cluster_ip: None,
        session_affinity: None,
        scheduler: None,
        ports: ports
            .map(|(name, protocol, (port, _))| ServicePort { name: name.into(), protocol, port, node_port: None })
            .into(),
        internal_traffic_policy: Policy::Cluster,
        exposure: None,
        targets: ports.map(|(name, _, (_, port))| EndpointPort { name: name.into(), port }).into(),
        endpoints: vec![Endpoint::ready(plan.nodes[1].pod(1).address)],
        ipv6_endpoints: Vec::new(),
    }];
    plan
}

fn iperf_tcp(lab: &Lab, seconds: u32) -> Result<Figures, Error> {
    let found = iperf(lab, &format!("--time {seconds} --omit 1"))?;
    Ok(vec![("received", Unit::BitsPerSecond, found.bits_per_second)])
}

fn iperf_udp(lab: &Lab, seconds: u32) -> Result<Figures, Error> {
    let found = iperf(lab, &format!("--udp --bitrate {UDP_LOAD}M --length {DATAGRAM} --time {seconds}"))?;
    Ok(vec![
        ("received", Unit::BitsPerSecond, found.bits_per_second),
        ("lost", Unit::Share, found.lost_percent / 100.0),
    ])
}

fn iperf(lab: &Lab, options: &str) -> Result<shunt_control_lab::tools::Throughput, Error> {
    let (client, server) = (&lab.pod("a1")?.namespace, &lab.pod("b1")?.namespace);
    let listen = IPERF.1.to_string();
    Ok(iperf3_through(client, server, SocketAddrV4::new(VIP, IPERF.0), &listen, options, &lab.log("iperf3"))?)
}

fn sockperf(lab: &Lab, seconds: u32, tcp: bool) -> Result<Figures, Error> {
    let (client, server) = (&lab.pod("a1")?.namespace, lab.pod("b1")?);
    let listen = SOCKPERF.1.to_string();
    let transport: &[&str] = if tcp { &["--tcp"] } else { &[] };
    let mut serve = server.namespace.command("sockperf");
    serve.args(["server", "-i", &server.address().to_string(), "-p", &listen]).args(transport);
    let log = lab.log(if tcp { "sockperf-tcp" } else { "sockperf-udp" });
    let _serving = Background::start(&mut serve, &log)?;
    let kind = if tcp { "t" } else { "u" };
    wait::until("sockperf to listen", Duration::from_secs(5), || {
        let sockets = server.namespace.run(&format!("ss -Hln{kind} sport = :{listen}"));
        sockets.map_err(|error| error.to_string()).and_then(|text| if text.is_empty() { Err(text) } else { Ok(()) })
    })?;
    let transport = transport.join(" ");
    let text = client
        .run(&format!("sockperf ping-pong -i {VIP} -p {} --full-rtt --time {seconds} {transport}", SOCKPERF.0))?;
    let percentile = |name: &str| -> Result<f64, Error> {
        let line = text.lines().find(|line| line.contains(&format!("percentile {name}")));
        let figure = line.and_then(|line| line.split('=').nth(1)).ok_or("sockperf tells no percentiles")?;
        // Escape codes colour its output also where there is no terminal.
        let digits: String = figure.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        Ok(digits.parse::<f64>()? * 1e3)
    };
    Ok(vec![
        ("p50 of the round trip", Unit::Nanoseconds, percentile("50.000")?),
        ("p99 of the round trip", Unit::Nanoseconds, percentile("99.000")?),
        ("p99.9 of the round trip", Unit::Nanoseconds, percentile("99.900")?),
    ])
}

fn wrk(lab: &Lab, seconds: u32) -> Result<Figures, Error> {
    let (client, server) = (&lab.pod("a1")?.namespace, &lab.pod("b1")?.namespace);
    let _serving = Nginx::start(server, HTTP.1, BODY, 0, &lab.folder().join("nginx"))?;
    await_listener(server, &HTTP.1.to_string())?;
    let text =
        client.run(&format!("wrk --threads 1 --connections 16 --duration {seconds}s http://{VIP}:{}/", HTTP.0))?;
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return Err(format!("wrk met errors: {text}").into());
    }
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    let rate = rate.ok_or_else(|| format!("wrk tells no rate: {text}"))?.trim().parse()?;
    Ok(vec![("requests", Unit::RequestsPerSecond, rate)])
}
