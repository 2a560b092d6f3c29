//! Random sets of services, and packets to them.

use std::net::Ipv4Addr;

use shunt_control_lab::cluster::{Endpoint, EndpointPort, Exposure, Policy, Service, ServicePort};
use shunt_dataplane::net::Protocol;

use super::{
    NODE,
    packet::{From, Packet},
};

pub const PODS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 244, 1, 10), Ipv4Addr::new(10, 244, 1, 11), Ipv4Addr::new(10, 244, 1, 12)];
const REMOTE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 2, 10), Ipv4Addr::new(10, 244, 2, 11)];
/// A process of another node.
const HOST_NETWORK: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(198, 18, 0, 9)];
/// Source ranges.
const RANGES: [&str; 4] = ["192.0.2.0/24", "10.244.0.0/16", "192.168.50.1/32", "10.244.1.10/32"];
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Numbers that are the same in every run (Steele, Lea and Flood, SplitMix).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    fn some<T: Clone>(&mut self, choices: &[T]) -> Vec<T> {
        choices.iter().filter(|_| self.once_in(2)).cloned().collect()
    }

    fn policy(&mut self) -> Policy {
        self.of(&[Policy::Cluster, Policy::Local])
    }

    /// Up to four services, of which no two share an address and port.
    pub fn services(&mut self) -> Vec<Service> {
        (0..1 + self.below(4) as u8).map(|n| self.service(n)).collect()
    }

    fn service(&mut self, n: u8) -> Service {
        let protocols = if self.once_in(2) { PROTOCOLS.to_vec() } else { vec![self.of(&PROTOCOLS)] };
        let exposed = !self.once_in(4);
        let port =
            |protocol: Protocol, node_port| ServicePort { name: protocol.to_string(), protocol, port: 80, node_port };
        let ports = protocols.iter().map(|&protocol| {
            let node_port = (exposed && !self.once_in(4)).then_some(30_000 + u16::from(n));
            port(protocol, node_port)
        });
        let ports: Vec<_> = ports.collect();
        let target = |port: &ServicePort| EndpointPort { name: port.name.clone(), port: 8080 };
        // Sometimes none of the endpoints has a port of the name.
        let targets = ports.iter().filter(|_| !self.once_in(12)).map(target).collect();
        let mut exposure = Exposure::balanced(self.policy());
        exposure.load_balancer_ips = self.some(&[[203, 0, 113, n].into(), [203, 0, 113, 100 + n].into()]);
        exposure.external_ips = self.some(&[[198, 51, 100, n].into()]);
        if self.once_in(2) {
            exposure.load_balancer_source_ranges = self.some(&RANGES).into_iter().map(str::to_owned).collect();
        }
        Service {
            internal_traffic_policy: self.policy(),
            exposure: exposed.then_some(exposure),
            ports,
            targets,
            endpoints: self.endpoints(),
            ..Service::simple(&format!("s{n}"), [10, 96, 0, 10 + n].into(), Protocol::Tcp, 80, 8080, [])
        }
    }

    fn endpoints(&mut self) -> Vec<Endpoint> {
        let addresses = [&PODS[..], &REMOTE, &[HOST_NETWORK]].concat();
        let addresses = if self.once_in(3) { vec![self.of(&addresses)] } else { self.some(&addresses) };
        let all_hinted = self.once_in(3);
        addresses.into_iter().map(|address| self.endpoint(address, all_hinted)).collect()
    }

    fn endpoint(&mut self, address: Ipv4Addr, all_hinted: bool) -> Endpoint {
        let mut endpoint = match self.below(6) {
            0 => Endpoint::terminating(address),
            1 => Endpoint { ready: Some(false), ..Endpoint::ready(address) },
            _ => Endpoint::ready(address),
        };
        endpoint.node = if PODS.contains(&address) { "node-a" } else { "node-b" }.to_owned();
        if all_hinted && !self.once_in(8) {
            endpoint.for_nodes = vec![self.of(&["node-a", "node-b"]).to_owned()];
        }
        endpoint
    }

    /// A packet from anywhere, most often to a frontend of one of the services.
    pub fn packet(&mut self, services: &[Service], id: u16) -> Packet {
        let (from, src) = match self.below(6) {
            0 | 1 => (From::Pod, self.of(&PODS)),
            2 => (From::RemotePod, self.of(&REMOTE)),
            3 => (From::Node, NODE),
            _ => (From::Outside, self.of(&OUTSIDE)),
        };
        let service = self.of(services);
        let port = self.of(&service.ports);
        let vip = service.cluster_ip.expect("those of this test have one");
        let exposure = service.exposure.clone();
        let addresses = exposure.map_or(Vec::new(), |e| [e.load_balancer_ips, e.external_ips].concat());
        let (dst, dport) = match self.below(8) {
            0 | 1 => (vip, port.port),
            2 | 3 if port.node_port.is_some() => (NODE, port.node_port.unwrap_or_default()),
            2..=5 if !addresses.is_empty() => (self.of(&addresses), port.port),
            // A port or an address that is nobody's, and what is no service's matter at all.
            6 => self.of(&[(vip, 81), ([10, 96, 7, 7].into(), 80), ([203, 0, 113, 200].into(), 80)]),
            _ if from == From::Node => (OUTSIDE[0], 80),
            7 => (self.of(&PODS), 8080),
            _ => (NODE, 31_000),
        };
        Packet { id, from, protocol: self.of(&PROTOCOLS), src, dst, dport }
    }
}
