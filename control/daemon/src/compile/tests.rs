use std::{net::Ipv6Addr, sync::Arc};

use shunt_control_api::{Resource, v1};
use shunt_dataplane::xsk::{MemoryChoice, XdpMode};

use super::*;
use crate::{
    config::{Ipv6, Masquerade, Node, Vxlan},
    desired::{Claims, Rules, Transaction},
    kernel::{Link, NextHop},
};

const UPLINK: PortId = PortId(0);
const HOST: PortId = PortId(1);
const POD: PortId = PortId(2);
const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const HOP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn identity() -> Identity {
    let config = Config {
        node: Node {
            name: "node-a".into(),
            pod_cidr: net("10.244.1.0/24"),
            cluster_cidr: net("10.244.0.0/16"),
            service_cidr: net("10.96.0.0/16"),
            zone: "zone-1".into(),
            isolated: false,
        },
        ipv6: Some(Ipv6 {
            pod_cidr: "fd00:10:244:1::/64".parse().unwrap(),
            cluster_cidr: "fd00:10:244::/48".parse().unwrap(),
            service_cidr: "fd00:10:96::/112".parse().unwrap(),
        }),
        uplink: "eth0".into(),
        uplink_memory: MemoryChoice::ZeroCopy,
        vxlan: Some(Vxlan { vni: 1, udp_port: 8472, mac: None, direct_routing: false }),
        masquerade: Masquerade { ports: 61_000..=65_535, egress: Some(vec![net("10.0.0.0/8")]) },
        node_port_addresses: None,
        host: "shunt0".into(),
        cores: vec![0],
        frames_per_worker: 8192,
        flow_capacity: 1024,
        socket: "/s".into(),
        tcp: None,
        metrics: None,
        state_dir: "/d".into(),
        xdp_mode: XdpMode::Auto,
    };
    Identity { config, vtep_mac: MacAddr([0x0a, 0x58, 0, 0, 0, 1]) }
}

fn state() -> State {
    let request = v1::ApplyRequest {
        vteps: vec![v1::Vtep {
            direct_server_return: true,
            node: "node-b".into(),
            address: "192.168.50.2".into(),
            mac: "0a:58:00:00:00:02".into(),
            pod_cidr: "10.244.2.0/24".into(),
            ipv6_pod_cidr: "fd00:10:244:2::/64".into(),
        }],
        ports: ["va", "vb"]
            .iter()
            .zip([10, 11])
            .map(|(interface, n)| v1::Port {
                name: format!("default/{interface}"),
                interface: (*interface).into(),
                address: format!("10.244.1.{n}"),
                ipv6_address: format!("fd00:10:244:1::{n}"),
                mac: "0a:58:0a:f4:01:0a".into(),
                ..Default::default()
            })
            .collect(),
        routes: vec![v1::Route { prefix: "10.245.0.0/24".into(), via: "192.168.50.7".into() }],
        ..Default::default()
    };
    let rules = Rules {
        node: identity().config.node,
        ipv6: identity().config.ipv6,
        vtep_mac: Some(identity().vtep_mac),
        underlay: None,
        node_port_addresses: Vec::new(),
        masquerade_ports: 61_000..=65_535,
        own_interfaces: Default::default(),
    };
    Transaction::try_from(request).unwrap().plan(&State::default(), &Claims::default(), &rules).unwrap().state
}

fn view() -> KernelView {
    let link = |index, mac, mtu| Link { index, mac: Some(mac), mtu, unfinished_checksums: index == 3 };
    let hop = |station: &str| NextHop { station: Some(ip(station)), mac: Some(HOP_MAC) };
    KernelView {
        links: [
            ("eth0".into(), link(2, MacAddr([2, 0, 0, 0, 0, 1]), 1500)),
            ("shunt0".into(), link(3, HOST_MAC, 1450)),
            ("va".into(), link(5, MacAddr([2, 0, 0, 0, 0, 5]), 1450)),
        ]
        .into(),
        underlay: Some(ip("192.168.50.1")),
        addresses: ["192.168.50.1", "10.9.0.1", "10.244.1.0"].map(ip).into(),
        next_hops: [(ip("192.168.50.2"), hop("192.168.50.2")), (ip("192.168.50.7"), NextHop::default())].into(),
    }
}

fn info(id: PortId, interface: &str) -> PortInfo {
    PortInfo {
        id,
        interface: interface.into(),
        mac: MacAddr([2, 0, 0, 0, 9, id.0 as u8]),
        mtu: 1400,
        queues: 1,
        xdp_mode: XdpMode::Native,
        zero_copy: false,
        why_copy: None,
        not_led: None,
    }
}

/// Compiles with the uplink, the host port and one of the two pods attached.
fn compile(identity: &Identity, view: &KernelView) -> ForwardingSpec {
    let infos = [info(UPLINK, "eth0"), info(HOST, "shunt0p"), info(POD, "va")];
    let roles = [PortRole::Uplink, PortRole::Host, PortRole::Pod];
    let ports = AttachedPorts {
        by_interface: infos.iter().zip(roles).map(|(info, role)| (info.interface.as_str(), (role, info))).collect(),
        uplink: Some(UPLINK),
        host: Some(HOST),
    };
    super::compile(identity, &state(), view, &ports, Services::default())
}

fn via<'a>(spec: &'a ForwardingSpec, prefix: &str) -> &'a Via {
    &spec.ipv4.routes.iter().find(|route| route.prefix == net(prefix)).unwrap_or_else(|| panic!("{prefix}")).via
}

#[test]
fn every_destination_has_its_way() {
    let spec = compile(&identity(), &view());
    let kernel = Via::Port { port: HOST, mac: HOST_MAC };
    assert_eq!(via(&spec, "0.0.0.0/0"), &kernel);
    assert_eq!(via(&spec, "10.244.1.0/32"), &kernel, "the node's own address");
    assert_eq!(via(&spec, "10.244.1.0/24"), &Via::Unreachable, "pods that are not");
    assert_eq!(via(&spec, "10.244.2.0/24"), &Via::Vtep(ip("192.168.50.2")));
    let pod = Via::Port { port: POD, mac: "0a:58:0a:f4:01:0a".parse().unwrap() };
    assert_eq!(via(&spec, "10.244.1.10/32"), &pod);
    assert_eq!(via(&spec, "10.245.0.0/24"), &Via::Gateway { port: UPLINK, mac: None }, "not resolved yet");
    assert_eq!(spec.ipv4.routes.len(), 6, "the pending pod has none");
}

/// A family of one's own: pods here, pods behind VTEPs, the node's kernel, and no way out.
#[test]
fn ipv6_has_ways_to_pods_and_the_node_only() {
    let ForwardingSpec { ipv6: spec, ports, .. } = compile(&identity(), &view());
    let own: Ipv6Addr = "fd00:10:244:1::".parse().unwrap();
    let pod = Via::Port { port: POD, mac: "0a:58:0a:f4:01:0a".parse().unwrap() };
    let expected = [
        ("::/0", Via::Unreachable),
        ("fd00:10:244:1::/64", Via::Unreachable),
        ("fd00:10:244:1::/128", via(&compile(&identity(), &view()), "10.244.1.0/32").clone()),
        ("fd00:10:244:1::10/128", pod),
        ("fd00:10:244:2::/64", Via::Vtep(ip("192.168.50.2"))),
    ];
    let expected = expected.map(|(prefix, via)| RouteSpec { prefix: prefix.parse().unwrap(), via });
    assert_eq!(spec.routes, expected, "the pending pod has none");
    assert_eq!((spec.gateway, spec.router), (Some("fe80::1".parse().unwrap()), Some(own)));
    let masquerade =
        MasqueradeSpec { overlay: own, underlay: own, ports: 61_000..=65_535, egress: None, answers_led: false };
    assert_eq!((spec.masquerade, spec.on_link), (Some(masquerade), None));
    let prefixes = ["fd00:10:244::/48", "fd00:10:96::/112"].map(|prefix| vec![prefix.parse().unwrap()]);
    assert_eq!([spec.pod_cidrs, spec.service_cidrs], prefixes);
    let stations: Vec<_> = ports.iter().map(|port| port.station.and_then(|station| station.ipv6)).collect();
    assert_eq!(stations, [None, None, Some("fd00:10:244:1::10".parse().unwrap())]);
}

#[test]
fn without_the_section_there_is_no_ipv6() {
    let mut identity = identity();
    identity.config.ipv6 = None;
    assert_eq!(compile(&identity, &view()).ipv6, FamilySpec::default());
}

#[test]
fn without_an_overlay_ipv6_pods_elsewhere_are_out_of_reach() {
    let spec = compile(&identity(), &KernelView { underlay: None, ..view() }).ipv6;
    assert!(spec.routes.iter().all(|route| !matches!(route.via, Via::Vtep(_))));
    assert_eq!(spec.routes.len(), 5);
}

#[test]
fn with_direct_routing_a_vtep_on_the_uplink_s_network_is_reached_natively() {
    let mut identity = identity();
    assert!(!compile(&identity, &view()).vteps[0].native);
    identity.config.vxlan.as_mut().unwrap().direct_routing = true;
    assert!(compile(&identity, &view()).vteps[0].native);
    let mut view = view();
    view.next_hops.get_mut(&ip("192.168.50.2")).unwrap().station = Some(ip("192.168.50.254"));
    assert!(!compile(&identity, &view).vteps[0].native, "it is behind a router");
}

#[test]
fn ports_have_what_the_kernel_says_of_them() {
    let spec = compile(&identity(), &view());
    let ports: Vec<_> = spec.ports.iter().map(|p| (p.id, p.role, p.mac.0[5], p.mtu)).collect();
    let unfinished: Vec<_> = spec.ports.iter().map(|p| p.unfinished_checksums).collect();
    assert_eq!(unfinished, [false, true, true], "a card finishes checksums, a veth does not");
    // The host port's interface is not in the view: as it was when it was attached.
    let expected =
        [(UPLINK, PortRole::Uplink, 1, 1500), (HOST, PortRole::Host, 1, 1400), (POD, PortRole::Pod, 5, 1450)];
    assert_eq!(ports, expected);
}

#[test]
fn the_overlay_follows_the_kernel() {
    let spec = compile(&identity(), &view());
    let vxlan = VxlanSpec { vni: 1, udp_port: 8472, local: ip("192.168.50.1"), mac: identity().vtep_mac };
    assert_eq!(spec.vxlan, Some(vxlan));
    assert_eq!(spec.vteps.len(), 1);
    assert_eq!((spec.vteps[0].uplink, spec.vteps[0].next_hop), (UPLINK, Some(HOP_MAC)));
    assert_eq!((spec.ipv4.gateway, spec.ipv4.router), (Some(GATEWAY), Some(ip("10.244.1.0"))));

    let mut unresolved = view();
    unresolved.next_hops.clear();
    assert_eq!(compile(&identity(), &unresolved).vteps[0].next_hop, None);
}

#[test]
fn the_nodes_addresses_stand_in() {
    let masquerade = |view: &KernelView| compile(&identity(), view).ipv4.masquerade.unwrap();
    let expected = MasqueradeSpec {
        overlay: ip("10.244.1.0"),
        underlay: ip("192.168.50.1"),
        ports: 61_000..=65_535,
        egress: Some(vec![net("10.0.0.0/8")]),
        answers_led: true,
    };
    assert_eq!(masquerade(&view()), expected);
    let without = KernelView { underlay: None, ..view() };
    assert_eq!(masquerade(&without), MasqueradeSpec { underlay: ip("10.244.1.0"), answers_led: false, ..expected });
}

#[test]
fn answers_are_led_where_uplink_and_host_port_are_attached_with_their_programs() {
    let led = |isolated, not_led: Option<&str>, host| {
        let mut identity = identity();
        identity.config.node.isolated = isolated;
        let uplink = PortInfo { not_led: not_led.map(str::to_owned), ..info(UPLINK, "eth0") };
        let by_interface = [("eth0", (PortRole::Uplink, &uplink))].into();
        let ports = AttachedPorts { by_interface, uplink: Some(UPLINK), host };
        let spec = super::compile(&identity, &state(), &view(), &ports, Services::default());
        spec.ipv4.masquerade.unwrap().answers_led
    };
    assert!(led(false, None, Some(HOST)));
    assert!(!led(false, Some("Linux 6.6 or newer is needed"), Some(HOST)));
    assert!(!led(false, None, None));
    assert!(!led(true, None, Some(HOST)));
}

#[test]
fn node_ports_are_at_the_uplink_s_address_unless_told_otherwise() {
    let mut identity = identity();
    assert_eq!(identity.node_port_addresses(&view()), [ip("192.168.50.1")]);
    assert!(identity.node_port_addresses(&KernelView::default()).is_empty());
    identity.config.node_port_addresses = Some(vec![net("192.168.0.0/16"), net("10.9.0.0/24")]);
    assert_eq!(identity.node_port_addresses(&view()), ["10.9.0.1", "192.168.50.1"].map(ip));
}

#[test]
fn without_an_address_there_is_no_overlay() {
    let spec = compile(&identity(), &KernelView { underlay: None, ..view() });
    assert_eq!((spec.vxlan.clone(), spec.vteps.len()), (None, 0));
    assert_eq!(via(&spec, "10.244.2.0/24"), &Via::Unreachable);
}

#[test]
fn a_route_for_everything_takes_the_place_of_the_kernel() {
    let mut state = state();
    let default = v1::Route { prefix: "0.0.0.0/0".into(), via: "192.168.50.254".into() };
    let default = Resource::Route(default.try_into().unwrap());
    state.resources.insert(default.key(), Arc::new(default));
    let info = info(UPLINK, "eth0");
    let ports =
        AttachedPorts { by_interface: [("eth0", (PortRole::Uplink, &info))].into(), uplink: Some(UPLINK), host: None };
    let spec = super::compile(&identity(), &state, &view(), &ports, Services::default());
    assert_eq!(via(&spec, "0.0.0.0/0"), &Via::Gateway { port: UPLINK, mac: None });
}
