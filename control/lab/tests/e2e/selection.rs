//! Who gets new flows: session affinity and schedulers, with real clients.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use shunt_control_lab::{
    Result, change, checks,
    cluster::{Cluster, Exposure, Policy, Service},
    plan::{Forwarder, Plan, TCP_PORT, UDP_PORT},
    probe::{self, hold::HoldReport, transfer::TransferReport},
    topology::Lab,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 81);
const BACKENDS: [&str; 3] = ["a2", "b1", "c1"];

/// A service of the three backends, TCP or UDP.
fn service(plan: &Plan, protocol: Protocol) -> Service {
    let (name, port, target) = match protocol {
        Protocol::Udp => ("chosen-udp", 53, UDP_PORT),
        _ => ("chosen-tcp", 80, TCP_PORT),
    };
    let [a, b, c] = [0, 1, 2].map(|node| &plan.nodes[node]);
    let backends = [a.pod(2).address, b.pod(1).address, c.pod(1).address];
    let vip = if protocol == Protocol::Udp { Ipv4Addr::new(10, 96, 0, 82) } else { VIP };
    Service::simple(name, vip, protocol, port, target, backends)
}

fn tell(lab: &Lab, service: &Service) -> Result<()> {
    let cluster = Cluster { services: vec![service.clone()], ..Cluster::default() };
    lab.daemons().try_for_each(|(_, shunt)| shunt.apply(&cluster, &[]).map(drop))
}

#[test]
fn session_affinity_is_switched_live() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let service = service(&lab.plan, protocol);
            let sticky = Service { session_affinity: Some("ClientIP"), ..service.clone() };
            let vip = service.cluster_ip.expect("it has one");
            let to = SocketAddrV4::new(vip, service.ports[0].port);
            let name = protocol.to_string();
            tell(lab, &sticky)?;
            for from in ["a1", "b2", "node-a"] {
                let (from, _) = lab.station(from)?;
                let answers = checks::ask(from, &name, to, 60)?;
                assert_eq!((answers.by_server.len(), answers.failed()), (1, 0), "{answers:?}");
                let again = checks::ask(from, &name, to, 20)?;
                assert!(again.by_server.keys().eq(answers.by_server.keys()), "{answers:?}, then {again:?}");
            }
            tell(lab, &service)?;
            let a1 = &lab.pod("a1")?.namespace;
            checks::spread(a1, &name, to, 150, &BACKENDS)?.must_hold("without affinity");
            tell(lab, &sticky)?;
            // A client's port may come again, and its flow would still be with another backend.
            lab.node("node-a")?.shunt()?.ctl(&["flow", "flush", "--all"])?;
            assert_eq!(checks::ask(a1, &name, to, 30)?.by_server.len(), 1, "with affinity again");
        }
        Ok(())
    });
}

#[test]
fn round_robin_and_least_connections_share_evenly() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let service = service(&lab.plan, Protocol::Tcp);
        for scheduler in ["round-robin", "least-connections"] {
            tell(lab, &Service { scheduler: Some(scheduler), ..service.clone() })?;
            let answers = checks::ask(&lab.pod("a1")?.namespace, "tcp", SocketAddrV4::new(VIP, 80), 90)?;
            assert_eq!(answers.failed(), 0, "{answers:?}");
            let shares: Vec<_> = BACKENDS.iter().map(|backend| answers.by_server.get(*backend).copied()).collect();
            assert_eq!(shares, [Some(30); 3], "{scheduler}: {answers:?}");
        }
        Ok(())
    });
}

#[test]
fn source_hash_keeps_each_client_at_one_endpoint() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        tell(lab, &Service { scheduler: Some("source-hash"), ..service(&lab.plan, Protocol::Tcp) })?;
        for from in ["a1", "b2", "node-a"] {
            let answers = checks::ask(lab.station(from)?.0, "tcp", SocketAddrV4::new(VIP, 80), 40)?;
            assert_eq!((answers.by_server.len(), answers.failed()), (1, 0), "{answers:?}");
        }
        Ok(())
    });
}

/// What was flushed is gone from the table, and is explained as it went; what was open goes on.
#[test]
fn flushed_flows_are_explained_and_taken_up_again() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let service = service(&lab.plan, Protocol::Tcp);
        tell(lab, &service)?;
        let (a1, to) = (&lab.pod("a1")?.namespace, SocketAddrV4::new(VIP, 80));
        assert_eq!(checks::ask(a1, "tcp", to, 20)?.failed(), 0);
        let shunt = lab.node("node-a")?.shunt()?;
        let vip = format!("{VIP}:80");
        let flows = |arguments: &[&str]| shunt.ctl_json(&[&["flow"], arguments, &["--vip", &vip]].concat());
        let listed = flows(&["list"])?["flows"].as_array().cloned().unwrap_or_default();
        assert_eq!(listed.len(), 20);
        assert_eq!(flows(&["flush"])?["flushed"], 20);
        for flow in &listed {
            let told = shunt.ctl_json(&["explain", flow["client"].as_str().unwrap_or_default(), &vip])?;
            let (packet, answer) = (&told["packet"], &told["answer"]);
            assert_eq!((&packet["fate"], &packet["port"]), (&"forwarded".into(), &"default/a1".into()), "{told:#}");
            assert_eq!(packet["sent_destination"], flow["backend"], "the same endpoint as before: {told:#}");
            assert_eq!(
                (&answer["sent_source"], &answer["sent_destination"]),
                (&flow["vip"], &flow["client"]),
                "{told:#}"
            );
        }
        assert_eq!(flows(&["list"])?["flows"].as_array().map(Vec::len), Some(0), "explaining opens none");
        checks::echo(a1, to, 100_000)?.must_hold("a connection after the flush");
        Ok(())
    });
}

/// A server that drops SYNs without a word costs its new clients two retransmissions: then another one has them, also where
/// servers answer clients outside directly. Nobody else notices.
#[test]
fn a_silent_backend_s_new_connections_go_to_another_one() {
    const CLIENTS: usize = 16;
    const NODE_PORTS: [u16; 2] = [30_083, 30_084];
    let mut plan = Plan::three_nodes(Forwarder::Shunt);
    let [a2, b1, b2] = [plan.nodes[0].pod(2), plan.nodes[1].pod(1), plan.nodes[1].pod(2)].map(|pod| pod.address);
    // Who answers a SYN to b1 is found where b1 is if the client is outside: by node-b.
    plan.services = [("here", [a2, b2]), ("there", [b1, b2])]
        .into_iter()
        .zip(NODE_PORTS)
        .map(|((name, backends), node_port)| {
            let vip = Ipv4Addr::new(10, 96, 0, (node_port - 30_000) as u8);
            let mut service = Service::simple(name, vip, Protocol::Tcp, 80, TCP_PORT, backends);
            service.ports[0].node_port = Some(node_port);
            service.exposure = Some(Exposure { direct_server_return: true, ..Exposure::balanced(Policy::Cluster) });
            service
        })
        .collect();
    trial(plan, |lab| {
        let client = lab.outsider("client", 200)?;
        // As on every node of Kubernetes: answers to who is outside take the kernel's way.
        lab.nodes.iter().try_for_each(|node| node.namespace.sysctl("net.ipv4.ip_forward", "1"))?;
        let (a1, node) = (&lab.pod("a1")?.namespace, lab.node("node-a")?.plan.underlay());
        let vip = lab.plan.services[0].cluster_ip.expect("it has one");
        let [here, there] = NODE_PORTS.map(|port| SocketAddrV4::new(node, port));
        let held = [(a1, SocketAddrV4::new(vip, 80)), (&client, here), (&client, there)]
            .into_iter()
            .flat_map(|from_to| [from_to; 4])
            .map(|(from, to)| change::hold(lab, from, to, Duration::from_secs(5)))
            .collect::<Result<Vec<_>>>()?;
        for silent in ["a2", "b1"] {
            let pod = &lab.pod(silent)?.namespace;
            pod.run("nft add table inet silent")?;
            pod.run("nft add chain inet silent input { type filter hook input priority 0 ; }")?;
            pod.run("nft add rule inet silent input tcp flags & ( syn | ack ) == syn drop")?;
        }

        let unanswered = || -> Result<u64> {
            let counters = lab.daemons().map(|(_, shunt)| shunt.counters()).collect::<Result<Vec<_>>>()?;
            Ok(counters.iter().flat_map(|counters| &counters.workers).map(|worker| worker.flows_unanswered).sum())
        };
        assert_eq!(unanswered()?, 0);
        let mut late = 0;
        for (name, from, to) in
            [("cluster", a1, SocketAddrV4::new(vip, 80)), ("here", &client, here), ("there", &client, there)]
        {
            let transfers = (0..CLIENTS)
                .map(|at| {
                    let log = lab.log(&format!("transfer-{name}-{at}"));
                    probe::start(from, &["transfer", &to.to_string(), "1000"], &log)
                })
                .collect::<Result<Vec<_>>>()?;
            let reports = transfers
                .into_iter()
                .map(|transfer| transfer.finish(Duration::from_secs(20)))
                .collect::<Result<Vec<TransferReport>>>()?;
            assert!(reports.iter().all(|report| report.server == "b2" && report.echoed == 1000), "{name}: {reports:?}");
            // TCP's first timeout is a second (RFC 6298, section 2).
            let (at_once, twice): (Vec<_>, Vec<_>) = reports.iter().partition(|report| report.seconds < 1.0);
            assert!(!at_once.is_empty() && !twice.is_empty(), "{name}: {reports:?}");
            assert!(twice.iter().all(|report| (1.9..4.0).contains(&report.seconds)), "{name}: {reports:?}");
            late += twice.len() as u64;
        }
        assert_eq!(unanswered()?, late);
        for held in held {
            let held: HoldReport = held.finish(Duration::from_secs(20))?;
            assert!(held.messages > 100 && held.longest_ms < 1000.0, "{held:?}");
        }
        Ok(())
    });
}
