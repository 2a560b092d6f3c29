//! What cannot be done is refused, and the message says why and what to do.

use shunt_control_lab::{
    checks,
    plan::{Forwarder, Plan},
    trial::trial,
};

/// A veth with jumbo frames cannot carry native XDP in single buffers: its pod is refused, all else goes on.
#[test]
fn a_jumbo_port_is_refused_and_the_rest_works() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let pod = lab.nodes[0].plan.pod(3);
        lab.plug(0, pod.clone())?;
        lab.pod("a3")?.namespace.ip("link set eth0 mtu 9000")?;
        let node = lab.node("node-a")?;
        node.namespace.ip(&format!("link set {} mtu 9000", pod.interface))?;
        let cluster = shunt_control_lab::cluster::Cluster { ports: vec![pod.port()], ..Default::default() };
        node.shunt()?.apply(&cluster, &[])?;
        let status = node.shunt()?.ctl(&["status"])?;
        let line = status.lines().find(|line| line.contains("default/a3")).unwrap_or_default();
        assert!(line.contains("pending") && line.contains("MTU of 9000 bytes does not fit"), "{status}");
        checks::reach(lab.station("a1")?.0, lab.station("b1")?.1)?.must_hold("a1 -> b1 beside a refused port");
        // With an MTU that fits, the same port comes up by itself or when it is applied again.
        lab.pod("a3")?.namespace.ip("link set eth0 mtu 1450")?;
        lab.node("node-a")?.namespace.ip(&format!("link set {} mtu 1450", pod.interface))?;
        lab.node("node-a")?.shunt()?.apply(&cluster, &[])?;
        checks::reach(lab.station("b1")?.0, pod.address)?.must_hold("b1 -> a3 once its MTU fits");
        Ok(())
    });
}

/// Two daemons cannot serve one node: the second one says so and leaves the first alone.
#[test]
fn a_second_daemon_is_refused() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let node = lab.node("node-a")?;
        let configuration = lab.folder().join("node-a/shuntd.toml");
        let mut command = node.namespace.bounded(shunt_control_lab::binaries::find("shuntd")?);
        let out = shunt_control_lab::command::output(command.arg("--config").arg(&configuration))?;
        assert!(!out.status.success(), "a second daemon ran: {out:?}");
        let said = shunt_control_lab::command::text(&out.stderr);
        assert!(said.contains("another shuntd"), "{said}");
        checks::reach(lab.station("a1")?.0, lab.station("b1")?.1)?.must_hold("a1 -> b1 beside a second daemon");
        Ok(())
    });
}
