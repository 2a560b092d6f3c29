//! Remote nodes on the overlay.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use shunt_dataplane::net::MacAddr;

use crate::{FieldError, field, v1};

/// A remote node on the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vtep {
    /// The node's name.
    pub node: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Its address in inner frames.
    pub mac: MacAddr,
    /// The pods behind it.
    pub pod_cidr: Ipv4Net,
    /// The same of IPv6, if they have it.
    pub ipv6_pod_cidr: Option<Ipv6Net>,
    /// It answers clients outside directly, where a service asks for that.
    pub direct_server_return: bool,
}

impl TryFrom<v1::Vtep> for Vtep {
    type Error = FieldError;

    fn try_from(vtep: v1::Vtep) -> Result<Self, FieldError> {
        Ok(Vtep {
            node: field::name("node", &vtep.node)?,
            address: field::address("address", &vtep.address)?,
            mac: field::mac("mac", &vtep.mac)?,
            pod_cidr: field::prefix("pod_cidr", &vtep.pod_cidr)?,
            ipv6_pod_cidr: field::given(&vtep.ipv6_pod_cidr, |text| field::ipv6_prefix("ipv6_pod_cidr", text))?,
            direct_server_return: vtep.direct_server_return,
        })
    }
}

impl From<&Vtep> for v1::Vtep {
    fn from(vtep: &Vtep) -> Self {
        v1::Vtep {
            node: vtep.node.clone(),
            address: vtep.address.to_string(),
            mac: vtep.mac.to_string(),
            pod_cidr: vtep.pod_cidr.to_string(),
            direct_server_return: vtep.direct_server_return,
            ipv6_pod_cidr: field::text(vtep.ipv6_pod_cidr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_b() -> v1::Vtep {
        v1::Vtep {
            node: "node-b".into(),
            address: "192.168.50.2".into(),
            mac: "0a:58:00:00:00:02".into(),
            pod_cidr: "10.244.2.0/24".into(),
            direct_server_return: true,
            ipv6_pod_cidr: "fd00:10:244:2::/64".into(),
        }
    }

    #[test]
    fn a_vtep_survives_the_journey() {
        assert_eq!(v1::Vtep::from(&Vtep::try_from(node_b()).unwrap()), node_b());
    }

    #[test]
    fn each_field_is_checked() {
        let path = |vtep: v1::Vtep| Vtep::try_from(vtep).unwrap_err().path().to_owned();
        assert_eq!(path(v1::Vtep { node: String::new(), ..node_b() }), "node");
        assert_eq!(path(v1::Vtep { address: "node-b".into(), ..node_b() }), "address");
        assert_eq!(path(v1::Vtep { mac: "00:00:00:00:00:00".into(), ..node_b() }), "mac");
        assert_eq!(path(v1::Vtep { pod_cidr: "10.244.2.7/24".into(), ..node_b() }), "pod_cidr");
        let bits = v1::Vtep { ipv6_pod_cidr: "fd00:10:244:2::7/64".into(), ..node_b() };
        assert_eq!(path(bits), "ipv6_pod_cidr");
    }
}
