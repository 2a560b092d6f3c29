//! Local pods.

use std::net::{Ipv4Addr, Ipv6Addr};

use shunt_dataplane::{net::MacAddr, spec::Bandwidth};

use crate::{FieldError, PublishedPort, field, v1};

/// A local pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `namespace/pod`.
    pub name: String,
    /// The node's end of the pod's veth.
    pub interface: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
    /// The pod's own MAC address.
    pub mac: MacAddr,
    /// Ports of the node that lead to it.
    pub published: Vec<PublishedPort>,
    /// How much it may send and receive.
    pub bandwidth: Bandwidth,
}

impl TryFrom<v1::Port> for Port {
    type Error = FieldError;

    fn try_from(port: v1::Port) -> Result<Self, FieldError> {
        Ok(Port {
            name: field::name("name", &port.name)?,
            interface: field::interface("interface", &port.interface)?,
            address: field::address("address", &port.address)?,
            ipv6: field::given(&port.ipv6_address, |text| field::ipv6_address("ipv6_address", text))?,
            mac: field::mac("mac", &port.mac)?,
            published: published(port.published)?,
            bandwidth: port.bandwidth.unwrap_or_default().try_into().map_err(|e: FieldError| e.within("bandwidth"))?,
        })
    }
}

/// No two of them are had at one place.
fn published(list: Vec<v1::PublishedPort>) -> Result<Vec<PublishedPort>, FieldError> {
    let published = field::each("published", list, PublishedPort::try_from)?;
    for (i, published_port) in published.iter().enumerate() {
        if let Some(other) = published[..i].iter().position(|other| other.meets(published_port)) {
            let problem =
                format!("{}/{} is published[{other}]'s; give each once", published_port.port, published_port.protocol);
            return Err(FieldError::new(format!("published[{i}].port"), problem));
        }
    }
    Ok(published)
}

impl From<&Port> for v1::Port {
    fn from(port: &Port) -> Self {
        v1::Port {
            name: port.name.clone(),
            interface: port.interface.clone(),
            address: port.address.to_string(),
            mac: port.mac.to_string(),
            published: port.published.iter().map(Into::into).collect(),
            bandwidth: (port.bandwidth != Bandwidth::default()).then(|| (&port.bandwidth).into()),
            ipv6_address: field::text(port.ipv6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_a1() -> v1::Port {
        v1::Port {
            name: "default/pod-a1".into(),
            interface: "va1".into(),
            address: "10.244.1.10".into(),
            mac: "0a:58:0a:f4:01:0a".into(),
            published: vec![published_port(8080, ""), published_port(8080, "192.168.50.2")]
                .into_iter()
                .zip([v1::Protocol::Tcp, v1::Protocol::Udp])
                .map(|(published_port, protocol)| v1::PublishedPort { protocol: protocol.into(), ..published_port })
                .collect(),
            bandwidth: Some(v1::Bandwidth {
                ingress: Some(v1::Rate { bits_per_second: 10_000_000, burst_bits: 1_000_000 }),
                egress: None,
            }),
            ipv6_address: "fd00:10:244:1::10".into(),
        }
    }

    fn published_port(port: u32, address: &str) -> v1::PublishedPort {
        v1::PublishedPort { protocol: v1::Protocol::Tcp.into(), port, container_port: 80, address: address.into() }
    }

    #[test]
    fn a_port_survives_the_journey() {
        assert_eq!(v1::Port::from(&Port::try_from(pod_a1()).unwrap()), pod_a1());
    }

    #[test]
    fn each_field_is_checked() {
        let path = |port: v1::Port| Port::try_from(port).unwrap_err().path().to_owned();
        assert_eq!(path(v1::Port { name: String::new(), ..pod_a1() }), "name");
        for interface in ["", "a/b", "..", "a name", "sixteen-bytes-xx"] {
            assert_eq!(path(v1::Port { interface: interface.into(), ..pod_a1() }), "interface", "{interface}");
        }
        assert_eq!(path(v1::Port { address: "224.0.0.5".into(), ..pod_a1() }), "address");
        assert_eq!(path(v1::Port { mac: String::new(), ..pod_a1() }), "mac");
        assert_eq!(path(v1::Port { ipv6_address: "fe80::1".into(), ..pod_a1() }), "ipv6_address");
        let limited = |bits_per_second, burst_bits| {
            let bandwidth = v1::Bandwidth { egress: Some(v1::Rate { bits_per_second, burst_bits }), ingress: None };
            v1::Port { bandwidth: Some(bandwidth), ..pod_a1() }
        };
        assert_eq!(path(limited(0, 1)), "bandwidth.egress.bits_per_second");
        assert_eq!(path(limited(1, 0)), "bandwidth.egress.burst_bits");
        let with = |published: &[v1::PublishedPort]| v1::Port { published: published.into(), ..pod_a1() };
        assert_eq!(path(with(&[v1::PublishedPort { protocol: 0, ..published_port(80, "") }])), "published[0].protocol");
        assert_eq!(path(with(&[published_port(0, "")])), "published[0].port");
        assert_eq!(
            path(with(&[v1::PublishedPort { container_port: 65536, ..published_port(80, "") }])),
            "published[0].container_port"
        );
        assert_eq!(path(with(&[published_port(80, "127.0.0.1")])), "published[0].address");
        let (one, other) = (published_port(80, "192.168.50.1"), published_port(80, "192.168.50.2"));
        assert!(Port::try_from(with(&[one.clone(), other])).is_ok());
        assert_eq!(path(with(&[one.clone(), one.clone()])), "published[1].port");
        assert_eq!(path(with(&[published_port(80, ""), one])), "published[1].port");
    }
}
