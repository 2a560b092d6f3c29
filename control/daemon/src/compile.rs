//! Desired state and the kernel's knowledge, compiled to what the workers forward by.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;
use shunt_control_api::{Resource, Service};
use shunt_dataplane::{
    net::MacAddr,
    spec::{
        Affinity, Backend, Endpoint, ForwardingSpec, MasqueradeSpec, PortId, PortRole, PortSpec, RouteSpec,
        ServiceSpec, Via, VtepSpec, VxlanSpec,
    },
    switch::PortInfo,
};

use crate::{config::Config, desired::State, kernel::KernelView};

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

/// Compiles, and remembers what need not be compiled again.
#[derive(Debug, Default)]
pub struct Compiler {
    /// Compiled services, by the address of the resource they were compiled from.
    services: HashMap<usize, (Arc<Resource>, Vec<ServiceSpec>)>,
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The configuration.
    pub config: Config,
    /// Our VTEP's MAC address.
    pub vtep_mac: MacAddr,
}

/// The stations to which the kernel's way must be followed.
pub fn stations(state: &State) -> BTreeSet<Ipv4Addr> {
    state.vteps().map(|vtep| vtep.address).chain(state.routes().map(|route| route.via)).collect()
}

impl Compiler {
    /// What the workers should forward by.
    pub fn compile(
        &mut self,
        identity: &Identity,
        state: &State,
        view: &KernelView,
        ports: &AttachedPorts<'_>,
    ) -> ForwardingSpec {
        let node = &identity.config.node;
        let vxlan = identity.config.vxlan.as_ref().zip(view.underlay).zip(ports.uplink);
        let mac_of = |station| view.next_hops.get(&station).and_then(|hop| hop.mac);
        ForwardingSpec {
            ports: port_specs(view, ports),
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
                };
                state.vteps().map(spec).collect()
            }),
            routes: routes(identity, state, view, ports, vxlan.is_some()),
            services: self.services(state),
            gateway: Some(GATEWAY),
            router: Some(node.overlay_address()),
            masquerade: Some(masquerade(identity, view)),
            pod_cidrs: vec![node.cluster_cidr],
            service_cidrs: vec![node.service_cidr],
        }
    }

    fn services(&mut self, state: &State) -> Vec<ServiceSpec> {
        let mut kept = HashMap::with_capacity(self.services.len());
        let mut specs = Vec::new();
        for (resource, service) in state.services() {
            // The resource is held beside the result, so its address is not used again while the entry exists.
            let identity = Arc::as_ptr(resource).addr();
            let entry = self.services.remove(&identity).unwrap_or_else(|| (resource.clone(), compile_service(service)));
            specs.extend(entry.1.iter().cloned());
            kept.insert(identity, entry);
        }
        self.services = kept;
        specs
    }
}

/// MTU and MAC follow the kernel, which may change them after the port was attached.
fn port_specs(view: &KernelView, ports: &AttachedPorts<'_>) -> Vec<PortSpec> {
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
        }
    };
    let mut specs: Vec<_> = ports.by_interface.iter().map(spec).collect();
    specs.sort_by_key(|port| port.id);
    specs
}

/// The addresses that stand in for others; an uplink without one is as good as none.
fn masquerade(identity: &Identity, view: &KernelView) -> MasqueradeSpec {
    let (config, overlay) = (&identity.config.masquerade, identity.config.node.overlay_address());
    MasqueradeSpec {
        overlay,
        underlay: view.underlay.unwrap_or(overlay),
        ports: config.ports.clone(),
        egress: config.egress.clone(),
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
    let to_kernel = || {
        let mac = view.links.get(&config.host).and_then(|link| link.mac);
        ports.host.zip(mac).map_or(Via::Unreachable, |(port, mac)| Via::Port { port, mac })
    };
    let mut routes = BTreeMap::from([
        (Ipv4Net::default(), to_kernel()),
        // Pods that do not exist: their addresses are ours, so nobody else could know the way.
        (config.node.pod_cidr, Via::Unreachable),
        (Ipv4Net::from(config.node.overlay_address()), to_kernel()),
    ]);
    for vtep in state.vteps() {
        routes.insert(vtep.pod_cidr, if overlay { Via::Vtep(vtep.address) } else { Via::Unreachable });
    }
    for route in state.routes() {
        let mac = view.next_hops.get(&route.via).and_then(|hop| hop.mac);
        routes.insert(route.prefix, ports.uplink.map_or(Via::Unreachable, |port| Via::Gateway { port, mac }));
    }
    for port in state.ports() {
        if let Some((_, info)) = ports.by_interface.get(port.interface.as_str()) {
            routes.insert(Ipv4Net::from(port.address), Via::Port { port: info.id, mac: port.mac });
        }
    }
    routes.into_iter().map(|(prefix, via)| RouteSpec { prefix, via }).collect()
}

/// One entry for each port, for everybody: the ready endpoints that have a port of its name.
fn compile_service(service: &Service) -> Vec<ServiceSpec> {
    let compile = |port: &shunt_control_api::ServicePort| {
        let ready = service.endpoints.iter().filter(|endpoint| endpoint.conditions.is_ready());
        // A map: slices are merged, and an endpoint in two of them is still one.
        let endpoints: BTreeMap<Backend, u16> = ready
            .flat_map(|endpoint| {
                let named = endpoint.ports.iter().filter(|p| p.name == port.name);
                named.map(|p| (Backend { address: endpoint.address, port: p.port }, endpoint.weight))
            })
            .collect();
        let endpoints = endpoints.into_iter().map(|(backend, weight)| Endpoint { backend, weight }).collect();
        // Kube-proxy, too, remembers a client for each port of a service, whatever address it came by.
        let group = || {
            let mut hasher = DefaultHasher::new();
            (&service.namespace, &service.name, &port.name).hash(&mut hasher);
            hasher.finish()
        };
        ServiceSpec {
            affinity: service.affinity.map(|timeout| Affinity { timeout, group: group() }),
            scheduler: service.scheduler,
            ..ServiceSpec::simple(service.cluster_ip, port.port, port.protocol, endpoints)
        }
    };
    service.ports.iter().map(compile).collect()
}

#[cfg(test)]
mod tests;
