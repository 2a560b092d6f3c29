//! The topology of a lab: which nodes and pods there are, and every address in it.
//!
//! One underlay 192.168.50.0/24; node number N (node-a is 1) has 192.168.50.N, its pods have 10.244.N.0/24, and its own
//! address on the overlay is 10.244.N.0, as flannel gives it to flannel.1. With both families it has fd00:10:244:N::/64
//! and fd00:10:244:N:: beside them; the underlay has IPv4 alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use shunt_dataplane::net::{MacAddr, Protocol};

use crate::cluster::{Cluster, Port, Route, Service, Vtep};

/// Frames for a handful of pods.
const FEW_FRAMES: u32 = 8192;
/// What shuntd has unless told: frames for as many pods as a node may have.
pub const FRAMES: u32 = 32_768;

/// The gateway that all pods use; the switch answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same over IPv6, on each pod's link.
pub const IPV6_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// All pods' addresses.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// All pods' IPv6 addresses.
pub const IPV6_CLUSTER_CIDR: &str = "fd00:10:244::/48";
/// All ClusterIPs.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// All IPv6 ClusterIPs.
pub const IPV6_SERVICE_CIDR: &str = "fd00:10:96::/112";
/// VXLAN network identifier, as flannel has it.
pub const VNI: u32 = 1;
/// VXLAN's UDP port, as flannel has it.
pub const VXLAN_PORT: u16 = 8472;
/// The underlay's MTU in bytes.
pub const UNDERLAY_MTU: u16 = 1500;
/// What is left for pods: 50 bytes go to the outer Ethernet, IPv4, UDP and VXLAN headers.
pub const POD_MTU: u16 = 1450;
/// Where the lab's servers listen for TCP.
pub const TCP_PORT: u16 = 8080;
/// Where the lab's servers listen for UDP.
pub const UDP_PORT: u16 = 5353;
/// ClusterIP of `web` (TCP 80).
pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// ClusterIP of `dns` (UDP 53).
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 53);
/// IPv6 ClusterIP of `web`, where it has one.
pub const IPV6_WEB: Ipv6Addr = ipv6_cluster_ip(0x10);
/// IPv6 ClusterIP of `dns`, where it has one.
pub const IPV6_DNS: Ipv6Addr = ipv6_cluster_ip(0x53);

/// One of the IPv6 ClusterIPs.
pub const fn ipv6_cluster_ip(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number)
}

/// Who forwards a node's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarder {
    /// Shunt's daemon.
    Shunt,
    /// The Linux kernel: a VXLAN device as flannel sets it up, nftables for services.
    Kernel,
}

/// How packets get from node to node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routing {
    /// In VXLAN.
    Overlay,
    /// As they are: each node has a route to the others' pods by their underlay addresses (flannel's host-gw backend).
    Native,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Its letter, from `a`.
    pub letter: char,
    /// Who forwards.
    pub forwarder: Forwarder,
    /// Its pods' number.
    pub pods: u8,
    /// Whether its pods have IPv6 addresses as well.
    pub ipv6: bool,
}

impl NodePlan {
    /// From 1.
    pub fn number(&self) -> u8 {
        self.letter as u8 - b'a' + 1
    }

    /// `node-a`.
    pub fn name(&self) -> String {
        format!("node-{}", self.letter)
    }

    /// On the underlay.
    pub fn underlay(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 50, self.number())
    }

    /// The node's own address on the overlay.
    pub fn overlay(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number(), 0)
    }

    /// Its pods' addresses.
    pub fn pod_cidr(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.overlay(), 24)
    }

    /// Its pods' IPv6 addresses; the first one is the node's own on the overlay.
    pub fn ipv6_pod_cidr(&self) -> Option<Ipv6Net> {
        self.ipv6.then(|| Ipv6Net::new_assert(self.ipv6_address(0), 64))
    }

    fn ipv6_address(&self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, self.number().into(), 0, 0, 0, host)
    }

    /// Its VTEP's MAC address.
    pub fn vtep_mac(&self) -> MacAddr {
        MacAddr([0x0a, 0x58, 0xff, 0, 0, self.number()])
    }

    /// Its pods.
    pub fn pods(&self) -> Vec<PodPlan> {
        (1..=self.pods).map(|number| self.pod(number)).collect()
    }

    /// Pod number `number`, whether or not the plan has it from the start.
    pub fn pod(&self, number: u8) -> PodPlan {
        let address = Ipv4Addr::new(10, 244, self.number(), 9 + number);
        let [a, b, c, d] = address.octets();
        PodPlan {
            name: format!("{}{number}", self.letter),
            address,
            // As it looks: 10.244.1.10 and fd00:10:244:1::10.
            ipv6: self.ipv6.then(|| self.ipv6_address(0x0f + u16::from(number))),
            mac: MacAddr([0x0a, 0x58, a, b, c, d]),
            interface: format!("v{}{number}", self.letter),
        }
    }
}

/// A pod.
#[derive(Clone, Debug)]
pub struct PodPlan {
    /// `a1` is the first pod of node-a.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The node's end of its veth.
    pub interface: String,
}

impl PodPlan {
    /// Its address of each family it has one of.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::from(self.address)].into_iter().chain(self.ipv6.map(IpAddr::from))
    }

    /// As `shuntctl apply` reads it.
    pub fn port(&self) -> Port {
        Port {
            name: format!("default/{}", self.name),
            interface: self.interface.clone(),
            address: self.address,
            ipv6_address: self.ipv6,
            mac: self.mac,
        }
    }
}

/// Everything a lab is built from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// Workers of each Shunt node, and queues of each veth.
    pub workers: usize,
    /// Frames of each worker: a daemon that has few starts sooner.
    pub frames: u32,
    /// How packets get from node to node.
    pub routing: Routing,
    /// Services known to every node.
    pub services: Vec<Service>,
    /// MTU of the pods' interfaces, in bytes.
    pub pod_mtu: u16,
    /// `[xdp] mode` of the Shunt nodes.
    pub xdp_mode: &'static str,
    /// Whether Shunt nodes masquerade what leaves the cluster.
    pub egress: bool,
    /// The configuration of a Shunt node, in place of the lab's own; what is the machine's (paths, cores, sizes) and the
    /// node's name, pods and VTEP are written over.
    pub config: Option<fn(&NodePlan) -> String>,
    /// Whether kernel nodes send outer UDP checksums (the kernel's default) or zero.
    pub kernel_udp_checksum: bool,
    /// Whether kernel nodes leave checksums to their uplink, which is a veth and finishes none: on a wire nobody sees
    /// such packets, between nodes that are containers of one machine everybody does.
    pub kernel_unfinished_checksums: bool,
}

impl Plan {
    /// node-a and node-b with two pods each, forwarded by `ab`; node-c with one pod, forwarded by the kernel. Services
    /// `web` (TCP 80) and `dns` (UDP 53) have one backend on each node: a2, b1 and c1.
    pub fn three_nodes(ab: Forwarder) -> Plan {
        let node = |letter, forwarder, pods| NodePlan { letter, forwarder, pods, ipv6: false };
        let nodes = vec![node('a', ab, 2), node('b', ab, 2), node('c', Forwarder::Kernel, 1)];
        let backends = [nodes[0].pod(2).address, nodes[1].pod(1).address, nodes[2].pod(1).address];
        Plan {
            services: vec![
                Service::simple("web", WEB, Protocol::Tcp, 80, TCP_PORT, backends),
                Service::simple("dns", DNS, Protocol::Udp, 53, UDP_PORT, backends),
            ],
            nodes,
            workers: 1,
            frames: FEW_FRAMES,
            routing: Routing::Overlay,
            pod_mtu: POD_MTU,
            xdp_mode: "auto",
            egress: false,
            config: None,
            kernel_udp_checksum: true,
            kernel_unfinished_checksums: false,
        }
    }

    /// The [three nodes](Plan::three_nodes) with both families: pods have an IPv6 address each, and `web` and `dns` an IPv6
    /// ClusterIP that leads to the same pods.
    pub fn dual_stack(ab: Forwarder) -> Plan {
        let mut plan = Plan::three_nodes(ab);
        plan.nodes.iter_mut().for_each(|node| node.ipv6 = true);
        let backends = || [(0, 2), (1, 1), (2, 1)].into_iter().filter_map(|(node, pod)| plan.nodes[node].pod(pod).ipv6);
        let services = plan.services.into_iter().zip([IPV6_WEB, IPV6_DNS]);
        Plan { services: services.map(|(service, vip)| service.over_ipv6(vip, backends())).collect(), ..plan }
    }

    /// node-a, forwarded by `a`, and node-b, forwarded by the kernel, with two pods each. There is neither an overlay nor
    /// a service, and pods have the underlay's MTU.
    pub fn flat(a: Forwarder) -> Plan {
        let node = |letter, forwarder| NodePlan { letter, forwarder, pods: 2, ipv6: false };
        Plan {
            nodes: vec![node('a', a), node('b', Forwarder::Kernel)],
            routing: Routing::Native,
            services: Vec::new(),
            pod_mtu: UNDERLAY_MTU,
            ..Plan::three_nodes(a)
        }
    }

    /// What `node` is told.
    pub fn cluster_for(&self, node: &NodePlan) -> Cluster {
        let vtep = |other: &NodePlan| Vtep {
            node: other.name(),
            address: other.underlay(),
            mac: other.vtep_mac(),
            pod_cidr: other.pod_cidr(),
            ipv6_pod_cidr: other.ipv6_pod_cidr(),
            direct_server_return: other.forwarder == Forwarder::Shunt,
        };
        let route = |other: &NodePlan| Route { prefix: other.pod_cidr(), via: other.underlay() };
        let others = || self.nodes.iter().filter(|other| other.letter != node.letter);
        let (vteps, routes) = match self.routing {
            Routing::Overlay => (others().map(vtep).collect(), Vec::new()),
            Routing::Native => (Vec::new(), others().map(route).collect()),
        };
        Cluster {
            vteps,
            ports: node.pods().iter().map(PodPlan::port).collect(),
            routes,
            services: self.services.clone(),
        }
    }
}
