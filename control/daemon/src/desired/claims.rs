//! What resources have taken of what can be had only once, and who has it.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use imbl::HashMap;
use ipnet::IpNet;
use shunt_control_api::{Exposure, Port, PublishedPort, Resource, Service, Vtep};
use shunt_dataplane::net::{MacAddr, Protocol};

use super::overlap::DisjointPrefixes;

/// What is taken, by whom (of frontends and ports of the node: `service default/web`, `port default/pod`). Cheap to clone: a
/// transaction is tried on a copy.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    pub(super) vtep_addresses: HashMap<Ipv4Addr, Arc<str>>,
    pub(super) vtep_macs: HashMap<MacAddr, Arc<str>>,
    pub(super) pod_prefixes: DisjointPrefixes<Arc<str>>,
    /// Prefixes of the FIB: each leads to one place.
    pub(super) fib: HashMap<IpNet, Arc<str>>,
    pub(super) interfaces: HashMap<Arc<str>, Arc<str>>,
    pub(super) pod_addresses: HashMap<IpAddr, Arc<str>>,
    /// But for those that are had at all of the node's addresses.
    pub(super) frontends: HashMap<(IpAddr, u16, Protocol), Arc<str>>,
    /// Ports of the node's own addresses: node ports, published ports, and where health checks are answered.
    pub(super) node_ports: HashMap<(u16, Protocol), Arc<str>>,
}

impl Claims {
    /// Lets go of what `resource` has taken.
    pub fn release(&mut self, resource: &Resource) {
        match resource {
            Resource::Vtep(vtep) => {
                self.vtep_addresses.remove(&vtep.address);
                self.vtep_macs.remove(&vtep.mac);
                for (_, prefix) in pod_prefixes(vtep) {
                    self.pod_prefixes.remove(prefix);
                    self.fib.remove(&prefix);
                }
            }
            Resource::Port(port) => {
                self.interfaces.remove(port.interface.as_str());
                for (_, address) in pod_addresses(port) {
                    self.pod_addresses.remove(&address);
                }
                for &PublishedPort { address, port, protocol, .. } in &port.published {
                    match address {
                        Some(address) => drop(self.frontends.remove(&(address.into(), port, protocol))),
                        None => drop(self.node_ports.remove(&(port, protocol))),
                    }
                }
            }
            Resource::Route(route) => {
                self.fib.remove(&IpNet::from(route.prefix));
            }
            Resource::Service(service) => {
                for (_, address) in addresses(service) {
                    for port in &service.ports {
                        self.frontends.remove(&(address, port.port, port.protocol));
                    }
                }
                for (_, port) in node_ports(service) {
                    self.node_ports.remove(&port);
                }
            }
            Resource::EndpointSlice(_) => {}
        }
    }
}

/// The prefixes of a VTEP's pods, each with the field that says so.
pub(super) fn pod_prefixes(vtep: &Vtep) -> impl Iterator<Item = (&'static str, IpNet)> + use<> {
    let ipv6 = vtep.ipv6_pod_cidr.map(|prefix| ("ipv6_pod_cidr", prefix.into()));
    std::iter::once(("pod_cidr", vtep.pod_cidr.into())).chain(ipv6)
}

/// The addresses of a pod, each with the field that says so.
pub(super) fn pod_addresses(port: &Port) -> impl Iterator<Item = (&'static str, IpAddr)> + use<> {
    let ipv6 = port.ipv6.map(|address| ("ipv6_address", address.into()));
    std::iter::once(("address", port.address.into())).chain(ipv6)
}

/// The addresses at which a service has its ports, each with the field that says so.
pub(super) fn addresses(service: &Service) -> impl Iterator<Item = (Cow<'static, str>, IpAddr)> {
    let exposure = service.exposure.as_deref();
    let list = |name: &'static str, of: fn(&Exposure) -> &[Ipv4Addr]| {
        let addresses = exposure.map_or(&[][..], of).iter().enumerate();
        addresses.map(move |(i, &address)| (Cow::from(format!("{name}[{i}]")), address.into()))
    };
    let ipv4 = service.cluster_ip.map(|address| (CLUSTER_IP.into(), address.into()));
    let ipv6 = service.ipv6_cluster_ip.map(|address| (IPV6_CLUSTER_IP.into(), address.into()));
    ipv4.into_iter()
        .chain(ipv6)
        .chain(list("load_balancer_ips", |exposure| &exposure.load_balancer_ips))
        .chain(list("external_ips", |exposure| &exposure.external_ips))
}

pub(super) const CLUSTER_IP: &str = "cluster_ip";
pub(super) const IPV6_CLUSTER_IP: &str = "ipv6_cluster_ip";

/// The ports of the node that a service takes, each with the field that says so.
pub(super) fn node_ports(service: &Service) -> impl Iterator<Item = (String, (u16, Protocol))> {
    let ports = service.ports.iter().enumerate();
    let ports = ports.filter_map(|(i, port)| Some((format!("ports[{i}].node_port"), (port.node_port?, port.protocol))));
    ports.chain(
        service.health_check_node_port().map(|port| ("health_check_node_port".to_owned(), (port, Protocol::Tcp))),
    )
}
