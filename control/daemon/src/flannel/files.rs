//! flannel's own files.

use std::{collections::HashMap, fs, path::PathBuf, str::FromStr};

use ipnet::Ipv4Net;
use serde::Deserialize;

use super::{FlannelError, file};

/// Where flannel says what it gave to this node.
pub const SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// Where flannel keeps what it knows.
#[derive(Debug, Clone)]
pub struct Files {
    /// `/run/flannel/subnet.env`.
    pub subnet_env: PathBuf,
    /// `net-conf.json`.
    pub net_conf: PathBuf,
    /// The bridge plugin's bridge.
    pub bridge: String,
}

/// What the files say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub network: Ipv4Net,
    pub subnet: Ipv4Net,
    pub masquerades: bool,
    pub backend: Backend,
}

/// `net-conf.json`, as flannel's documentation has it.
#[derive(Debug, Deserialize)]
struct NetConf {
    #[serde(rename = "Backend")]
    backend: Backend,
}

/// How flannel connects nodes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Backend {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(rename = "VNI", default = "vni")]
    pub vni: u32,
    #[serde(rename = "Port", default)]
    pub port: u16,
    #[serde(rename = "DirectRouting", default)]
    pub direct_routing: bool,
}

fn vni() -> u32 {
    1
}

impl Files {
    pub(super) fn read(&self) -> Result<Said, FlannelError> {
        let env = fs::read_to_string(&self.subnet_env).map_err(file(&self.subnet_env))?;
        let wrong = |problem: String| FlannelError::Content { path: self.subnet_env.clone(), problem };
        let (network, subnet, masquerades) = environment(&env).map_err(wrong)?;
        let json = fs::read_to_string(&self.net_conf).map_err(file(&self.net_conf))?;
        let wrong = |problem: String| FlannelError::Content { path: self.net_conf.clone(), problem };
        let conf: NetConf = serde_json::from_str(&json).map_err(|e| wrong(e.to_string()))?;
        if !matches!(conf.backend.kind.as_str(), "vxlan" | "host-gw") {
            return Err(wrong(format!(
                "Backend.Type {:?} is neither vxlan nor host-gw: Shunt has no such",
                conf.backend.kind
            )));
        }
        Ok(Said { network, subnet, masquerades, backend: conf.backend })
    }
}

/// The variables of `subnet.env`.
pub(crate) fn variables(text: &str) -> HashMap<&str, &str> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once('='));
    pairs.map(|(key, value)| (key, value.trim_matches('"'))).collect()
}

/// Network, subnet and masquerading out of `subnet.env`.
fn environment(text: &str) -> Result<(Ipv4Net, Ipv4Net, bool), String> {
    let values = variables(text);
    Ok((
        value(&values, "FLANNEL_NETWORK")?,
        value(&values, "FLANNEL_SUBNET")?,
        value(&values, "FLANNEL_IPMASQ").unwrap_or(false),
    ))
}

fn value<T: FromStr<Err: ToString>>(values: &HashMap<&str, &str>, key: &str) -> Result<T, String> {
    let text = values.get(key).ok_or_else(|| format!("{key} is missing"))?;
    text.parse().map_err(|e: T::Err| format!("{key}={text}: {}", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannel_s_files_are_read() {
        let env =
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        assert_eq!(environment(env), Ok((net("10.244.0.0/16"), net("10.244.1.1/24"), true)));
        let missing = environment("FLANNEL_NETWORK=10.244.0.0/16\n").unwrap_err();
        assert!(missing.contains("FLANNEL_SUBNET"), "{missing}");
        let wrong = environment("FLANNEL_NETWORK=ten\n").unwrap_err();
        assert!(wrong.contains("FLANNEL_NETWORK=ten"), "{wrong}");
        let conf: NetConf = serde_json::from_str(
            r#"{"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan", "DirectRouting": true}}"#,
        )
        .unwrap();
        assert_eq!(conf.backend, Backend { kind: "vxlan".into(), vni: 1, port: 0, direct_routing: true });
    }
}
