//! Changes while traffic flows, and ends of the daemon.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde_json::Value;
use shunt_control_lab::{
    change::{self, End, Streams},
    checks,
    cluster::{Exposure, Policy, Service},
    plan::{FRAMES, Forwarder, Plan, TCP_PORT, UDP_PORT, WEB},
    probe::hold::HoldReport,
    shunt_node::ShuntNode,
    tools,
    trial::{trial, trial_alone},
    wait,
};
use shunt_dataplane::net::Protocol;

const NODE_PORT: u16 = 30_075;

/// Streams outlast a worker's being away for as long as with the frames of a real node.
fn plan() -> Plan {
    Plan { frames: FRAMES, ..Plan::three_nodes(Forwarder::Shunt) }
}

#[test]
fn updates_lose_nothing() {
    trial_alone(plan(), |lab| {
        let mut streams = Streams::start(lab, 5)?;
        let mut updates = 0;
        while !streams.have_ended() {
            updates += change::update_services(lab, updates)?;
        }
        streams.finish(Duration::from_secs(30))?.must_hold("streams during updates");
        assert!(updates >= 20, "only {updates} updates");
        Ok(())
    });
}

#[test]
fn ports_come_and_go_without_loss() {
    trial_alone(plan(), |lab| {
        let mut streams = Streams::start(lab, 5)?;
        let mut rounds = 0;
        while !streams.have_ended() {
            change::pod_comes_and_goes(lab, 3)?;
            rounds += 1;
        }
        streams.finish(Duration::from_secs(30))?.must_hold("streams while a pod comes and goes");
        assert!(rounds >= 2, "only {rounds} rounds");
        Ok(())
    });
}

#[test]
fn a_restart_keeps_the_state() {
    trial(plan(), |lab| {
        change::restart_under_a_connection(lab, "node-b", End::Stop)?.must_hold("restart");
        checks::reach(lab.station("a1")?.0, lab.station("b1")?.1)?.must_hold("after the restart");
        checks::spread(lab.station("b2")?.0, "tcp", SocketAddrV4::new(WEB, 80), 150, &["a2", "b1", "c1"])?
            .must_hold("services after the restart");
        Ok(())
    });
}

#[test]
fn a_crash_keeps_the_state() {
    trial(plan(), |lab| {
        for _ in 0..3 {
            change::restart_under_a_connection(lab, "node-b", End::Kill)?.must_hold("restart after a crash");
        }
        checks::reach(lab.station("a1")?.0, lab.station("b1")?.1)?.must_hold("after the crash");
        checks::reach(lab.station("c1")?.0, lab.station("b2")?.1)?.must_hold("after the crash");
        Ok(())
    });
}

/// The table of flows goes with the daemon, and the client's next packet brings a connection back where it was: the hashes'
/// key is kept, so the same endpoint comes out and the same port stands in. Pods are in the middle of talking; clients outside
/// are silent, for while the daemon is away the node's kernel refuses what comes to the node port.
#[test]
fn established_connections_through_a_service_outlive_a_restart() {
    const CONNECTIONS: usize = 6;
    let mut plan = plan();
    let vip = Ipv4Addr::new(10, 96, 0, 75);
    let backends = [plan.nodes[0].pod(2).address, plan.nodes[1].pod(1).address, plan.nodes[2].pod(1).address];
    let mut service = Service::simple("held", vip, Protocol::Tcp, 80, TCP_PORT, backends);
    service.ports[0].node_port = Some(NODE_PORT);
    service.exposure = Some(Exposure::balanced(Policy::Cluster));
    plan.services.push(service);
    trial_alone(plan, |lab| {
        let outsider = lab.outsider("client", 200)?;
        // As on every node of Kubernetes: answers to who is outside take the kernel's way.
        let node = lab.node("node-a")?;
        node.namespace.sysctl("net.ipv4.ip_forward", "1")?;
        node.namespace.ip("route add default via 192.168.50.254")?;
        let (pod, port) = (SocketAddrV4::new(vip, 80), SocketAddrV4::new(node.plan.underlay(), NODE_PORT));
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            for (from, to, pause) in [(&lab.pod("a1")?.namespace, pod, 5), (&outsider, port, 5000)] {
                let [time, pause] = [5500, pause].map(Duration::from_millis);
                held.push(change::hold_slowly(lab, from, to, time, pause)?);
            }
        }
        let (shunt, namespace) = lab.node_mut("node-a")?.shunt_mut()?;
        let flows = |shunt: &ShuntNode, state: &str| {
            let listed = shunt.ctl_json(&["flow", "list", "--protocol", "tcp"]).map_err(|error| error.to_string())?;
            let flows = listed["flows"].as_array().cloned().unwrap_or_default();
            let is_silent = |flow: &&Value| flow["vip"] != port.to_string() || flow["idle_ms"].as_u64() >= Some(1000);
            let of = |flow: &Value| ["client", "vip", "backend"].map(|end| flow[end].to_string());
            let mut open: Vec<_> =
                flows.iter().filter(|flow| flow["state"] == state).filter(is_silent).map(of).collect();
            open.sort();
            if open.len() == 2 * CONNECTIONS { Ok(open) } else { Err(listed.to_string()) }
        };
        let before = wait::until("all to be connected", Duration::from_secs(4), || flows(shunt, "established"))?;
        shunt.stop()?;
        shunt.launch(namespace)?;
        for connection in held {
            let report: HoldReport = connection.finish(Duration::from_secs(60))?;
            assert!(report.messages >= 2, "{report:?}");
        }
        let (shunt, limit) = (lab.node("node-a")?.shunt()?, Duration::from_secs(5));
        let after = wait::until("all to be closed", limit, || flows(shunt, "time-wait"))?;
        assert_eq!(after, before, "taken up where they were");
        Ok(())
    });
}

/// The underlay's neighbours are the kernel's: when one changes its MAC address, the switch follows.
#[test]
fn a_next_hop_that_changes_its_mac_is_followed() {
    trial(plan(), |lab| {
        let (a1, c1) = (&lab.pod("a1")?.namespace, lab.pod("c1")?.address());
        assert!(tools::ping(a1, "-c 2 -i 0.05", c1)?.is_complete());
        let node = &lab.node("node-c")?.namespace;
        let before = node.mac("eth0")?;
        node.ip("link set eth0 down")?;
        node.ip("link set eth0 address 02:00:00:00:00:cc")?;
        node.ip("link set eth0 up")?;
        assert_ne!(node.mac("eth0")?, before);
        // A node that talks tells its neighbours its address: it asks for theirs.
        let neighbour = lab.node("node-a")?.plan.underlay();
        wait::until("node-c to be back", Duration::from_secs(10), || {
            let ping = tools::ping(node, "-c 1", neighbour).map_err(|error| error.to_string())?;
            if ping.is_complete() { Ok(()) } else { Err(ping.text) }
        })?;
        wait::until("a1 to reach c1 at its node's new MAC address", Duration::from_secs(5), || {
            let ping = tools::ping(a1, "-c 1", c1).map_err(|error| error.to_string())?;
            if ping.is_complete() { Ok(()) } else { Err(ping.text) }
        })?;
        let report = checks::stream(a1, SocketAddrV4::new(c1, UDP_PORT), 1000, 1000, 100)?;
        assert!(report.is_complete(), "{report:?}");
        Ok(())
    });
}

/// Peers come and go: a VTEP that is deleted is no longer believed, and is again when it is back.
#[test]
fn a_peer_that_is_deleted_is_no_longer_reached() {
    trial(plan(), |lab| {
        let (a1, c1) = (&lab.pod("a1")?.namespace, lab.pod("c1")?.address());
        let node = lab.node("node-a")?;
        node.shunt()?.ctl(&["delete", "vtep", "node-c"])?;
        let ping = tools::ping(a1, "-c 2 -i 0.05", c1)?;
        assert_eq!(ping.received, 0, "{}", ping.text);
        node.shunt()?.apply(&lab.plan.cluster_for(&node.plan), &[])?;
        assert!(tools::ping(a1, "-c 2 -i 0.05", c1)?.is_complete());
        Ok(())
    });
}
