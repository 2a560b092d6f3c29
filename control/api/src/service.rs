//! Kubernetes Services that have a ClusterIP.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use shunt_dataplane::{net::Protocol, spec::Scheduler};

use crate::{Exposure, FieldError, ServiceType, exposure, field, selection, v1};

/// A Service; who serves it is told by [`EndpointSlice`](crate::EndpointSlice)s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The IPv4 one of `Service.spec.clusterIPs`. There is one of this family or of the other, or one of each.
    pub cluster_ip: Option<Ipv4Addr>,
    /// The IPv6 one.
    pub ipv6_cluster_ip: Option<Ipv6Addr>,
    /// `Service.spec.ports`: at least one, names unique, (port, protocol) unique.
    pub ports: Vec<ServicePort>,
    /// `Service.spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// How long clients stay with an endpoint; `None`: they do not.
    pub affinity: Option<Duration>,
    /// How endpoints are chosen.
    pub scheduler: Scheduler,
    /// Where it is had beside the ClusterIP; `None`: nowhere.
    pub exposure: Option<Box<Exposure>>,
}

/// `Service.spec.ports[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// What ports of endpoint slices match it by; empty if it is the only one.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the VIP.
    pub port: u16,
    /// The port of the node's own addresses.
    pub node_port: Option<u16>,
}

/// Which endpoints may be chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Those anywhere.
    #[default]
    Cluster,
    /// Those on this node.
    Local,
}

impl Service {
    /// `namespace/name`: its key, and what endpoint slices know it by.
    pub fn full_name(&self) -> String {
        [&*self.namespace, "/", &self.name].concat()
    }

    /// Where load balancers ask whether its endpoints on a node serve, if they do.
    pub fn health_check_node_port(&self) -> Option<u16> {
        self.exposure.as_ref()?.health_check_node_port
    }

    /// Its type.
    pub fn service_type(&self) -> ServiceType {
        self.exposure.as_ref().map_or(ServiceType::ClusterIp, |exposure| exposure.service_type)
    }

    /// Which endpoints may be chosen for who comes by another frontend than the ClusterIP.
    pub fn external_traffic_policy(&self) -> TrafficPolicy {
        self.exposure.as_ref().map_or(TrafficPolicy::Cluster, |exposure| exposure.traffic_policy)
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = FieldError;

    fn try_from(mut service: v1::Service) -> Result<Self, FieldError> {
        let internal_traffic_policy = TrafficPolicy::of("internal_traffic_policy", service.internal_traffic_policy)?;
        let namespace = field::name_segment("namespace", &service.namespace)?;
        let name = field::name_segment("name", &service.name)?;
        let ipv6_cluster_ip = cluster_ip("ipv6_cluster_ip", &service.ipv6_cluster_ip, field::ipv6_address)?;
        let cluster_ip = cluster_ip("cluster_ip", &service.cluster_ip, field::address)?;
        if cluster_ip.is_none() && ipv6_cluster_ip.is_none() {
            return Err(FieldError::new(
                "cluster_ip",
                "is missing, and so is ipv6_cluster_ip; give one of them or both",
            ));
        }
        let ports = field::each("ports", std::mem::take(&mut service.ports), ServicePort::try_from)?;
        check_ports(&ports)?;
        let affinity = selection::affinity(service.client_ip_affinity)?;
        let scheduler = selection::scheduler(service.scheduler)?;
        let exposure = exposure::read(&service, &ports)?;
        if cluster_ip.is_none() {
            check_ipv6_only(&service, exposure.as_deref())?;
        }
        Ok(Service {
            namespace,
            name,
            cluster_ip,
            ipv6_cluster_ip,
            ports,
            internal_traffic_policy,
            affinity,
            scheduler,
            exposure,
        })
    }
}

/// Headless services are told apart: whoever sends one should leave it out, not correct it.
fn cluster_ip<A>(
    path: &str,
    text: &str,
    read: fn(&str, &str) -> Result<A, FieldError>,
) -> Result<Option<A>, FieldError> {
    if text == "None" {
        let problem = "is None: clients of a headless service reach its endpoints directly; leave the service out";
        return Err(FieldError::new(path, problem));
    }
    field::given(text, |text| read(path, text))
}

/// All places beside the ClusterIPs are of IPv4, and lead to IPv4 endpoints: a service without any is had at its ClusterIP.
fn check_ipv6_only(service: &v1::Service, exposure: Option<&Exposure>) -> Result<(), FieldError> {
    let Some(exposure) = exposure else { return Ok(()) };
    let (field, what) = if !service.external_ips.is_empty() {
        ("external_ips", "external IPs")
    } else if exposure.service_type == ServiceType::NodePort {
        ("type", "node ports")
    } else {
        ("type", "node ports and load balancer addresses")
    };
    let problem = format!(
        "asks for {what}, and the service has an IPv6 ClusterIP only: they are of IPv4; give cluster_ip, too, or leave them out"
    );
    Err(FieldError::new(field, problem))
}

impl TrafficPolicy {
    pub(crate) fn of(path: &str, number: i32) -> Result<TrafficPolicy, FieldError> {
        match v1::TrafficPolicy::try_from(number) {
            Ok(v1::TrafficPolicy::Unspecified | v1::TrafficPolicy::Cluster) => Ok(TrafficPolicy::Cluster),
            Ok(v1::TrafficPolicy::Local) => Ok(TrafficPolicy::Local),
            Err(_) => {
                let problem = format!("{number} is unknown; use TRAFFIC_POLICY_CLUSTER or TRAFFIC_POLICY_LOCAL");
                Err(FieldError::new(path, problem))
            }
        }
    }
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
            node_port: match port.node_port {
                0 => None,
                number => Some(field::transport_port("node_port", number)?),
            },
            name: port.name,
        })
    }
}

impl From<&Service> for v1::Service {
    fn from(service: &Service) -> Self {
        let mut message = v1::Service {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            cluster_ip: field::text(service.cluster_ip),
            ipv6_cluster_ip: field::text(service.ipv6_cluster_ip),
            ports: service.ports.iter().map(v1::ServicePort::from).collect(),
            internal_traffic_policy: v1::TrafficPolicy::from(service.internal_traffic_policy).into(),
            client_ip_affinity: selection::affinity_message(service.affinity),
            scheduler: selection::scheduler_number(service.scheduler),
            ..Default::default()
        };
        exposure::write(service.exposure.as_deref(), &mut message);
        message
    }
}

impl From<&ServicePort> for v1::ServicePort {
    fn from(port: &ServicePort) -> Self {
        v1::ServicePort {
            name: port.name.clone(),
            protocol: v1::Protocol::from(port.protocol).into(),
            port: port.port.into(),
            node_port: port.node_port.unwrap_or_default().into(),
        }
    }
}

impl From<TrafficPolicy> for v1::TrafficPolicy {
    fn from(policy: TrafficPolicy) -> Self {
        match policy {
            TrafficPolicy::Cluster => v1::TrafficPolicy::Cluster,
            TrafficPolicy::Local => v1::TrafficPolicy::Local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, protocol: v1::Protocol, port: u32) -> v1::ServicePort {
        v1::ServicePort { name: name.into(), protocol: protocol.into(), port, node_port: 0 }
    }

    fn web() -> v1::Service {
        v1::Service {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ip: "10.96.0.10".into(),
            ports: vec![port("http", v1::Protocol::Tcp, 80), port("dns", v1::Protocol::Udp, 80)],
            internal_traffic_policy: v1::TrafficPolicy::Local.into(),
            client_ip_affinity: Some(v1::ClientIpAffinity { timeout_seconds: Some(60) }),
            scheduler: v1::Scheduler::RoundRobin.into(),
            ..Default::default()
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
            refused(|s| s.ports[1].protocol = 0),
            "ports[1].protocol: is missing or unknown; use PROTOCOL_TCP, PROTOCOL_UDP or PROTOCOL_SCTP"
        );
        assert!(refused(|s| s.ports[1].protocol = 77).starts_with("ports[1].protocol: "));
        assert!(refused(|s| s.cluster_ip = "None".into()).starts_with("cluster_ip: is None: clients of a headless"));
        assert!(refused(|s| s.cluster_ip = "10.96".into()).starts_with("cluster_ip: \"10.96\" is not an IPv4 address"));
        assert_eq!(
            refused(|s| s.cluster_ip.clear()),
            "cluster_ip: is missing, and so is ipv6_cluster_ip; give one of them or both"
        );
        assert!(refused(|s| s.ipv6_cluster_ip = "None".into()).starts_with("ipv6_cluster_ip: is None: clients"));
        let ipv4 = refused(|s| s.ipv6_cluster_ip = "10.96.0.10".into());
        assert!(ipv4.starts_with("ipv6_cluster_ip: 10.96.0.10 is an IPv4 address"), "{ipv4}");
        assert!(refused(|s| s.namespace = "a/b".into()).starts_with("namespace: "));
        assert!(refused(|s| s.name.clear()).starts_with("name: "));
        assert!(refused(|s| s.internal_traffic_policy = 7).starts_with("internal_traffic_policy: 7 is unknown"));
        assert!(refused(|s| s.scheduler = 77).starts_with("scheduler: "));
    }

    #[test]
    fn a_service_has_a_cluster_ip_of_each_family_or_of_one() {
        for (ipv4, ipv6) in [("10.96.0.10", "fd00:10:96::10"), ("", "fd00:10:96::10"), ("10.96.0.10", "")] {
            let (cluster_ip, ipv6_cluster_ip) = (ipv4.into(), ipv6.into());
            let message = v1::Service { cluster_ip, ipv6_cluster_ip, ..web() };
            let service = Service::try_from(message.clone()).unwrap();
            assert_eq!(
                (service.cluster_ip.is_some(), service.ipv6_cluster_ip.is_some()),
                (!ipv4.is_empty(), !ipv6.is_empty())
            );
            assert_eq!(v1::Service::from(&service), message);
        }
    }

    #[test]
    fn what_is_had_outside_needs_an_ipv4_cluster_ip() {
        let only_ipv6 = |s: &mut v1::Service| {
            (s.cluster_ip, s.ipv6_cluster_ip) = (String::new(), "fd00:10:96::10".into());
        };
        let external = refused(|s| {
            only_ipv6(s);
            s.external_ips = vec!["198.51.100.7".into()];
        });
        assert!(external.starts_with("external_ips: asks for external IPs, and the service has an IPv6"), "{external}");
        let node_ports = refused(|s| {
            only_ipv6(s);
            s.r#type = v1::ServiceType::NodePort.into();
            s.ports.iter_mut().for_each(|port| port.node_port = 30_080);
        });
        assert!(node_ports.starts_with("type: asks for node ports, and"), "{node_ports}");
        let balanced = refused(|s| {
            only_ipv6(s);
            s.r#type = v1::ServiceType::LoadBalancer.into();
        });
        assert!(balanced.starts_with("type: asks for node ports and load balancer addresses"), "{balanced}");
    }

    #[test]
    fn ports_are_told_apart_by_name_and_by_number() {
        assert_eq!(refused(|s| s.ports.clear()), "ports: is empty; a service has at least one port");
        assert!(refused(|s| s.ports[1].name.clear()).starts_with("ports[1].name: is missing"));
        assert!(refused(|s| s.ports[1].name = "http".into()).starts_with("ports[1].name: \"http\""));
        assert!(refused(|s| s.ports[1].protocol = v1::Protocol::Tcp.into()).starts_with("ports[1].port: 80/tcp"));
    }

    #[test]
    fn a_single_port_needs_no_name() {
        let mut service = web();
        service.ports.truncate(1);
        service.ports[0].name.clear();
        assert!(Service::try_from(service).is_ok());
    }

    #[test]
    fn an_unset_policy_is_the_cluster_s() {
        let service = Service::try_from(v1::Service { internal_traffic_policy: 0, ..web() }).unwrap();
        assert_eq!(service.internal_traffic_policy, TrafficPolicy::Cluster);
    }
}
