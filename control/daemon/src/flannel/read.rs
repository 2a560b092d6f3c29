//! What flannel and the bridge plugin made, as the kernel has it: the JSON of `ip` and `bridge`.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, de::DeserializeOwned};

use crate::kernel::{VxlanDevice, vxlan_devices};

use super::{
    Bridge, Device, Files, FlannelError, FlannelNode, Peer, Pod, Route,
    files::{Backend, Said},
};

/// How long pods have to answer when they are asked for their MAC addresses.
const PATIENCE: Duration = Duration::from_millis(1500);

#[derive(Deserialize)]
struct Link {
    ifname: String,
    address: String,
    mtu: u32,
}

/// Any link: not all have an address.
#[derive(Deserialize)]
struct Named {
    ifname: String,
}

#[derive(Deserialize)]
struct Neighbour {
    dst: IpAddr,
    lladdr: Option<String>,
}

#[derive(Deserialize)]
struct Fdb {
    mac: String,
    ifname: Option<String>,
    dst: Option<IpAddr>,
}

#[derive(Deserialize)]
struct KernelRoute {
    dst: String,
    gateway: Option<Ipv4Addr>,
    dev: Option<String>,
}

/// Runs a command that prints JSON.
fn ask<T: DeserializeOwned>(line: &str) -> Result<Vec<T>, FlannelError> {
    let failed = |problem: String| FlannelError::Command { command: line.to_owned(), problem };
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).output();
    let output = output.map_err(|e| failed(format!("{e}; install iproute2")))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    // What finds nothing prints nothing, or empty objects.
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))?;
    let full = list.into_iter().filter(|entry| entry.as_object().is_some_and(|entry| !entry.is_empty()));
    full.map(serde_json::from_value).collect::<Result<_, _>>().map_err(|e| failed(e.to_string()))
}

/// What there is of links and of routes by a gateway.
#[derive(Debug)]
pub(super) struct Present {
    pub links: HashSet<String>,
    pub routes: HashSet<Route>,
}

impl Present {
    pub(super) fn read() -> Result<Present, FlannelError> {
        let links = ask::<Named>("ip -j link show")?.into_iter().map(|link| link.ifname).collect();
        let routes = ask::<KernelRoute>("ip -j route show")?.into_iter();
        let routes = routes.filter_map(|route| Some(Route { prefix: route.dst.parse().ok()?, via: route.gateway? }));
        Ok(Present { links, routes: routes.collect() })
    }
}

/// The node as it is, and the bridge's ports on which nobody answers.
pub(super) fn node(files: &Files) -> Result<(FlannelNode, Vec<String>), FlannelError> {
    let Said { network, subnet, masquerades, backend } = files.read()?;
    let bridge = bridge(&files.bridge)?;
    let (device, mut uplink) = match backend.kind.as_str() {
        "vxlan" => device(&backend).map(|(device, uplink)| (Some(device), Some(uplink)))?,
        _ => (None, None),
    };
    let peers = device.as_ref().map_or(Ok(Vec::new()), |device| peers(&device.name))?;
    let mut routes = Vec::new();
    for route in ask::<KernelRoute>("ip -j route show")? {
        let (Ok(prefix), Some(via), Some(dev)) = (route.dst.parse::<Ipv4Net>(), route.gateway, route.dev) else {
            continue;
        };
        if network.contains(&prefix) && device.as_ref().is_none_or(|device| device.name != dev) {
            uplink.get_or_insert(dev);
            routes.push(Route { prefix, via });
        }
    }
    let Some(uplink) = uplink else {
        return Err(FlannelError::Missing("no route to another node's pods: which interface is the uplink?".into()));
    };
    let (pods, strangers) = pods(&bridge.name, subnet)?;
    let direct_routing = backend.direct_routing;
    Ok((
        FlannelNode { network, subnet, masquerades, direct_routing, uplink, device, bridge, peers, routes, pods },
        strangers,
    ))
}

fn bridge(name: &str) -> Result<Bridge, FlannelError> {
    let links = ask::<Link>(&format!("ip -j link show dev {name} type bridge"))?;
    let Some(Link { ifname, address, mtu }) = links.into_iter().next() else {
        return Err(FlannelError::Missing(format!("there is no bridge {name}; name the pods' with --bridge")));
    };
    Ok(Bridge { name: ifname, mac: address, mtu })
}

/// The VXLAN device and the interface that it sends by.
fn device(backend: &Backend) -> Result<(Device, String), FlannelError> {
    let name = format!("flannel.{}", backend.vni);
    let missing = |what: &str| FlannelError::Missing(format!("{name}{what}; flannel's vxlan backend makes it"));
    let unreadable = |problem: String| FlannelError::Missing(format!("the kernel's devices cannot be read: {problem}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| unreadable(e.to_string()))?;
    let devices = runtime.block_on(vxlan_devices()).map_err(|e| unreadable(e.to_string()))?;
    let device = devices.into_iter().find(|device| device.name == name).ok_or_else(|| missing(" is not there"))?;
    let VxlanDevice { name: _, mac: Some(mac), mtu, vni, port, local: Some(local), link: Some(link) } = device else {
        return Err(missing(" has no MAC address, interface or address"));
    };
    Ok((Device { name, mac: mac.to_string(), vni, port, local, mtu }, link))
}

/// Routes, neighbours and forwarding entries of the device, put together: each node has one of each.
fn peers(device: &str) -> Result<Vec<Peer>, FlannelError> {
    let neighbours = ask::<Neighbour>(&format!("ip -j neigh show dev {device}"))?;
    let macs: HashMap<_, _> = neighbours.into_iter().filter_map(|n| Some((n.dst, n.lladdr?))).collect();
    let fdb = ask::<Fdb>(&format!("bridge -j fdb show dev {device}"))?;
    let addresses: HashMap<_, _> = fdb.into_iter().filter_map(|entry| Some((entry.mac, entry.dst?))).collect();
    let routes = ask::<KernelRoute>(&format!("ip -j route show dev {device}"))?.into_iter();
    let peer = |route: KernelRoute| {
        let (prefix, gateway) = (route.dst.parse().ok()?, route.gateway?);
        let mac = macs.get(&IpAddr::V4(gateway))?;
        match addresses.get(mac)? {
            IpAddr::V4(address) => Some(Peer { prefix, gateway, mac: mac.clone(), address: *address }),
            IpAddr::V6(_) => None,
        }
    };
    Ok(routes.filter_map(peer).collect())
}

/// The pods behind a bridge's ports, and the ports without one. Each address of the subnet is asked for, so that pods that
/// have been silent for long are found too.
fn pods(bridge: &str, subnet: Ipv4Net) -> Result<(Vec<Pod>, Vec<String>), FlannelError> {
    if let Ok(socket) = UdpSocket::bind((subnet.addr(), 0)) {
        for address in subnet.hosts().filter(|address| *address != subnet.addr()) {
            // The kernel asks for the MAC address first; whether the datagram arrives does not matter (port 9: discard).
            let _ = socket.send_to(&[], (address, 9));
        }
        thread::sleep(PATIENCE);
    }
    let ports = ask::<Link>(&format!("ip -j link show master {bridge}"))?;
    let names: HashSet<_> = ports.iter().map(|port| port.ifname.clone()).collect();
    let own: HashMap<_, _> = ports.iter().map(|port| (port.ifname.clone(), port.address.clone())).collect();
    let learned: HashMap<_, _> = ask::<Fdb>(&format!("bridge -j fdb show br {bridge}"))?
        .into_iter()
        .filter_map(|entry| Some((entry.mac, entry.ifname.filter(|name| names.contains(name))?)))
        .collect();
    let mut pods = Vec::new();
    for neighbour in ask::<Neighbour>(&format!("ip -j neigh show dev {bridge}"))? {
        let (IpAddr::V4(address), Some(mac)) = (neighbour.dst, neighbour.lladdr) else { continue };
        let Some(interface) = learned.get(&mac).filter(|_| subnet.contains(&address)) else { continue };
        let (interface, interface_mac) = (interface.clone(), own[interface].clone());
        pods.push(Pod { interface, interface_mac, address, mac });
    }
    pods.sort_by_key(|pod| pod.address);
    let known: HashSet<_> = pods.iter().map(|pod| pod.interface.clone()).collect();
    let strangers = ports.into_iter().map(|port| port.ifname).filter(|name| !known.contains(name));
    Ok((pods, strangers.collect()))
}
