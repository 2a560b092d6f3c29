//! The result of ADD, in the shape of each version.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::{
    error::{CniError, Code, Result},
    version::Version,
};

/// An interface that ADD made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    /// CNI_NETNS; `None` on the node.
    pub sandbox: Option<String>,
}

/// What ADD did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The node's end of the pod's veth.
    pub node_end: Interface,
    /// The pod's.
    pub pod_end: Interface,
    /// The pod's address.
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub dns: Value,
}

impl Outcome {
    /// As `version` has it, behind what the plugins before had done (`previous`).
    pub fn to_json(&self, version: Version, previous: Option<&Value>) -> Value {
        let mut result = previous.cloned().unwrap_or_else(|| json!({}));
        result["cniVersion"] = version.name().into();
        let before = result["interfaces"].as_array().map_or(0, Vec::len);
        let interfaces = [&self.node_end, &self.pod_end].map(|interface| interface.to_json(version));
        append(&mut result, "interfaces", interfaces);
        let mut ip = json!({
            "address": format!("{}/32", self.address),
            "gateway": self.gateway.to_string(),
            "interface": before + 1,
        });
        if version < Version::V1_0_0 {
            ip["version"] = "4".into();
        }
        append(&mut result, "ips", [ip]);
        let route = |dst: &str, gateway: Option<Ipv4Addr>| match gateway {
            Some(gateway) => json!({ "dst": dst, "gw": gateway.to_string() }),
            None => json!({ "dst": dst }),
        };
        append(&mut result, "routes", [route("0.0.0.0/0", Some(self.gateway))]);
        if !self.dns.is_null() {
            result["dns"] = self.dns.clone();
        }
        result
    }
}

impl Interface {
    fn to_json(&self, version: Version) -> Value {
        let mut json = json!({ "name": self.name, "mac": self.mac });
        if let Some(sandbox) = &self.sandbox {
            json["sandbox"] = sandbox.as_str().into();
        }
        if version >= Version::V1_1_0 {
            json["mtu"] = self.mtu.into();
        }
        json
    }
}

fn append<const N: usize>(result: &mut Value, list: &str, items: [Value; N]) {
    match result[list].as_array_mut() {
        Some(array) => array.extend(items),
        None => result[list] = Value::Array(items.into()),
    }
}

/// What a result says of the container's interface `name`: its MAC address and its IPv4 addresses.
///
/// # Errors
/// If it says nothing of it.
pub fn attached(result: &Value, name: &str, sandbox: &str) -> Result<(String, Vec<Ipv4Addr>)> {
    let missing =
        |what: &str| CniError::new(Code::InvalidConfig, format!("prevResult: {what}"), "CHECK needs ADD's result");
    let interfaces = result["interfaces"].as_array().ok_or_else(|| missing("has no interfaces"))?;
    let is_it = |interface: &Value| interface["name"] == name && interface["sandbox"] == sandbox;
    let at = interfaces.iter().position(is_it).ok_or_else(|| missing(&format!("has no interface {name}")))?;
    let of_it = |ip: &&Value| ip["interface"].as_u64() == Some(at as u64);
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let addresses = ips.iter().filter(of_it).filter_map(address).collect();
    Ok((interfaces[at]["mac"].as_str().unwrap_or_default().to_owned(), addresses))
}

/// The IPv4 address of an entry of `ips`.
pub fn address(ip: &Value) -> Option<Ipv4Addr> {
    ip["address"].as_str()?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let interface = |name: &str, sandbox: Option<&str>| Interface {
            name: name.into(),
            mac: "0a:58:0a:f4:01:0a".into(),
            mtu: 1450,
            sandbox: sandbox.map(Into::into),
        };
        Outcome {
            node_end: interface("shunt1", None),
            pod_end: interface("eth0", Some("/run/netns/a")),
            address: [10, 244, 1, 10].into(),
            gateway: [169, 254, 1, 1].into(),
            dns: Value::Null,
        }
    }

    #[test]
    fn each_version_has_its_shape() {
        for version in Version::ALL {
            let result = outcome().to_json(version, None);
            assert_eq!(result["cniVersion"], version.name());
            assert_eq!(result["ips"][0]["version"].is_null(), version >= Version::V1_0_0);
            assert_eq!(result["interfaces"][1]["mtu"].is_null(), version < Version::V1_1_0);
            assert_eq!(result["ips"][0]["interface"], 1);
            assert_eq!(result["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }));
            let (mac, addresses) = attached(&result, "eth0", "/run/netns/a").unwrap();
            assert_eq!((mac.as_str(), addresses), ("0a:58:0a:f4:01:0a", vec![[10, 244, 1, 10].into()]));
        }
    }

    #[test]
    fn a_previous_result_is_kept() {
        let previous = json!({ "interfaces": [{ "name": "other" }], "ips": [], "dns": { "domain": "x" } });
        let result = outcome().to_json(Version::V1_0_0, Some(&previous));
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!((&result["ips"][0]["interface"], &result["dns"]["domain"]), (&json!(2), &json!("x")));
        assert!(attached(&previous, "eth0", "/run/netns/a").is_err());
    }
}
