//! How a Service is had beside its ClusterIP: node ports, load balancer addresses, external IPs.

use std::{net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;
use shunt_dataplane::net::Protocol;

use crate::{FieldError, ServicePort, TrafficPolicy, field, v1};

/// What is said of a service's frontends other than the ClusterIP. The node ports themselves are with the
/// [`ServicePort`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// `Service.spec.type`.
    pub service_type: ServiceType,
    /// `Service.spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// `Service.status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// `Service.spec.loadBalancerSourceRanges`; empty: everybody.
    pub source_ranges: Arc<[Ipv4Net]>,
    /// `Service.spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `Service.spec.healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
    /// Clients outside are answered by the endpoint's node.
    pub direct_server_return: bool,
}

/// `Service.spec.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceType {
    /// No node ports.
    ClusterIp,
    /// Each port has a node port.
    NodePort,
    /// Ports may have node ports, and there may be load balancer addresses.
    LoadBalancer,
}

/// What a service says of it whose `ports` are converted already; `None` if it has a ClusterIP and nothing else. As in
/// Kubernetes, what has no meaning for the type is refused.
pub(crate) fn read(service: &v1::Service, ports: &[ServicePort]) -> Result<Option<Box<Exposure>>, FieldError> {
    let exposure = Exposure {
        service_type: service_type(service.r#type)?,
        external_ips: addresses("external_ips", &service.external_ips)?,
        load_balancer_ips: addresses("load_balancer_ips", &service.load_balancer_ips)?,
        source_ranges: ranges(&service.load_balancer_source_ranges)?,
        traffic_policy: TrafficPolicy::of("external_traffic_policy", service.external_traffic_policy)?,
        health_check_node_port: match service.health_check_node_port {
            0 => None,
            port => Some(field::transport_port("health_check_node_port", port)?),
        },
        direct_server_return: service.direct_server_return,
    };
    exposure.check(ports)?;
    let is_plain = exposure.service_type == ServiceType::ClusterIp && exposure.external_ips.is_empty();
    Ok((!is_plain).then(|| exposure.into()))
}

impl Exposure {
    fn check(&self, ports: &[ServicePort]) -> Result<(), FieldError> {
        let refuse = |path: String, problem: &str| Err(FieldError::new(path, problem));
        self.check_node_ports(ports)?;
        if self.service_type != ServiceType::LoadBalancer {
            let only = "is for services of type LoadBalancer; leave it out or give the type";
            if !self.load_balancer_ips.is_empty() {
                return refuse("load_balancer_ips".into(), only);
            }
            if !self.source_ranges.is_empty() {
                return refuse("load_balancer_source_ranges".into(), only);
            }
        }
        let is_local = self.traffic_policy == TrafficPolicy::Local;
        if is_local && self.service_type == ServiceType::ClusterIp && self.external_ips.is_empty() {
            let problem = "is Local, but the service has only a ClusterIP; leave it out or give the type";
            return refuse("external_traffic_policy".into(), problem);
        }
        if self.direct_server_return {
            if is_local {
                let problem = "is for external_traffic_policy Cluster: with Local, the client's address is kept and no other \
                               node has a part in it; leave one of them out";
                return refuse("direct_server_return".into(), problem);
            }
            if self.service_type == ServiceType::ClusterIp && self.external_ips.is_empty() {
                let problem = "is given, but the service has only a ClusterIP; leave it out or give the type";
                return refuse("direct_server_return".into(), problem);
            }
        }
        let Some(health_check) = self.health_check_node_port else { return Ok(()) };
        if self.service_type != ServiceType::LoadBalancer || !is_local {
            let problem = "is for services of type LoadBalancer with external_traffic_policy Local; leave it out";
            return refuse("health_check_node_port".into(), problem);
        }
        let is_it = |port: &ServicePort| port.protocol == Protocol::Tcp && port.node_port == Some(health_check);
        match ports.iter().any(is_it) {
            true => refuse("health_check_node_port".into(), "is a node port of the same service; give another port"),
            false => Ok(()),
        }
    }

    fn check_node_ports(&self, ports: &[ServicePort]) -> Result<(), FieldError> {
        for (i, port) in ports.iter().enumerate() {
            let refuse = |problem: String| Err(FieldError::new(format!("ports[{i}].node_port"), problem));
            match (self.service_type, port.node_port) {
                (ServiceType::ClusterIp, Some(_)) => {
                    return refuse(
                        "is for services of type NodePort or LoadBalancer; leave it out or give the type".into(),
                    );
                }
                (ServiceType::NodePort, None) => {
                    return refuse("is missing; give each port of a service of type NodePort one".into());
                }
                _ => {}
            }
            let same = |other: &ServicePort| (other.node_port, other.protocol) == (port.node_port, port.protocol);
            if let Some(number) = port.node_port.filter(|_| ports[..i].iter().any(same)) {
                return refuse(format!("{number}/{} is another port's of this service; use each once", port.protocol));
            }
        }
        Ok(())
    }
}

/// Writes what [`read`] reads.
pub(crate) fn write(exposure: Option<&Exposure>, service: &mut v1::Service) {
    let Some(exposure) = exposure else { return };
    let text = |addresses: &[Ipv4Addr]| addresses.iter().map(Ipv4Addr::to_string).collect();
    service.r#type = v1::ServiceType::from(exposure.service_type).into();
    service.external_ips = text(&exposure.external_ips);
    service.load_balancer_ips = text(&exposure.load_balancer_ips);
    service.load_balancer_source_ranges = exposure.source_ranges.iter().map(Ipv4Net::to_string).collect();
    service.external_traffic_policy = v1::TrafficPolicy::from(exposure.traffic_policy).into();
    service.health_check_node_port = exposure.health_check_node_port.unwrap_or_default().into();
    service.direct_server_return = exposure.direct_server_return;
}

impl From<ServiceType> for v1::ServiceType {
    fn from(service_type: ServiceType) -> Self {
        match service_type {
            ServiceType::ClusterIp => v1::ServiceType::ClusterIp,
            ServiceType::NodePort => v1::ServiceType::NodePort,
            ServiceType::LoadBalancer => v1::ServiceType::LoadBalancer,
        }
    }
}

fn service_type(number: i32) -> Result<ServiceType, FieldError> {
    match v1::ServiceType::try_from(number) {
        Ok(v1::ServiceType::Unspecified | v1::ServiceType::ClusterIp) => Ok(ServiceType::ClusterIp),
        Ok(v1::ServiceType::NodePort) => Ok(ServiceType::NodePort),
        Ok(v1::ServiceType::LoadBalancer) => Ok(ServiceType::LoadBalancer),
        Err(_) => {
            let problem =
                "is unknown; use SERVICE_TYPE_CLUSTER_IP, SERVICE_TYPE_NODE_PORT or SERVICE_TYPE_LOAD_BALANCER";
            Err(FieldError::new("type", format!("{number} {problem} (an ExternalName is a matter of DNS)")))
        }
    }
}

fn addresses(list: &str, texts: &[String]) -> Result<Vec<Ipv4Addr>, FieldError> {
    texts.iter().enumerate().map(|(i, text)| field::address(&format!("{list}[{i}]"), text)).collect()
}

fn ranges(texts: &[String]) -> Result<Arc<[Ipv4Net]>, FieldError> {
    let range = |(i, text): (usize, &String)| field::prefix(&format!("load_balancer_source_ranges[{i}]"), text);
    texts.iter().enumerate().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Service;

    fn port(name: &str, protocol: v1::Protocol, node_port: u32) -> v1::ServicePort {
        v1::ServicePort { name: name.into(), protocol: protocol.into(), port: 80, node_port }
    }

    fn balanced() -> v1::Service {
        v1::Service {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ip: "10.96.0.10".into(),
            ports: vec![port("http", v1::Protocol::Tcp, 30_080), port("quic", v1::Protocol::Udp, 30_080)],
            internal_traffic_policy: v1::TrafficPolicy::Cluster.into(),
            r#type: v1::ServiceType::LoadBalancer.into(),
            external_ips: vec!["198.51.100.7".into()],
            load_balancer_ips: vec!["203.0.113.10".into(), "203.0.113.11".into()],
            load_balancer_source_ranges: vec!["192.0.2.0/24".into()],
            external_traffic_policy: v1::TrafficPolicy::Local.into(),
            health_check_node_port: 32_000,
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut v1::Service)) -> String {
        let mut service = balanced();
        change(&mut service);
        Service::try_from(service).unwrap_err().to_string()
    }

    #[test]
    fn an_exposed_service_survives_the_journey() {
        assert_eq!(v1::Service::from(&Service::try_from(balanced()).unwrap()), balanced());
    }

    #[test]
    fn a_plain_service_costs_nothing_for_it() {
        let mut plain = balanced();
        plain.ports.iter_mut().for_each(|port| port.node_port = 0);
        let plain = v1::Service {
            namespace: plain.namespace,
            name: plain.name,
            cluster_ip: plain.cluster_ip,
            ports: plain.ports,
            ..Default::default()
        };
        assert_eq!(Service::try_from(plain).unwrap().exposure, None);
    }

    #[test]
    fn load_balancers_may_do_without_node_ports() {
        let mut service = balanced();
        service.ports[1].node_port = 0;
        assert_eq!(Service::try_from(service).unwrap().ports[1].node_port, None);
    }

    #[test]
    fn what_the_type_has_no_use_for_is_refused() {
        let node_port = |s: &mut v1::Service| s.r#type = v1::ServiceType::NodePort.into();
        let plain = |s: &mut v1::Service| s.r#type = v1::ServiceType::ClusterIp.into();
        assert!(refused(node_port).starts_with("load_balancer_ips: is for services of type LoadBalancer"));
        assert!(refused(plain).starts_with("ports[0].node_port: is for services of type NodePort"));
        let without_addresses = |s: &mut v1::Service| {
            node_port(s);
            s.load_balancer_ips.clear();
        };
        assert!(refused(without_addresses).starts_with("load_balancer_source_ranges: is for services of type Load"));
        let missing = |s: &mut v1::Service| {
            node_port(s);
            s.ports[1].node_port = 0;
        };
        assert!(refused(missing).starts_with("ports[1].node_port: is missing"));
        let policy = refused(|s| s.external_traffic_policy = v1::TrafficPolicy::Cluster.into());
        assert!(policy.starts_with("health_check_node_port: is for services of type LoadBalancer with"), "{policy}");
        let only_inside = v1::Service {
            ports: vec![port("", v1::Protocol::Tcp, 0)],
            external_traffic_policy: v1::TrafficPolicy::Local.into(),
            cluster_ip: "10.96.0.10".into(),
            namespace: "default".into(),
            name: "web".into(),
            ..Default::default()
        };
        let only_inside = Service::try_from(only_inside).unwrap_err().to_string();
        assert!(only_inside.starts_with("external_traffic_policy: is Local, but"), "{only_inside}");
    }

    #[test]
    fn direct_server_return_is_for_the_external_policy_cluster() {
        let direct = v1::Service {
            external_traffic_policy: 0,
            health_check_node_port: 0,
            direct_server_return: true,
            ..balanced()
        };
        let read = Service::try_from(direct.clone()).unwrap();
        assert!(read.exposure.as_ref().unwrap().direct_server_return);
        assert!(v1::Service::from(&read).direct_server_return);
        let local = refused(|s| s.direct_server_return = true);
        assert!(local.starts_with("direct_server_return: is for external_traffic_policy Cluster"), "{local}");
        let mut inside = v1::Service { r#type: 0, load_balancer_ips: vec![], external_ips: vec![], ..direct };
        inside.load_balancer_source_ranges.clear();
        inside.ports.iter_mut().for_each(|port| port.node_port = 0);
        let inside = Service::try_from(inside).unwrap_err().to_string();
        assert!(inside.starts_with("direct_server_return: is given, but the service has only a ClusterIP"), "{inside}");
    }

    #[test]
    fn fields_are_checked_and_named_by_their_path() {
        assert!(refused(|s| s.r#type = 9).starts_with("type: 9 is unknown; use SERVICE_TYPE_CLUSTER_IP"));
        assert!(refused(|s| s.external_ips[0] = "fd00::1".into()).starts_with("external_ips[0]: "));
        assert!(refused(|s| s.load_balancer_ips[1] = "lb.example".into()).starts_with("load_balancer_ips[1]: "));
        let range = refused(|s| s.load_balancer_source_ranges[0] = "192.0.2.1/24".into());
        assert!(range.starts_with("load_balancer_source_ranges[0]: "), "{range}");
        assert!(refused(|s| s.external_traffic_policy = 7).starts_with("external_traffic_policy: 7 is unknown"));
        assert!(refused(|s| s.health_check_node_port = 70_000).starts_with("health_check_node_port: 70000 is not a"));
        assert!(refused(|s| s.health_check_node_port = 30_080).starts_with("health_check_node_port: is a node port"));
        assert!(refused(|s| s.ports[0].node_port = 70_000).starts_with("ports[0].node_port: 70000 is not a port"));
        let twice = refused(|s| {
            s.ports[1] = v1::ServicePort { port: 81, ..port("more", v1::Protocol::Tcp, 30_080) };
        });
        assert!(twice.starts_with("ports[1].node_port: 30080/tcp is another port's"), "{twice}");
    }
}
