//! The result of ADD, in the shape of each version.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{
    addresses::Addresses,
    error::{CniError, Code, Result},
    link::gateway,
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
    pub addresses: Addresses,
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
        for address in self.addresses.iter() {
            let (length, family, everywhere) =
                if address.is_ipv6() { (128, "6", "::/0") } else { (32, "4", "0.0.0.0/0") };
            let gateway = gateway(address).to_string();
            let mut ip =
                json!({ "address": format!("{address}/{length}"), "gateway": gateway, "interface": before + 1 });
            if version < Version::V1_0_0 {
                ip["version"] = family.into();
            }
            append(&mut result, "ips", [ip]);
            append(&mut result, "routes", [json!({ "dst": everywhere, "gw": gateway })]);
        }
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

/// What a result says of the container's interface `name`: its MAC address and its addresses.
///
/// # Errors
/// If it says nothing of it, or not what ADD says.
pub fn attached(result: &Value, name: &str, sandbox: &str) -> Result<(String, Addresses)> {
    let missing =
        |what: &str| CniError::new(Code::InvalidConfig, format!("prevResult: {what}"), "CHECK needs ADD's result");
    let interfaces = result["interfaces"].as_array().ok_or_else(|| missing("has no interfaces"))?;
    let is_it = |interface: &Value| interface["name"] == name && interface["sandbox"] == sandbox;
    let at = interfaces.iter().position(is_it).ok_or_else(|| missing(&format!("has no interface {name}")))?;
    let of_it = |ip: &&Value| ip["interface"].as_u64() == Some(at as u64);
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let list: Vec<_> = ips.iter().filter(of_it).filter_map(address).collect();
    let addresses = Addresses::read(&format!("prevResult: {name}"), &list)?;
    Ok((interfaces[at]["mac"].as_str().unwrap_or_default().to_owned(), addresses))
}

/// The address of an entry of `ips`.
pub fn address(ip: &Value) -> Option<IpAddr> {
    ip["address"].as_str()?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const IPV6: Option<Ipv6Addr> = Some(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x10));

    fn outcome(ipv6: Option<Ipv6Addr>) -> Outcome {
        let interface = |name: &str, sandbox: Option<&str>| Interface {
            name: name.into(),
            mac: "0a:58:0a:f4:01:0a".into(),
            mtu: 1450,
            sandbox: sandbox.map(Into::into),
        };
        Outcome {
            node_end: interface("shunt1", None),
            pod_end: interface("eth0", Some("/run/netns/a")),
            addresses: Addresses { ipv4: [10, 244, 1, 10].into(), ipv6 },
            dns: Value::Null,
        }
    }

    #[test]
    fn each_version_has_its_shape() {
        for version in Version::ALL {
            let result = outcome(IPV6).to_json(version, None);
            assert_eq!(result["cniVersion"], version.name());
            assert_eq!(result["ips"][0]["version"].is_null(), version >= Version::V1_0_0);
            assert_eq!(result["interfaces"][1]["mtu"].is_null(), version < Version::V1_1_0);
            assert_eq!(result["ips"][1]["version"].as_str(), (version < Version::V1_0_0).then_some("6"));
            for (at, address, gateway, dst) in
                [(0, "10.244.1.10/32", "169.254.1.1", "0.0.0.0/0"), (1, "fd00:10:244:1::10/128", "fe80::1", "::/0")]
            {
                let ip = &result["ips"][at];
                assert_eq!((&ip["address"], &ip["gateway"]), (&json!(address), &json!(gateway)));
                assert_eq!(
                    (&ip["interface"], &result["routes"][at]),
                    (&json!(1), &json!({ "dst": dst, "gw": gateway }))
                );
            }
            for ipv6 in [None, IPV6] {
                let outcome = outcome(ipv6);
                let (mac, addresses) = attached(&outcome.to_json(version, None), "eth0", "/run/netns/a").unwrap();
                assert_eq!((mac.as_str(), addresses), ("0a:58:0a:f4:01:0a", outcome.addresses));
            }
        }
    }

    #[test]
    fn a_previous_result_is_kept() {
        let previous = json!({ "interfaces": [{ "name": "other" }], "ips": [], "dns": { "domain": "x" } });
        let result = outcome(None).to_json(Version::V1_0_0, Some(&previous));
        assert_eq!((result["ips"].as_array().unwrap().len(), &result["routes"][1]), (1, &Value::Null));
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!((&result["ips"][0]["interface"], &result["dns"]["domain"]), (&json!(2), &json!("x")));
        assert!(attached(&previous, "eth0", "/run/netns/a").is_err());
    }
}
