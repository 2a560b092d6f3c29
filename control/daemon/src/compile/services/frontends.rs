//! Where a service is had, and how new flows are treated there by where they come from.
//!
//! The rules are those of a kube-proxy. At its ClusterIP the internal traffic policy holds for everybody, and a pod's source
//! is kept. At all others the external one does: `Cluster` masquerades; `Local` keeps the source and leads who is outside
//! the cluster to the node's own endpoints only, pods and the node to all.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use shunt_control_api::{Service, ServicePort, TrafficPolicy};
use shunt_dataplane::{net::Protocol, service_set::ServiceKey};

use super::{family::Family, selection::Place};

/// What kind of place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendKind {
    /// One of `Service.spec.clusterIPs`.
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
pub struct Frontend<A = Ipv4Addr> {
    /// Its kind.
    pub kind: FrontendKind,
    /// Its address.
    pub address: A,
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

impl<A: Family> Frontend<A> {
    /// All of one family of a service's port on a node with these `addresses`, each address and port once.
    pub fn of(service: &Service, port: &ServicePort, addresses: &[Ipv4Addr]) -> Vec<Frontend<A>> {
        let at = |kind, address, number| Frontend { kind, address, port: number, protocol: port.protocol };
        let cluster_ip = A::cluster_ip(service).map(|address| at(FrontendKind::ClusterIp, address, port.port));
        let mut frontends: Vec<_> = cluster_ip.into_iter().collect();
        let mut add = |frontend: Frontend<A>| {
            if !frontends.iter().any(|known| known.key() == frontend.key()) {
                frontends.push(frontend);
            }
        };
        if let Some(number) = port.node_port {
            A::addresses(addresses).iter().for_each(|&address| add(at(FrontendKind::NodePort, address, number)));
        }
        if let Some(exposure) = &service.exposure {
            let [balanced, external] =
                [&exposure.load_balancer_ips, &exposure.external_ips].map(|ips| A::addresses(ips));
            balanced.iter().for_each(|&ip| add(at(FrontendKind::LoadBalancer, ip, port.port)));
            external.iter().for_each(|&ip| add(at(FrontendKind::ExternalIp, ip, port.port)));
        }
        frontends
    }

    /// What the engine finds it by.
    pub fn key(&self) -> ServiceKey<A> {
        (self.address, self.port, self.protocol)
    }

    /// Who may use it; empty: everybody.
    pub fn source_ranges(&self, service: &Service) -> Arc<[A::Net]> {
        match &service.exposure {
            Some(exposure) if self.kind == FrontendKind::LoadBalancer => A::source_ranges(&exposure.source_ranges),
            _ => Arc::from([]),
        }
    }

    /// Whether who comes from outside is answered by the endpoint's node, where that can. A node port is known to other nodes
    /// only at the address of the VTEP.
    pub fn is_direct(&self, service: &Service, place: Place<'_>) -> bool {
        let is_asked_for = service.exposure.as_ref().is_some_and(|exposure| exposure.direct_server_return);
        let is_possible = match self.kind {
            FrontendKind::ClusterIp => false,
            FrontendKind::NodePort => place.underlay.map(IpAddr::V4) == Some(self.address.into()),
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
