//! Flat routing: pods' packets go between nodes as they are, by native routes.

use std::net::SocketAddrV4;

use shunt_control_lab::{
    capture::Capture,
    checks, for_both_forwarders,
    plan::{Forwarder, Plan, TCP_PORT},
    tools,
    trial::trial,
};

/// Who talks to whom: pods and nodes, both ways, over the wire and within node-a.
const PAIRS: [(&str, &str); 8] = [
    ("a1", "b1"),
    ("b1", "a1"),
    ("a1", "a2"),
    ("node-b", "a1"),
    ("a1", "node-b"),
    ("node-a", "b1"),
    ("b1", "node-a"),
    ("a2", "node-a"),
];

for_both_forwarders!(
    pods_and_nodes_reach_one_another_without_an_overlay,
    packets_of_the_whole_mtu_pass_and_are_well_formed,
    a_route_that_goes_takes_the_traffic_with_it,
);

fn pods_and_nodes_reach_one_another_without_an_overlay(forwarder: Forwarder) {
    trial(Plan::flat(forwarder), |lab| {
        let capture = Capture::start(&lab.underlay, "node-b", "udp port 8472 or udp port 4789", lab.folder())?;
        checks::all_reach(lab, &PAIRS)?;
        assert_eq!(capture.finish()?.count("udp")?, 0, "nothing is encapsulated");
        if forwarder == Forwarder::Shunt {
            let counters = lab.node("node-a")?.shunt()?.counters()?;
            let uplink = counters.ports.iter().find(|port| port.name == "uplink").expect("an uplink");
            assert!(uplink.forwarded > 0 && uplink.to_host > 0, "the switch carries pods and the node: {uplink:?}");
        }
        Ok(())
    });
}

fn packets_of_the_whole_mtu_pass_and_are_well_formed(forwarder: Forwarder) {
    trial(Plan::flat(forwarder), |lab| {
        let capture = Capture::start(&lab.underlay, "node-b", "ip", lab.folder())?;
        for (from, to) in [("a1", "b1"), ("b1", "a1")] {
            let (from, to) = (lab.pod(from)?, lab.pod(to)?);
            // 1472 bytes, 8 of ICMP and 20 of IPv4: the underlay's MTU.
            let ping = tools::ping(&from.namespace, "-c 3 -i 0.05 -M do -s 1472", to.address())?;
            assert!(ping.is_complete(), "{}", ping.text);
            checks::echo(&from.namespace, SocketAddrV4::new(to.address(), TCP_PORT), 3_000_000)?.must_hold("TCP");
        }
        let recording = capture.finish()?;
        let sent = format!("ip.src == {} && icmp", lab.pod("a1")?.address());
        assert!(recording.count(&sent)? >= 6, "pings and answers are on the wire as they are");
        if forwarder == Forwarder::Shunt {
            recording.must_be_well_formed(&format!("ip.src == {}", lab.pod("a1")?.address()))?;
            // One router on the way.
            assert_eq!(recording.count(&format!("{sent} && ip.ttl != 63"))?, 0);
        }
        Ok(())
    });
}

/// Withdrawing the route ends the traffic and restoring it brings it back, on both kinds of node.
fn a_route_that_goes_takes_the_traffic_with_it(forwarder: Forwarder) {
    trial(Plan::flat(forwarder), |lab| {
        checks::all_reach(lab, &[("a1", "b1")])?;
        let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
        let prefix = b.plan.pod_cidr();
        let target = lab.pod("b1")?.address();
        match forwarder {
            Forwarder::Shunt => a.shunt()?.ctl(&["delete", "route", &prefix.to_string()]).map(drop)?,
            Forwarder::Kernel => a.namespace.ip(&format!("route del {prefix}")).map(drop)?,
        }
        let ping = tools::ping(&lab.pod("a1")?.namespace, "-c 3 -i 0.05 -W 1", target)?;
        assert!(!ping.is_complete() && !ping.text.contains("bytes from"), "{}", ping.text);
        match forwarder {
            Forwarder::Shunt => a.shunt()?.apply(&lab.plan.cluster_for(&a.plan), &[]).map(drop)?,
            Forwarder::Kernel => {
                a.namespace.ip(&format!("route add {prefix} via {} dev eth0", b.plan.underlay())).map(drop)?;
            }
        }
        checks::all_reach(lab, &[("a1", "b1")])
    });
}
