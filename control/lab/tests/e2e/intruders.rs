//! VXLAN packets that no peer should send, and what no pod should: each is dropped for its own reason, and counted.

use std::net::SocketAddrV4;

use shunt_control_lab::{
    Result,
    capture::Capture,
    checks,
    netns::Namespace,
    plan::{Forwarder, GATEWAY, Plan, UDP_PORT, VXLAN_PORT},
    probe::vxlan::{Crafted, UdpChecksum},
    tools,
    topology::Lab,
    trial::trial,
    wait,
};
use std::time::Duration;

const COUNT: u32 = 7;

/// What node-c would send to a1, and a right packet.
fn right(lab: &Lab) -> Result<Crafted> {
    let (from, to) = (&lab.node("node-c")?.plan, &lab.node("node-a")?.plan);
    Ok(Crafted {
        from: from.underlay(),
        to: SocketAddrV4::new(to.underlay(), VXLAN_PORT),
        tos: 0,
        flags: 0x08,
        vni: 1,
        checksum: UdpChecksum::Zero,
        inner_source_mac: from.vtep_mac().to_string(),
        inner_target_mac: to.vtep_mac().to_string(),
        inner_from: SocketAddrV4::new(lab.pod("c1")?.address(), 1000),
        inner_to: SocketAddrV4::new(lab.pod("a1")?.address(), UDP_PORT),
        inner_tos: 0,
        inner_ttl: 64,
        payload: "crafted".into(),
        count: COUNT,
    })
}

/// Sends `crafted` from node-c; node-a must drop every packet for `reason`.
fn dropped(lab: &Lab, crafted: &Crafted, reason: &str) -> Result<()> {
    dropped_on_the_way(lab, (&lab.node("node-c")?.namespace, crafted), &lab.pod("a1")?.namespace, reason)
}

/// Sends what `sent` says from where it says; node-a must drop every packet for `reason`, and nothing reaches `to`.
fn dropped_on_the_way(lab: &Lab, sent: (&Namespace, &Crafted), to: &Namespace, reason: &str) -> Result<()> {
    let shunt = lab.node("node-a")?.shunt()?;
    let before = shunt.dropped(reason)?;
    let capture = Capture::start(to, "eth0", "udp", lab.folder())?;
    sent.1.send_from(sent.0)?;
    wait::until(&format!("{COUNT} drops for {reason}"), Duration::from_secs(3), || {
        let drops = shunt.drops().map_err(|error| error.to_string())?;
        let seen: u64 = drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum();
        if seen - before == u64::from(COUNT) { Ok(()) } else { Err(format!("{drops:?}")) }
    })?;
    assert_eq!(capture.finish()?.count("udp")?, 0, "{reason}: some of it arrived");
    Ok(())
}

/// Sends `crafted` from node-c; a1 must get every packet.
fn accepted(lab: &Lab, crafted: &Crafted) -> Result<()> {
    let capture = Capture::start(&lab.pod("a1")?.namespace, "eth0", "udp", lab.folder())?;
    crafted.send_from(&lab.node("node-c")?.namespace)?;
    let arrived = capture.finish()?.count(&format!("udp.dstport == {UDP_PORT}"))?;
    assert_eq!(arrived, COUNT as usize, "{:?}", crafted.checksum);
    Ok(())
}

#[test]
fn intruders_are_dropped_for_their_reasons() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let right = right(lab)?;
        accepted(lab, &right)?;
        accepted(lab, &Crafted { checksum: UdpChecksum::Right, ..right.clone() })?;
        dropped(lab, &Crafted { checksum: UdpChecksum::Wrong, ..right.clone() }, "bad_outer_checksum")?;
        dropped(lab, &Crafted { vni: 2, ..right.clone() }, "unknown_vni")?;
        dropped(lab, &Crafted { vni: 1 << 20 | 1, ..right.clone() }, "unknown_vni")?;
        dropped(lab, &Crafted { flags: 0, ..right.clone() }, "bad_vxlan")?;
        let stranger = [192, 168, 50, 99].into();
        dropped(lab, &Crafted { from: stranger, ..right.clone() }, "unknown_vtep")?;
        let other = "0a:58:00:00:00:99".to_owned();
        dropped(lab, &Crafted { inner_target_mac: other, ..right.clone() }, "not_our_mac")?;
        let nobody = SocketAddrV4::new([127, 0, 0, 1].into(), 1000);
        dropped(lab, &Crafted { inner_from: nobody, ..right.clone() }, "martian_source")?;
        accepted(lab, &right)
    });
}

/// Whatever a pod sends, it is that pod's, and no VTEP's: here with masquerading on, which would make it a known VTEP's.
#[test]
fn pods_speak_for_themselves_alone() {
    trial(Plan { egress: true, ..Plan::three_nodes(Forwarder::Shunt) }, |lab| {
        let (a1, a2) = (lab.pod("a1")?, lab.pod("a2")?);
        let (node_a, node_c) = (lab.node("node-a")?, lab.node("node-c")?);
        node_a.namespace.sysctl("net.ipv4.ip_forward", "1")?;
        let (here, there) = (node_a.plan.underlay(), node_c.plan.underlay());
        let vtep = |address| SocketAddrV4::new(address, VXLAN_PORT);
        let honest = Crafted { from: a1.address(), to: vtep(a2.address()), ..right(lab)? };

        // To a VTEP's port: neither to another node nor to its own, which would decapsulate it or pass it on.
        let to_c = Crafted {
            to: vtep(there),
            inner_to: SocketAddrV4::new(lab.pod("c1")?.address(), UDP_PORT),
            ..honest.clone()
        };
        let to_a = Crafted { to: vtep(here), inner_to: SocketAddrV4::new(a2.address(), UDP_PORT), ..honest.clone() };
        dropped_on_the_way(lab, (&a1.namespace, &to_c), &node_c.namespace, "vtep_only")?;
        dropped_on_the_way(lab, (&a1.namespace, &to_a), &a2.namespace, "vtep_only")?;
        // To a pod: traffic, and what is inside stays there.
        let capture = Capture::start(&a2.namespace, "eth0", "udp", lab.folder())?;
        honest.send_from(&a1.namespace)?;
        let capture = capture.finish()?;
        assert_eq!(
            capture.count(&format!("udp.dstport == {VXLAN_PORT} && ip.src == {}", a1.address()))?,
            COUNT as usize
        );
        // To another port of a VTEP: that leaves the cluster with the node's address.
        let capture = Capture::start(&node_c.namespace, "eth0", "udp port 53", lab.folder())?;
        Crafted { to: SocketAddrV4::new(there, 53), ..honest.clone() }.send_from(&a1.namespace)?;
        assert_eq!(capture.finish()?.count(&format!("ip.src == {here}"))?, COUNT as usize);

        // With another's address, or from another station.
        let spoofed = Crafted { from: lab.pod("a2")?.address(), to: vtep(lab.pod("b1")?.address()), ..honest.clone() };
        dropped_on_the_way(lab, (&a1.namespace, &spoofed), &lab.pod("b1")?.namespace, "spoofed_address")?;
        a1.namespace.ip("addr add 10.244.1.99/32 dev eth0")?;
        a1.namespace.ip("neigh flush dev eth0")?;
        let arps = node_a.shunt()?.dropped("spoofed_address")?;
        tools::ping(&a1.namespace, "-c 1 -W 0.3 -I 10.244.1.99", GATEWAY)?;
        assert!(node_a.shunt()?.dropped("spoofed_address")? > arps, "an ARP request with another's address");
        a1.namespace.ip("addr del 10.244.1.99/32 dev eth0")?;
        checks::reach(&a1.namespace, a2.address())?.must_hold("a1 as itself");
        a1.namespace.ip(&format!("link set eth0 address {}", a2.plan.mac))?;
        tools::ping(&a1.namespace, "-c 1 -W 0.3", a2.address())?;
        assert!(node_a.shunt()?.dropped("spoofed_mac")? > 0);
        a1.namespace.ip(&format!("link set eth0 address {}", a1.plan.mac))?;
        checks::reach(&a1.namespace, a2.address())?.must_hold("a1 with its own station again");
        Ok(())
    });
}
