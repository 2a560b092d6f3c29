//! What things are called towards people: ports, nodes, services and endpoints.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use shunt_control_api::{Service, ServicePort};
use shunt_dataplane::spec::{Backend, PortId, PortRole};

use crate::{controller::ControllerHandle, desired::State, names::port_names};

/// What the uplink's port is called.
pub(super) const UPLINK: &str = "uplink";

/// The names that are in force.
pub(crate) struct Names {
    ports: HashMap<PortId, String>,
    host: Option<PortId>,
    state: Arc<State>,
}

impl Names {
    /// As the controller has them now.
    pub(crate) fn new(controller: &ControllerHandle) -> Names {
        let (observed, state) = (controller.observed(), controller.feed().state());
        let names = port_names(&controller.identity().config, &state);
        let attached = || observed.attachments.iter().filter_map(|(interface, a)| Some((interface, a.info()?.id, a)));
        let ports = attached().filter_map(|(interface, id, _)| Some((id, names.get(interface)?.clone()))).collect();
        let host = attached().find(|(_, _, a)| a.role() == PortRole::Host).map(|(_, id, _)| id);
        Names { ports, host, state }
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

    /// The service with this frontend, and its port.
    pub(super) fn service(&self, vip: Ipv4Addr, port: u16, protocol: u8) -> Option<(&Service, &ServicePort)> {
        let services = self.state.services().filter(|service| service.cluster_ip == vip);
        let is_asked = |known: &&ServicePort| known.port == port && known.protocol as u8 == protocol;
        services.filter_map(|service| Some((service, service.ports.iter().find(is_asked)?))).next()
    }

    /// Where an endpoint is: the pod of this node, or the node that its service's slices name.
    pub(super) fn place(&self, backend: Backend, service: Option<&Service>) -> Option<String> {
        let here = self.state.ports().find(|port| port.address == backend.address);
        if let Some(port) = here {
            return Some(port.name.clone());
        }
        let service = service?.full_name();
        let mut endpoints = self.state.slices(&service).flat_map(|slice| &slice.endpoints);
        let endpoint = endpoints.find(|endpoint| endpoint.address == backend.address)?;
        (!endpoint.node.is_empty()).then(|| format!("node {}", endpoint.node))
    }
}
