//! What things are called towards people: ports, nodes, services and endpoints.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use shunt_control_api::{Port, Service, ServicePort};
use shunt_dataplane::{
    service_set::ServiceKey,
    spec::{Backend, PortId, PortRole},
};

use crate::{
    compile::services::{
        family::Family,
        frontends::{Frontend, FrontendKind},
        published,
    },
    controller::ControllerHandle,
    desired::State,
    names::port_names,
};

/// What the uplink's port is called.
pub(super) const UPLINK: &str = "uplink";

/// A frontend's service.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub service: &'a Service,
    pub port: &'a ServicePort,
    pub kind: FrontendKind,
}

/// The names that are in force.
pub(crate) struct Names {
    ports: HashMap<PortId, String>,
    host: Option<PortId>,
    state: Arc<State>,
    /// Those at which the node has node ports.
    addresses: Vec<Ipv4Addr>,
}

impl Names {
    /// As the controller has them now.
    pub(crate) fn new(controller: &ControllerHandle) -> Names {
        let (observed, state) = (controller.observed(), controller.feed().state());
        let names = port_names(&controller.identity().config, &state);
        let attached = || observed.attachments.iter().filter_map(|(interface, a)| Some((interface, a.info()?.id, a)));
        let ports = attached().filter_map(|(interface, id, _)| Some((id, names.get(interface)?.clone()))).collect();
        let host = attached().find(|(_, _, a)| a.role() == PortRole::Host).map(|(_, id, _)| id);
        let addresses = controller.identity().addresses(&observed.view).node_ports;
        Names { ports, host, state, addresses }
    }

    /// A port's name; its number if it has gone meanwhile.
    pub(super) fn port(&self, id: PortId) -> String {
        self.ports.get(&id).cloned().unwrap_or_else(|| format!("port {id}"))
    }

    /// The port with this name.
    pub(super) fn id(&self, name: &str) -> Option<PortId> {
        self.ports.iter().find(|(_, known)| *known == name).map(|(id, _)| *id)
    }

    /// Whether the port is the node's own.
    pub(super) fn is_host(&self, id: PortId) -> bool {
        self.host == Some(id)
    }

    /// The node whose VTEP has this address.
    pub(super) fn node(&self, vtep: Ipv4Addr) -> Option<&str> {
        self.state.vteps().find(|known| known.address == vtep).map(|vtep| vtep.node.as_str())
    }

    /// The service with this frontend.
    pub(super) fn service(&self, vip: IpAddr, port: u16, protocol: u8) -> Option<Found<'_>> {
        match vip {
            IpAddr::V4(vip) => self.service_at(vip, port, protocol),
            IpAddr::V6(vip) => self.service_at(vip, port, protocol),
        }
    }

    fn service_at<A: Family>(&self, vip: A, port: u16, protocol: u8) -> Option<Found<'_>> {
        let is_asked = |known: &Frontend<A>| (known.address, known.port, known.protocol as u8) == (vip, port, protocol);
        // Most are had at their ClusterIP only.
        let may_be = |service: &&Service| A::cluster_ip(service) == Some(vip) || service.exposure.is_some();
        let ports = self
            .state
            .services()
            .filter(may_be)
            .flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        ports.into_iter().find_map(|(service, port)| {
            let frontend = Frontend::of(service, port, &self.addresses).into_iter().find(is_asked)?;
            Some(Found { service, port, kind: frontend.kind })
        })
    }

    /// The pod with this published port.
    pub(super) fn pod(&self, vip: IpAddr, port: u16, protocol: u8) -> Option<&Port> {
        let is_asked =
            |(address, number, of): ServiceKey| (IpAddr::V4(address), number, of as u8) == (vip, port, protocol);
        self.state.ports().find(|pod| published::keys(pod, &self.addresses).any(is_asked))
    }

    /// Where an endpoint is: the pod of this node, or the node that its service's slices name.
    pub(super) fn place(&self, backend: Backend<IpAddr>, service: Option<&Service>) -> Option<String> {
        let has = |port: &&Port| match backend.address {
            IpAddr::V4(address) => port.address == address,
            IpAddr::V6(address) => port.ipv6 == Some(address),
        };
        if let Some(port) = self.state.ports().find(has) {
            return Some(port.name.clone());
        }
        let service = &service?.full_name();
        let node = match backend.address {
            IpAddr::V4(address) => self.node_of(service, address),
            IpAddr::V6(address) => self.node_of(service, address),
        };
        node.filter(|node| !node.is_empty()).map(|node| format!("node {node}"))
    }

    /// The node that a service's slices name for an endpoint.
    fn node_of<A: Family>(&self, service: &str, address: A) -> Option<&str> {
        let mut endpoints = self.state.slices(service).flat_map(A::endpoints);
        endpoints.find(|endpoint| endpoint.address == address).map(|endpoint| &*endpoint.node)
    }
}
