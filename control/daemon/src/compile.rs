//! Desired state and the kernel's knowledge, compiled to what the workers forward by.

pub mod ipv6;
pub mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use shunt_control_api::Port;
use shunt_dataplane::{
    net::MacAddr,
    spec::{
        Bandwidth, FamilySpec, ForwardingSpec, MasqueradeSpec, PortId, PortRole, PortSpec, RouteSpec, Station, Via,
        VtepSpec, VxlanSpec,
    },
    switch::PortInfo,
};

use self::services::{Services, selection::Place};
use crate::{
    config::{Config, Ipv6, Node},
    desired::State,
    kernel::KernelView,
};

/// The pods' and the host's gateway, answered by the switch itself.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The ports that are attached, as compilation needs them.
#[derive(Debug, Default)]
pub struct AttachedPorts<'a> {
    /// By interface, with their roles.
    pub by_interface: BTreeMap<&'a str, (PortRole, &'a PortInfo)>,
    /// The uplink.
    pub uplink: Option<PortId>,
    /// The host port.
    pub host: Option<PortId>,
}

/// The node's addresses that services depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// Those at which node ports are had.
    pub node_ports: Vec<Ipv4Addr>,
    /// That of its VTEP.
    pub underlay: Option<Ipv4Addr>,
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The configuration.
    pub config: Config,
    /// Our VTEP's MAC address.
    pub vtep_mac: MacAddr,
}

impl Identity {
    /// Where this node is, with [these](Self::addresses) addresses.
    pub fn place<'a>(&'a self, NodeAddresses { node_ports, underlay }: &'a NodeAddresses) -> Place<'a> {
        let Node { name, zone, isolated, .. } = &self.config.node;
        Place { node: name, zone, addresses: node_ports, underlay: *underlay, isolated: *isolated }
    }

    /// The node's addresses, as the kernel has them.
    pub fn addresses(&self, view: &KernelView) -> NodeAddresses {
        NodeAddresses { node_ports: self.node_port_addresses(view), underlay: view.underlay }
    }

    fn node_port_addresses(&self, view: &KernelView) -> Vec<Ipv4Addr> {
        match &self.config.node_port_addresses {
            None => view.underlay.into_iter().collect(),
            Some(prefixes) => {
                let is_meant = |address: &&Ipv4Addr| prefixes.iter().any(|prefix| prefix.contains(*address));
                view.addresses.iter().filter(is_meant).copied().collect()
            }
        }
    }
}

/// The stations to which the kernel's way must be followed.
pub fn stations(state: &State) -> BTreeSet<Ipv4Addr> {
    state.vteps().map(|vtep| vtep.address).chain(state.routes().map(|route| route.via)).collect()
}

/// What the workers should forward by, with `services`, which [`services::update`] compiles.
pub fn compile(
    identity: &Identity,
    state: &State,
    view: &KernelView,
    ports: &AttachedPorts<'_>,
    services: Services,
) -> ForwardingSpec {
    let node = &identity.config.node;
    let vxlan = identity.config.vxlan.as_ref().zip(view.underlay).zip(ports.uplink);
    let mac_of = |station| view.next_hops.get(&station).and_then(|hop| hop.mac);
    ForwardingSpec {
        ports: port_specs(identity, state, view, ports),
        bandwidth: bandwidth(state, ports),
        vxlan: vxlan.map(|((vxlan, local), _)| VxlanSpec {
            vni: vxlan.vni,
            udp_port: vxlan.udp_port,
            local,
            mac: identity.vtep_mac,
        }),
        vteps: vxlan.map_or_else(Vec::new, |(_, uplink)| {
            let spec = |vtep: &shunt_control_api::Vtep| VtepSpec {
                address: vtep.address,
                mac: vtep.mac,
                uplink,
                next_hop: mac_of(vtep.address),
                direct: vtep.direct_server_return,
                native: is_native(identity, view, vtep.address),
            };
            state.vteps().map(spec).collect()
        }),
        ipv4: FamilySpec {
            routes: routes(identity, state, view, ports, vxlan.is_some()),
            services: services.ipv4,
            gateway: Some(GATEWAY),
            on_link: Some(node.pod_cidr),
            router: Some(node.overlay_address()),
            masquerade: Some(masquerade(identity, view, ports)),
            pod_cidrs: vec![node.cluster_cidr],
            service_cidrs: vec![node.service_cidr],
        },
        ipv6: ipv6::compile(identity, state, view, ports, vxlan.is_some(), services.ipv6),
    }
}

/// Whether packets go to a VTEP's pods as they are: it is its own next hop, and so on the uplink's network.
fn is_native(identity: &Identity, view: &KernelView, vtep: Ipv4Addr) -> bool {
    identity.config.vxlan.as_ref().is_some_and(|vxlan| vxlan.direct_routing)
        && view.next_hops.get(&vtep).is_some_and(|hop| hop.station == Some(vtep))
}

/// MTU and MAC follow the kernel, which may change them after the port was attached.
fn port_specs(identity: &Identity, state: &State, view: &KernelView, ports: &AttachedPorts<'_>) -> Vec<PortSpec> {
    let config = &identity.config;
    let pod = |port: &Port| Station { mac: port.mac, address: port.address, ipv6: port.ipv6 };
    let mut stations: BTreeMap<_, _> = state.ports().map(|port| (port.interface.as_str(), pod(port))).collect();
    // What an isolated node's kernel forwards is not its own.
    let kernel = view.links.get(&config.host).and_then(|link| link.mac).filter(|_| config.node.isolated);
    let host_peer = config.host_peer();
    let ipv6 = config.ipv6.as_ref().map(Ipv6::overlay_address);
    let own = |mac| Station { mac, address: config.node.overlay_address(), ipv6 };
    stations.extend(kernel.map(|mac| (host_peer.as_str(), own(mac))));
    let spec = |(interface, (role, info)): (&&str, &(PortRole, &PortInfo))| {
        let link = view.links.get(*interface);
        PortSpec {
            id: info.id,
            role: *role,
            mac: link.and_then(|link| link.mac).unwrap_or(info.mac),
            mtu: link.map_or(info.mtu, |link| link.mtu.try_into().unwrap_or(u16::MAX)),
            unfinished_checksums: match role {
                PortRole::Pod | PortRole::Host => true,
                PortRole::Uplink => link.is_none_or(|link| link.unfinished_checksums),
            },
            station: stations.get(interface).copied(),
        }
    };
    let mut specs: Vec<_> = ports.by_interface.iter().map(spec).collect();
    specs.sort_by_key(|port| port.id);
    specs
}

/// The limits of pods that are attached and have any.
fn bandwidth(state: &State, ports: &AttachedPorts<'_>) -> BTreeMap<PortId, Bandwidth> {
    let limited = state.ports().filter(|port| port.bandwidth != Bandwidth::default());
    let attached = |port: &Port| Some((ports.by_interface.get(port.interface.as_str())?.1.id, port.bandwidth));
    limited.filter_map(attached).collect()
}

/// The addresses that stand in for others; an uplink without one is as good as none.
fn masquerade(identity: &Identity, view: &KernelView, ports: &AttachedPorts<'_>) -> MasqueradeSpec {
    let (config, node) = (&identity.config.masquerade, &identity.config.node);
    let overlay = node.overlay_address();
    let uplink = ports.by_interface.get(identity.config.uplink.as_str());
    let has_programs = uplink.is_some_and(|(_, info)| info.not_led.is_none());
    MasqueradeSpec {
        overlay,
        underlay: view.underlay.unwrap_or(overlay),
        ports: config.ports.clone(),
        egress: config.egress.clone(),
        // An isolated node's own processes are not led anywhere.
        answers_led: has_programs && ports.host.is_some() && view.underlay.is_some() && !node.isolated,
    }
}

fn routes(
    identity: &Identity,
    state: &State,
    view: &KernelView,
    ports: &AttachedPorts<'_>,
    overlay: bool,
) -> Vec<RouteSpec> {
    let config = &identity.config;
    let to_kernel = || to_kernel(identity, view, ports).unwrap_or(Via::Unreachable);
    let mut routes = BTreeMap::from([
        (Ipv4Net::default(), if config.node.isolated { Via::Unreachable } else { to_kernel() }),
        // Pods that do not exist: their addresses are ours, so nobody else could know the way.
        (config.node.pod_cidr, Via::Unreachable),
        (Ipv4Net::from(config.node.overlay_address()), to_kernel()),
    ]);
    let natively = |via: Ipv4Addr| {
        let mac = view.next_hops.get(&via).and_then(|hop| hop.mac);
        ports.uplink.map_or(Via::Unreachable, |port| Via::Gateway { port, mac })
    };
    let to_vteps = state.vteps().map(|vtep| (vtep.pod_cidr, vtep.address));
    routes.extend(to_vteps.map(|(prefix, vtep)| (prefix, over_overlay(overlay, vtep))));
    routes.extend(state.routes().map(|route| (route.prefix, natively(route.via))));
    routes.extend(state.ports().filter_map(|port| Some((port.address.into(), to_pod(ports, port)?))));
    routes.into_iter().map(|(prefix, via)| RouteSpec { prefix, via }).collect()
}

/// To the node's own kernel, if the host port is attached.
fn to_kernel(identity: &Identity, view: &KernelView, ports: &AttachedPorts<'_>) -> Option<Via> {
    let mac = view.links.get(&identity.config.host)?.mac?;
    ports.host.map(|port| Via::Port { port, mac })
}

/// To the pods behind a VTEP.
fn over_overlay(overlay: bool, vtep: Ipv4Addr) -> Via {
    if overlay { Via::Vtep(vtep) } else { Via::Unreachable }
}

/// To a pod here, if it is attached.
fn to_pod(ports: &AttachedPorts<'_>, port: &Port) -> Option<Via> {
    let (_, info) = ports.by_interface.get(port.interface.as_str())?;
    Some(Via::Port { port: info.id, mac: port.mac })
}

#[cfg(test)]
mod tests;
