//! IPv4 beyond the plain packet: options, fragments, sizes, time to live.

use std::net::SocketAddrV4;

use shunt_control_lab::{
    Result, checks, for_both_forwarders,
    plan::{Forwarder, POD_MTU, Plan, TCP_PORT, UDP_PORT},
    tools,
    topology::Lab,
    trial::trial,
};

for_both_forwarders!(
    options_pass,
    fragments_pass,
    a_packet_too_big_is_answered_with_the_right_mtu,
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

/// Pods that believe in an MTU of 1500 bytes learn from ICMP that the overlay carries 1450.
fn a_packet_too_big_is_answered_with_the_right_mtu(forwarder: Forwarder) {
    trial(Plan { pod_mtu: 1500, ..Plan::three_nodes(forwarder) }, |lab| {
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
