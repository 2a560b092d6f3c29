//! VXLAN packets that no peer should send: each is dropped for its own reason, and counted.

use std::net::SocketAddrV4;

use shunt_control_lab::{
    Result,
    capture::Capture,
    plan::{Forwarder, Plan, UDP_PORT, VXLAN_PORT},
    probe::vxlan::{Crafted, UdpChecksum},
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
    let shunt = lab.node("node-a")?.shunt()?;
    let before = shunt.dropped(reason)?;
    let capture = Capture::start(&lab.pod("a1")?.namespace, "eth0", "udp", lab.folder())?;
    crafted.send_from(&lab.node("node-c")?.namespace)?;
    wait::until(&format!("{COUNT} drops for {reason}"), Duration::from_secs(3), || {
        let drops = shunt.drops().map_err(|error| error.to_string())?;
        let seen: u64 = drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum();
        if seen - before == u64::from(COUNT) { Ok(()) } else { Err(format!("{drops:?}")) }
    })?;
    assert_eq!(capture.finish()?.count("udp")?, 0, "{reason}: the pod got some of it");
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
