//! What the switch should do, in plain domain types: the input from which a snapshot is compiled.
//!
//! Control writes a [`ForwardingSpec`]; workers never see it.

use std::{fmt, net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;

use crate::net::{MacAddr, Protocol};

/// A port's number in one switch: dense, from 0, below [`MAX_PORTS`]. A removed port's number may be used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PortId(pub u16);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Ports one switch can have: 256 pods, uplinks and the host port.
pub const MAX_PORTS: usize = 272;

/// What stands behind a port, and so what is believed of frames that come from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortRole {
    /// Towards other nodes: VXLAN for our VTEP, and native packets for our pods.
    Uplink,
    /// One pod's veth.
    Pod,
    /// The node's own kernel stack.
    Host,
}

/// A port as the snapshot knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    /// Its number.
    pub id: PortId,
    /// Its role.
    pub role: PortRole,
    /// Our address on it: the source of what we send there, and what its ARP requests for the gateway are told.
    pub mac: MacAddr,
    /// Longest IP packet it carries, in bytes.
    pub mtu: u16,
    /// Packets may arrive with TCP and UDP checksums left unfinished, holding only the pseudo header's sum: true for
    /// devices without wire (veth, TAP, virtio), false for a network card.
    pub unfinished_checksums: bool,
}

/// The overlay (RFC 7348, as flannel's kernel device does it).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VxlanSpec {
    /// Network identifier, 24 bits. Flannel: 1.
    pub vni: u32,
    /// UDP destination port. Flannel: 8472; IANA: 4789.
    pub udp_port: u16,
    /// Our address on the underlay.
    pub local: Ipv4Addr,
    /// Our VTEP's address in inner frames.
    pub mac: MacAddr,
}

/// A remote VTEP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VtepSpec {
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Its address in inner frames.
    pub mac: MacAddr,
    /// The uplink towards it.
    pub uplink: PortId,
    /// The underlay next hop's address; `None` while the kernel has not resolved it.
    pub next_hop: Option<MacAddr>,
}

/// Where a prefix leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// To the station `mac` right behind a pod or host port.
    Port {
        /// The port.
        port: PortId,
        /// The station's address.
        mac: MacAddr,
    },
    /// Natively over an uplink; `mac` is the next hop's address, `None` while the kernel has not resolved it.
    Gateway {
        /// The uplink.
        port: PortId,
        /// The next hop's address.
        mac: Option<MacAddr>,
    },
    /// Over the overlay to the VTEP with this underlay address.
    Vtep(Ipv4Addr),
    /// To nobody: dropped, with an ICMP unreachable to the sender.
    Unreachable,
}

/// One entry of the FIB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteSpec {
    /// Destination.
    pub prefix: Ipv4Net,
    /// Next hop.
    pub via: Via,
}

/// One address and port that serve a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Backend {
    /// Pod (or host-network) address.
    pub address: Ipv4Addr,
    /// Target port.
    pub port: u16,
}

/// One VIP, port and protocol, and who serves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSpec {
    /// The ClusterIP.
    pub vip: Ipv4Addr,
    /// The service port.
    pub port: u16,
    /// The protocol; the same port may serve another one elsewhere.
    pub protocol: Protocol,
    /// Those that may be chosen for a new flow. Empty: new flows are refused.
    pub backends: Arc<[Backend]>,
}

/// Everything the workers forward by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ForwardingSpec {
    /// All attached ports.
    pub ports: Vec<PortSpec>,
    /// The overlay; `None`: native routing only.
    pub vxlan: Option<VxlanSpec>,
    /// The remote VTEPs: frames of others are dropped.
    pub vteps: Vec<VtepSpec>,
    /// The FIB's entries. Each prefix at most once.
    pub routes: Vec<RouteSpec>,
    /// Services. Each (VIP, port, protocol) at most once.
    pub services: Vec<ServiceSpec>,
    /// The address pods and the host use as their gateway: the switch answers ARP for it on pod and host ports.
    pub gateway: Option<Ipv4Addr>,
    /// The switch's own address on the overlay: it answers ping and is the source of the ICMP errors it sends.
    /// Packets to it from the overlay go to the host port if a route says so, otherwise the switch answers.
    pub router: Option<Ipv4Addr>,
    /// Addresses out of which ClusterIPs are given. A packet to one that no service has is dropped.
    pub service_cidrs: Vec<Ipv4Net>,
}
