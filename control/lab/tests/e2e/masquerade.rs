//! Flows whose source is replaced by the node's address, with real clients and servers.

use std::net::{Ipv4Addr, SocketAddrV4};

use shunt_control_lab::{
    checks,
    cluster::Service,
    plan::{Forwarder, Plan, TCP_PORT, UDP_PORT},
    tools,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

/// Someone outside of the cluster, behind the underlay's router, who knows no way to pods.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const ROUTER: &str = "192.168.50.254";

/// An endpoint reaches itself through its service.
#[test]
fn pods_hairpin() {
    let mut plan = Plan::three_nodes(Forwarder::Shunt);
    let (a1, vip) = (plan.nodes[0].pod(1).address, [10, 96, 0, 70].into());
    plan.services.push(Service::simple("self-tcp", vip, Protocol::Tcp, 80, TCP_PORT, [a1]));
    plan.services.push(Service::simple("self-udp", vip, Protocol::Udp, 53, UDP_PORT, [a1]));
    trial(plan, |lab| {
        let a1 = &lab.pod("a1")?.namespace;
        checks::spread(a1, "tcp", SocketAddrV4::new(vip, 80), 50, &["a1"])?.must_hold("TCP");
        checks::spread(a1, "udp", SocketAddrV4::new(vip, 53), 50, &["a1"])?.must_hold("UDP");
        checks::echo(a1, SocketAddrV4::new(vip, 80), 1_000_000)?.must_hold("a transfer to itself");
        Ok(())
    });
}

/// Pods reach the world, which answers the node; the node's kernel forwards what the switch has masqueraded.
#[test]
fn pods_leave_the_cluster_masqueraded() {
    trial(Plan { egress: true, ..Plan::three_nodes(Forwarder::Shunt) }, |lab| {
        lab.underlay.ip(&format!("addr add {ROUTER}/24 dev br0"))?;
        lab.underlay.ip(&format!("addr add {OUTSIDE}/32 dev br0"))?;
        let _server = lab.serve(&lab.underlay, "outside", OUTSIDE)?;
        for node in ["node-a", "node-b"] {
            let node = &lab.node(node)?.namespace;
            node.ip(&format!("route add default via {ROUTER}"))?;
            node.sysctl("net.ipv4.ip_forward", "1")?;
        }
        for from in ["a1", "b2"] {
            let from = &lab.pod(from)?.namespace;
            checks::reach(from, OUTSIDE)?.must_hold("ping, UDP and TCP");
            checks::spread(from, "tcp", SocketAddrV4::new(OUTSIDE, TCP_PORT), 50, &["outside"])?.must_hold("TCP");
            let ping = tools::ping(from, "-c 3 -i 0.05", lab.node("node-b")?.plan.underlay())?;
            assert!(ping.is_complete(), "another node: {ping:?}");
        }
        // The node's own flows are none of the switch's.
        checks::reach(&lab.node("node-a")?.namespace, OUTSIDE)?.must_hold("from the node itself");
        Ok(())
    });
}
