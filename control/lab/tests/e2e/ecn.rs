//! Congestion marks and service classes through the tunnel (RFC 6040, RFC 2983).

use std::{collections::BTreeMap, net::SocketAddrV4};

use shunt_control_lab::{
    Result,
    capture::Capture,
    for_both_forwarders,
    plan::{Forwarder, Plan, VXLAN_PORT},
    probe::vxlan::{Crafted, UdpChecksum},
    tools,
    topology::Lab,
    trial::trial,
};

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;
/// Expedited forwarding, in the place it has in the type of service byte.
const EF: u8 = 46 << 2;

for_both_forwarders!(marks_made_on_the_underlay_reach_the_pod, the_inner_class_is_left_alone);

/// RFC 6040, figure 4: inner, outer, and what comes out (`None`: dropped).
const DECAPSULATION: [(u8, u8, Option<u8>); 16] = [
    (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
    (NOT_ECT, ECT_0, Some(NOT_ECT)),
    (NOT_ECT, ECT_1, Some(NOT_ECT)),
    (NOT_ECT, CE, None),
    (ECT_0, NOT_ECT, Some(ECT_0)),
    (ECT_0, ECT_0, Some(ECT_0)),
    (ECT_0, ECT_1, Some(ECT_1)),
    (ECT_0, CE, Some(CE)),
    (ECT_1, NOT_ECT, Some(ECT_1)),
    (ECT_1, ECT_0, Some(ECT_1)),
    (ECT_1, ECT_1, Some(ECT_1)),
    (ECT_1, CE, Some(CE)),
    (CE, NOT_ECT, Some(CE)),
    (CE, ECT_0, Some(CE)),
    (CE, ECT_1, Some(CE)),
    (CE, CE, Some(CE)),
];

/// A packet from c1 to a1, as node-c would send it, with these two type of service bytes.
fn crafted(lab: &Lab, source_port: u16, inner_tos: u8, tos: u8) -> Result<Crafted> {
    let (from, to) = (&lab.node("node-c")?.plan, &lab.node("node-a")?.plan);
    Ok(Crafted {
        from: from.underlay(),
        to: SocketAddrV4::new(to.underlay(), VXLAN_PORT),
        tos,
        flags: 0x08,
        vni: 1,
        checksum: UdpChecksum::Zero,
        inner_source_mac: from.vtep_mac().to_string(),
        inner_target_mac: to.vtep_mac().to_string(),
        inner_from: SocketAddrV4::new(lab.pod("c1")?.address(), source_port),
        inner_to: SocketAddrV4::new(lab.pod("a1")?.address(), 40_000),
        inner_tos,
        inner_ttl: 64,
        payload: "marked".into(),
        count: 1,
    })
}

fn marks_made_on_the_underlay_reach_the_pod(forwarder: Forwarder) {
    trial(Plan::three_nodes(forwarder), |lab| {
        let sender = &lab.node("node-c")?.namespace;
        let capture = Capture::start(&lab.pod("a1")?.namespace, "eth0", "udp dst port 40000", lab.folder())?;
        for (case, (inner, outer, _)) in (1..).zip(DECAPSULATION) {
            crafted(lab, case, EF | inner, outer)?.send_from(sender)?;
        }
        let rows = capture.finish()?.rows("udp.dstport == 40000", &["udp.srcport", "ip.dsfield"])?;
        let arrived: BTreeMap<_, _> = rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
        for (case, (inner, outer, expected)) in (1u16..).zip(DECAPSULATION) {
            let expected = expected.map(|ecn| format!("0x{:02x}", EF | ecn));
            assert_eq!(arrived.get(&case.to_string()), expected.as_ref(), "inner {inner:02b}, outer {outer:02b}");
        }
        if let Ok(shunt) = lab.node("node-a")?.shunt() {
            assert_eq!(shunt.dropped("ecn_lost")?, 1);
        }
        Ok(())
    });
}

/// DSCP crosses inside; outside only the ECN bits are carried, by Shunt as by flannel's device.
fn the_inner_class_is_left_alone(forwarder: Forwarder) {
    trial(Plan::three_nodes(forwarder), |lab| {
        let (a1, c1) = (lab.pod("a1")?, lab.pod("c1")?);
        for (from, to, node) in [(a1, c1, "node-a"), (c1, a1, "node-c")] {
            for ecn in [NOT_ECT, ECT_1, ECT_0] {
                let outside = Capture::start(&lab.underlay, node, "udp port 8472", lab.folder())?;
                let inside = Capture::start(&to.namespace, "eth0", "icmp", lab.folder())?;
                let ping = tools::ping(&from.namespace, &format!("-c 3 -i 0.05 -Q {}", EF | ecn), to.address())?;
                assert!(ping.is_complete(), "{}", ping.text);
                let requests = "icmp.type == 8";
                for row in inside.finish()?.rows(requests, &["ip.dsfield"])? {
                    assert_eq!(row[0], format!("0x{:02x}", EF | ecn));
                }
                let outer_and_inner = outside.finish()?.rows(requests, &["ip.dsfield", "icmp.seq"])?;
                assert_eq!(outer_and_inner.len(), 3, "{outer_and_inner:?}");
                for row in outer_and_inner {
                    assert_eq!(row[0], format!("0x{ecn:02x},0x{:02x}", EF | ecn), "outer, inner from {node}");
                }
            }
        }
        Ok(())
    });
}

/// RFC 6040, section 4.1, normal mode: a packet marked inside is marked outside. (The kernel follows RFC 3168 here.)
#[test]
fn congestion_experienced_is_carried_outside() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let outside = Capture::start(&lab.underlay, "node-a", "udp port 8472", lab.folder())?;
        let to = lab.pod("c1")?.address();
        let ping = tools::ping(&lab.pod("a1")?.namespace, &format!("-c 3 -i 0.05 -Q {CE}"), to)?;
        assert!(ping.is_complete(), "{}", ping.text);
        let rows = outside.finish()?.rows("icmp.type == 8", &["ip.dsfield.ecn"])?;
        assert_eq!(rows, vec![vec!["3,3".to_owned()]; 3]);
        Ok(())
    });
}
