//! What goes over the underlay, as tshark sees it.

use std::{collections::BTreeSet, net::SocketAddrV4};

use shunt_control_lab::{
    Result,
    capture::{Capture, Recording},
    checks,
    plan::{Forwarder, Plan, TCP_PORT, UDP_PORT},
    tools,
    topology::Lab,
    trial::trial,
};

/// Ping, UDP and TCP from pod to pod, recorded on the underlay at the first pod's node.
fn recorded(lab: &Lab, from: &str, to: &str) -> Result<Recording> {
    let node = format!("node-{}", &from[..1]);
    let capture = Capture::start(&lab.underlay, &node, "udp port 8472", lab.folder())?;
    let (from, to) = (lab.pod(from)?, lab.pod(to)?.address());
    assert!(tools::ping(&from.namespace, "-c 5 -i 0.02", to)?.is_complete());
    for size in [1, 17, 64, 511, 1422] {
        assert!(
            checks::stream(&from.namespace, SocketAddrV4::new(to, UDP_PORT), 1000, 20, size.max(16))?.is_complete()
        );
    }
    checks::ask(&from.namespace, "udp", SocketAddrV4::new(to, UDP_PORT), 50)?;
    checks::echo(&from.namespace, SocketAddrV4::new(to, TCP_PORT), 300_000)?.must_hold("TCP");
    capture.finish()
}

fn column(recording: &Recording, filter: &str, field: &str) -> Result<BTreeSet<String>> {
    // The first value of a field that occurs twice is the outer header's.
    let first = |row: Vec<String>| row[0].split(',').next().unwrap_or_default().to_owned();
    Ok(recording.rows(filter, &[field])?.into_iter().map(first).collect())
}

#[test]
fn what_shunt_sends_is_well_formed() {
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        for (from, to) in [("a1", "b1"), ("b1", "c1")] {
            let recording = recorded(lab, from, to)?;
            let sender = lab.node(&format!("node-{}", &from[..1]))?.plan.underlay();
            let ours = format!("vxlan && ip.src == {sender}");
            let packets = recording.must_be_well_formed(&ours)?;
            assert!(packets > 150, "only {packets} packets");
            let only = |field: &str, value: &str| -> Result<()> {
                assert_eq!(column(&recording, &ours, field)?, BTreeSet::from([value.to_owned()]), "{field}");
                Ok(())
            };
            only("udp.dstport", "8472")?;
            only("udp.checksum", "0x0000")?;
            only("vxlan.vni", "1")?;
            only("ip.ttl", "64")?;
            // As flannel's device: what is too big is answered, not fragmented, before it gets an outer header.
            only("ip.flags", "0x00")?;
            let lengths = recording.rows(&ours, &["frame.len", "ip.len", "udp.length"])?;
            for row in &lengths {
                let outer = |at: usize| row[at].split(',').next().and_then(|text| text.parse::<usize>().ok());
                let (frame, ip, udp) = (outer(0), outer(1), outer(2));
                assert_eq!((frame, ip), (ip.map(|ip| ip + 14), udp.map(|udp| udp + 20)), "{row:?}");
            }
            // 50 flows that differ in nothing but the source port: the outer source port must tell most of them apart.
            let ports = column(&recording, &ours, "udp.srcport")?;
            assert!(ports.len() > 30, "{} outer source ports for more than 50 flows", ports.len());
        }
        Ok(())
    });
}

#[test]
fn kernel_packets_pass_the_same_judge() {
    trial(Plan::three_nodes(Forwarder::Kernel), |lab| {
        let recording = recorded(lab, "a1", "b1")?;
        let packets = recording.must_be_well_formed("vxlan && ip.src == 192.168.50.1")?;
        assert!(packets > 150, "only {packets} packets");
        let ports = column(&recording, "vxlan && ip.src == 192.168.50.1", "udp.srcport")?;
        assert!(ports.len() > 30, "{} outer source ports for more than 50 flows", ports.len());
        Ok(())
    });
}
