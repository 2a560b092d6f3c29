//! The immutable state that workers forward by, compiled from a [`ForwardingSpec`].

mod masquerade;

pub use masquerade::Masquerade;

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;

use crate::{
    net::{MacAddr, Protocol},
    next_hop::{Kind, NextHop},
    service_set::ServiceSet,
    spec::{ForwardingSpec, MAX_PORTS, PortId, PortRole, PortSpec, ServiceSpec, Station, Via, VtepSpec, VxlanSpec},
    tables::{Endpoints, Fib, Limits, Origin, Prefixes, ServiceIndex, ServiceTable, VtepTable, conntrack, maglev},
    wire::ipv4,
};

/// Next hop of every destination without a route.
pub const NO_ROUTE: u32 = 0;
/// Next hop of the service ranges.
pub const SERVICE_RANGE: u32 = 1;
/// Next hop of the switch's own addresses.
pub const LOCAL: u32 = 2;
/// Next hop of routes whose station's MAC address is not known.
pub const UNRESOLVED: u32 = 3;

/// The spec contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says it")]
pub enum CompileError {
    #[error("port number {0} is not below {MAX_PORTS}")]
    PortNumber(PortId),
    #[error("port number {0} is given to two ports")]
    DuplicatePort(PortId),
    #[error("{0} names port {1}, which does not exist")]
    NoSuchPort(String, PortId),
    #[error("VNI {0} does not fit into 24 bits")]
    Vni(u32),
    #[error("VTEPs are given, but no VXLAN settings")]
    VtepsWithoutVxlan,
    #[error("VTEP {0} is given twice")]
    DuplicateVtep(Ipv4Addr),
    #[error("route {0} leads to VTEP {1}, which does not exist")]
    NoSuchVtep(Ipv4Net, Ipv4Addr),
    #[error("route {0} is given twice")]
    DuplicateRoute(Ipv4Net),
    #[error("service {0} port {1}/{2} has {3} endpoints; at most {max} are possible", max = maglev::MAX_BACKENDS)]
    TooManyEndpoints(Ipv4Addr, u16, Protocol, usize),
    #[error("masquerade ports {0} to {1}: the first must be above 1023 and not above the last")]
    MasqueradePorts(u16, u16),
    #[error("{0} different next hops; at most {max} are possible", max = conntrack::MAX_NEXT_HOPS)]
    TooManyNextHops(usize),
}

/// A port, as parsing needs it.
#[derive(Clone, Copy, Debug)]
pub struct PortEntry {
    /// Its role; `None`: there is no such port.
    pub role: Option<PortRole>,
    /// Our address on it.
    pub mac: MacAddr,
    /// Checksums of TCP and UDP may be left for us to finish.
    pub unfinished_checksums: bool,
    /// Who may send; `None`: anybody.
    pub guard: Option<Guard>,
}

/// The only station that may send on a port, and what it may not send to.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    /// Its Ethernet address, as a number.
    pub mac: u64,
    /// Its IPv4 address.
    pub address: u32,
    /// The VTEPs' UDP port, or 0 if there is no overlay.
    pub vtep_port: u16,
}

impl Guard {
    /// Its Ethernet address.
    pub fn station(&self) -> MacAddr {
        let [_, _, mac @ ..] = self.mac.to_le_bytes();
        MacAddr(mac)
    }
}

/// What stands for a port that does not exist.
const NOBODY: PortEntry = PortEntry { role: None, mac: MacAddr([0; 6]), unfinished_checksums: false, guard: None };

/// The overlay, as decapsulation needs it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overlay {
    /// Our VNI.
    pub vni: u32,
    /// Our UDP port.
    pub udp_port: u16,
    /// Our address on the underlay.
    pub local: u32,
    /// Our VTEP's MAC address.
    pub mac: MacAddr,
}

/// What all workers forward by. Never changed.
pub struct Snapshot {
    /// Counts up with every snapshot published.
    pub generation: u32,
    /// Indexed by port number.
    pub ports: Arc<[PortEntry; MAX_PORTS]>,
    /// The overlay, if there is one.
    pub overlay: Option<Overlay>,
    /// Known remote VTEPs.
    pub vteps: Arc<VtepTable>,
    /// Destination to index into `next_hops`.
    pub fib: Arc<Fib>,
    /// The next hops; the first four are the constants of this module.
    pub next_hops: Arc<[NextHop]>,
    /// The services.
    pub services: Arc<ServiceTable>,
    /// Where they lead.
    pub endpoints: Arc<Endpoints>,
    /// The address answered by ARP on pod and host ports; 0: none.
    pub gateway: u32,
    /// Other addresses answered on pod ports; `None`: none.
    pub on_link: Option<Ipv4Net>,
    /// The source of ICMP errors; 0: none are sent.
    pub router: u32,
    /// How sources are replaced; `None`: they cannot be.
    pub masquerade: Option<Masquerade>,
    /// Whether new flows may have to be tracked.
    pub tracks: bool,
    /// Bandwidth limits; `None`: no port has one.
    pub limits: Option<Arc<Limits>>,
    /// Some VTEP is direct.
    relays: bool,
    /// Where pods are.
    pods: Prefixes,
    sources: Arc<Sources>,
}

/// What the shared parts were built from, to know whether the next snapshot can share them too.
#[derive(Debug)]
struct Sources {
    fib: Vec<(Ipv4Net, u32)>,
    seed: u64,
}

impl Snapshot {
    /// Compiles a spec. What did not change since `previous` is shared with it. `seed` keys the hashes.
    pub fn compile(
        spec: &ForwardingSpec,
        previous: Option<&Snapshot>,
        generation: u32,
        seed: u64,
    ) -> Result<Snapshot, CompileError> {
        let ports = Ports::check(&spec.ports, spec.vxlan.as_ref().map_or(0, |vxlan| vxlan.udp_port))?;
        let overlay = check_overlay(spec)?;
        let mut next_hops = NextHops::new();
        let vteps = next_hops.of_vteps(spec, &ports)?;
        let routes = fib_entries(spec, &ports, &vteps, &mut next_hops)?;
        let masquerade = Masquerade::of(spec)?;
        for id in spec.bandwidth.keys() {
            ports.get(*id, || "a bandwidth limit".into())?;
        }
        if next_hops.list.len() >= conntrack::MAX_NEXT_HOPS as usize {
            return Err(CompileError::TooManyNextHops(next_hops.list.len()));
        }

        let previous = previous.filter(|previous| previous.sources.seed == seed);
        let fib = match previous {
            Some(previous) if previous.sources.fib == routes => previous.fib.clone(),
            _ => Arc::new(Fib::build(routes.iter().copied(), NO_ROUTE)),
        };
        let (services, endpoints) = services(&spec.services, previous, seed)?;
        let relays = spec.vteps.iter().any(|vtep| vtep.direct);
        Ok(Snapshot {
            generation,
            ports: ports.entries.into(),
            overlay,
            vteps: Arc::new(VtepTable::build(spec.vteps.iter().map(|vtep| vtep.address.into()), seed)),
            fib,
            next_hops: next_hops.list.into(),
            services,
            endpoints,
            gateway: spec.gateway.map_or(0, u32::from),
            on_link: spec.on_link,
            router: spec.router.map_or(0, u32::from),
            // What other nodes relay has to be known, be it as what is for no service.
            tracks: !spec.services.is_empty() || relays || masquerade.as_ref().is_some_and(Masquerade::has_egress),
            relays,
            limits: Limits::build(&spec.bandwidth, previous.and_then(|previous| previous.limits.as_ref())),
            masquerade,
            pods: Prefixes::new(&spec.pod_cidrs),
            sources: Arc::new(Sources { fib: routes, seed }),
        })
    }

    /// The same with other services: all else is shared, and not looked at.
    pub fn with_services(&self, set: &ServiceSet, generation: u32) -> Result<Snapshot, CompileError> {
        let (services, endpoints) = services(set, Some(self), self.sources.seed)?;
        Ok(Snapshot {
            generation,
            ports: self.ports.clone(),
            overlay: self.overlay,
            vteps: self.vteps.clone(),
            fib: self.fib.clone(),
            next_hops: self.next_hops.clone(),
            services,
            endpoints,
            gateway: self.gateway,
            on_link: self.on_link,
            router: self.router,
            tracks: !set.is_empty() || self.relays || self.masquerade.as_ref().is_some_and(Masquerade::has_egress),
            relays: self.relays,
            limits: self.limits.clone(),
            masquerade: self.masquerade.clone(),
            pods: self.pods.clone(),
            sources: self.sources.clone(),
        })
    }

    /// A snapshot that drops everything: what workers start with.
    pub fn empty(seed: u64) -> Snapshot {
        Snapshot::compile(&ForwardingSpec::default(), None, 0, seed).expect("an empty spec cannot contradict itself")
    }

    /// The entry of a port.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> &PortEntry {
        self.ports.get(usize::from(id.0)).unwrap_or(&NOBODY)
    }

    /// Whether an address is where pods are.
    #[inline]
    pub fn is_pod(&self, address: u32) -> bool {
        self.pods.contains(address)
    }

    /// Whether an address is a pod's or in a service range.
    pub fn is_of_cluster(&self, address: u32) -> bool {
        self.is_pod(address) || self.fib.lookup(address) == SERVICE_RANGE
    }

    /// Where a new flow comes from that came in on port `id`, over the overlay or not, with the source `src`. The node with its
    /// address on the overlay is like any pod: whoever answers finds it.
    #[inline]
    pub fn origin(&self, id: PortId, decapsulated: bool, src: u32) -> Origin {
        if self.pods.contains(src) {
            Origin::Pod
        } else if self.port(id).role == Some(PortRole::Host) {
            Origin::Node
        } else if decapsulated {
            Origin::Relayed
        } else {
            Origin::Outside
        }
    }

    /// The service that a flow to `vip` (host order) and `port` has here. To another node's address it is the one at ours:
    /// the other node has relayed it.
    #[cold]
    pub fn service_of(&self, vip: u32, port: u16, protocol: u8) -> Option<ServiceIndex> {
        let here = self.services.lookup(vip, port, protocol);
        here.or_else(|| self.services.lookup(self.overlay.filter(|_| self.vteps.contains(vip))?.local, port, protocol))
    }

    /// Whether a VTEP, ours or another, listens for VXLAN there.
    #[inline]
    pub fn is_vtep(&self, address: u32, port: u16, protocol: u8) -> bool {
        let Some(overlay) = &self.overlay else { return false };
        overlay.udp_port == port && protocol == ipv4::UDP && (overlay.local == address || self.vteps.contains(address))
    }

    /// The longest prefix of the FIB that `destination` is in.
    pub fn prefix(&self, destination: u32) -> Option<Ipv4Net> {
        let prefixes = self.sources.fib.iter().map(|(prefix, _)| *prefix);
        prefixes.filter(|prefix| prefix.contains(&Ipv4Addr::from(destination))).max_by_key(Ipv4Net::prefix_len)
    }

    /// Whether an address is the node's or the switch's, as far as the switch knows them.
    pub fn is_own(&self, address: u32) -> bool {
        self.overlay.is_some_and(|overlay| overlay.local == address)
            || address == self.router && address != 0
            || self.masquerade.as_ref().is_some_and(|masquerade| masquerade.is_own(address))
    }

    /// A next hop. An index from another snapshot may be beyond the end: that is no route.
    #[inline(always)]
    pub fn next_hop(&self, index: u32) -> &NextHop {
        self.next_hops.get(index as usize).unwrap_or(&self.next_hops[NO_ROUTE as usize])
    }
}

struct Ports<'a> {
    specs: HashMap<PortId, &'a PortSpec>,
    entries: Box<[PortEntry; MAX_PORTS]>,
}

impl<'a> Ports<'a> {
    fn check(list: &'a [PortSpec], vtep_port: u16) -> Result<Ports<'a>, CompileError> {
        let mut entries = Box::new([NOBODY; MAX_PORTS]);
        let mut specs = HashMap::with_capacity(list.len());
        for port in list {
            let entry = entries.get_mut(usize::from(port.id.0)).ok_or(CompileError::PortNumber(port.id))?;
            *entry = PortEntry {
                role: Some(port.role),
                mac: port.mac,
                unfinished_checksums: port.unfinished_checksums,
                guard: port.station.map(|Station { mac, address }| Guard {
                    mac: mac.to_number(),
                    address: address.into(),
                    vtep_port,
                }),
            };
            if specs.insert(port.id, port).is_some() {
                return Err(CompileError::DuplicatePort(port.id));
            }
        }
        Ok(Ports { specs, entries })
    }

    fn get(&self, id: PortId, who: impl FnOnce() -> String) -> Result<&'a PortSpec, CompileError> {
        self.specs.get(&id).copied().ok_or_else(|| CompileError::NoSuchPort(who(), id))
    }
}

fn check_overlay(spec: &ForwardingSpec) -> Result<Option<Overlay>, CompileError> {
    let Some(vxlan) = &spec.vxlan else {
        return if spec.vteps.is_empty() { Ok(None) } else { Err(CompileError::VtepsWithoutVxlan) };
    };
    if vxlan.vni >= 1 << 24 {
        return Err(CompileError::Vni(vxlan.vni));
    }
    Ok(Some(Overlay { vni: vxlan.vni, udp_port: vxlan.udp_port, local: vxlan.local.into(), mac: vxlan.mac }))
}

/// The table of `set` and the filter of its endpoints, which take over from `previous` what they can.
fn services(
    set: &ServiceSet,
    previous: Option<&Snapshot>,
    seed: u64,
) -> Result<(Arc<ServiceTable>, Arc<Endpoints>), CompileError> {
    let changed: Vec<&[ServiceSpec]> = match previous {
        None => set.shards().iter().map(|shard| shard.as_slice()).filter(|shard| !shard.is_empty()).collect(),
        Some(previous) => set.changed(previous.services.set()).map(|(_, new)| new).collect(),
    };
    changed.iter().try_for_each(|shard| check_services(shard))?;
    let services = ServiceTable::build(set, previous.map(|previous| &*previous.services), seed);
    let endpoints = Endpoints::of(set, &changed, previous.map(|previous| &*previous.endpoints), seed);
    Ok((Arc::new(services), Arc::new(endpoints)))
}

fn check_services(services: &[ServiceSpec]) -> Result<(), CompileError> {
    for service in services {
        let key = service.key();
        if let Some(rule) = service.rules().into_iter().find(|rule| rule.endpoints.len() > maglev::MAX_BACKENDS) {
            return Err(CompileError::TooManyEndpoints(key.0, key.1, key.2, rule.endpoints.len()));
        }
    }
    Ok(())
}

/// The list of next hops, each in it once.
struct NextHops {
    list: Vec<NextHop>,
    plain: HashMap<(PortId, MacAddr), u32>,
}

impl NextHops {
    fn new() -> NextHops {
        let list = [Kind::Unreachable, Kind::ServiceRange, Kind::Local, Kind::Unresolved].map(NextHop::inert);
        NextHops { list: list.into(), plain: HashMap::new() }
    }

    fn push(&mut self, next_hop: NextHop) -> u32 {
        self.list.push(next_hop);
        self.list.len() as u32 - 1
    }

    fn plain(&mut self, port: &PortSpec, mac: MacAddr) -> u32 {
        if let Some(index) = self.plain.get(&(port.id, mac)) {
            return *index;
        }
        let index = self.push(NextHop::plain(port, mac));
        self.plain.insert((port.id, mac), index);
        index
    }

    fn vtep(&mut self, uplink: &PortSpec, vxlan: &VxlanSpec, vtep: &VtepSpec, mac: MacAddr) -> u32 {
        let overlay = NextHop::overlay(uplink, vxlan, vtep, mac);
        let relay = vtep.direct.then(|| self.push(NextHop { kind: Kind::Relay, ..overlay.clone() }));
        let pods = if vtep.native { NextHop::plain(uplink, mac) } else { overlay };
        self.push(NextHop { relay, ..pods })
    }

    /// One next hop per VTEP, by its address; each that is direct has a second one.
    fn of_vteps(&mut self, spec: &ForwardingSpec, ports: &Ports) -> Result<HashMap<Ipv4Addr, u32>, CompileError> {
        let mut of = HashMap::with_capacity(spec.vteps.len());
        let Some(vxlan) = &spec.vxlan else { return Ok(of) };
        for vtep in &spec.vteps {
            let uplink = ports.get(vtep.uplink, || format!("VTEP {}", vtep.address))?;
            let index = match vtep.next_hop {
                Some(mac) => self.vtep(uplink, vxlan, vtep, mac),
                None => UNRESOLVED,
            };
            if of.insert(vtep.address, index).is_some() {
                return Err(CompileError::DuplicateVtep(vtep.address));
            }
        }
        Ok(of)
    }
}

/// Routes, service ranges and own addresses, as prefixes and next hops.
fn fib_entries(
    spec: &ForwardingSpec,
    ports: &Ports,
    vteps: &HashMap<Ipv4Addr, u32>,
    next_hops: &mut NextHops,
) -> Result<Vec<(Ipv4Net, u32)>, CompileError> {
    let mut entries = Vec::with_capacity(spec.routes.len() + spec.service_cidrs.len() + 2);
    let mut seen = HashSet::with_capacity(spec.routes.len());
    for route in &spec.routes {
        let prefix = route.prefix.trunc();
        if !seen.insert(prefix) {
            return Err(CompileError::DuplicateRoute(prefix));
        }
        let who = || format!("route {prefix}");
        let next_hop = match &route.via {
            Via::Port { port, mac } => next_hops.plain(ports.get(*port, who)?, *mac),
            Via::Gateway { port, mac: Some(mac) } => next_hops.plain(ports.get(*port, who)?, *mac),
            Via::Gateway { mac: None, .. } => UNRESOLVED,
            Via::Vtep(address) => *vteps.get(address).ok_or(CompileError::NoSuchVtep(prefix, *address))?,
            Via::Unreachable => NO_ROUTE,
        };
        entries.push((prefix, next_hop));
    }
    // Routes come first: the router's address may be a route to the host port, and a service range may be routed.
    let bridge = spec.on_link.and_then(|prefix| prefix.hosts().next());
    let own = [spec.gateway, spec.router, bridge].into_iter().flatten().map(|address| (Ipv4Net::from(address), LOCAL));
    let ranges = spec.service_cidrs.iter().map(|range| (range.trunc(), SERVICE_RANGE));
    for (prefix, next_hop) in own.chain(ranges) {
        if seen.insert(prefix) {
            entries.push((prefix, next_hop));
        }
    }
    Ok(entries)
}
