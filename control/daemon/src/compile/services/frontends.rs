//! Where a service is had, and how new flows are treated there by where they come from.
//!
//! The rules are those of a kube-proxy. At its ClusterIP the internal traffic policy holds for everybody, and a pod's source
//! is kept. At all others the external one does: `Cluster` masquerades; `Local` keeps the source and leads who is outside
//! the cluster to the node's own endpoints only, pods and the node to all.

use std::{net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;
use shunt_control_api::{Service, ServicePort, TrafficPolicy};
use shunt_dataplane::{net::Protocol, service_set::ServiceKey};

use super::selection::Place;

/// What kind of place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendKind {
    /// `Service.spec.clusterIP`.
    ClusterIp,
    /// `Service.spec.ports[].nodePort`, at an address of the node.
    NodePort,
    /// `Service.status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `Service.spec.externalIPs[]`.
    ExternalIp,
}

/// A place where a port of a service is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frontend {
    /// Its kind.
    pub kind: FrontendKind,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// How new flows from one kind of source are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Treatment {
    /// Which endpoints may be chosen.
    pub policy: TrafficPolicy,
    /// The source is replaced by the node's.
    pub masquerade: bool,
}

impl Frontend {
    /// All of a service's port on a node with these `addresses`, each address and port once.
    pub fn of(service: &Service, port: &ServicePort, addresses: &[Ipv4Addr]) -> Vec<Frontend> {
        let at = |kind, address, number| Frontend { kind, address, port: number, protocol: port.protocol };
        let mut frontends = vec![at(FrontendKind::ClusterIp, service.cluster_ip, port.port)];
        let mut add = |frontend: Frontend| {
            if !frontends.iter().any(|known| known.key() == frontend.key()) {
                frontends.push(frontend);
            }
        };
        if let Some(number) = port.node_port {
            addresses.iter().for_each(|&address| add(at(FrontendKind::NodePort, address, number)));
        }
        if let Some(exposure) = &service.exposure {
            exposure.load_balancer_ips.iter().for_each(|&ip| add(at(FrontendKind::LoadBalancer, ip, port.port)));
            exposure.external_ips.iter().for_each(|&ip| add(at(FrontendKind::ExternalIp, ip, port.port)));
        }
        frontends
    }

    /// What the engine finds it by.
    pub fn key(&self) -> ServiceKey {
        (self.address, self.port, self.protocol)
    }

    /// Who may use it; empty: everybody.
    pub fn source_ranges(&self, service: &Service) -> Arc<[Ipv4Net]> {
        match &service.exposure {
            Some(exposure) if self.kind == FrontendKind::LoadBalancer => exposure.source_ranges.clone(),
            _ => Arc::default(),
        }
    }

    /// Whether who comes from outside is answered by the endpoint's node, where that can. A node port is known to other nodes
    /// only at the address of the VTEP.
    pub fn is_direct(&self, service: &Service, place: Place<'_>) -> bool {
        let is_asked_for = service.exposure.as_ref().is_some_and(|exposure| exposure.direct_server_return);
        let is_possible = match self.kind {
            FrontendKind::ClusterIp => false,
            FrontendKind::NodePort => place.underlay == Some(self.address),
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp => true,
        };
        is_asked_for && is_possible && !place.isolated
    }

    /// How new flows are treated from pods, from this node itself, and from elsewhere.
    pub fn treatments(&self, service: &Service) -> [Treatment; 3] {
        let kept = |policy| Treatment { policy, masquerade: false };
        let replaced = |policy| Treatment { policy, masquerade: true };
        if self.kind == FrontendKind::ClusterIp {
            let policy = service.internal_traffic_policy;
            return [kept(policy), replaced(policy), replaced(policy)];
        }
        match service.external_traffic_policy() {
            TrafficPolicy::Cluster => [replaced(TrafficPolicy::Cluster); 3],
            TrafficPolicy::Local => {
                [kept(TrafficPolicy::Cluster), replaced(TrafficPolicy::Cluster), kept(TrafficPolicy::Local)]
            }
        }
    }
}
