//! Changes while traffic flows, and ends of the daemon.

use std::{net::SocketAddrV4, time::Duration};

use shunt_control_lab::{
    change::{self, End, Streams},
    checks,
    plan::{FRAMES, Forwarder, Plan, UDP_PORT, WEB},
    tools,
    trial::trial,
    wait,
};

/// Streams outlast a worker's being away for as long as with the frames of a real node.
fn plan() -> Plan {
    Plan { frames: FRAMES, ..Plan::three_nodes(Forwarder::Shunt) }
}

#[test]
fn updates_lose_nothing() {
    trial(plan(), |lab| {
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
    trial(plan(), |lab| {
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
