//! What the classifier takes from an uplink and what it leaves to the kernel.

use std::{net::Ipv4Addr, time::Duration};

use shunt_dataplane::{
    io::PacketIo,
    net::Protocol,
    service_set::ServiceSet,
    spec::{FamilySpec, ForwardingSpec, MasqueradeSpec, PortRole, ServiceSpec},
    xsk::{Classifier, Interface, NodeTraffic, UplinkFilter, XdpMode},
};

use crate::{
    net::{Wire, experimental, ipv4, new_namespace, udp, veth},
    rig::{PATIENCE, Port, Worker},
};

const VTEP: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 77);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const UDP: u8 = 17;
const TCP: u8 = 6;
const SCTP: u8 = 132;

struct Uplink {
    worker: Worker,
    port: Port,
    wire: Wire,
    kernel: Wire,
}

#[derive(Debug, PartialEq)]
enum Taker {
    Switch,
    Kernel,
}

impl Uplink {
    fn new(mode: XdpMode, filter: &UplinkFilter) -> Uplink {
        new_namespace();
        veth("uplink", "peer", 1);
        let mut worker = Worker::new(256);
        let port = worker.port_as("uplink", PortRole::Uplink, mode, filter).unwrap();
        Uplink { worker, port, wire: Wire::on("peer"), kernel: Wire::on("uplink") }
    }

    /// Sends `packet` and finds out who got it. A frame that is neither's, or both's, fails the test.
    fn taker(&mut self, packet: &[u8]) -> Taker {
        self.wire.send(packet);
        let mut frames = Vec::new();
        let until = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < until {
            if self.port.device.rx_burst(&mut self.worker.pool, &mut frames, 8) > 0 {
                assert!(frames.len() == 1 && frames[0].bytes() == packet);
                self.worker.give(frames);
                self.port.device.reclaim(&mut self.worker.pool);
                // In generic mode packet sockets see a frame before XDP does.
                if self.port.classifier.mode() == XdpMode::Native {
                    assert_eq!(self.kernel.recv(Duration::from_millis(2)), None, "the kernel got it too");
                }
                return Taker::Switch;
            }
            if self.port.classifier.mode() == XdpMode::Native
                && let Some(seen) = self.kernel.recv(Duration::from_millis(1))
            {
                assert!(seen == packet);
                return Taker::Kernel;
            }
        }
        panic!("nobody got {packet:02x?}")
    }
}

fn vxlan(port: u16) -> UplinkFilter {
    UplinkFilter { vxlan: Some((VTEP, port)), native: Vec::new() }
}

#[test]
fn vxlan_for_our_vtep_is_the_switchs() {
    let mut uplink = Uplink::new(XdpMode::Auto, &vxlan(8472));
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[], 0, &udp(8472))), Taker::Switch);
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[], 0x4000, &udp(8472))), Taker::Switch, "don't fragment");
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[1; 4], 0, &udp(8472))), Taker::Switch, "IPv4 options");
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[1; 40], 0, &udp(8472))), Taker::Switch, "all the options there can be");
}

#[test]
fn all_else_is_the_kernels() {
    let mut uplink = Uplink::new(XdpMode::Auto, &vxlan(8472));
    let ssh = [0, 22, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0];
    let mut arp = experimental(60, 0);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut ipv6 = experimental(94, 0);
    ipv6[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    let mut not_four = ipv4(VTEP, UDP, &[], 0, &udp(8472));
    not_four[14] = 0x65;
    let mut short_header = ipv4(VTEP, UDP, &[], 0, &udp(8472));
    short_header[14] = 0x44;
    let mut cut_udp = ipv4(VTEP, UDP, &[], 0, &udp(8472));
    cut_udp.truncate(14 + 20 + 7);
    let mut cut_options = ipv4(VTEP, UDP, &[], 0, &udp(8472));
    cut_options.truncate(14 + 24);
    cut_options[14] = 0x4f;
    for (packet, what) in [
        (ipv4(VTEP, TCP, &[], 0, &ssh), "ssh"),
        (arp, "ARP"),
        (ipv6, "IPv6"),
        (ipv4(VTEP, UDP, &[], 0, &udp(53)), "another UDP port"),
        (ipv4(VTEP, UDP, &[], 0, &udp(0x1821)), "the port with its bytes swapped"),
        (ipv4(VTEP, TCP, &[], 0, &udp(8472)), "TCP to the VXLAN port"),
        (ipv4(ELSEWHERE, UDP, &[], 0, &udp(8472)), "VXLAN for another address"),
        (ipv4(VTEP, UDP, &[], 0x2000, &udp(8472)), "first fragment"),
        (ipv4(VTEP, UDP, &[], 0x00b9, &udp(8472)), "last fragment"),
        (ipv4(POD, TCP, &[], 0, &ssh), "a pod's address, but no native routing"),
        (experimental(60, 1), "an unknown EtherType"),
        (experimental(14, 1), "nothing behind the Ethernet header"),
        (not_four, "EtherType IPv4, version 6"),
        (short_header, "an IPv4 header shorter than can be"),
        (cut_udp, "a UDP header that is cut off"),
        (cut_options, "options that are cut off"),
    ] {
        assert_eq!(uplink.taker(&packet), Taker::Kernel, "{what}");
    }
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[], 0, &udp(8472))), Taker::Switch);
}

#[test]
fn what_is_in_a_vlan_is_the_kernels() {
    let mut uplink = Uplink::new(XdpMode::Auto, &vxlan(8472));
    let untagged = ipv4(VTEP, UDP, &[], 0, &udp(8472));
    let mut tagged = untagged.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    uplink.wire.send(&tagged);
    // The kernel has taken the tag off before packet sockets see the frame.
    assert!(uplink.kernel.recv(PATIENCE) == Some(untagged));
    assert_eq!(uplink.port.device.rx_burst(&mut uplink.worker.pool, &mut Vec::new(), 8), 0);
}

#[test]
fn native_prefixes_are_the_switchs_and_the_filter_changes_live() {
    let filter = UplinkFilter { vxlan: None, native: vec!["10.244.1.0/24".parse().unwrap()] };
    let mut uplink = Uplink::new(XdpMode::Auto, &filter);
    let to = |address: [u8; 4]| ipv4(address.into(), TCP, &[], 0, &[0; 20]);
    assert_eq!(uplink.taker(&to([10, 244, 1, 10])), Taker::Switch);
    assert_eq!(uplink.taker(&ipv4(POD, UDP, &[1; 8], 0x2001, &udp(53))), Taker::Switch, "options and fragments too");
    assert_eq!(uplink.taker(&to([10, 244, 2, 10])), Taker::Kernel);
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[], 0, &udp(8472))), Taker::Kernel);

    let native = vec!["10.244.2.0/24".parse().unwrap(), "10.9.8.7/32".parse().unwrap()];
    uplink.port.classifier.set_filter(&UplinkFilter { vxlan: Some((VTEP, 4789)), native }).unwrap();
    assert_eq!(uplink.taker(&to([10, 244, 1, 10])), Taker::Kernel);
    assert_eq!(uplink.taker(&to([10, 244, 2, 10])), Taker::Switch);
    assert_eq!(uplink.taker(&to([10, 9, 8, 7])), Taker::Switch);
    assert_eq!(uplink.taker(&to([10, 9, 8, 6])), Taker::Kernel);
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[], 0, &udp(4789))), Taker::Switch);

    uplink.port.classifier.set_filter(&UplinkFilter::default()).unwrap();
    assert_eq!(uplink.taker(&to([10, 244, 2, 10])), Taker::Kernel);
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[], 0, &udp(4789))), Taker::Kernel);
}

#[test]
fn generic_mode_classifies_the_same() {
    let mut uplink = Uplink::new(XdpMode::Generic, &vxlan(8472));
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[], 0, &udp(8472))), Taker::Switch);
    uplink.wire.send(&ipv4(VTEP, UDP, &[], 0x2000, &udp(8472)));
    let mut frames = Vec::new();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(uplink.port.device.rx_burst(&mut uplink.worker.pool, &mut frames, 8), 0);
}

#[test]
fn a_queue_without_a_socket_passes_on_an_uplink_and_drops_on_other_ports() {
    new_namespace();
    veth("uplink", "peer", 1);
    let facts = Interface::query("uplink").unwrap();
    let (wire, kernel) = (Wire::on("peer"), Wire::on("uplink"));
    let packet = ipv4(VTEP, UDP, &[], 0, &udp(8472));
    for (role, passes) in [(PortRole::Uplink, true), (PortRole::Pod, false), (PortRole::Host, false)] {
        let mut classifier = Classifier::attach(&facts, role, XdpMode::Native, &vxlan(8472)).unwrap();
        wire.send(&packet);
        assert_eq!(kernel.recv(Duration::from_millis(100)).is_some(), passes, "{role:?}, never registered");

        let mut worker = Worker::new(128);
        let mut device = worker.open("uplink", 0).unwrap();
        device.reclaim(&mut worker.pool);
        classifier.register(0, &device).unwrap();
        wire.send(&packet);
        let frames = worker.receive(&mut device, 1);
        assert_eq!(frames.len(), 1, "{role:?}");
        worker.give(frames);
        worker.close(Box::new(device));
        wire.send(&packet);
        assert_eq!(kernel.recv(Duration::from_millis(100)).is_some(), passes, "{role:?}, after its socket closed");
    }
}

/// A node with a NodePort, an external IP, a ClusterIP and ten masquerade ports.
fn node() -> ForwardingSpec {
    let service = |vip: Ipv4Addr, port, protocol| ServiceSpec::simple(vip, port, protocol, Default::default());
    ForwardingSpec {
        ipv4: FamilySpec {
            services: [
                service(VTEP, 30_080, Protocol::Tcp),
                service(EXTERNAL, 53, Protocol::Udp),
                service(EXTERNAL, 53, Protocol::Sctp),
                service(CLUSTER_IP, 80, Protocol::Tcp),
            ]
            .into(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            masquerade: Some(MasqueradeSpec {
                overlay: POD,
                underlay: VTEP,
                ports: 61_000..=61_009,
                egress: None,
                answers_led: false,
            }),
            ..FamilySpec::default()
        },
        ..ForwardingSpec::default()
    }
}

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const ICMP: u8 = 1;

/// An ICMP message of this type about a packet that we sent from `from` and `port`.
fn icmp_about(kind: u8, from: Ipv4Addr, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut quoted = ipv4(ELSEWHERE, protocol, &[], 0, l4).split_off(14);
    quoted[12..16].copy_from_slice(&from.octets());
    ipv4(VTEP, ICMP, &[], 0, &[&[kind, 4, 0, 0, 0, 0, 0, 0][..], &quoted].concat())
}

/// The first bytes of a TCP or UDP header from and to these ports.
fn ports(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 16]].concat()
}

fn echo(kind: u8, id: u16) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat()
}

#[test]
fn frontends_and_answers_to_masqueraded_flows_are_the_switchs() {
    let mut uplink = Uplink::new(XdpMode::Auto, &vxlan(8472));
    let nodeport = ipv4(VTEP, TCP, &[], 0, &ports(1000, 30_080));
    assert_eq!(uplink.taker(&nodeport), Taker::Kernel, "nothing was asked for yet");
    let (node, mut traffic) = (node(), NodeTraffic::default());
    traffic.follow(&ServiceSet::default(), &node);
    uplink.port.classifier.set_node_traffic(&traffic).unwrap();
    for (packet, what) in [
        (nodeport.clone(), "a NodePort"),
        (ipv4(VTEP, TCP, &[1; 8], 0x4000, &ports(1000, 30_080)), "with options"),
        (ipv4(EXTERNAL, UDP, &[], 0, &ports(1000, 53)), "an external IP"),
        (ipv4(EXTERNAL, SCTP, &[], 0, &ports(1000, 53)), "the same port of SCTP"),
        (icmp_about(3, VTEP, SCTP, &ports(61_003, 53)), "an error about a masqueraded association"),
        (ipv4(VTEP, UDP, &[], 0, &ports(53, 61_000)), "the first masquerade port"),
        (ipv4(VTEP, TCP, &[], 0, &ports(80, 61_009)), "the last one"),
        (ipv4(VTEP, ICMP, &[], 0, &echo(0, 61_005)), "an answer to a masqueraded ping"),
        (icmp_about(3, VTEP, TCP, &ports(30_080, 1000)), "an error about an answer of a NodePort"),
        (icmp_about(11, VTEP, UDP, &ports(61_003, 53)), "an error about a masqueraded flow"),
        (icmp_about(3, VTEP, ICMP, &echo(8, 61_003)), "an error about a masqueraded ping"),
        (ipv4(VTEP, UDP, &[], 0, &udp(8472)), "VXLAN"),
    ] {
        assert_eq!(uplink.taker(&packet), Taker::Switch, "{what}");
    }
    let options_in_the_quote = {
        let mut quoted = ipv4(ELSEWHERE, TCP, &[1; 4], 0, &ports(30_080, 1000)).split_off(14);
        quoted[12..16].copy_from_slice(&VTEP.octets());
        ipv4(VTEP, ICMP, &[], 0, &[&[3, 4, 0, 0, 0, 0, 0, 0][..], &quoted].concat())
    };
    let mut cut_quote = icmp_about(3, VTEP, TCP, &ports(30_080, 1000));
    cut_quote.truncate(14 + 20 + 8 + 20 + 4);
    for (packet, what) in [
        (ipv4(VTEP, TCP, &[], 0, &ports(1000, 22)), "ssh"),
        (ipv4(VTEP, UDP, &[], 0, &ports(53, 40_000)), "an answer to the node's own question"),
        (ipv4(VTEP, UDP, &[], 0, &ports(1000, 30_080)), "the NodePort of another protocol"),
        (ipv4(EXTERNAL, TCP, &[], 0, &ports(1000, 53)), "a third protocol"),
        (ipv4(ELSEWHERE, TCP, &[], 0, &ports(1000, 30_080)), "another node's NodePort"),
        (ipv4(CLUSTER_IP, TCP, &[], 0, &ports(1000, 80)), "a ClusterIP"),
        (ipv4(VTEP, UDP, &[], 0, &ports(53, 60_999)), "a port below"),
        (ipv4(VTEP, UDP, &[], 0, &ports(53, 61_010)), "a port above"),
        (ipv4(ELSEWHERE, UDP, &[], 0, &ports(53, 61_000)), "the port at another address"),
        (ipv4(VTEP, 47, &[], 0, &ports(53, 61_000)), "a protocol without ports"),
        (ipv4(VTEP, TCP, &[], 0x00b9, &ports(1000, 30_080)), "a fragment whose first one did not come"),
        (ipv4(VTEP, ICMP, &[], 0, &echo(0, 7)), "an answer to the node's own ping"),
        (ipv4(VTEP, ICMP, &[], 0, &echo(8, 61_005)), "a ping of the node"),
        (icmp_about(3, VTEP, TCP, &ports(22, 1000)), "an error about ssh"),
        (icmp_about(5, VTEP, TCP, &ports(30_080, 1000)), "a redirect"),
        (icmp_about(3, ELSEWHERE, TCP, &ports(30_080, 1000)), "an error about another's packet"),
        (options_in_the_quote, "a quote with options"),
        (cut_quote, "a quote that is cut off"),
    ] {
        assert_eq!(uplink.taker(&packet), Taker::Kernel, "{what}");
    }

    // Fragments follow the first one of their datagram, until its number is another datagram's.
    let first = |port| ipv4(VTEP, UDP, &[], 0x2000, &ports(1000, port));
    let later = ipv4(VTEP, UDP, &[], 0x00b9, &ports(1000, 30_080));
    let others = {
        let mut others = later.clone();
        others[18..20].copy_from_slice(&[0, 8]);
        others
    };
    for (packet, taker, what) in [
        (&first(61_000), Taker::Switch, "a first fragment"),
        (&later, Taker::Switch, "a middle one"),
        (&later, Taker::Switch, "and another one"),
        (&others, Taker::Kernel, "one of another datagram"),
        (&first(53), Taker::Kernel, "the first one of a datagram to the node itself, with the same number"),
        (&later, Taker::Kernel, "and what follows it"),
    ] {
        assert_eq!(uplink.taker(packet), taker, "{what}");
    }

    // What is not asked for any more is the kernel's again.
    traffic.settle();
    traffic.follow(&node.ipv4.services, &ForwardingSpec::default());
    uplink.port.classifier.follow_node_traffic(&traffic).unwrap();
    assert_eq!(uplink.taker(&nodeport), Taker::Kernel);
    assert_eq!(uplink.taker(&ipv4(VTEP, UDP, &[], 0, &ports(53, 61_000))), Taker::Kernel);
}
