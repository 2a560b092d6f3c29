//! Local pods.

use std::net::Ipv4Addr;

use shunt_dataplane::net::MacAddr;

use crate::{FieldError, field, v1};

/// A local pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `namespace/pod`.
    pub name: String,
    /// The node's end of the pod's veth.
    pub interface: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The pod's own MAC address.
    pub mac: MacAddr,
}

impl TryFrom<v1::Port> for Port {
    type Error = FieldError;

    fn try_from(port: v1::Port) -> Result<Self, FieldError> {
        Ok(Port {
            name: field::name("name", &port.name)?,
            interface: field::interface("interface", &port.interface)?,
            address: field::address("address", &port.address)?,
            mac: field::mac("mac", &port.mac)?,
        })
    }
}

impl From<&Port> for v1::Port {
    fn from(port: &Port) -> Self {
        v1::Port {
            name: port.name.clone(),
            interface: port.interface.clone(),
            address: port.address.to_string(),
            mac: port.mac.to_string(),
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
        }
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
    }
}
