//! What nodes are told about the cluster: the file that `shuntctl apply` reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};
use shunt_dataplane::net::{MacAddr, Protocol};

use crate::family::Family;

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
    /// Their IPv6 addresses, if they have any.
    #[serde(serialize_with = "as_text_if_any", skip_serializing_if = "Option::is_none")]
    pub ipv6_pod_cidr: Option<Ipv6Net>,
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
    /// Its IPv6 address, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<Ipv6Addr>,
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

/// A Kubernetes Service, and the EndpointSlice of each family that says who serves it.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
    /// The IPv4 one of `spec.clusterIPs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<Ipv4Addr>,
    /// The IPv6 one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_cluster_ip: Option<Ipv6Addr>,
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
    /// Who serves it over IPv4.
    #[serde(skip)]
    pub endpoints: Vec<Endpoint>,
    /// Who serves it over IPv6.
    #[serde(skip)]
    pub ipv6_endpoints: Vec<Endpoint<Ipv6Addr>>,
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
pub struct Endpoint<A = Ipv4Addr> {
    /// Its address.
    pub address: A,
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

impl<A: Family> Endpoint<A> {
    /// A ready one on the lab's node that has the address, be it a pod's or the node's on the underlay.
    pub fn ready(address: A) -> Endpoint<A> {
        let node = format!("node-{}", char::from(b'a' + address.node().saturating_sub(1)));
        Endpoint { address, ready: None, serving: None, terminating: None, node, for_nodes: Vec::new() }
    }

    /// One that still serves and is on its way out.
    pub fn terminating(address: A) -> Endpoint<A> {
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
            cluster_ip: Some(cluster_ip),
            ipv6_cluster_ip: None,
            internal_traffic_policy: Policy::Cluster,
            session_affinity: None,
            scheduler: None,
            exposure: None,
            ports: vec![ServicePort { name: "main".into(), protocol, port, node_port: None }],
            targets: vec![EndpointPort { name: "main".into(), port: target }],
            endpoints: backends.into_iter().map(Endpoint::ready).collect(),
            ipv6_endpoints: Vec::new(),
        }
    }

    /// The same service, had at an IPv6 ClusterIP as well and served there by `backends`.
    #[must_use]
    pub fn over_ipv6(self, cluster_ip: Ipv6Addr, backends: impl IntoIterator<Item = Ipv6Addr>) -> Service {
        let ipv6_endpoints = backends.into_iter().map(Endpoint::ready).collect();
        Service { ipv6_cluster_ip: Some(cluster_ip), ipv6_endpoints, ..self }
    }
}

/// What becomes of a new flow to a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<A = Ipv4Addr> {
    /// It goes to one of these.
    Endpoints(Vec<(A, u16)>),
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoint: Vec<Endpoint<IpAddr>>,
}

impl EndpointSlice<'_> {
    /// The IPv4 one, and the IPv6 one of a service that has anything to do with IPv6.
    fn of(service: &Service) -> impl Iterator<Item = EndpointSlice<'_>> {
        let is_dual = service.ipv6_cluster_ip.is_some() || !service.ipv6_endpoints.is_empty();
        let ipv6 = is_dual.then(|| slice(service, "ipv6", &service.ipv6_endpoints));
        [slice(service, "all", &service.endpoints)].into_iter().chain(ipv6)
    }
}

fn slice<'a, A: Copy + Into<IpAddr>>(
    service: &'a Service,
    name: &'static str,
    endpoints: &[Endpoint<A>],
) -> EndpointSlice<'a> {
    let endpoint =
        endpoints.iter().cloned().map(|Endpoint { address, ready, serving, terminating, node, for_nodes }| Endpoint {
            address: address.into(),
            ready,
            serving,
            terminating,
            node,
            for_nodes,
        });
    EndpointSlice {
        namespace: &service.namespace,
        service: &service.name,
        name,
        port: &service.targets,
        endpoint: endpoint.collect(),
    }
}

impl Serialize for Cluster {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let file = File {
            vtep: &self.vteps,
            port: &self.ports,
            route: &self.routes,
            service: &self.services,
            endpoint_slice: self.services.iter().flat_map(EndpointSlice::of).collect(),
        };
        file.serialize(serializer)
    }
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn as_text_if_any<T: ToString, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
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
                ipv6_pod_cidr: Some("fd00:10:244:2::/64".parse().unwrap()),
                direct_server_return: true,
            }],
            services: vec![
                Service::simple(
                    "web",
                    Ipv4Addr::new(10, 96, 0, 10),
                    Protocol::Tcp,
                    80,
                    8080,
                    [Ipv4Addr::new(10, 244, 1, 10)],
                )
                .over_ipv6("fd00:10:96::10".parse().unwrap(), ["fd00:10:244:1::10".parse().unwrap()]),
            ],
            ..Cluster::default()
        };
        let expected = r#"[[vtep]]
node = "node-b"
address = "192.168.50.2"
mac = "0a:58:00:00:00:02"
pod_cidr = "10.244.2.0/24"
ipv6_pod_cidr = "fd00:10:244:2::/64"
direct_server_return = true

[[service]]
namespace = "default"
name = "web"
cluster_ip = "10.96.0.10"
ipv6_cluster_ip = "fd00:10:96::10"
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

[[endpoint_slice]]
namespace = "default"
service = "web"
name = "ipv6"

[[endpoint_slice.port]]
name = "main"
port = 8080

[[endpoint_slice.endpoint]]
address = "fd00:10:244:1::10"
node = "node-a"
"#;
        assert_eq!(toml::to_string(&cluster).unwrap(), expected);
    }
}
