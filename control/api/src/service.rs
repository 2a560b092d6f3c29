//! Kubernetes Services of type ClusterIP and their endpoints.

use std::{collections::HashSet, net::Ipv4Addr, time::Duration};

use shunt_dataplane::{net::Protocol, spec::Scheduler};

use crate::{FieldError, field, selection, v1};

/// A Service with its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `Service.spec.clusterIP`.
    pub cluster_ip: Ipv4Addr,
    /// `Service.spec.ports`: at least one, names unique, (port, protocol) unique.
    pub ports: Vec<ServicePort>,
    /// `EndpointSlice.endpoints` of all its slices.
    pub endpoints: Vec<Endpoint>,
    /// How long clients stay with an endpoint; `None`: they do not.
    pub affinity: Option<Duration>,
    /// How endpoints are chosen.
    pub scheduler: Scheduler,
}

/// `Service.spec.ports[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// What endpoints' ports match it by; empty if it is the only one.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the VIP.
    pub port: u16,
}

/// `EndpointSlice.endpoints[]`, with the ports of its slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's (or host-network) address.
    pub address: Ipv4Addr,
    /// `EndpointSlice.ports`, names unique.
    pub ports: Vec<EndpointPort>,
    /// Its conditions.
    pub conditions: EndpointConditions,
    /// `nodeName`; empty: unknown.
    pub node: String,
    /// `zone`; empty: unknown.
    pub zone: String,
    /// Its share of new flows beside the others' weights.
    pub weight: u16,
}

/// `EndpointSlice.ports[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the service's port that it serves.
    pub name: String,
    /// The target port.
    pub port: u16,
}

/// `EndpointSlice.endpoints[].conditions`, as given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointConditions {
    /// May be chosen for new flows.
    pub ready: Option<bool>,
    /// Answers, whether or not it terminates.
    pub serving: Option<bool>,
    /// Is on its way out.
    pub terminating: Option<bool>,
}

impl EndpointConditions {
    /// Whether new flows may go there; unset counts as true (EndpointSlice API).
    pub fn is_ready(self) -> bool {
        self.ready.unwrap_or(true)
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = FieldError;

    fn try_from(service: v1::Service) -> Result<Self, FieldError> {
        let namespace = field::name_segment("namespace", &service.namespace)?;
        let name = field::name_segment("name", &service.name)?;
        let cluster_ip = field::address("cluster_ip", &service.cluster_ip)?;
        let ports = each("ports", service.ports, ServicePort::try_from)?;
        let endpoints = each("endpoints", service.endpoints, Endpoint::try_from)?;
        check_ports(&ports)?;
        let affinity = selection::affinity(service.client_ip_affinity)?;
        let scheduler = selection::scheduler(service.scheduler)?;
        Ok(Service { namespace, name, cluster_ip, ports, endpoints, affinity, scheduler })
    }
}

/// Converts a list, and says which element was wrong.
fn each<M, T>(list: &str, items: Vec<M>, convert: impl Fn(M) -> Result<T, FieldError>) -> Result<Vec<T>, FieldError> {
    let convert = |(i, item)| convert(item).map_err(|e: FieldError| e.within(format_args!("{list}[{i}]")));
    items.into_iter().enumerate().map(convert).collect()
}

fn check_ports(ports: &[ServicePort]) -> Result<(), FieldError> {
    if ports.is_empty() {
        return Err(FieldError::new("ports", "is empty; a service has at least one port"));
    }
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (i, port) in ports.iter().enumerate() {
        if port.name.is_empty() && ports.len() > 1 {
            let problem = "is missing; a service with several ports names each";
            return Err(FieldError::new(format!("ports[{i}].name"), problem));
        }
        if !names.insert(port.name.as_str()) {
            let problem = format!("{:?} is the name of another port of this service; use each name once", port.name);
            return Err(FieldError::new(format!("ports[{i}].name"), problem));
        }
        if !numbers.insert((port.port, port.protocol)) {
            let problem = format!("{}/{} is in this service already; list it once", port.port, port.protocol);
            return Err(FieldError::new(format!("ports[{i}].port"), problem));
        }
    }
    Ok(())
}

impl TryFrom<v1::ServicePort> for ServicePort {
    type Error = FieldError;

    fn try_from(port: v1::ServicePort) -> Result<Self, FieldError> {
        Ok(ServicePort {
            protocol: port.protocol().try_into()?,
            port: field::transport_port("port", port.port)?,
            name: port.name,
        })
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = FieldError;

    fn try_from(endpoint: v1::Endpoint) -> Result<Self, FieldError> {
        let ports = each("ports", endpoint.ports, |port: v1::EndpointPort| {
            Ok(EndpointPort { port: field::transport_port("port", port.port)?, name: port.name })
        })?;
        let mut names = HashSet::new();
        if let Some(i) = ports.iter().position(|port| !names.insert(port.name.as_str())) {
            let problem =
                format!("{:?} is the name of another port of this endpoint; use each name once", ports[i].name);
            return Err(FieldError::new(format!("ports[{i}].name"), problem));
        }
        let conditions = endpoint.conditions.unwrap_or_default();
        Ok(Endpoint {
            address: field::address("address", &endpoint.address)?,
            ports,
            conditions: EndpointConditions {
                ready: conditions.ready,
                serving: conditions.serving,
                terminating: conditions.terminating,
            },
            node: endpoint.node,
            zone: endpoint.zone,
            weight: selection::weight(endpoint.weight)?,
        })
    }
}

impl From<&Service> for v1::Service {
    fn from(service: &Service) -> Self {
        v1::Service {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            cluster_ip: service.cluster_ip.to_string(),
            ports: service.ports.iter().map(v1::ServicePort::from).collect(),
            endpoints: service.endpoints.iter().map(v1::Endpoint::from).collect(),
            client_ip_affinity: selection::affinity_message(service.affinity),
            scheduler: selection::scheduler_number(service.scheduler),
        }
    }
}

impl From<&ServicePort> for v1::ServicePort {
    fn from(port: &ServicePort) -> Self {
        v1::ServicePort {
            name: port.name.clone(),
            protocol: v1::Protocol::from(port.protocol).into(),
            port: port.port.into(),
        }
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let EndpointConditions { ready, serving, terminating } = endpoint.conditions;
        let conditions = v1::EndpointConditions { ready, serving, terminating };
        v1::Endpoint {
            address: endpoint.address.to_string(),
            ports: endpoint
                .ports
                .iter()
                .map(|port| v1::EndpointPort { name: port.name.clone(), port: port.port.into() })
                .collect(),
            conditions: (conditions != v1::EndpointConditions::default()).then_some(conditions),
            node: endpoint.node.clone(),
            zone: endpoint.zone.clone(),
            weight: selection::weight_field(endpoint.weight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, protocol: v1::Protocol, port: u32) -> v1::ServicePort {
        v1::ServicePort { name: name.into(), protocol: protocol.into(), port }
    }

    fn web() -> v1::Service {
        v1::Service {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ip: "10.96.0.10".into(),
            ports: vec![port("http", v1::Protocol::Tcp, 80), port("dns", v1::Protocol::Udp, 80)],
            endpoints: vec![v1::Endpoint {
                address: "10.244.1.10".into(),
                ports: vec![v1::EndpointPort { name: "http".into(), port: 8080 }],
                conditions: Some(v1::EndpointConditions { ready: Some(false), serving: Some(true), terminating: None }),
                node: "node-a".into(),
                zone: "z1".into(),
                weight: Some(3),
            }],
            client_ip_affinity: Some(v1::ClientIpAffinity { timeout_seconds: Some(60) }),
            scheduler: v1::Scheduler::RoundRobin.into(),
        }
    }

    fn refused(change: impl FnOnce(&mut v1::Service)) -> String {
        let mut service = web();
        change(&mut service);
        Service::try_from(service).unwrap_err().to_string()
    }

    #[test]
    fn a_service_survives_the_journey() {
        assert_eq!(v1::Service::from(&Service::try_from(web()).unwrap()), web());
    }

    #[test]
    fn fields_are_checked_and_named_by_their_path() {
        assert_eq!(refused(|s| s.ports[0].port = 0), "ports[0].port: 0 is not a port; use 1 to 65535");
        assert_eq!(
            refused(|s| s.endpoints[0].ports[0].port = 70000),
            "endpoints[0].ports[0].port: 70000 is not a port; use 1 to 65535"
        );
        assert_eq!(
            refused(|s| s.ports[1].protocol = 0),
            "ports[1].protocol: is missing or unknown; use PROTOCOL_TCP or PROTOCOL_UDP"
        );
        assert!(refused(|s| s.ports[1].protocol = 77).starts_with("ports[1].protocol: "));
        assert!(refused(|s| s.cluster_ip = "None".into()).starts_with("cluster_ip: \"None\" is not an IPv4 address"));
        assert!(refused(|s| s.namespace = "a/b".into()).starts_with("namespace: "));
        assert!(refused(|s| s.name.clear()).starts_with("name: "));
        assert!(refused(|s| s.endpoints[0].address = "127.0.0.1".into()).starts_with("endpoints[0].address: "));
        assert!(refused(|s| s.endpoints[0].weight = Some(65_536)).starts_with("endpoints[0].weight: "));
        assert!(refused(|s| s.scheduler = 77).starts_with("scheduler: "));
    }

    #[test]
    fn ports_are_told_apart_by_name_and_by_number() {
        assert_eq!(refused(|s| s.ports.clear()), "ports: is empty; a service has at least one port");
        assert!(refused(|s| s.ports[1].name.clear()).starts_with("ports[1].name: is missing"));
        assert!(refused(|s| s.ports[1].name = "http".into()).starts_with("ports[1].name: \"http\""));
        assert!(refused(|s| s.ports[1].protocol = v1::Protocol::Tcp.into()).starts_with("ports[1].port: 80/tcp"));
        let twice = refused(|s| s.endpoints[0].ports.push(v1::EndpointPort { name: "http".into(), port: 1 }));
        assert!(twice.starts_with("endpoints[0].ports[1].name: \"http\""), "{twice}");
    }

    #[test]
    fn a_single_port_needs_no_name() {
        let mut service = web();
        service.ports.truncate(1);
        service.ports[0].name.clear();
        assert!(Service::try_from(service).is_ok());
    }

    #[test]
    fn unset_ready_counts_as_true() {
        assert!(EndpointConditions::default().is_ready());
        assert!(!EndpointConditions { ready: Some(false), serving: Some(true), ..Default::default() }.is_ready());
    }
}
