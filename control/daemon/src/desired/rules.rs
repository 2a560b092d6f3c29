//! Rules between resources, and between them and this node's configuration.

mod services;

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;
use shunt_control_api::{FieldError, Port, Resource, Route, Vtep};
use shunt_dataplane::{net::MacAddr, spec::MAX_PORTS};

use super::{
    Claims,
    claims::{pod_addresses, pod_prefixes},
};
use crate::config::{Ipv6, Node, Prefixes, overlap};

/// What this node is, as far as resources must agree with it.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `[node]`.
    pub node: Node,
    /// `[ipv6]`; `None`: nothing has an IPv6 address.
    pub ipv6: Option<Ipv6>,
    /// Our VTEP's MAC address; `None`: this node has no overlay.
    pub vtep_mac: Option<MacAddr>,
    /// Our address on the underlay.
    pub underlay: Option<Ipv4Addr>,
    /// Our addresses at which node ports are had.
    pub node_port_addresses: Vec<Ipv4Addr>,
    /// The ports of masqueraded flows.
    pub masquerade_ports: RangeInclusive<u16>,
    /// Interfaces that are not pods': the uplink, and the host port's two ends.
    pub own_interfaces: [String; 3],
}

/// Ports that are not pods': the uplink and the host port.
const OWN_PORTS: usize = 2;

impl Rules {
    /// Checks `resource` against the rules and what others have taken, and notes what it takes. After an error `claims`
    /// may hold a part of it and is of no more use.
    pub fn admit(&self, resource: &Resource, claims: &mut Claims) -> Result<(), FieldError> {
        match resource {
            Resource::Vtep(vtep) => self.admit_vtep(vtep, claims),
            Resource::Port(port) => self.admit_port(port, claims),
            Resource::Route(route) => self.admit_route(route, claims),
            Resource::Service(service) => self.admit_service(service, claims),
            // A service may come after its slices, and its endpoints may be anywhere.
            Resource::EndpointSlice(_) => Ok(()),
        }
    }

    fn admit_vtep(&self, vtep: &Vtep, claims: &mut Claims) -> Result<(), FieldError> {
        let node: Arc<str> = vtep.node.as_str().into();
        let refuse = |field: &str, problem: String| Err(FieldError::new(field, problem));
        let Some(our_mac) = self.vtep_mac else {
            return refuse(
                "node",
                "this node has no overlay; add [vxlan] to its configuration, or use a native route".into(),
            );
        };
        if vtep.node == self.node.name {
            return refuse("node", format!("{node} is this node; list only the others"));
        }
        if Some(vtep.address) == self.underlay {
            return refuse("address", format!("{} is this node's own; give {node}'s", vtep.address));
        }
        if vtep.mac == our_mac {
            return refuse("mac", format!("{} is this node's own; give {node}'s", vtep.mac));
        }
        if let Some(other) = claims.vtep_addresses.insert(vtep.address, node.clone()) {
            return refuse("address", format!("{} is node {other}'s; nodes have different addresses", vtep.address));
        }
        if let Some(other) = claims.vtep_macs.insert(vtep.mac, node.clone()) {
            return refuse("mac", format!("{} is node {other}'s; nodes have different addresses", vtep.mac));
        }
        for (field, prefix) in pod_prefixes(vtep) {
            let Prefixes { pods, cluster, .. } = self.prefixes(field, prefix.addr())?;
            if !cluster.contains(&prefix) {
                return refuse(field, format!("{prefix} is outside the cluster's {cluster}; use a part of it"));
            }
            if overlap(prefix, pods) {
                return refuse(field, format!("{prefix} overlaps this node's {pods}; keep them apart"));
            }
            if let Err((other, owner)) = claims.pod_prefixes.insert(prefix, node.clone()) {
                return refuse(field, format!("{prefix} overlaps node {owner}'s {other}; keep them apart"));
            }
            claim_route(claims, prefix, &format!("node {node}"), field)?;
        }
        Ok(())
    }

    fn admit_port(&self, port: &Port, claims: &mut Claims) -> Result<(), FieldError> {
        let refuse = |field: &str, problem: String| Err(FieldError::new(field, problem));
        if self.own_interfaces.contains(&port.interface) {
            return refuse(
                "interface",
                format!("{} is not a pod's; name the node's end of the pod's veth", port.interface),
            );
        }
        for (field, address) in pod_addresses(port) {
            let Prefixes { pods, .. } = self.prefixes(field, address)?;
            if !pods.contains(&address) {
                return refuse(field, format!("{address} is outside this node's {pods}; use an address of it"));
            }
            if address == pods.network() {
                return refuse(field, format!("{address} is the node's own; pods have those after it"));
            }
        }
        let name: Arc<str> = port.name.as_str().into();
        if let Some(other) = claims.interfaces.insert(port.interface.as_str().into(), name.clone()) {
            return refuse("interface", format!("{} is {other}'s; each pod has its own", port.interface));
        }
        for (field, address) in pod_addresses(port) {
            if let Some(other) = claims.pod_addresses.insert(address, name.clone()) {
                return refuse(field, format!("{address} is {other}'s; each pod has its own"));
            }
        }
        let most = MAX_PORTS - OWN_PORTS;
        if claims.interfaces.len() > most {
            return refuse("name", format!("there are {most} ports already; a switch takes no more"));
        }
        self.admit_published(port, claims)
    }

    fn admit_route(&self, route: &Route, claims: &mut Claims) -> Result<(), FieldError> {
        let refuse = |field: &str, problem: String| Err(FieldError::new(field, problem));
        let prefix = route.prefix;
        if self.node.pod_cidr.contains(&prefix) {
            return refuse(
                "prefix",
                format!("{prefix} is inside this node's {}; its pods are ports", self.node.pod_cidr),
            );
        }
        if self.node.service_cidr.contains(&prefix) {
            return refuse(
                "prefix",
                format!("{prefix} is inside the services' {}; these are not routed", self.node.service_cidr),
            );
        }
        if Some(route.via) == self.underlay {
            return refuse("via", format!("{} is this node's own; give another station", route.via));
        }
        claim_route(claims, prefix.into(), &format!("a route by {}", route.via), "prefix")
    }

    /// Out of which addresses are given that are of one family with `address`, which `field` has.
    fn prefixes(&self, field: &str, address: IpAddr) -> Result<Prefixes, FieldError> {
        match (address, &self.ipv6) {
            (IpAddr::V4(_), _) => Ok(self.node.prefixes()),
            (IpAddr::V6(_), Some(ipv6)) => Ok(ipv6.prefixes()),
            (IpAddr::V6(_), None) => {
                let problem = format!(
                    "{address} is for nodes that have IPv6; add the section [ipv6] to this node's configuration, or leave it out"
                );
                Err(FieldError::new(field, problem))
            }
        }
    }
}

/// Claims a prefix of the FIB.
fn claim_route(claims: &mut Claims, prefix: IpNet, owner: &str, field: &str) -> Result<(), FieldError> {
    match claims.fib.insert(prefix, owner.into()) {
        None => Ok(()),
        Some(other) => Err(FieldError::new(field, format!("{prefix} leads to {other} already; use each prefix once"))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv6Addr;

    use shunt_control_api::{Service, v1};

    use super::*;

    pub fn rules() -> Rules {
        let net = |text: &str| text.parse().unwrap();
        Rules {
            node: Node {
                name: "node-a".into(),
                pod_cidr: net("10.244.1.0/24"),
                cluster_cidr: net("10.244.0.0/16"),
                service_cidr: net("10.96.0.0/16"),
                zone: String::new(),
                isolated: false,
            },
            ipv6: Some(Ipv6 {
                pod_cidr: "fd00:10:244:1::/64".parse().unwrap(),
                cluster_cidr: "fd00:10:244::/48".parse().unwrap(),
                service_cidr: "fd00:10:96::/112".parse().unwrap(),
            }),
            vtep_mac: Some(MacAddr([0x0a, 0x58, 0, 0, 0, 1])),
            underlay: Some(Ipv4Addr::new(192, 168, 50, 1)),
            node_port_addresses: vec![Ipv4Addr::new(192, 168, 50, 1)],
            masquerade_ports: 61_000..=65_535,
            own_interfaces: ["eth0".into(), "shunt0".into(), "shunt0p".into()],
        }
    }

    fn vtep(node: &str, address: &str, mac: &str, pod_cidr: &str) -> Resource {
        let (node, address, mac, pod_cidr) = (node.into(), address.into(), mac.into(), pod_cidr.into());
        Resource::Vtep(v1::Vtep { node, address, mac, pod_cidr, ..Default::default() }.try_into().unwrap())
    }

    fn node_b() -> Resource {
        vtep("node-b", "192.168.50.2", "0a:58:00:00:00:02", "10.244.2.0/24")
    }

    pub fn port(name: &str, interface: &str, address: &str) -> Resource {
        let (name, interface, address) = (name.into(), interface.into(), address.into());
        let port = v1::Port { name, interface, address, mac: "0a:58:00:00:00:03".into(), ..Default::default() };
        Resource::Port(port.try_into().unwrap())
    }

    fn route(prefix: &str, via: &str) -> Resource {
        Resource::Route(v1::Route { prefix: prefix.into(), via: via.into() }.try_into().unwrap())
    }

    pub fn service(name: &str, vip: &str, ports: &[(&str, v1::Protocol, u32)]) -> Resource {
        let ports = ports.iter().map(|&(name, protocol, port)| v1::ServicePort {
            name: name.into(),
            protocol: protocol.into(),
            port,
            node_port: 0,
        });
        let (namespace, name, cluster_ip) = ("default".into(), name.into(), vip.into());
        let service = v1::Service { namespace, name, cluster_ip, ports: ports.collect(), ..Default::default() };
        Resource::Service(service.try_into().unwrap())
    }

    /// Admits one after the other.
    pub fn admit(rules: &Rules, resources: &[Resource]) -> Result<(), String> {
        let mut claims = Claims::default();
        let admit = |(i, resource)| {
            rules.admit(resource, &mut claims).map_err(|e: FieldError| e.within(format!("r[{i}]")).to_string())
        };
        resources.iter().enumerate().try_for_each(admit)
    }

    pub fn check(resources: &[Resource]) -> Result<(), String> {
        admit(&rules(), resources)
    }

    pub fn refused(resources: &[Resource], start: &str) {
        let message = check(resources).unwrap_err();
        assert!(message.starts_with(start), "{message}");
    }

    #[test]
    fn a_sound_cluster_passes() {
        let tcp = v1::Protocol::Tcp;
        check(&[
            node_b(),
            vtep("node-c", "192.168.50.3", "0a:58:00:00:00:03", "10.244.3.0/24"),
            port("default/a", "va", "10.244.1.10"),
            port("default/b", "vb", "10.244.1.11"),
            route("10.245.0.0/24", "192.168.50.7"),
            route("0.0.0.0/0", "192.168.50.254"),
            service("web", "10.96.0.10", &[("http", tcp, 80), ("https", tcp, 443)]),
            service("dns", "10.96.0.10", &[("dns", v1::Protocol::Udp, 80)]),
        ])
        .unwrap();
    }

    #[test]
    fn vteps_are_other_nodes_and_different_ones() {
        let mac = "0a:58:00:00:00:07";
        refused(&[vtep("node-a", "192.168.50.7", mac, "10.244.7.0/24")], "r[0].node: node-a is this node");
        refused(&[vtep("n", "192.168.50.1", mac, "10.244.7.0/24")], "r[0].address: 192.168.50.1 is this node's own");
        refused(&[vtep("n", "192.168.50.7", "0a:58:00:00:00:01", "10.244.7.0/24")], "r[0].mac: ");
        refused(
            &[node_b(), vtep("n", "192.168.50.2", mac, "10.244.7.0/24")],
            "r[1].address: 192.168.50.2 is node node-b's",
        );
        refused(&[node_b(), vtep("n", "192.168.50.7", "0a:58:00:00:00:02", "10.244.7.0/24")], "r[1].mac: ");
        refused(
            &[node_b(), vtep("n", "192.168.50.7", mac, "10.244.2.128/25")],
            "r[1].pod_cidr: 10.244.2.128/25 overlaps node node-b's",
        );
        refused(
            &[vtep("n", "192.168.50.7", mac, "10.245.0.0/24")],
            "r[0].pod_cidr: 10.245.0.0/24 is outside the cluster's",
        );
        refused(
            &[vtep("n", "192.168.50.7", mac, "10.244.0.0/23")],
            "r[0].pod_cidr: 10.244.0.0/23 overlaps this node's",
        );
    }

    #[test]
    fn vteps_need_an_overlay() {
        let native = Rules { vtep_mac: None, ..rules() };
        let error = admit(&native, &[node_b()]).unwrap_err();
        assert!(error.starts_with("r[0].node: this node has no overlay"), "{error}");
    }

    #[test]
    fn ports_are_pods_of_this_node() {
        refused(&[port("a", "va", "10.244.2.10")], "r[0].address: 10.244.2.10 is outside this node's");
        refused(&[port("a", "va", "10.244.1.0")], "r[0].address: 10.244.1.0 is the node's own");
        for interface in ["eth0", "shunt0", "shunt0p"] {
            refused(&[port("a", interface, "10.244.1.10")], "r[0].interface: ");
        }
        let first = port("a", "va", "10.244.1.10");
        refused(&[first.clone(), port("b", "va", "10.244.1.11")], "r[1].interface: va is a's");
        refused(&[first, port("b", "vb", "10.244.1.10")], "r[1].address: 10.244.1.10 is a's");
    }

    #[test]
    fn there_is_room_for_so_many_ports_and_no_more() {
        let mut wide = rules();
        wide.node.pod_cidr = "10.244.0.0/22".parse().unwrap();
        let ports: Vec<_> = (1..=MAX_PORTS - OWN_PORTS + 1)
            .map(|n| port(&format!("p{n}"), &format!("v{n}"), &format!("10.244.{}.{}", n / 256, n % 256)))
            .collect();
        assert_eq!(admit(&wide, &ports[..MAX_PORTS - OWN_PORTS]), Ok(()));
        assert!(admit(&wide, &ports).unwrap_err().contains("270 ports already"));
    }

    #[test]
    fn routes_lead_elsewhere_and_to_one_place() {
        refused(&[route("10.244.1.0/24", "192.168.50.7")], "r[0].prefix: 10.244.1.0/24 is inside this node's");
        refused(&[route("10.244.1.128/25", "192.168.50.7")], "r[0].prefix: ");
        refused(&[route("10.96.7.0/24", "192.168.50.7")], "r[0].prefix: 10.96.7.0/24 is inside the services'");
        refused(&[route("10.245.0.0/24", "192.168.50.1")], "r[0].via: 192.168.50.1 is this node's own");
        refused(&[node_b(), route("10.244.2.0/24", "192.168.50.7")], "r[1].prefix: 10.244.2.0/24 leads to node node-b");
        check(&[node_b(), route("10.244.2.128/25", "192.168.50.7")]).unwrap();
    }

    /// The same resource with IPv6, too.
    fn dual(resource: Resource, ipv6: &str) -> Resource {
        let ipv6 = ipv6.parse::<IpNet>().map_err(|_| ipv6.parse::<Ipv6Addr>().unwrap());
        match (resource, ipv6) {
            (Resource::Vtep(vtep), Ok(IpNet::V6(prefix))) => {
                Resource::Vtep(Vtep { ipv6_pod_cidr: Some(prefix), ..vtep })
            }
            (Resource::Port(port), Err(address)) => Resource::Port(Port { ipv6: Some(address), ..port }),
            (Resource::Service(service), Err(address)) => {
                Resource::Service(Service { ipv6_cluster_ip: Some(address), ..service })
            }
            (resource, ipv6) => panic!("{resource:?} {ipv6:?}"),
        }
    }

    fn dual_pod(n: u8, address: &str) -> Resource {
        dual(port(&format!("p{n}"), &format!("v{n}"), &format!("10.244.1.{n}")), address)
    }

    fn dual_service(n: u8, address: &str) -> Resource {
        dual(service(&format!("s{n}"), &format!("10.96.0.{n}"), &[("", v1::Protocol::Tcp, 80)]), address)
    }

    #[test]
    fn ipv6_addresses_are_where_the_configuration_has_them() {
        check(&[
            dual(node_b(), "fd00:10:244:2::/64"),
            dual_pod(1, "fd00:10:244:1::1"),
            dual_pod(2, "fd00:10:244:1::2"),
            dual_service(1, "fd00:10:96::1"),
            dual_service(2, "fd00:10:96::2"),
        ])
        .unwrap();
        refused(&[dual_pod(1, "fd00:10:244:2::1")], "r[0].ipv6_address: fd00:10:244:2::1 is outside this node's fd00:");
        refused(&[dual_pod(1, "fd00:10:244:1::")], "r[0].ipv6_address: fd00:10:244:1:: is the node's own");
        let same = [dual_pod(1, "fd00:10:244:1::1"), dual_pod(2, "fd00:10:244:1::1")];
        refused(&same, "r[1].ipv6_address: fd00:10:244:1::1 is p1's");
        let node = |prefix| dual(node_b(), prefix);
        refused(&[node("fd00:10:245::/64")], "r[0].ipv6_pod_cidr: fd00:10:245::/64 is outside the cluster's");
        refused(&[node("fd00:10:244::/60")], "r[0].ipv6_pod_cidr: fd00:10:244::/60 overlaps this node's");
        let node_c = dual(vtep("c", "192.168.50.3", "0a:58:00:00:00:03", "10.244.3.0/24"), "fd00:10:244:2:8::/80");
        refused(
            &[node("fd00:10:244:2::/64"), node_c],
            "r[1].ipv6_pod_cidr: fd00:10:244:2:8::/80 overlaps node node-b's",
        );
        refused(&[dual_service(1, "fd00:10:97::1")], "r[0].ipv6_cluster_ip: fd00:10:97::1 is outside the services'");
        let same = [dual_service(1, "fd00:10:96::1"), dual_service(2, "fd00:10:96::1")];
        refused(&same, "r[1].ports[0].port: [fd00:10:96::1]:80/tcp is service default/s1's");
    }

    #[test]
    fn without_the_section_ipv6_is_refused_and_the_message_says_what_to_add() {
        let without = Rules { ipv6: None, ..rules() };
        for (resource, field) in [
            (dual(node_b(), "fd00:10:244:2::/64"), "ipv6_pod_cidr: fd00:10:244:2::"),
            (dual_pod(1, "fd00:10:244:1::1"), "ipv6_address: fd00:10:244:1::1"),
            (dual_service(1, "fd00:10:96::1"), "ipv6_cluster_ip: fd00:10:96::1"),
        ] {
            let problem = admit(&without, &[resource]).unwrap_err();
            let expected = format!("r[0].{field} is for nodes that have IPv6; add the section [ipv6]");
            assert!(problem.starts_with(&expected), "{problem}");
        }
    }

    #[test]
    fn what_is_released_can_be_taken_again() {
        let all = [
            node_b(),
            dual(node_b(), "fd00:10:244:2::/64"),
            dual_pod(1, "fd00:10:244:1::1"),
            dual_service(1, "fd00:10:96::1"),
            port("default/a", "va", "10.244.1.10"),
            route("10.245.0.0/24", "192.168.50.7"),
            service("web", "10.96.0.10", &[("http", v1::Protocol::Tcp, 80), ("https", v1::Protocol::Tcp, 443)]),
        ];
        for resource in &all {
            let mut claims = Claims::default();
            rules().admit(resource, &mut claims).unwrap();
            rules().admit(resource, &mut claims.clone()).unwrap_err();
            claims.release(resource);
            rules().admit(resource, &mut claims).unwrap();
        }
    }
}
