//! The node itself: what its kernel does stays its own, whatever becomes of the daemon; and its kernel, its programs and its
//! pods reach one another without translation.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use shunt_control_lab::{
    Result, binaries, change, checks,
    cluster::Service,
    command::run,
    error::LabError,
    plan::{Forwarder, Plan, TCP_PORT, WEB},
    probe::{self, hold::HoldReport, stream::StreamReport},
    tools,
    topology::Lab,
    trial::trial,
    wait,
};
use shunt_dataplane::net::Protocol;

const PATIENCE: Duration = Duration::from_secs(10);
const HOSTED: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 90);

fn pinged(lab: &Lab, from: &str, to: &str) -> Result<bool> {
    Ok(tools::ping(lab.station(from)?.0, "-c 1 -W 0.5", lab.station(to)?.1)?.is_complete())
}

/// The daemon stops, starts, is killed and starts again: pods are away meanwhile, and nothing else is.
#[test]
fn the_node_outlives_its_daemon() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let node = lab.node("node-a")?.plan.underlay();
        // Programs on the uplink's address: `ssh` on TCP 22, DNS on UDP 53.
        let _server =
            lab.serve_at(&lab.node("node-a")?.namespace, "uplink", 22, &[SocketAddrV4::new(node, 53).into()])?;
        let (from, to) = (&lab.node("node-c")?.namespace, |port| SocketAddrV4::new(node, port));
        let ssh = change::hold(lab, from, to(22), Duration::from_secs(6))?;
        let dns = probe::start(from, &["stream", &to(53).to_string(), "200", "1200", "100"], &lab.log("dns"))?;

        for kill in [false, true] {
            assert!(pinged(lab, "a1", "b1")? && pinged(lab, "a1", "a2")?);
            let (shunt, _) = lab.node_mut("node-a")?.shunt_mut()?;
            if kill {
                shunt.kill()?
            } else {
                shunt.stop()?
            };
            assert!(!pinged(lab, "a1", "b1")? && !pinged(lab, "a1", "a2")?, "pods of node-a are away");
            assert!(
                tools::ping(&lab.node("node-c")?.namespace, "-c 2 -i 0.05", node)?.is_complete(),
                "the node is there"
            );
            let links = lab.node("node-a")?.namespace.ip("link show")?;
            assert_eq!(links.contains("shunt0"), kill, "the host port goes with a daemon that ends in order: {links}");
            let (shunt, namespace) = lab.node_mut("node-a")?.shunt_mut()?;
            shunt.launch(namespace)?;
            for (from, to) in [("a1", "b1"), ("a1", "a2"), ("c1", "a1"), ("node-a", "b1"), ("b1", "node-a")] {
                checks::comes_back(lab, from, to)?;
            }
        }
        let ssh: HoldReport = ssh.finish(PATIENCE)?;
        assert!(ssh.messages > 0 && ssh.longest_ms < 1000.0, "{ssh:?}");
        let dns: StreamReport = dns.finish(PATIENCE)?;
        assert!(dns.is_complete(), "{dns:?}");
        Ok(())
    });
}

/// Programs on nodes' own addresses serve pods, nodes and one another; each sees who asks.
#[test]
fn programs_of_nodes_are_endpoints() {
    let mut plan = Plan::three_nodes(Forwarder::Shunt);
    let underlays: Vec<_> = plan.nodes.iter().map(|node| node.underlay()).collect();
    plan.services.push(Service::simple("hosted", HOSTED, Protocol::Tcp, 80, TCP_PORT, underlays));
    trial(plan, |lab| {
        for node in ["node-a", "node-b", "node-c"] {
            lab.node(node)?.namespace.sysctl("net.ipv4.ip_forward", "1")?;
        }
        let to = SocketAddrV4::new(HOSTED, 80);
        for from in ["a1", "b1", "node-a", "node-b"] {
            let from = lab.station(from)?.0;
            checks::spread(from, "tcp", to, 150, &["node-a", "node-b", "node-c"])?.must_hold("programs of nodes");
        }
        checks::echo(lab.station("node-a")?.0, to, 1_000_000)?.must_hold("a transfer from the node");
        Ok(())
    });
}

/// What somebody takes from the host port is put back; what cannot be is in the status.
#[test]
fn the_host_port_is_kept() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let node = lab.node("node-a")?;
        let mut doctor = node.namespace.bounded(binaries::find("shuntctl")?);
        doctor.arg("doctor").arg("--config").arg(lab.folder().join("node-a/shuntd.toml"));
        let diagnosis = run(&mut doctor)?;
        assert!(
            diagnosis.contains("shuntd runs") && diagnosis.contains("classifier is on eth0, native"),
            "{diagnosis}"
        );

        let problem = || -> Result<Option<String>> {
            let status = node.shunt()?.ctl_json(&["status"])?;
            let ports = status["ports"].as_array().cloned().unwrap_or_default();
            let host = ports.into_iter().find(|port| port["role"] == "host");
            let host = host.ok_or_else(|| LabError::Unknown("no host port".to_owned()))?;
            Ok(host["problem"].as_str().map(str::to_owned))
        };
        let web = SocketAddrV4::new(WEB, 80);
        for damage in [
            "route del 10.96.0.0/16",
            "route replace 10.244.0.0/16 via 192.168.50.3 dev eth0",
            "addr del 10.244.1.0/32 dev shunt0",
            "neigh del 169.254.1.1 dev shunt0",
            "link set shunt0 down",
            "link del shunt0",
        ] {
            node.namespace.ip(damage)?;
            for (from, to) in [("node-a", "b1"), ("a1", "node-a")] {
                checks::comes_back(lab, from, to).unwrap_or_else(|error| panic!("after {damage}: {error}"));
            }
            // The way to services may be the one that was taken away.
            wait::until("services to come back", PATIENCE, || match checks::ask(&node.namespace, "tcp", web, 1) {
                Ok(answers) if answers.failed() == 0 => Ok(()),
                other => Err(format!("{other:?}")),
            })?;
            checks::spread(&node.namespace, "tcp", web, 150, &["a2", "b1", "c1"])?.must_hold(damage);
        }
        assert_eq!(problem()?, None);

        let seize = lab.folder().join("seize");
        std::fs::write(&seize, "link del shunt0\nlink add shunt0 type bridge\n").expect("written");
        node.namespace.ip(&format!("-batch {}", seize.display()))?;
        wait::until("the status to say so", PATIENCE, || match problem() {
            Ok(Some(problem)) if problem.contains("shunt0 exists and is not shuntd's") => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        node.namespace.ip("link del shunt0")?;
        checks::comes_back(lab, "node-a", "b1")?;
        assert_eq!(problem()?, None);
        Ok(())
    });
}
