//! The network configuration on standard input.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use shunt_control_api::v1;

use crate::{
    bandwidth::Bandwidth,
    environment::{Attachment, is_name},
    error::{CniError, Code, Result},
    port_mapping::PortMapping,
    version::Version,
};

/// A network configuration as far as it concerns this plugin. Runtimes and other plugins have keys of their own in it.
#[derive(Debug, Clone)]
pub struct Config {
    pub version: Version,
    /// The network's name.
    pub name: String,
    /// Where shuntd listens.
    pub socket: PathBuf,
    /// Who gives addresses; `Null`: this plugin, by the node's pods.
    pub ipam: Value,
    /// What runtimes fill in for the capabilities that the configuration list names.
    pub runtime: Runtime,
    /// The result of the plugin before this one, or of ADD.
    pub previous: Option<Value>,
    /// `cni.dev/valid-attachments`: what GC is to leave.
    pub valid: Option<Vec<Attachment>>,
    /// Passed through.
    pub dns: Value,
    /// All of it, for delegates.
    pub raw: Value,
}

/// `runtimeConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Runtime {
    /// Addresses that the container is to have, with or without the length of a prefix.
    pub ips: Vec<String>,
    /// The MAC address that it is to have.
    pub mac: Option<String>,
    /// Passed through.
    pub dns: Value,
    /// Ports of the node that are to lead to the container: see [`port_mapping`](crate::port_mapping). Read when they are needed:
    /// DEL does without.
    pub port_mappings: Value,
    /// How much the container may send and receive; read like the one before.
    pub bandwidth: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default = "default_socket")]
    socket: PathBuf,
    #[serde(default)]
    ipam: Value,
    #[serde(default)]
    runtime_config: Runtime,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Valid>>,
    #[serde(default)]
    dns: Value,
}

#[derive(Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

fn default_socket() -> PathBuf {
    "/run/shunt/shuntd.sock".into()
}

impl Config {
    /// Reads and checks it.
    ///
    /// # Errors
    /// In this order: no JSON of this shape, no name, a version that is not spoken here.
    pub fn parse(text: &str) -> Result<Config> {
        let decode = |e: serde_json::Error| {
            CniError::new(Code::Decode, format!("the network configuration cannot be read: {e}"), "")
        };
        let raw: Value = serde_json::from_str(text).map_err(decode)?;
        let shape: Shape = serde_json::from_value(raw.clone()).map_err(decode)?;
        if !is_name(&shape.name) {
            let message = format!("name: {:?} is no name of a network", shape.name);
            let details = "it begins with a letter or digit and has only these, '_', '.' and '-'";
            return Err(CniError::new(Code::InvalidConfig, message, details));
        }
        let runtime = shape.runtime_config;
        Ok(Config {
            version: shape.cni_version.parse()?,
            name: shape.name,
            socket: shape.socket,
            ipam: shape.ipam,
            previous: shape.prev_result,
            valid: shape.valid.map(|valid| {
                let attachment = |v: Valid| Attachment { container: v.container, interface: v.ifname };
                valid.into_iter().map(attachment).collect()
            }),
            dns: if runtime.dns.is_null() { shape.dns } else { runtime.dns.clone() },
            runtime,
            raw,
        })
    }

    /// The ports of the node that it asks for.
    pub fn port_mappings(&self) -> Result<Vec<PortMapping>> {
        asked("portMappings", &self.runtime.port_mappings)
    }

    /// How much the container may send and receive.
    pub fn bandwidth(&self) -> Result<Option<v1::Bandwidth>> {
        asked::<Bandwidth>("bandwidth", &self.runtime.bandwidth)?.read()
    }

    /// The addresses that the runtime asks for.
    pub fn wanted_addresses(&self) -> Result<Vec<IpAddr>> {
        let parse = |text: &String| {
            let address = text.split('/').next().unwrap_or_default();
            address.parse().map_err(|_| {
                let message = format!("runtimeConfig.ips: {text:?} is no address");
                CniError::new(Code::InvalidConfig, message, "write it like 10.244.1.10 or 10.244.1.10/24")
            })
        };
        self.runtime.ips.iter().map(parse).collect()
    }
}

/// What a capability asks for; what asks for nothing is the default.
fn asked<T: Default + DeserializeOwned>(capability: &str, value: &Value) -> Result<T> {
    if value.is_null() {
        return Ok(T::default());
    }
    serde_json::from_value(value.clone()).map_err(|e| {
        let message = format!("runtimeConfig.{capability}: {value} cannot be read: {e}");
        CniError::new(Code::InvalidConfig, message, "write it as the CNI conventions have it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> (Code, String) {
        let error = Config::parse(text).unwrap_err();
        let codes = [Code::Decode, Code::InvalidConfig, Code::IncompatibleVersion];
        let code = codes.into_iter().find(|code| error.is(*code)).unwrap();
        (code, error.to_json("1.0.0")["msg"].as_str().unwrap().to_owned())
    }

    #[test]
    fn name_goes_before_version() {
        assert_eq!(refusal("{").0, Code::Decode);
        assert_eq!(refusal(r#"{"cniVersion": "9.9.9"}"#).0, Code::InvalidConfig);
        assert_eq!(refusal(r#"{"name": "a/b", "cniVersion": "1.0.0"}"#).0, Code::InvalidConfig);
        assert_eq!(refusal(r#"{"name": "net"}"#).0, Code::IncompatibleVersion);
        assert_eq!(refusal(r#"{"name": "net", "cniVersion": "0.2.0"}"#).0, Code::IncompatibleVersion);
    }

    #[test]
    fn what_is_asked_for_is_read_when_it_is_needed_and_named_if_it_is_wrong() {
        let with = |runtime: &str| {
            Config::parse(&format!(r#"{{"name": "net", "cniVersion": "1.0.0", "runtimeConfig": {runtime}}}"#)).unwrap()
        };
        let wrong = with(r#"{"portMappings": [{"hostPort": "x"}], "bandwidth": {"ingressRate": -1}}"#);
        for (key, error) in [("portMappings", wrong.port_mappings().err()), ("bandwidth", wrong.bandwidth().err())] {
            let message = error.unwrap().to_json("1.0.0")["msg"].to_string();
            assert!(message.contains(&format!("runtimeConfig.{key}: ")), "{message}");
        }
        for quiet in ["{}", r#"{"portMappings": [], "bandwidth": {}}"#, r#"{"portMappings": null, "bandwidth": null}"#]
        {
            let config = with(quiet);
            assert_eq!((config.port_mappings(), config.bandwidth()), (Ok(Vec::new()), Ok(None)));
        }
    }

    #[test]
    fn what_is_told_is_read() {
        let config = Config::parse(
            r#"{"name": "net", "cniVersion": "1.1.0", "socket": "/x", "ipam": {"dataDir": "/d"}, "dns": {"nameservers": ["10.96.0.53"]},
                "runtimeConfig": {"ips": ["10.244.1.7/24", "fd00::7"], "mac": "02:00:00:00:00:07"}, "other": 1,
                "cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}]}"#,
        )
        .unwrap();
        assert_eq!(config.version, Version::V1_1_0);
        let wanted = ["10.244.1.7", "fd00::7"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(config.wanted_addresses().unwrap(), wanted);
        assert_eq!(config.valid.unwrap()[0].container, "c");
        assert_eq!(config.dns["nameservers"][0], "10.96.0.53");
    }
}
