//! What the switch should do, in plain domain types: the input from which a snapshot is compiled.
//!
//! Control writes a [`ForwardingSpec`]; workers never see it.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU64,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use crate::{
    net::{Address, MacAddr, Protocol},
    service_set::{ServiceKey, ServiceSet},
};

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

/// The one station behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Station {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it has one. It may send from a link-local one, too, but not beyond its link.
    pub ipv6: Option<Ipv6Addr>,
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
    /// What comes in must be from this station, by its Ethernet and IP source addresses and what its ARP and neighbour
    /// discovery messages say; and it must not be for a VTEP, as if it came from one. `None`: anybody may send, as on an
    /// uplink.
    pub station: Option<Station>,
}

/// So much on average, and a burst of it at once. Of Ethernet frames as the pod has them, without their checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    /// Bits per second.
    pub bits_per_second: NonZeroU64,
    /// Bits that may pass at once after a pause.
    pub burst_bits: u64,
}

/// How much the station behind a port may receive and send; what is beyond that is dropped. `None`: any amount.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Bandwidth {
    /// What it receives.
    pub ingress: Option<Rate>,
    /// What it sends.
    pub egress: Option<Rate>,
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
    /// Its node has the same services as we, and answers clients outside directly where a service asks for that.
    pub direct: bool,
    /// It is on the uplink's own network, and its pods' packets go there as they are (flannel's DirectRouting). What is
    /// relayed for a service is encapsulated all the same.
    pub native: bool,
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
pub struct RouteSpec<A: Address = Ipv4Addr> {
    /// Destination.
    pub prefix: A::Net,
    /// Next hop.
    pub via: Via,
}

/// One address and port that serve a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Backend<A = Ipv4Addr> {
    /// Pod (or host-network) address.
    pub address: A,
    /// Target port.
    pub port: u16,
}

impl<A: Into<IpAddr>> Backend<A> {
    /// The backend for people, of either family.
    pub fn told(self) -> Backend<IpAddr> {
        Backend { address: self.address.into(), port: self.port }
    }
}

/// A backend and its share of a service's new flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Endpoint<A = Ipv4Addr> {
    /// Where it is.
    pub backend: Backend<A>,
    /// Its share, relative to the other endpoints' weights.
    pub weight: u16,
}

impl<A> From<Backend<A>> for Endpoint<A> {
    /// An endpoint with the share of every other one.
    fn from(backend: Backend<A>) -> Endpoint<A> {
        Endpoint { backend, weight: 1 }
    }
}

/// What happens to a new flow for which a rule has no endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Otherwise {
    /// The sender is told: ICMP port unreachable.
    #[default]
    Refuse,
    /// It is dropped.
    Drop,
}

/// What becomes of a service's new flows from one kind of source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule<A = Ipv4Addr> {
    /// Those that may be chosen. Rules with the same endpoints should share the list: they then share its table.
    pub endpoints: Arc<[Endpoint<A>]>,
    /// The source is replaced by the node's address, so that answers come back through this node.
    pub masquerade: bool,
    /// If there are no endpoints.
    pub otherwise: Otherwise,
}

impl<A> Default for Rule<A> {
    fn default() -> Self {
        Rule { endpoints: Arc::default(), masquerade: false, otherwise: Otherwise::default() }
    }
}

/// How a service chooses an endpoint for a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Scheduler {
    /// By the flow's hash, in a Maglev table: little changes when an endpoint comes or goes. Each node has its own seed.
    #[default]
    Maglev,
    /// In turns.
    RoundRobin,
    /// The one with the fewest connections.
    LeastConnections,
    /// By the client's address.
    SourceHash,
}

/// New flows of one client go to the endpoint of its last one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Affinity {
    /// For so long after its last new flow, in whole seconds (Kubernetes `sessionAffinityConfig.clientIP.timeoutSeconds`).
    pub timeout: Duration,
    /// Frontends of one number share what they know of a client. With kube-proxy these are the frontends of one service
    /// port: its ClusterIP, node port and load balancer addresses, but not another port of the same service.
    pub group: u64,
}

/// One frontend of a service: an address, port and protocol, and who serves it to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSpec<A: Address = Ipv4Addr> {
    /// A ClusterIP, a node's address, a load balancer's address or an external IP.
    pub vip: A,
    /// The service port.
    pub port: u16,
    /// The protocol; the same port may serve another one elsewhere.
    pub protocol: Protocol,
    /// New flows from the cluster's pods.
    pub from_pods: Rule<A>,
    /// New flows from this node's own stack: from the host port, and not from an address where pods are.
    pub from_node: Rule<A>,
    /// New flows from anywhere else.
    pub from_outside: Rule<A>,
    /// Direct server return: where `from_outside` asks for the source to be replaced, it is kept if the endpoint is a pod here
    /// or behind a [direct](VtepSpec::direct) VTEP, to which the flow is relayed. The rule is that of flows relayed to us.
    pub relayed: Option<Rule<A>>,
    /// Sources that may use the service (Kubernetes `loadBalancerSourceRanges`). Empty: all.
    pub sources: Arc<[A::Net]>,
    /// Whether new flows of one client go to the endpoint of its last one (Kubernetes `sessionAffinity: ClientIP`).
    pub affinity: Option<Affinity>,
    /// How an endpoint is chosen.
    pub scheduler: Scheduler,
    /// Endpoints that get no new flows and keep the UDP flows that they have: they terminate and serve still, or are
    /// reserved for others by now.
    pub leaving: Arc<[Backend<A>]>,
}

impl<A: Address> ServiceSpec<A> {
    /// A service that gives everybody the same `endpoints`.
    pub fn simple(vip: A, port: u16, protocol: Protocol, endpoints: Arc<[Endpoint<A>]>) -> ServiceSpec<A> {
        ServiceSpec::of_rule(vip, port, protocol, Rule { endpoints, ..Rule::default() })
    }

    /// A service with the same `rule` for everybody.
    pub fn of_rule(vip: A, port: u16, protocol: Protocol, rule: Rule<A>) -> ServiceSpec<A> {
        ServiceSpec {
            vip,
            port,
            protocol,
            from_pods: rule.clone(),
            from_node: rule.clone(),
            from_outside: rule,
            relayed: None,
            sources: Arc::default(),
            affinity: None,
            scheduler: Scheduler::default(),
            leaving: Arc::default(),
        }
    }

    /// What it is found by.
    pub fn key(&self) -> ServiceKey<A> {
        (self.vip, self.port, self.protocol)
    }

    /// Its rules, in the order of [`Origin`](crate::tables::Origin).
    pub fn rules(&self) -> [&Rule<A>; 4] {
        let relayed = self.relayed.as_ref().unwrap_or(&self.from_outside);
        [&self.from_pods, &self.from_node, &self.from_outside, relayed]
    }
}

/// Replacing the source of flows by an address of this node (SNAT), so that their answers come back through it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MasqueradeSpec<A: Address = Ipv4Addr> {
    /// The source of flows to pods, here and over the overlay: this node's address on the overlay.
    pub overlay: A,
    /// The source of all other flows: this node's address on the underlay.
    pub underlay: A,
    /// The ports given to such flows. No socket of the node may use them.
    pub ports: RangeInclusive<u16>,
    /// Flows of pods that leave the cluster are masqueraded, but for those to these destinations; `None`: no flows are.
    pub egress: Option<Vec<A::Net>>,
    /// Answers that the node's own processes send from the address on the underlay come back to the switch, though they are for
    /// somebody outside: programs beside the uplinks' classifiers lead them to the host port. So flows from outside to such
    /// a process can keep their source.
    pub answers_led: bool,
}

/// What is had once for each family of addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FamilySpec<A: Address> {
    /// The FIB's entries. Each prefix at most once.
    pub routes: Vec<RouteSpec<A>>,
    /// The services.
    pub services: ServiceSet<A>,
    /// The address pods and the host use as their gateway: the switch answers for it (ARP, neighbour discovery) on pod and host
    /// ports.
    pub gateway: Option<A>,
    /// What pods may take to be on their own link, as behind a bridge: the switch answers their ARP requests for any address
    /// of it but their own, takes what they send to any station, and is itself the first address. Of IPv4 only.
    pub on_link: Option<A::Net>,
    /// The switch's own address on the overlay: it answers ping and is the source of the ICMP errors it sends.
    /// Packets to it from the overlay go to the host port if a route says so, otherwise the switch answers.
    pub router: Option<A>,
    /// `None`: flows whose source would have to be replaced are dropped.
    pub masquerade: Option<MasqueradeSpec<A>>,
    /// Where the cluster's pods are: what comes from there is a pod's.
    pub pod_cidrs: Vec<A::Net>,
    /// Addresses out of which ClusterIPs are given. A packet to one that no service has is dropped.
    pub service_cidrs: Vec<A::Net>,
}

impl<A: Address> Default for FamilySpec<A> {
    fn default() -> Self {
        FamilySpec {
            routes: Vec::new(),
            services: ServiceSet::default(),
            gateway: None,
            on_link: None,
            router: None,
            masquerade: None,
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
        }
    }
}

/// Everything the workers forward by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ForwardingSpec {
    /// All attached ports.
    pub ports: Vec<PortSpec>,
    /// The limits of those ports that have any.
    pub bandwidth: BTreeMap<PortId, Bandwidth>,
    /// The overlay; `None`: native routing only.
    pub vxlan: Option<VxlanSpec>,
    /// The remote VTEPs: frames of others are dropped.
    pub vteps: Vec<VtepSpec>,
    /// IPv4.
    pub ipv4: FamilySpec<Ipv4Addr>,
    /// IPv6, inside the overlay and between this node's pods.
    pub ipv6: FamilySpec<Ipv6Addr>,
}
