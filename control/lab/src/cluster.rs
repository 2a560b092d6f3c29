//! What nodes are told about the cluster: the file that `shuntctl apply` reads.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Serialize, Serializer};
use shunt_dataplane::net::{MacAddr, Protocol};

/// The whole file.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Remote nodes on the overlay.
    pub vteps: Vec<Vtep>,
    /// Local pods.
    pub ports: Vec<Port>,
    /// Native routes beside the overlay.
    pub routes: Vec<Route>,
    /// Services.
    pub services: Vec<Service>,
}

/// A remote node on the overlay.
#[derive(Clone, Debug, Serialize)]
pub struct Vtep {
    /// The node's name.
    pub node: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Its VTEP's MAC address.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
    /// Its pods' addresses.
    #[serde(serialize_with = "as_text")]
    pub pod_cidr: Ipv4Net,
    /// It answers clients outside directly.
    pub direct_server_return: bool,
}

/// A local pod.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    /// Namespace and name of the pod.
    pub name: String,
    /// The node's end of its veth.
    pub interface: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The MAC address of the pod's end.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
}

/// A native route.
#[derive(Clone, Debug, Serialize)]
pub struct Route {
    /// Destination.
    #[serde(serialize_with = "as_text")]
    pub prefix: Ipv4Net,
    /// Next hop on the underlay.
    pub via: Ipv4Addr,
}

/// A Kubernetes Service, and the one EndpointSlice that says who serves it.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
    /// `spec.clusterIP`.
    pub cluster_ip: Ipv4Addr,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: Policy,
    /// `spec.sessionAffinity`, if it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<&'static str>,
    /// How endpoints are chosen, if not as by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<&'static str>,
    /// Where it is had beside the ClusterIP.
    #[serde(flatten)]
    pub exposure: Option<Exposure>,
    /// `spec.ports`.
    #[serde(rename = "port")]
    pub ports: Vec<ServicePort>,
    /// Ports of all endpoints.
    #[serde(skip)]
    pub targets: Vec<EndpointPort>,
    /// Who serves it.
    #[serde(skip)]
    pub endpoints: Vec<Endpoint>,
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Policy {
    /// Endpoints anywhere.
    Cluster,
    /// Those on the node.
    Local,
}

/// What a service of type NodePort or LoadBalancer, or with external IPs, has more.
#[derive(Clone, Debug, Serialize)]
pub struct Exposure {
    /// `spec.type`.
    #[serde(rename = "type")]
    pub service_type: &'static str,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: Policy,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// `spec.loadBalancerSourceRanges`.
    pub load_balancer_source_ranges: Vec<String>,
    /// `spec.healthCheckNodePort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    /// The endpoint's node answers clients outside.
    pub direct_server_return: bool,
}

impl Exposure {
    /// As of a load balancer's service that has no address yet.
    pub fn balanced(external_traffic_policy: Policy) -> Exposure {
        Exposure {
            service_type: "LoadBalancer",
            external_traffic_policy,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            load_balancer_source_ranges: Vec::new(),
            health_check_node_port: None,
            direct_server_return: false,
        }
    }
}

/// One of a service's ports.
#[derive(Clone, Debug, Serialize)]
pub struct ServicePort {
    /// Name; an endpoint's port has the same.
    pub name: String,
    /// Transport protocol.
    #[serde(serialize_with = "as_text")]
    pub protocol: Protocol,
    /// The port clients use.
    pub port: u16,
    /// The port of the nodes' own addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: String,
    /// The port the endpoints listen on.
    pub port: u16,
}

/// One that serves.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Condition; unset: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Condition; unset: as `ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Condition; unset: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
    /// Its node's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Hints: nodes that it is meant for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<String>,
}

impl Endpoint {
    /// A ready one on the lab's node that has the address, be it a pod's or the node's on the underlay.
    pub fn ready(address: Ipv4Addr) -> Endpoint {
        let [first, _, network, host] = address.octets();
        let number = if first == 10 { network } else { host };
        let node = format!("node-{}", char::from(b'a' + number.saturating_sub(1)));
        Endpoint { address, ready: None, serving: None, terminating: None, node, for_nodes: Vec::new() }
    }

    /// One that still serves and is on its way out.
    pub fn terminating(address: Ipv4Addr) -> Endpoint {
        let (ready, serving, terminating) = (Some(false), Some(true), Some(true));
        Endpoint { ready, serving, terminating, ..Endpoint::ready(address) }
    }
}

impl Service {
    /// A service of one port, `port` at the service and `target` at each of `backends`.
    pub fn simple(
        name: &str,
        cluster_ip: Ipv4Addr,
        protocol: Protocol,
        port: u16,
        target: u16,
        backends: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Service {
        Service {
            namespace: "default".into(),
            name: name.into(),
            cluster_ip,
            internal_traffic_policy: Policy::Cluster,
            session_affinity: None,
            scheduler: None,
            exposure: None,
            ports: vec![ServicePort { name: "main".into(), protocol, port, node_port: None }],
            targets: vec![EndpointPort { name: "main".into(), port: target }],
            endpoints: backends.into_iter().map(Endpoint::ready).collect(),
        }
    }
}

/// What becomes of a new flow to a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It goes to one of these.
    Endpoints(Vec<(Ipv4Addr, u16)>),
    /// It vanishes.
    Drop,
    /// The client is told.
    Refuse,
}

/// The file as it is written: services and their slices are tables of their own.
#[derive(Serialize)]
struct File<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    vtep: &'a [Vtep],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    port: &'a [Port],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    route: &'a [Route],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    service: &'a [Service],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoint_slice: Vec<EndpointSlice<'a>>,
}

#[derive(Serialize)]
struct EndpointSlice<'a> {
    namespace: &'a str,
    service: &'a str,
    name: &'a str,
    port: &'a [EndpointPort],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    endpoint: &'a [Endpoint],
}

impl EndpointSlice<'_> {
    fn of(service: &Service) -> EndpointSlice<'_> {
        let Service { namespace, name, targets, endpoints, .. } = service;
        EndpointSlice { namespace, service: name, name: "all", port: targets, endpoint: endpoints }
    }
}

impl Serialize for Cluster {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let file = File {
            vtep: &self.vteps,
            port: &self.ports,
            route: &self.routes,
            service: &self.services,
            endpoint_slice: self.services.iter().map(EndpointSlice::of).collect(),
        };
        file.serialize(serializer)
    }
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_shape_shuntctl_reads() {
        let cluster = Cluster {
            vteps: vec![Vtep {
                node: "node-b".into(),
                address: Ipv4Addr::new(192, 168, 50, 2),
                mac: MacAddr([0x0a, 0x58, 0, 0, 0, 2]),
                pod_cidr: "10.244.2.0/24".parse().unwrap(),
                direct_server_return: true,
            }],
            services: vec![Service::simple(
                "web",
                Ipv4Addr::new(10, 96, 0, 10),
                Protocol::Tcp,
                80,
                8080,
                [Ipv4Addr::new(10, 244, 1, 10)],
            )],
            ..Cluster::default()
        };
        let expected = r#"[[vtep]]
node = "node-b"
address = "192.168.50.2"
mac = "0a:58:00:00:00:02"
pod_cidr = "10.244.2.0/24"
direct_server_return = true

[[service]]
namespace = "default"
name = "web"
cluster_ip = "10.96.0.10"
internal_traffic_policy = "Cluster"

[[service.port]]
name = "main"
protocol = "tcp"
port = 80

[[endpoint_slice]]
namespace = "default"
service = "web"
name = "all"

[[endpoint_slice.port]]
name = "main"
port = 8080

[[endpoint_slice.endpoint]]
address = "10.244.1.10"
node = "node-a"
"#;
        assert_eq!(toml::to_string(&cluster).unwrap(), expected);
    }
}
