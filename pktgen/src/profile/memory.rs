//! `[memory]`: the cluster that an engine in this process is told, so that a profile can be run without a network.

use std::{net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;
use shunt_dataplane::{
    net::Protocol as Transport,
    spec::{Backend, Endpoint, ServiceSpec},
};

use super::file::{self, MemoryPort, Protocol};

/// What an engine in this process knows.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    /// The port test packets go into.
    pub input: MemoryPort,
    /// What is behind its pod port.
    pub pods: Vec<Ipv4Net>,
    /// What is behind its uplink.
    pub remote: Vec<Remote>,
    /// Its services.
    pub services: Vec<ServiceSpec>,
}

/// A prefix behind the uplink.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    /// The prefix.
    pub prefix: Ipv4Net,
    /// The node that has it; `None`: reached natively.
    pub vtep: Option<Ipv4Addr>,
}

pub(super) fn check(file: file::Memory) -> Result<MemoryEngine, String> {
    let prefix = |path: String, text: &str| {
        text.parse::<Ipv4Net>().map_err(|_| format!("{path}: '{text}' is not an IPv4 prefix (10.244.2.0/24)"))
    };
    let pods = file.pods.iter().enumerate().map(|(i, text)| prefix(format!("memory.pods[{i}]"), text));
    let mut remote = Vec::new();
    for (i, entry) in file.remote.iter().enumerate() {
        let path = format!("memory.remote[{i}]");
        let vtep = entry
            .vtep
            .as_ref()
            .map(|text| text.parse::<Ipv4Addr>().map_err(|_| format!("{path}.vtep: '{text}' is not an IPv4 address")));
        remote.push(Remote { prefix: prefix(format!("{path}.prefix"), &entry.prefix)?, vtep: vtep.transpose()? });
    }
    let mut services = Vec::new();
    for (i, entry) in file.service.iter().enumerate() {
        services.extend(self::services(&format!("memory.service[{i}]"), entry)?);
    }
    Ok(MemoryEngine { input: file.input, pods: pods.collect::<Result<_, _>>()?, remote, services })
}

/// A service on every address of a range; all have the same backends.
fn services(path: &str, entry: &file::Service) -> Result<Vec<ServiceSpec>, String> {
    let protocol = match entry.protocol {
        Protocol::Udp => Transport::Udp,
        Protocol::Tcp => Transport::Tcp,
        Protocol::Icmp => return Err(format!("{path}.protocol: a service has udp or tcp")),
    };
    let (first, last) = entry.addresses.split_once('-').unwrap_or((&entry.addresses, &entry.addresses));
    let address = |text: &str| {
        text.trim().parse::<Ipv4Addr>().map(u32::from).map_err(|_| {
            format!("{path}.addresses: '{}' is neither an IPv4 address nor a range of them", entry.addresses)
        })
    };
    let mut endpoints = Vec::new();
    for (i, text) in entry.backends.iter().enumerate() {
        let backend = text.rsplit_once(':').and_then(|(address, port)| {
            let port = port.parse().ok().filter(|port| *port > 0)?;
            Some(Endpoint::from(Backend { address: address.parse().ok()?, port }))
        });
        endpoints.push(backend.ok_or_else(|| format!("{path}.backends[{i}]: '{text}' is not address:port"))?);
    }
    let endpoints: Arc<[Endpoint]> = endpoints.into();
    let vips = address(first)?..=address(last)?;
    Ok(vips.map(|vip| ServiceSpec::simple(vip.into(), entry.port, protocol, endpoints.clone())).collect())
}
