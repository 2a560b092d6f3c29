//! The configuration as it is written, key by key.

use std::path::PathBuf;

use serde::Deserialize;

/// Reads the text; an error names the key.
pub(super) fn parse(text: &str) -> Result<File, String> {
    let one_line = |message: &str| message.replace('\n', "; ");
    let document = toml::Deserializer::parse(text).map_err(|e| {
        let line = e.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", one_line(e.message()))
    })?;
    serde_path_to_error::deserialize(document).map_err(|e| format!("{}: {}", e.path(), one_line(e.inner().message())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub node: Node,
    pub ipv6: Option<Ipv6>,
    pub uplink: Uplink,
    pub vxlan: Option<Vxlan>,
    #[serde(default)]
    pub masquerade: Masquerade,
    #[serde(default)]
    pub services: Services,
    #[serde(default)]
    pub host: Host,
    #[serde(default)]
    pub workers: Workers,
    #[serde(default)]
    pub conntrack: Conntrack,
    #[serde(default)]
    pub api: Api,
    pub metrics: Option<Metrics>,
    #[serde(default)]
    pub state: State,
    #[serde(default)]
    pub xdp: Xdp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub name: String,
    pub pod_cidr: String,
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub zone: Option<String>,
    #[serde(default)]
    pub isolated: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ipv6 {
    pub pod_cidr: String,
    pub cluster_cidr: String,
    pub service_cidr: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Uplink {
    pub interface: String,
    #[serde(default = "auto")]
    pub zero_copy: String,
}

fn auto() -> String {
    "auto".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vxlan {
    #[serde(default = "flannel_vni")]
    pub vni: u32,
    #[serde(default = "flannel_port")]
    pub port: u32,
    pub mac: Option<String>,
    #[serde(default)]
    pub direct_routing: bool,
}

fn flannel_vni() -> u32 {
    1
}

fn flannel_port() -> u32 {
    8472
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Masquerade {
    pub ports: String,
    pub egress: bool,
    pub keep: Vec<String>,
}

impl Default for Masquerade {
    fn default() -> Self {
        Masquerade { ports: "61000-65535".into(), egress: false, keep: Vec::new() }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Services {
    pub node_port_addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Host {
    pub interface: String,
}

impl Default for Host {
    fn default() -> Self {
        Host { interface: "shunt0".into() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Workers {
    pub cores: Option<Vec<usize>>,
    pub frames: u32,
}

impl Default for Workers {
    fn default() -> Self {
        Workers { cores: None, frames: 32768 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Conntrack {
    pub flows: u32,
}

impl Default for Conntrack {
    fn default() -> Self {
        Conntrack { flows: 1 << 20 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    pub socket: PathBuf,
    pub tcp: Option<Tcp>,
}

impl Default for Api {
    fn default() -> Self {
        Api { socket: "/run/shunt/shuntd.sock".into(), tcp: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    pub listen: String,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub listen: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct State {
    pub dir: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        State { dir: "/var/lib/shunt".into() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Xdp {
    pub mode: String,
}

impl Default for Xdp {
    fn default() -> Self {
        Xdp { mode: auto() }
    }
}
