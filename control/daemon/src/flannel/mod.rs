//! A node moves from flannel to Shunt and back: `shuntd flannel import`, `detach` and `restore`.
//!
//! What flannel and the bridge plugin made is read from the kernel (by `ip` and `bridge`) and from flannel's own files, and
//! kept in a file of its own, so that the way back needs neither flannel nor its API. Pods keep their addresses, and
//! their gateway's MAC address: the switch takes it over from the bridge. The VTEP keeps its MAC address, so what peers
//! know of this node stays true.

mod commands;
mod files;
mod read;
mod written;

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use read::Present;

pub(crate) use files::variables;
pub use files::{Files, SUBNET_ENV};

/// What flannel made of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlannelNode {
    /// All pods' addresses (`FLANNEL_NETWORK`).
    pub network: Ipv4Net,
    /// The address of the bridge, in this node's prefix (`FLANNEL_SUBNET`).
    pub subnet: Ipv4Net,
    /// Whether what leaves the cluster is masqueraded (`FLANNEL_IPMASQ`).
    pub masquerades: bool,
    /// Whether nodes on the same network are reached natively.
    pub direct_routing: bool,
    /// The interface towards other nodes.
    pub uplink: String,
    /// The VXLAN device; `None`: flannel's host-gw backend.
    pub device: Option<Device>,
    /// The pods' bridge.
    pub bridge: Bridge,
    /// Nodes reached by the device.
    pub peers: Vec<Peer>,
    /// Nodes reached natively.
    pub routes: Vec<Route>,
    /// The pods on the bridge.
    pub pods: Vec<Pod>,
}

/// flannel.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its MAC address: the VTEP's.
    pub mac: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Its address on the underlay.
    pub local: Ipv4Addr,
    /// In bytes.
    pub mtu: u32,
}

/// cni0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its MAC address, which pods know as their gateway's.
    pub mac: String,
    /// In bytes.
    pub mtu: u32,
}

/// A node behind the VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its pods.
    pub prefix: Ipv4Net,
    /// Its address on the overlay: the route's next hop.
    pub gateway: Ipv4Addr,
    /// Its VTEP's MAC address.
    pub mac: String,
    /// On the underlay.
    pub address: Ipv4Addr,
}

/// A node that is reached natively.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Its pods.
    pub prefix: Ipv4Net,
    /// On the underlay.
    pub via: Ipv4Addr,
}

/// A pod on the bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The node's end of its veth.
    pub interface: String,
    /// The MAC address of that end.
    pub interface_mac: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The pod's own MAC address.
    pub mac: String,
}

/// A node cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum FlannelError {
    /// A file.
    #[error("{}: {source}{}", path.display(), if matches!(source.kind(), io::ErrorKind::NotFound) { "; is this a flannel node?" } else { "" })]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not say what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// `ip` or `bridge`.
    #[error("`{command}`: {problem}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        problem: String,
    },
    /// Something that flannel or the bridge plugin makes is not there.
    #[error("{0}")]
    Missing(String),
    /// Would be written over.
    #[error("{} exists; remove it or name another directory with --directory", .0.display())]
    Exists(PathBuf),
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> FlannelError {
    let path = path.to_owned();
    |source| FlannelError::File { path, source }
}

/// What is to be known beyond what flannel knows.
#[derive(Debug, Clone)]
pub struct More {
    /// The node's name in the cluster.
    pub node: String,
    /// Out of which ClusterIPs are given.
    pub service_cidr: Ipv4Net,
}

/// Where the record of what flannel made is kept, in `directory`.
fn record(directory: &Path) -> PathBuf {
    directory.join("flannel.json")
}

/// Writes `shuntd.toml`, `cluster.toml` and the record for the way back into `directory`. Changes nothing else. Returns what is
/// to be known: what was written, and what was not understood.
pub fn import(files: &Files, more: &More, directory: &Path) -> Result<String, FlannelError> {
    let (node, strangers) = read::node(files)?;
    let (config, cluster) = (directory.join("shuntd.toml"), directory.join("cluster.toml"));
    let record = record(directory);
    let json = serde_json::to_string_pretty(&node).expect("names and addresses");
    let texts = [(&config, written::config(&node, more)), (&cluster, written::cluster(&node)), (&record, json)];
    if let Some((path, _)) = texts.iter().find(|(path, _)| path.exists()) {
        return Err(FlannelError::Exists((*path).clone()));
    }
    fs::create_dir_all(directory).map_err(file(directory))?;
    for (path, text) in &texts {
        fs::write(path, text).map_err(file(path))?;
    }
    let mut said = format!(
        "{} pods, {} nodes by VXLAN, {} natively\nwritten: {}, {}, {}\n",
        node.pods.len(),
        node.peers.len(),
        node.routes.len(),
        config.display(),
        cluster.display(),
        record.display()
    );
    for interface in strangers {
        said += &format!("warning: {interface} on {} is nobody's that answers; it is left out\n", node.bridge.name);
    }
    Ok(said)
}

/// Takes off what flannel and the bridge plugin made; what is gone already, by a run that was cut off, is passed over.
/// `dry_run`: only says which commands would do it.
pub fn detach(directory: &Path, dry_run: bool) -> Result<String, FlannelError> {
    commands::run(&commands::detach(&load(directory)?, &Present::read()?), dry_run)
}

/// Puts it back, or what is missing of it. Pods that are gone meanwhile are left out.
pub fn restore(directory: &Path, dry_run: bool) -> Result<String, FlannelError> {
    commands::run(&commands::restore(&load(directory)?, &Present::read()?), dry_run)
}

fn load(directory: &Path) -> Result<FlannelNode, FlannelError> {
    let path = record(directory);
    let text = fs::read_to_string(&path).map_err(file(&path))?;
    serde_json::from_str(&text).map_err(|e| FlannelError::Content { path, problem: e.to_string() })
}
