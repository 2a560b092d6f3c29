//! Who gets new flows: session affinity and schedulers, with real clients.

use std::net::{Ipv4Addr, SocketAddrV4};

use shunt_control_lab::{
    Result, checks,
    cluster::{Cluster, Service},
    plan::{Forwarder, Plan, TCP_PORT, UDP_PORT},
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
            let to = SocketAddrV4::new(service.cluster_ip, service.ports[0].port);
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
