//! Cluster files: resources as people write them, in TOML or JSON. What `get` and `list` print as JSON is one, too.

mod service;

pub use service::{Service, ServicePort, ServiceType, TrafficPolicy};

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};
use shunt_control_api::v1;

use crate::{failure::Failure, protocol::Protocol};

/// A cluster file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Remote nodes on the overlay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vtep: Vec<Vtep>,
    /// Local pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<Port>,
    /// Native routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<Route>,
    /// Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service: Vec<Service>,
    /// Who serves them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoint_slice: Vec<EndpointSlice>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vtep {
    pub node: String,
    pub address: String,
    pub mac: String,
    pub pod_cidr: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6_pod_cidr: String,
    #[serde(default, skip_serializing_if = "is_false")]
    pub direct_server_return: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub name: String,
    pub interface: String,
    pub address: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6_address: String,
    pub mac: String,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedPort>,
    /// How much it may send and receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// A direction without a rate has no limit.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Rate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Rate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub bits_per_second: u64,
    pub burst_bits: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    #[serde(default)]
    pub protocol: Protocol,
    pub port: u32,
    pub container_port: u32,
    /// Empty: all of the node's at which node ports are had.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub prefix: String,
    pub via: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSlice {
    pub namespace: String,
    pub service: String,
    pub name: String,
    #[serde(default)]
    pub port: Vec<EndpointPort>,
    #[serde(default)]
    pub endpoint: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointPort {
    #[serde(default)]
    pub name: String,
    pub port: u32,
}

/// How a file is written.
enum Format {
    Toml,
    Json,
}

impl Cluster {
    /// Reads a file: TOML or JSON by its extension; `-` is JSON on standard input.
    pub fn read(path: &Path) -> Result<Cluster, Failure> {
        let refuse = |problem: String| Failure::File { file: path.display().to_string(), problem };
        let (format, text) = if path == Path::new("-") {
            let mut text = String::new();
            (Format::Json, io::stdin().read_to_string(&mut text).map(|_| text))
        } else {
            let format = match path.extension().and_then(|extension| extension.to_str()) {
                Some("toml") => Format::Toml,
                Some("json") => Format::Json,
                _ => return Err(refuse("is neither .toml nor .json; name it by what it is".into())),
            };
            (format, fs::read_to_string(path))
        };
        let text = text.map_err(|e| refuse(format!("cannot be read: {e}")))?;
        Cluster::parse(&format, &text).map_err(refuse)
    }

    /// An error names the key.
    fn parse(format: &Format, text: &str) -> Result<Cluster, String> {
        let one_line = |message: &str| message.replace('\n', "; ");
        match format {
            Format::Json => {
                let mut json = serde_json::Deserializer::from_str(text);
                let cluster =
                    serde_path_to_error::deserialize(&mut json).map_err(|e| at(e.path(), &e.inner().to_string()))?;
                json.end().map_err(|e| e.to_string())?;
                Ok(cluster)
            }
            Format::Toml => {
                let toml = toml::Deserializer::parse(text).map_err(|e| {
                    let line = e.span().map_or(0, |span| text[..span.start].lines().count().max(1));
                    format!("line {line}: {}", one_line(e.message()))
                })?;
                serde_path_to_error::deserialize(toml).map_err(|e| at(e.path(), &one_line(e.inner().message())))
            }
        }
    }
}

/// A message with the path of the key it is about, if it is about one.
fn at(path: &serde_path_to_error::Path, message: &str) -> String {
    if path.iter().next().is_none() { message.to_owned() } else { format!("{path}: {message}") }
}

impl From<Cluster> for v1::ApplyRequest {
    fn from(cluster: Cluster) -> Self {
        v1::ApplyRequest {
            vteps: cluster.vtep.into_iter().map(Into::into).collect(),
            ports: cluster.port.into_iter().map(Into::into).collect(),
            routes: cluster.route.into_iter().map(Into::into).collect(),
            services: cluster.service.into_iter().map(Into::into).collect(),
            endpoint_slices: cluster.endpoint_slice.into_iter().map(Into::into).collect(),
            ..Default::default()
        }
    }
}

impl FromIterator<v1::Resource> for Cluster {
    fn from_iter<I: IntoIterator<Item = v1::Resource>>(resources: I) -> Self {
        use v1::resource::Kind;
        let mut cluster = Cluster::default();
        for resource in resources {
            match resource.kind {
                Some(Kind::Vtep(vtep)) => cluster.vtep.push(vtep.into()),
                Some(Kind::Port(port)) => cluster.port.push(port.into()),
                Some(Kind::Route(route)) => cluster.route.push(route.into()),
                Some(Kind::Service(service)) => cluster.service.push(service.into()),
                Some(Kind::EndpointSlice(slice)) => cluster.endpoint_slice.push(slice.into()),
                // A kind that a newer daemon knows.
                None => {}
            }
        }
        cluster
    }
}

impl From<Vtep> for v1::Vtep {
    fn from(Vtep { node, address, mac, pod_cidr, ipv6_pod_cidr, direct_server_return }: Vtep) -> Self {
        v1::Vtep { node, address, mac, pod_cidr, ipv6_pod_cidr, direct_server_return }
    }
}

impl From<v1::Vtep> for Vtep {
    fn from(v1::Vtep { node, address, mac, pod_cidr, ipv6_pod_cidr, direct_server_return }: v1::Vtep) -> Self {
        Vtep { node, address, mac, pod_cidr, ipv6_pod_cidr, direct_server_return }
    }
}

impl From<Port> for v1::Port {
    fn from(Port { name, interface, address, ipv6_address, mac, published, bandwidth }: Port) -> Self {
        let published = published.into_iter().map(|PublishedPort { protocol, port, container_port, address }| {
            v1::PublishedPort { protocol: v1::Protocol::from(protocol).into(), port, container_port, address }
        });
        let rate = |Rate { bits_per_second, burst_bits }: Rate| v1::Rate { bits_per_second, burst_bits };
        let bandwidth = bandwidth.map(|Bandwidth { ingress, egress }| v1::Bandwidth {
            ingress: ingress.map(rate),
            egress: egress.map(rate),
        });
        v1::Port { name, interface, address, ipv6_address, mac, published: published.collect(), bandwidth }
    }
}

impl From<v1::Port> for Port {
    fn from(v1::Port { name, interface, address, ipv6_address, mac, published, bandwidth }: v1::Port) -> Self {
        let published = published.into_iter().map(|published_port| PublishedPort {
            protocol: published_port.protocol().into(),
            port: published_port.port,
            container_port: published_port.container_port,
            address: published_port.address,
        });
        let rate = |v1::Rate { bits_per_second, burst_bits }: v1::Rate| Rate { bits_per_second, burst_bits };
        let bandwidth = bandwidth.map(|v1::Bandwidth { ingress, egress }| Bandwidth {
            ingress: ingress.map(rate),
            egress: egress.map(rate),
        });
        Port { name, interface, address, ipv6_address, mac, published: published.collect(), bandwidth }
    }
}

impl From<Route> for v1::Route {
    fn from(Route { prefix, via }: Route) -> Self {
        v1::Route { prefix, via }
    }
}

impl From<v1::Route> for Route {
    fn from(v1::Route { prefix, via }: v1::Route) -> Self {
        Route { prefix, via }
    }
}

impl From<EndpointSlice> for v1::EndpointSlice {
    fn from(EndpointSlice { namespace, service, name, port, endpoint }: EndpointSlice) -> Self {
        let ports = port.into_iter().map(|port| v1::EndpointPort { name: port.name, port: port.port });
        let endpoints = endpoint.into_iter().map(|endpoint| v1::Endpoint {
            address: endpoint.address,
            conditions: Some(v1::EndpointConditions {
                ready: endpoint.ready,
                serving: endpoint.serving,
                terminating: endpoint.terminating,
            }),
            node: endpoint.node,
            zone: endpoint.zone,
            hints: Some(v1::EndpointHints { for_nodes: endpoint.for_nodes, for_zones: endpoint.for_zones }),
            weight: endpoint.weight,
        });
        v1::EndpointSlice { namespace, service, name, ports: ports.collect(), endpoints: endpoints.collect() }
    }
}

impl From<v1::EndpointSlice> for EndpointSlice {
    fn from(slice: v1::EndpointSlice) -> Self {
        let port = slice.ports.into_iter().map(|port| EndpointPort { name: port.name, port: port.port });
        let endpoint = slice.endpoints.into_iter().map(|endpoint| {
            let (conditions, hints) = (endpoint.conditions.unwrap_or_default(), endpoint.hints.unwrap_or_default());
            Endpoint {
                address: endpoint.address,
                ready: conditions.ready,
                serving: conditions.serving,
                terminating: conditions.terminating,
                node: endpoint.node,
                zone: endpoint.zone,
                for_nodes: hints.for_nodes,
                for_zones: hints.for_zones,
                weight: endpoint.weight,
            }
        });
        EndpointSlice {
            namespace: slice.namespace,
            service: slice.service,
            name: slice.name,
            port: port.collect(),
            endpoint: endpoint.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[vtep]]
        node = "node-b"
        address = "192.168.50.2"
        mac = "0a:58:00:00:00:02"
        pod_cidr = "10.244.2.0/24"
        ipv6_pod_cidr = "fd00:10:244:2::/64"
        [[port]]
        name = "default/pod-a1"
        interface = "va1"
        address = "10.244.1.10"
        ipv6_address = "fd00:10:244:1::10"
        mac = "0a:58:0a:f4:01:0a"
        bandwidth.egress = { bits_per_second = 10_000_000, burst_bits = 1_000_000 }
        [[port.published]]
        port = 8080
        container_port = 80
        [[port.published]]
        protocol = "sctp"
        port = 8080
        container_port = 81
        address = "192.168.50.1"
        [[route]]
        prefix = "10.245.0.0/24"
        via = "192.168.50.7"
        [[service]]
        namespace = "default"
        name = "web"
        cluster_ip = "10.96.0.10"
        ipv6_cluster_ip = "fd00:10:96::10"
        internal_traffic_policy = "Local"
        session_affinity = "ClientIP"
        affinity_timeout = 600
        scheduler = "least-connections"
        type = "LoadBalancer"
        external_ips = ["198.51.100.7"]
        load_balancer_ips = ["203.0.113.10"]
        load_balancer_source_ranges = ["192.0.2.0/24"]
        external_traffic_policy = "Local"
        health_check_node_port = 32000
        [[service.port]]
        name = "http"
        port = 80
        node_port = 30080
        [[service.port]]
        name = "dns"
        protocol = "udp"
        port = 53
        [[endpoint_slice]]
        namespace = "default"
        service = "web"
        name = "web-x7k2p"
        [[endpoint_slice.port]]
        name = "http"
        port = 8080
        [[endpoint_slice.endpoint]]
        address = "10.244.1.10"
        ready = false
        zone = "z1"
        for_zones = ["z1", "z2"]
        weight = 5
    "#;

    fn toml(text: &str) -> Result<Cluster, String> {
        Cluster::parse(&Format::Toml, text)
    }

    #[test]
    fn a_file_becomes_a_request_and_its_resources_the_same_file() {
        let request = v1::ApplyRequest::from(toml(FILE).unwrap());
        assert_eq!((request.vteps.len(), request.ports.len(), request.routes.len()), (1, 1, 1));
        let published_port = &request.ports[0].published[1];
        assert_eq!((published_port.protocol(), published_port.container_port), (v1::Protocol::Sctp, 81));
        let service = &request.services[0];
        assert_eq!([service.ports[0].protocol(), service.ports[1].protocol()], [v1::Protocol::Tcp, v1::Protocol::Udp]);
        assert_eq!(service.internal_traffic_policy(), v1::TrafficPolicy::Local);
        assert_eq!(service.client_ip_affinity, Some(v1::ClientIpAffinity { timeout_seconds: Some(600) }));
        assert_eq!(service.scheduler(), v1::Scheduler::LeastConnections);
        assert_eq!(service.r#type(), v1::ServiceType::LoadBalancer);
        assert_eq!(service.external_traffic_policy(), v1::TrafficPolicy::Local);
        let addresses = [&service.external_ips, &service.load_balancer_ips, &service.load_balancer_source_ranges];
        assert_eq!(addresses.map(|list| list[0].as_str()), ["198.51.100.7", "203.0.113.10", "192.0.2.0/24"]);
        assert_eq!((service.health_check_node_port, service.ports[0].node_port), (32_000, 30_080));
        let slice = &request.endpoint_slices[0];
        assert_eq!(slice.endpoints[0].conditions.unwrap().ready, Some(false));
        assert_eq!(slice.endpoints[0].weight, Some(5));
        assert_eq!(slice.endpoints[0].hints.as_ref().unwrap().for_zones, ["z1", "z2"]);

        use v1::resource::Kind;
        let kinds = [
            Kind::Vtep(request.vteps[0].clone()),
            Kind::Port(request.ports[0].clone()),
            Kind::Route(request.routes[0].clone()),
            Kind::Service(service.clone()),
            Kind::EndpointSlice(slice.clone()),
        ];
        let back: Cluster = kinds.into_iter().map(|kind| v1::Resource { kind: Some(kind) }).collect();
        assert_eq!(back, toml(FILE).unwrap());
        let json = serde_json::to_string(&back).unwrap();
        assert_eq!(Cluster::parse(&Format::Json, &json).unwrap(), back);
    }

    #[test]
    fn the_shipped_dual_stack_file_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/models/dual-stack-cluster.toml");
        let request = v1::ApplyRequest::from(Cluster::read(&path).unwrap());
        assert_eq!(request.ports[0].ipv6_address, "fd00:10:244:1::10");
        assert_eq!(request.vteps[0].ipv6_pod_cidr, "fd00:10:244:2::/64");
        assert_eq!(request.services[0].ipv6_cluster_ip, "fd00:10:96::10");
        for slice in request.endpoint_slices {
            shunt_control_api::EndpointSlice::try_from(slice).unwrap();
        }
    }

    #[test]
    fn wrong_keys_are_named_by_their_path() {
        let unknown = toml(&FILE.replace("protocol = \"udp\"", "proto = \"udp\"")).unwrap_err();
        assert!(unknown.starts_with("service[0].port[1]") && unknown.contains("`proto`"), "{unknown}");
        let missing = toml(&FILE.replace("via = \"192.168.50.7\"", "")).unwrap_err();
        assert!(missing.starts_with("route[0]: ") && missing.contains("`via`"), "{missing}");
        let mistyped = toml(&FILE.replace("port = 8080", "port = \"http\"")).unwrap_err();
        assert!(mistyped.starts_with("endpoint_slice[0].port[0].port: "), "{mistyped}");
        let protocol = toml(&FILE.replace("\"udp\"", "\"dccp\"")).unwrap_err();
        assert!(protocol.starts_with("service[0].port[1].protocol: ") && protocol.contains("`dccp`"), "{protocol}");
        let policy = toml(&FILE.replace("internal_traffic_policy = \"Local\"", "internal_traffic_policy = \"local\""))
            .unwrap_err();
        assert!(policy.starts_with("service[0].internal_traffic_policy: ") && policy.contains("`Local`"), "{policy}");
        assert!(toml("[[vtep]").unwrap_err().starts_with("line 1: "));

        let json = |text: &str| Cluster::parse(&Format::Json, text).unwrap_err();
        let unknown = json(r#"{"route": [{"prefix": "10.245.0.0/24", "gateway": "192.168.50.7"}]}"#);
        assert!(unknown.starts_with("route[0]") && unknown.contains("`gateway`"), "{unknown}");
        assert!(json("{} {}").contains("trailing"));
    }

    #[test]
    fn files_are_told_apart_by_their_extension() {
        let message = Cluster::read(Path::new("cluster.yaml")).unwrap_err().to_string();
        assert!(message.starts_with("cluster.yaml: is neither .toml nor .json"), "{message}");
        let message = Cluster::read(Path::new("/nonexistent/cluster.toml")).unwrap_err().to_string();
        assert!(message.starts_with("/nonexistent/cluster.toml: cannot be read"), "{message}");
    }
}
