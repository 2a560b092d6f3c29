//! Services in a cluster file.

use serde::{Deserialize, Serialize};
use shunt_control_api::v1;

use crate::protocol::Protocol;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// Either of these may be left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_ip: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6_cluster_ip: String,
    #[serde(default, skip_serializing_if = "TrafficPolicy::is_default")]
    pub internal_traffic_policy: TrafficPolicy,
    /// As in Kubernetes, `None` unless given.
    #[serde(default, skip_serializing_if = "SessionAffinity::is_none")]
    pub session_affinity: SessionAffinity,
    /// Seconds, of `ClientIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_timeout: Option<u32>,
    #[serde(default, skip_serializing_if = "Scheduler::is_maglev")]
    pub scheduler: Scheduler,
    /// As in Kubernetes, `ClusterIP` unless given.
    #[serde(default, skip_serializing_if = "ServiceType::is_default", rename = "type")]
    pub service_type: ServiceType,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_ips: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    #[serde(default, skip_serializing_if = "TrafficPolicy::is_default")]
    pub external_traffic_policy: TrafficPolicy,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub health_check_node_port: u32,
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub direct_server_return: bool,
    pub port: Vec<ServicePort>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `Service.spec.type`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    fn is_default(&self) -> bool {
        *self == ServiceType::default()
    }

    /// As Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
        }
    }
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

impl From<v1::ServiceType> for ServiceType {
    fn from(service_type: v1::ServiceType) -> Self {
        match service_type {
            v1::ServiceType::Unspecified | v1::ServiceType::ClusterIp => ServiceType::ClusterIp,
            v1::ServiceType::NodePort => ServiceType::NodePort,
            v1::ServiceType::LoadBalancer => ServiceType::LoadBalancer,
        }
    }
}

/// `Service.spec.sessionAffinity`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionAffinity {
    #[default]
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

impl SessionAffinity {
    fn is_none(&self) -> bool {
        *self == SessionAffinity::None
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    #[default]
    Maglev,
    RoundRobin,
    LeastConnections,
    SourceHash,
}

impl Scheduler {
    fn is_maglev(&self) -> bool {
        *self == Scheduler::Maglev
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    #[serde(default)]
    pub name: String,
    /// As in Kubernetes, TCP unless given.
    #[serde(default)]
    pub protocol: Protocol,
    pub port: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub node_port: u32,
}

/// As in Kubernetes, `Cluster` unless given.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

impl TrafficPolicy {
    fn is_default(&self) -> bool {
        *self == TrafficPolicy::default()
    }

    /// As Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            TrafficPolicy::Cluster => "Cluster",
            TrafficPolicy::Local => "Local",
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

impl From<v1::TrafficPolicy> for TrafficPolicy {
    fn from(policy: v1::TrafficPolicy) -> Self {
        match policy {
            v1::TrafficPolicy::Local => TrafficPolicy::Local,
            v1::TrafficPolicy::Cluster | v1::TrafficPolicy::Unspecified => TrafficPolicy::Cluster,
        }
    }
}

impl From<Service> for v1::Service {
    fn from(service: Service) -> Self {
        let client_ip_affinity = match service.session_affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp => Some(v1::ClientIpAffinity { timeout_seconds: service.affinity_timeout }),
        };
        let scheduler = match service.scheduler {
            Scheduler::Maglev => v1::Scheduler::Maglev,
            Scheduler::RoundRobin => v1::Scheduler::RoundRobin,
            Scheduler::LeastConnections => v1::Scheduler::LeastConnections,
            Scheduler::SourceHash => v1::Scheduler::SourceHash,
        };
        let ports = service.port.into_iter().map(|port| v1::ServicePort {
            name: port.name,
            protocol: v1::Protocol::from(port.protocol).into(),
            port: port.port,
            node_port: port.node_port,
        });
        v1::Service {
            namespace: service.namespace,
            name: service.name,
            cluster_ip: service.cluster_ip,
            ipv6_cluster_ip: service.ipv6_cluster_ip,
            ports: ports.collect(),
            internal_traffic_policy: v1::TrafficPolicy::from(service.internal_traffic_policy).into(),
            client_ip_affinity,
            scheduler: scheduler.into(),
            r#type: v1::ServiceType::from(service.service_type).into(),
            external_ips: service.external_ips,
            load_balancer_ips: service.load_balancer_ips,
            load_balancer_source_ranges: service.load_balancer_source_ranges,
            external_traffic_policy: v1::TrafficPolicy::from(service.external_traffic_policy).into(),
            health_check_node_port: service.health_check_node_port,
            direct_server_return: service.direct_server_return,
        }
    }
}

impl From<v1::Service> for Service {
    fn from(service: v1::Service) -> Self {
        let scheduler = match service.scheduler() {
            v1::Scheduler::Unspecified | v1::Scheduler::Maglev => Scheduler::Maglev,
            v1::Scheduler::RoundRobin => Scheduler::RoundRobin,
            v1::Scheduler::LeastConnections => Scheduler::LeastConnections,
            v1::Scheduler::SourceHash => Scheduler::SourceHash,
        };
        let session_affinity =
            if service.client_ip_affinity.is_some() { SessionAffinity::ClientIp } else { SessionAffinity::None };
        let affinity_timeout = service.client_ip_affinity.and_then(|affinity| affinity.timeout_seconds);
        let internal_traffic_policy = service.internal_traffic_policy().into();
        let external_traffic_policy = service.external_traffic_policy().into();
        let service_type = service.r#type().into();
        let port = service.ports.into_iter().map(|port| ServicePort {
            protocol: port.protocol().into(),
            name: port.name,
            port: port.port,
            node_port: port.node_port,
        });
        Service {
            namespace: service.namespace,
            name: service.name,
            cluster_ip: service.cluster_ip,
            ipv6_cluster_ip: service.ipv6_cluster_ip,
            internal_traffic_policy,
            session_affinity,
            affinity_timeout,
            scheduler,
            service_type,
            external_ips: service.external_ips,
            load_balancer_ips: service.load_balancer_ips,
            load_balancer_source_ranges: service.load_balancer_source_ranges,
            external_traffic_policy,
            health_check_node_port: service.health_check_node_port,
            direct_server_return: service.direct_server_return,
            port: port.collect(),
        }
    }
}
