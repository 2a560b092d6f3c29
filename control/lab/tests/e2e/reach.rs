//! Everyone reaches everyone, whoever forwards.

use std::net::SocketAddrV4;

use shunt_control_lab::{
    capture::Capture,
    checks, for_both_forwarders,
    plan::{Forwarder, GATEWAY, Plan, TCP_PORT},
    tools,
    trial::trial,
};

const PAIRS: [(&str, &str); 15] = [
    ("a1", "a2"),
    ("a1", "b1"),
    ("b2", "a1"),
    ("a1", "c1"),
    ("c1", "a2"),
    ("node-a", "a1"),
    ("node-a", "b1"),
    ("node-a", "c1"),
    ("node-c", "a1"),
    ("a1", "node-a"),
    ("a1", "node-b"),
    ("a1", "node-c"),
    ("c1", "node-b"),
    ("node-a", "node-b"),
    ("node-c", "node-a"),
];

for_both_forwarders!(
    pods_and_nodes_reach_one_another,
    the_gateway_answers_ping_and_arp,
    transfers_with_checksum_offload,
    transfers_without_checksum_offload,
);

fn pods_and_nodes_reach_one_another(forwarder: Forwarder) {
    trial(Plan::three_nodes(forwarder), |lab| checks::all_reach(lab, &PAIRS));
}

#[test]
fn with_two_workers() {
    trial(Plan { workers: 2, ..Plan::three_nodes(Forwarder::Shunt) }, |lab| checks::all_reach(lab, &PAIRS));
}

/// Generic XDP gets what a pod's kernel sends as it is, and a segment of 64 KiB fits no frame: pods must cut their own.
#[test]
fn with_generic_xdp() {
    trial(Plan { xdp_mode: "generic", ..Plan::three_nodes(Forwarder::Shunt) }, |lab| {
        for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
            pod.offload("tso", false)?;
            pod.offload("gso", false)?;
        }
        checks::all_reach(lab, &PAIRS)
    });
}

fn kernel_peer(plan: Plan) {
    trial(plan, |lab| checks::all_reach(lab, &[("c1", "a1"), ("a1", "c1"), ("node-c", "b1")]));
}

#[test]
fn with_a_kernel_peer_that_sends_no_outer_checksums() {
    kernel_peer(Plan { kernel_udp_checksum: false, ..Plan::three_nodes(Forwarder::Shunt) });
}

#[test]
fn with_a_kernel_peer_that_leaves_checksums_unfinished() {
    kernel_peer(Plan { kernel_unfinished_checksums: true, ..Plan::three_nodes(Forwarder::Shunt) });
}

#[test]
fn with_a_kernel_peer_that_leaves_inner_checksums_unfinished() {
    let plan = Plan { kernel_udp_checksum: false, ..Plan::three_nodes(Forwarder::Shunt) };
    kernel_peer(Plan { kernel_unfinished_checksums: true, ..plan });
}

/// A pod's kernel leaves checksums to its NIC unless told otherwise, and a veth is no NIC: the switch must finish them.
fn transfers(forwarder: Forwarder, on: bool) {
    trial(Plan::three_nodes(forwarder), |lab| {
        for pod in ["a1", "a2", "b1", "c1"] {
            lab.pod(pod)?.offload("tx", on)?;
        }
        // What arrives at c1 has come through node-c's kernel, which merges segments behind VXLAN when two come at once
        // and then leaves their checksum unfinished. This test judges what Shunt sent.
        lab.node("node-c")?.namespace.run("ethtool -K flannel.1 gro off")?;
        for (from, to) in [("a1", "a2"), ("a1", "b1"), ("b1", "a1"), ("a1", "c1"), ("c1", "a1")] {
            let (from, to) = (lab.pod(from)?, lab.pod(to)?);
            let capture = Capture::start(&to.namespace, "eth0", "udp or tcp", lab.folder())?;
            let target = SocketAddrV4::new(to.address(), TCP_PORT);
            checks::echo(&from.namespace, target, 3_000_000)?.must_hold(&format!("TCP, offload {on}"));
            checks::reach(&from.namespace, to.address())?.must_hold(&format!("offload {on}"));
            let recording = capture.finish()?;
            let arrived = format!("ip.src == {}", from.address());
            // Between its own devices the kernel hands on unfinished checksums and merged segments; Shunt never may.
            if forwarder == Forwarder::Shunt {
                recording.must_be_well_formed(&arrived)?;
            }
        }
        Ok(())
    });
}

fn transfers_with_checksum_offload(forwarder: Forwarder) {
    transfers(forwarder, true);
}

fn transfers_without_checksum_offload(forwarder: Forwarder) {
    transfers(forwarder, false);
}

fn the_gateway_answers_ping_and_arp(forwarder: Forwarder) {
    trial(Plan::three_nodes(forwarder), |lab| {
        for pod in ["a1", "a2", "b1"] {
            let pod = lab.pod(pod)?;
            let ping = tools::ping(&pod.namespace, "-c 5 -i 0.05", GATEWAY)?;
            assert!(ping.is_complete(), "{}", ping.text);
            let neighbours = pod.namespace.ip(&format!("neigh show {GATEWAY}"))?;
            assert!(neighbours.contains("lladdr"), "{neighbours}");
        }
        Ok(())
    });
}
