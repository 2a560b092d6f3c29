//! IPv4 beyond the plain packet: options, fragments, sizes, time to live.

use std::net::{Ipv4Addr, SocketAddrV4};

use shunt_control_lab::{
    Result, checks,
    cluster::Service,
    for_both_forwarders,
    plan::{Forwarder, POD_MTU, Plan, TCP_PORT, UDP_PORT},
    tools,
    topology::Lab,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

for_both_forwarders!(
    options_pass,
    fragments_pass,
    what_is_too_big_is_cut_or_answered_with_the_right_mtu,
    time_to_live_runs_out_at_each_node,
);

/// Across Shunt nodes, to the kernel's node, and from it.
const PAIRS: [(&str, &str); 3] = [("a1", "b1"), ("a1", "c1"), ("c1", "a1")];

fn ping_succeeds(lab: &Lab, options: &str) -> Result<()> {
    for (from, to) in PAIRS.iter().chain(&[("a1", "a2")]) {
        let ping = tools::ping(&lab.pod(from)?.namespace, options, lab.pod(to)?.address())?;
        assert!(ping.is_complete(), "{from} -> {to} with {options}: {}", ping.text);
    }
    Ok(())
}

fn options_pass(forwarder: Forwarder) {
    // Record route fills the header up to its greatest length, 60 bytes.
    trial(Plan::three_nodes(forwarder), |lab| ping_succeeds(lab, "-c 3 -i 0.05 -R"));
}

fn fragments_pass(forwarder: Forwarder) {
    trial(Plan::three_nodes(forwarder), |lab| {
        ping_succeeds(lab, "-c 5 -i 0.05 -s 4000")?;
        for (from, to) in PAIRS {
            let to = SocketAddrV4::new(lab.pod(to)?.address(), UDP_PORT);
            let report = checks::stream(&lab.pod(from)?.namespace, to, 100, 100, 5000)?;
            assert!(report.is_complete(), "{from} -> {to}: {report:?}");
        }
        Ok(())
    });
}

/// Where servers listen whose answers may be cut, and a service of the one in b1.
const CUT_PORTS: (u16, u16) = (9080, 9053);
const CUT_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 54);

/// Packets without DF, of 1500 bytes, get through: the node before the overlay cuts them. So do fragments of that size.
fn what_may_be_cut_arrives(lab: &Lab) -> Result<()> {
    let mut servers = Vec::new();
    for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
        // Sockets that are made from now on do not set DF.
        pod.namespace.sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
        let udp = SocketAddrV4::new(pod.address(), CUT_PORTS.1);
        servers.push(lab.serve_at(&pod.namespace, &format!("cut-{}", pod.plan.name), CUT_PORTS.0, &[udp.into()])?);
    }
    let to_a_pod = |to: &str| lab.pod(to).map(|pod| SocketAddrV4::new(pod.address(), CUT_PORTS.1));
    for (from, to) in PAIRS {
        let (from, to) = (&lab.pod(from)?.namespace, to_a_pod(to)?);
        let ping = tools::ping(from, "-c 5 -i 0.05 -M dont -s 1472", *to.ip())?;
        assert!(ping.is_complete(), "{}", ping.text);
        for size in [1423, 1472, 5000] {
            let report = checks::stream(from, to, 250, 50, size)?;
            assert!(report.is_complete(), "{to}, {size} bytes: {report:?}");
        }
    }
    let report = checks::stream(&lab.pod("a1")?.namespace, SocketAddrV4::new(CUT_VIP, 53), 250, 50, 1472)?;
    assert!(report.is_complete(), "through a service: {report:?}");
    for (node, shunt) in lab.daemons() {
        let cut: u64 = shunt.counters()?.ports.iter().map(|port| port.fragments).sum();
        assert!(cut > 100, "{} has cut {cut}", node.plan.name());
    }
    for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
        let learnt = pod.namespace.ip("route show cache")?;
        assert!(!learnt.contains("mtu"), "nobody was told of a smaller MTU: {learnt}");
        pod.namespace.sysctl("net.ipv4.ip_no_pmtu_disc", "0")?;
    }
    Ok(())
}

/// Pods that believe in an MTU of 1500 bytes learn from ICMP that the overlay carries 1450, if they must be told.
fn what_is_too_big_is_cut_or_answered_with_the_right_mtu(forwarder: Forwarder) {
    let mut plan = Plan { pod_mtu: 1500, ..Plan::three_nodes(forwarder) };
    let b1 = plan.nodes[1].pod(1).address;
    plan.services.push(Service::simple("cut", CUT_VIP, Protocol::Udp, 53, CUT_PORTS.1, [b1]));
    trial(plan, |lab| {
        what_may_be_cut_arrives(lab)?;
        for (from, to) in PAIRS {
            let (from, to) = (lab.pod(from)?, lab.pod(to)?.address());
            let ping = tools::ping(&from.namespace, "-c 1 -M do -s 1472", to)?;
            assert_eq!(ping.received, 0, "{}", ping.text);
            assert!(ping.text.contains(&format!("mtu = {POD_MTU}")), "{}", ping.text);
            let fits = tools::ping(&from.namespace, "-c 3 -i 0.05 -M do -s 1422", to)?;
            assert!(fits.is_complete(), "{}", fits.text);
        }
        // Within a node nothing is added, and 1500 bytes fit.
        let near = tools::ping(&lab.pod("a1")?.namespace, "-c 3 -i 0.05 -M do -s 1472", lab.pod("a2")?.address())?;
        assert!(near.is_complete(), "{}", near.text);
        // TCP in both directions depends on these ICMP messages: its segments are of 1460 bytes at first.
        for (from, to) in PAIRS {
            lab.pod(from)?.namespace.ip("route flush cache")?;
            let to = SocketAddrV4::new(lab.pod(to)?.address(), TCP_PORT);
            checks::echo(&lab.pod(from)?.namespace, to, 1_000_000)?.must_hold("TCP with path MTU discovery");
        }
        Ok(())
    });
}

fn time_to_live_runs_out_at_each_node(forwarder: Forwarder) {
    trial(Plan::three_nodes(forwarder), |lab| {
        for (from, to) in PAIRS {
            let (from, to) = (lab.pod(from)?, lab.pod(to)?.address());
            for ttl in [1, 2] {
                let ping = tools::ping(&from.namespace, &format!("-c 1 -t {ttl}"), to)?;
                assert_eq!(ping.received, 0, "{}", ping.text);
                assert!(ping.text.contains("Time to live exceeded"), "ttl {ttl}: {}", ping.text);
            }
            let ping = tools::ping(&from.namespace, "-c 1 -t 3", to)?;
            assert!(ping.is_complete() && ping.text.contains("ttl=62"), "{}", ping.text);
        }
        Ok(())
    });
}
