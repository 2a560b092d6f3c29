//! The daemon's configuration: a TOML file, read once at start.
//!
//! Unknown keys and impossible values are refused with the key's path; nothing is guessed.

mod file;
mod ipv6;
mod masquerade;

pub use ipv6::Ipv6;
pub use masquerade::Masquerade;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::{IpNet, Ipv4Net};
use shunt_control_api::{FieldError, field};
use shunt_dataplane::{
    net::MacAddr,
    wire::vxlan,
    xsk::{MemoryChoice, XdpMode},
};

/// The configuration of one node's switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What this node is in the cluster.
    pub node: Node,
    /// `[ipv6]`; `None`: pods and services have IPv4 only.
    pub ipv6: Option<Ipv6>,
    /// `[uplink] interface`.
    pub uplink: String,
    /// `[uplink] zero_copy`: which memory the uplink is to have.
    pub uplink_memory: MemoryChoice,
    /// `[vxlan]`; `None`: native routing only.
    pub vxlan: Option<Vxlan>,
    /// `[masquerade]`.
    pub masquerade: Masquerade,
    /// `[services] node_port_addresses`: where the node's addresses are at which node ports are had; `None`: only that of
    /// the uplink.
    pub node_port_addresses: Option<Vec<Ipv4Net>>,
    /// `[host] interface`: the kernel's end of the host port's veth.
    pub host: String,
    /// `[workers] cores`: one worker each.
    pub cores: Vec<usize>,
    /// `[workers] frames`: those that the ports of a worker share.
    pub frames_per_worker: u32,
    /// `[conntrack] flows`: room for this many.
    pub flow_capacity: u32,
    /// `[api] socket`.
    pub socket: PathBuf,
    /// `[api.tcp]`.
    pub tcp: Option<Tcp>,
    /// `[metrics] listen`.
    pub metrics: Option<SocketAddr>,
    /// `[state] dir`.
    pub state_dir: PathBuf,
    /// `[xdp] mode`.
    pub xdp_mode: XdpMode,
}

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Its pods' addresses; the first one is the node's own on the overlay.
    pub pod_cidr: Ipv4Net,
    /// All pods' addresses.
    pub cluster_cidr: Ipv4Net,
    /// Out of which ClusterIPs are given.
    pub service_cidr: Ipv4Net,
    /// Its zone (label `topology.kubernetes.io/zone`); empty: unknown.
    pub zone: String,
    /// Nothing leaves the cluster, and nothing comes in.
    pub isolated: bool,
}

impl Node {
    /// The node's own address on the overlay: the first of its pod prefix, as flannel has it.
    pub fn overlay_address(&self) -> Ipv4Addr {
        self.pod_cidr.network()
    }

    /// Its IPv4 prefixes.
    pub(crate) fn prefixes(&self) -> Prefixes {
        Prefixes { pods: self.pod_cidr.into(), cluster: self.cluster_cidr.into(), services: self.service_cidr.into() }
    }
}

/// `[vxlan]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port.
    pub udp_port: u16,
    /// Our VTEP's MAC address; `None`: made from the node's name and kept in the state directory.
    pub mac: Option<MacAddr>,
    /// Nodes on the uplink's own network are reached natively, as with flannel's `DirectRouting`.
    pub direct_routing: bool,
}

/// `[api.tcp]`: TCP with TLS on both sides, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Where to listen.
    pub listen: SocketAddr,
    /// PEM file of our certificate (chain).
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authority that signed the clients' certificates.
    pub client_ca: PathBuf,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}; name it with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not TOML, or a key is unknown, missing or of the wrong type.
    #[error("{}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The key and what is wrong with it.
        problem: String,
    },
    /// A value makes no sense.
    #[error("{}: {source}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key and what is wrong with it.
        source: FieldError,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text, path)
    }

    /// Checks a text; `path` is only for messages.
    fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let file = file::parse(text).map_err(|problem| ConfigError::Syntax { path: path.to_owned(), problem })?;
        Config::try_from(file).map_err(|source| ConfigError::Value { path: path.to_owned(), source })
    }

    /// Longest IP packet of a pod where the uplink's is `uplink_mtu`, in bytes.
    pub fn pod_mtu(&self, uplink_mtu: u32) -> u32 {
        uplink_mtu.saturating_sub(if self.vxlan.is_some() { vxlan::OVERHEAD as u32 } else { 0 })
    }

    /// The other end of the host port's veth: the one that is attached to the switch.
    pub fn host_peer(&self) -> String {
        format!("{}p", self.host)
    }
}

impl TryFrom<file::File> for Config {
    type Error = FieldError;

    fn try_from(file: file::File) -> Result<Self, FieldError> {
        let node = node(&file.node)?;
        let uplink = field::interface("uplink.interface", &file.uplink.interface)?;
        let host = field::interface("host.interface", &file.host.interface)?;
        if host.len() > 14 {
            return Err(FieldError::new(
                "host.interface",
                format!("{host:?} leaves no room for the peer's name; use at most 14 bytes"),
            ));
        }
        if host == uplink {
            return Err(FieldError::new(
                "host.interface",
                format!("{host:?} is the uplink; name an interface that shuntd may create"),
            ));
        }
        let natively = file.vxlan.as_ref().is_none_or(|vxlan| vxlan.direct_routing);
        if file.ipv6.is_some() && file.vxlan.as_ref().is_some_and(|vxlan| vxlan.direct_routing) {
            let problem =
                "is not for nodes that have [ipv6]: their IPv6 is between nodes on the overlay only; leave one out";
            return Err(FieldError::new("vxlan.direct_routing", problem));
        }
        if node.isolated && natively {
            let problem =
                "needs an overlay and no direct_routing: what comes natively may come from anybody; add [vxlan]";
            return Err(FieldError::new("node.isolated", problem));
        }
        if node.isolated && file.masquerade.egress {
            return Err(FieldError::new("masquerade.egress", "contradicts node.isolated; leave one of them out"));
        }
        Ok(Config {
            node,
            ipv6: file.ipv6.map(Ipv6::try_from).transpose()?,
            uplink,
            uplink_memory: zero_copy(&file.uplink.zero_copy)?,
            vxlan: file.vxlan.map(vxlan).transpose()?,
            masquerade: file.masquerade.try_into()?,
            node_port_addresses: file.services.node_port_addresses.map(node_port_addresses).transpose()?,
            host,
            cores: cores(file.workers.cores)?,
            frames_per_worker: in_range("workers.frames", file.workers.frames, 1024, 1 << 20)?,
            flow_capacity: in_range("conntrack.flows", file.conntrack.flows, 1024, 1 << 27)?,
            socket: absolute("api.socket", file.api.socket)?,
            tcp: file.api.tcp.map(tcp).transpose()?,
            metrics: file.metrics.map(|metrics| listen("metrics.listen", &metrics.listen)).transpose()?,
            state_dir: absolute("state.dir", file.state.dir)?,
            xdp_mode: xdp_mode(&file.xdp.mode)?,
        })
    }
}

fn node(node: &file::Node) -> Result<Node, FieldError> {
    let name = field::name("node.name", &node.name)?;
    let pod_cidr = field::prefix("node.pod_cidr", &node.pod_cidr)?;
    let cluster_cidr = field::prefix("node.cluster_cidr", &node.cluster_cidr)?;
    let service_cidr = field::prefix("node.service_cidr", &node.service_cidr)?;
    let zone = node.zone.as_deref().map(|zone| field::name("node.zone", zone)).transpose()?.unwrap_or_default();
    let node = Node { name, pod_cidr, cluster_cidr, service_cidr, zone, isolated: node.isolated };
    node.prefixes().check("node", 30)?;
    Ok(node)
}

/// Out of which the addresses of one family are given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefixes {
    /// This node's pods'; its own is the first.
    pub pods: IpNet,
    /// All pods'.
    pub cluster: IpNet,
    /// ClusterIPs.
    pub services: IpNet,
}

impl Prefixes {
    /// Whether they go together. A pod prefix has no more than `longest` bits.
    fn check(self, section: &str, longest: u8) -> Result<(), FieldError> {
        let Prefixes { pods, cluster, services } = self;
        let refuse = |key: &str, problem: String| Err(FieldError::new(format!("{section}.{key}"), problem));
        if !cluster.contains(&pods) {
            let problem = format!("{pods} is outside {section}.cluster_cidr ({cluster}); use a part of it");
            return refuse("pod_cidr", problem);
        }
        if pods.prefix_len() > longest {
            let problem = format!("{pods} has no room for the node and its pods; use a /{longest} or shorter");
            return refuse("pod_cidr", problem);
        }
        if overlap(cluster, services) {
            let problem = format!("{services} overlaps {section}.cluster_cidr ({cluster}); keep them apart");
            return refuse("service_cidr", problem);
        }
        Ok(())
    }
}

/// Whether two prefixes share addresses: one of them holds the other.
pub(crate) fn overlap(a: impl Into<IpNet>, b: impl Into<IpNet>) -> bool {
    let (a, b) = (a.into(), b.into());
    a.contains(&b) || b.contains(&a)
}

fn vxlan(vxlan: file::Vxlan) -> Result<Vxlan, FieldError> {
    Ok(Vxlan {
        vni: in_range("vxlan.vni", vxlan.vni, 0, (1 << 24) - 1)?,
        udp_port: field::transport_port("vxlan.port", vxlan.port)?,
        mac: vxlan.mac.map(|mac| field::mac("vxlan.mac", &mac)).transpose()?,
        direct_routing: vxlan.direct_routing,
    })
}

fn node_port_addresses(prefixes: Vec<String>) -> Result<Vec<Ipv4Net>, FieldError> {
    let path = |i| format!("services.node_port_addresses[{i}]");
    prefixes.iter().enumerate().map(|(i, prefix)| field::prefix(&path(i), prefix)).collect()
}

fn cores(cores: Option<Vec<usize>>) -> Result<Vec<usize>, FieldError> {
    let available: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    let cores = cores.unwrap_or_else(|| available.last().copied().into_iter().collect());
    if cores.is_empty() {
        return Err(FieldError::new("workers.cores", "is empty; name at least one core"));
    }
    for (i, core) in cores.iter().enumerate() {
        if !available.contains(core) {
            let problem = format!("this process may not run on core {core}; choose among {available:?}");
            return Err(FieldError::new(format!("workers.cores[{i}]"), problem));
        }
        if cores[..i].contains(core) {
            let problem = format!("core {core} is named twice; give each worker its own");
            return Err(FieldError::new(format!("workers.cores[{i}]"), problem));
        }
    }
    Ok(cores)
}

fn tcp(tcp: file::Tcp) -> Result<Tcp, FieldError> {
    Ok(Tcp {
        listen: listen("api.tcp.listen", &tcp.listen)?,
        cert: absolute("api.tcp.cert", tcp.cert)?,
        key: absolute("api.tcp.key", tcp.key)?,
        client_ca: absolute("api.tcp.client_ca", tcp.client_ca)?,
    })
}

fn listen(path: &str, text: &str) -> Result<SocketAddr, FieldError> {
    let problem = || format!("{text:?} is not an address and port; write it like 127.0.0.1:9464");
    text.parse().map_err(|_| FieldError::new(path, problem()))
}

fn absolute(path: &str, file: PathBuf) -> Result<PathBuf, FieldError> {
    if !file.is_absolute() {
        return Err(FieldError::new(path, format!("{:?} is relative; begin it with a slash", file.display())));
    }
    Ok(file)
}

fn in_range(path: &str, value: u32, min: u32, max: u32) -> Result<u32, FieldError> {
    if !(min..=max).contains(&value) {
        return Err(FieldError::new(path, format!("{value} is out of range; use {min} to {max}")));
    }
    Ok(value)
}

fn zero_copy(text: &str) -> Result<MemoryChoice, FieldError> {
    match text {
        "auto" => Ok(MemoryChoice::ZeroCopy),
        "off" => Ok(MemoryChoice::Shared),
        _ => Err(FieldError::new("uplink.zero_copy", format!("{text:?} is unknown; use auto or off"))),
    }
}

fn xdp_mode(text: &str) -> Result<XdpMode, FieldError> {
    match text {
        "auto" => Ok(XdpMode::Auto),
        "native" => Ok(XdpMode::Native),
        "generic" => Ok(XdpMode::Generic),
        _ => Err(FieldError::new("xdp.mode", format!("{text:?} is unknown; use auto, native or generic"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        [node]
        name = "node-a"
        pod_cidr = "10.244.1.0/24"
        cluster_cidr = "10.244.0.0/16"
        service_cidr = "10.96.0.0/16"
        [uplink]
        interface = "eth0"
        [workers]
        cores = [0]
    "#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("t.toml")).map_err(|e| e.to_string())
    }

    fn refused(from: &str, to: &str) -> String {
        assert!(LEAST.contains(from), "{from}");
        parse(&LEAST.replace(from, to)).unwrap_err()
    }

    #[test]
    fn the_least_configuration_has_the_documented_defaults() {
        let config = parse(LEAST).unwrap();
        assert_eq!((&config.vxlan, &config.ipv6), (&None, &None));
        assert_eq!(config.host, "shunt0");
        assert_eq!(config.host_peer(), "shunt0p");
        assert_eq!(config.frames_per_worker, 32768);
        assert_eq!(config.uplink_memory, MemoryChoice::ZeroCopy);
        assert_eq!(config.flow_capacity, 1 << 20);
        assert_eq!(config.socket, Path::new("/run/shunt/shuntd.sock"));
        assert_eq!(config.state_dir, Path::new("/var/lib/shunt"));
        assert_eq!(config.xdp_mode, XdpMode::Auto);
        assert_eq!((config.tcp, config.metrics), (None, None));
        assert_eq!(config.node.overlay_address(), Ipv4Addr::new(10, 244, 1, 0));

        let overlay = parse(&format!("{LEAST}\n[vxlan]\n")).unwrap().vxlan.unwrap();
        assert_eq!(overlay, Vxlan { vni: 1, udp_port: 8472, mac: None, direct_routing: false });
    }

    #[test]
    fn the_last_core_is_the_default() {
        let config = parse(&LEAST.replace("cores = [0]", "")).unwrap();
        assert_eq!(config.cores, [core_affinity::get_core_ids().unwrap().last().unwrap().id]);
    }

    #[test]
    fn unknown_missing_and_mistyped_keys_are_named() {
        let unknown = refused("name =", "nam =");
        assert!(unknown.starts_with("t.toml: node") && unknown.contains("`nam`"), "{unknown}");
        let section = refused("[uplink]", "[downlink]");
        assert!(section.contains("`downlink`"), "{section}");
        let missing = refused("service_cidr = \"10.96.0.0/16\"", "");
        assert!(missing.contains("node") && missing.contains("`service_cidr`"), "{missing}");
        let mistyped = refused("cores = [0]", "cores = \"all\"");
        assert!(mistyped.starts_with("t.toml: workers.cores: "), "{mistyped}");
        assert!(!parse("[node").unwrap_err().contains('\n'));
    }

    #[test]
    fn impossible_values_are_refused_by_their_path() {
        for (from, to, path) in [
            ("\"node-a\"", "\"\"", "node.name"),
            ("[uplink]", "zone = \"zone 1\"\n[uplink]", "node.zone"),
            ("10.244.1.0/24", "10.244.1.1/24", "node.pod_cidr"),
            ("10.244.1.0/24", "10.245.1.0/24", "node.pod_cidr"),
            ("10.244.1.0/24", "10.244.1.0/31", "node.pod_cidr"),
            ("10.96.0.0/16", "10.244.128.0/24", "node.service_cidr"),
            (
                "[uplink]",
                "[ipv6]\npod_cidr = \"fd00:1::/64\"\ncluster_cidr = \"fd00:1::/48\"\nservice_cidr = \"fe80::/112\"\n[uplink]",
                "ipv6.service_cidr",
            ),
            (
                "[uplink]",
                "[vxlan]\ndirect_routing = true\n[ipv6]\npod_cidr = \"fd00:1::/64\"\ncluster_cidr = \"fd00:1::/48\"\nservice_cidr = \"fd00:2::/112\"\n[uplink]",
                "vxlan.direct_routing",
            ),
            ("\"eth0\"", "\"an uplink\"", "uplink.interface"),
            ("\"eth0\"", "\"shunt0\"", "host.interface"),
            ("\"eth0\"", "\"eth0\"\nzero_copy = \"on\"", "uplink.zero_copy"),
            ("[workers]", "[host]\ninterface = \"fifteen-bytes-x\"\n[workers]", "host.interface"),
            ("[uplink]", "isolated = true\n[uplink]", "node.isolated"),
            ("cores = [0]", "cores = []", "workers.cores"),
            ("cores = [0]", "cores = [0, 0]", "workers.cores[1]"),
            ("cores = [0]", "cores = [4096]", "workers.cores[0]"),
            ("cores = [0]", "frames = 3", "workers.frames"),
            ("[workers]", "[conntrack]\nflows = 1\n[workers]", "conntrack.flows"),
            ("[workers]", "[vxlan]\nvni = 16777216\n[workers]", "vxlan.vni"),
            ("[workers]", "[vxlan]\nport = 0\n[workers]", "vxlan.port"),
            ("[workers]", "[vxlan]\nmac = \"ff:ff:ff:ff:ff:ff\"\n[workers]", "vxlan.mac"),
            (
                "[workers]",
                "[services]\nnode_port_addresses = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\n[workers]",
                "services.node_port_addresses[1]",
            ),
            ("[workers]", "[api]\nsocket = \"s\"\n[workers]", "api.socket"),
            ("[workers]", "[metrics]\nlisten = \"9464\"\n[workers]", "metrics.listen"),
            ("[workers]", "[state]\ndir = \"here\"\n[workers]", "state.dir"),
            ("[workers]", "[xdp]\nmode = \"skb\"\n[workers]", "xdp.mode"),
        ] {
            let message = refused(from, to);
            assert!(message.starts_with(&format!("t.toml: {path}: ")), "{message}");
        }
    }

    #[test]
    fn tcp_is_not_to_be_had_without_certificates() {
        let message = parse(&format!("{LEAST}\n[api.tcp]\nlisten = \"0.0.0.0:7444\"\n")).unwrap_err();
        assert!(message.contains("api.tcp") && message.contains("`cert`"), "{message}");
    }

    #[test]
    fn the_shipped_configurations_are_valid() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        assert_eq!(Config::load(&configs.join("shuntd.toml")).unwrap().ipv6, None);
        let dual_stack = Config::load(&configs.join("models/dual-stack.toml")).unwrap();
        assert_eq!(dual_stack.ipv6.unwrap().overlay_address().to_string(), "fd00:10:244:1::");
    }
}
