//! What the node has of IPv6.

use std::net::Ipv6Addr;

use shunt_dataplane::{
    net::Protocol,
    spec::{Backend, FamilySpec, MasqueradeSpec, PortId, RouteSpec, Rule, ServiceSpec, Via},
};

use super::{MASQUERADE, PODS, pod_ipv6, station};

/// The pods' gateway.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The node on the overlay, where the switch answers.
pub const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0);
/// Has endpoints here and on the other node, for all protocols.
pub const SERVICE: Ipv6Addr = vip(0x10);
/// Has none.
pub const EMPTY: Ipv6Addr = vip(0x11);
/// Has two on the other node.
pub const REMOTE_SERVICE: Ipv6Addr = vip(0x12);
/// Has the first pod only.
pub const HAIRPIN: Ipv6Addr = vip(0x13);
/// Masquerades the pods, and is for them only.
pub const MASQUERADING: Ipv6Addr = vip(0x14);
/// All of them.
pub const VIPS: [Ipv6Addr; 5] = [SERVICE, EMPTY, REMOTE_SERVICE, HAIRPIN, MASQUERADING];

const fn vip(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, n)
}

/// A pod of the other node.
pub const fn remote(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, n)
}

pub(super) fn spec(which: usize) -> FamilySpec<Ipv6Addr> {
    let route = |prefix: &str, via| RouteSpec { prefix: prefix.parse().expect("a prefix"), via };
    let to_pod =
        |port| RouteSpec { prefix: pod_ipv6(port).into(), via: Via::Port { port: PortId(port), mac: station(port) } };
    let service = |vip, port, protocol, endpoints: &[Ipv6Addr]| {
        let endpoints = endpoints.iter().map(|&address| Backend { address, port: 8080 }.into());
        ServiceSpec::simple(vip, port, protocol, endpoints.collect())
    };
    let web = [pod_ipv6(PODS[0]), pod_ipv6(PODS[1]), remote(10)];
    let far = [remote(10), remote(11)];
    let masquerading = service(MASQUERADING, 80, Protocol::Tcp, &far[..1]);
    FamilySpec {
        routes: vec![
            to_pod(PODS[0]),
            to_pod(PODS[1]),
            route("fd00:10:244:1::/64", Via::Unreachable),
            route("fd00:10:244:2::/64", Via::Vtep([192, 168, 50, 2].into())),
            route("fd00:10:244:3::/64", Via::Vtep([192, 168, 50, 3].into())),
        ],
        // The second snapshot has lost an endpoint of most services, and masquerade.
        services: [
            service(SERVICE, 80, Protocol::Tcp, &web[which..]),
            service(SERVICE, 81, Protocol::Tcp, &web[which..]),
            service(SERVICE, 53, Protocol::Udp, &web[which..]),
            service(SERVICE, 80, Protocol::Sctp, &web[which..]),
            service(EMPTY, 80, Protocol::Tcp, &[]),
            service(REMOTE_SERVICE, 80, Protocol::Tcp, &far[which..]),
            service(REMOTE_SERVICE, 53, Protocol::Udp, &far[which..]),
            service(REMOTE_SERVICE, 80, Protocol::Sctp, &far[which..]),
            service(HAIRPIN, 80, Protocol::Tcp, &web[..1]),
            service(HAIRPIN, 53, Protocol::Udp, &web[..1]),
            service(HAIRPIN, 80, Protocol::Sctp, &web[..1]),
            ServiceSpec {
                from_pods: Rule { masquerade: true, ..masquerading.from_pods.clone() },
                sources: PODS.map(|port| pod_ipv6(port).into()).into(),
                ..masquerading
            },
        ]
        .into(),
        gateway: Some(GATEWAY),
        on_link: None,
        router: Some(ROUTER),
        masquerade: (which == 0).then_some(MasqueradeSpec {
            overlay: ROUTER,
            underlay: ROUTER,
            ports: MASQUERADE,
            egress: None,
            answers_led: false,
        }),
        pod_cidrs: vec!["fd00:10:244::/48".parse().expect("a prefix")],
        service_cidrs: vec!["fd00:10:96::/112".parse().expect("a prefix")],
    }
}
