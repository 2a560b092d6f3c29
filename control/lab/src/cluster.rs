//! What nodes are told about the cluster: the file that `shuntctl apply` reads.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Serialize, Serializer};
use shunt_dataplane::net::{MacAddr, Protocol};

/// The whole file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cluster {
    /// Remote nodes on the overlay.
    #[serde(rename = "vtep", skip_serializing_if = "Vec::is_empty")]
    pub vteps: Vec<Vtep>,
    /// Local pods.
    #[serde(rename = "port", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Native routes beside the overlay.
    #[serde(rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Services.
    #[serde(rename = "service", skip_serializing_if = "Vec::is_empty")]
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

/// A Kubernetes Service with its endpoints.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
    /// `spec.clusterIP`.
    pub cluster_ip: Ipv4Addr,
    /// `spec.sessionAffinity`, if it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<&'static str>,
    /// How endpoints are chosen, if not as by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<&'static str>,
    /// `spec.ports`.
    #[serde(rename = "port")]
    pub ports: Vec<ServicePort>,
    /// Who serves it.
    #[serde(rename = "endpoint", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
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
}

/// One that serves.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its ports.
    #[serde(rename = "port")]
    pub ports: Vec<EndpointPort>,
}

/// A port of an endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: String,
    /// The port the endpoint listens on.
    pub port: u16,
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
        let endpoint = |address| Endpoint { address, ports: vec![EndpointPort { name: "main".into(), port: target }] };
        Service {
            namespace: "default".into(),
            name: name.into(),
            cluster_ip,
            session_affinity: None,
            scheduler: None,
            ports: vec![ServicePort { name: "main".into(), protocol, port }],
            endpoints: backends.into_iter().map(endpoint).collect(),
        }
    }

    /// The addresses and ports that serve the service port `name`.
    pub fn backends(&self, name: &str) -> Vec<(Ipv4Addr, u16)> {
        let of = |endpoint: &Endpoint| {
            let port = endpoint.ports.iter().find(|port| port.name == name)?;
            Some((endpoint.address, port.port))
        };
        self.endpoints.iter().filter_map(of).collect()
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

[[service]]
namespace = "default"
name = "web"
cluster_ip = "10.96.0.10"

[[service.port]]
name = "main"
protocol = "tcp"
port = 80

[[service.endpoint]]
address = "10.244.1.10"

[[service.endpoint.port]]
name = "main"
port = 8080
"#;
        assert_eq!(toml::to_string(&cluster).unwrap(), expected);
    }
}
