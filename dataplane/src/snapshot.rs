//! The immutable state that workers forward by, compiled from a [`ForwardingSpec`].

mod family;
mod masquerade;

pub use family::{Family, Net, Tables};
pub use masquerade::Masquerade;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    net::{Address, MacAddr, Prefix, Protocol},
    next_hop::{Kind, NextHop},
    service_set::ServiceSet,
    spec::{
        FamilySpec, ForwardingSpec, MAX_PORTS, PortId, PortRole, PortSpec, ServiceSpec, Station, Via, VtepSpec,
        VxlanSpec,
    },
    tables::{Endpoints, Limits, Origin, Prefixes, ServiceIndex, ServiceTable, VtepTable, conntrack, maglev},
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
    NoSuchVtep(IpNet, Ipv4Addr),
    #[error("route {0} is given twice")]
    DuplicateRoute(IpNet),
    #[error("service {0} port {1}/{2} has {3} endpoints; at most {max} are possible", max = maglev::MAX_BACKENDS)]
    TooManyEndpoints(IpAddr, u16, Protocol, usize),
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
    /// Its IPv6 address; 0: none.
    pub ipv6: u128,
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
    /// The next hops; the first four are the constants of this module.
    pub next_hops: Arc<[NextHop]>,
    /// IPv4.
    pub ipv4: Tables<u32>,
    /// IPv6.
    pub ipv6: Tables<u128>,
    /// Whether packets of IPv6 are the switch's at all.
    pub has_ipv6: bool,
    /// Bandwidth limits; `None`: no port has one.
    pub limits: Option<Arc<Limits>>,
    /// Some VTEP is direct.
    relays: bool,
    /// Keys the hashes.
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
        let previous = previous.filter(|previous| previous.seed == seed);
        let relays = spec.vteps.iter().any(|vtep| vtep.direct);
        // What other nodes relay has to be known, be it as what is for no service.
        let mut build = Build { previous, seed, ports: &ports, vteps: &vteps, next_hops: &mut next_hops };
        let (ipv4, ipv6) = (build.tables(&spec.ipv4, relays)?, build.tables(&spec.ipv6, false)?);
        for id in spec.bandwidth.keys() {
            ports.get(*id, || "a bandwidth limit".into())?;
        }
        if next_hops.list.len() >= conntrack::MAX_NEXT_HOPS as usize {
            return Err(CompileError::TooManyNextHops(next_hops.list.len()));
        }
        Ok(Snapshot {
            generation,
            ports: ports.entries.into(),
            overlay,
            vteps: Arc::new(VtepTable::build(spec.vteps.iter().map(|vtep| vtep.address.into()), seed)),
            next_hops: next_hops.list.into(),
            ipv4,
            ipv6,
            has_ipv6: spec.ipv6 != FamilySpec::default(),
            relays,
            limits: Limits::build(&spec.bandwidth, previous.and_then(|previous| previous.limits.as_ref())),
            seed,
        })
    }

    /// The same with other services: all else is shared, and not looked at.
    pub fn with_services(
        &self,
        ipv4: &ServiceSet,
        ipv6: &ServiceSet<Ipv6Addr>,
        generation: u32,
    ) -> Result<Snapshot, CompileError> {
        Ok(Snapshot {
            generation,
            ports: self.ports.clone(),
            overlay: self.overlay,
            vteps: self.vteps.clone(),
            next_hops: self.next_hops.clone(),
            ipv4: self.ipv4.with_services(ipv4, self.relays, self.seed)?,
            ipv6: self.ipv6.with_services(ipv6, false, self.seed)?,
            has_ipv6: self.has_ipv6,
            relays: self.relays,
            limits: self.limits.clone(),
            seed: self.seed,
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

    /// What there is of a family.
    #[inline(always)]
    pub fn of<N: Family>(&self) -> &Tables<N> {
        N::tables(self)
    }

    /// The next hop of an address, as an index.
    #[inline]
    pub fn route<N: Family>(&self, address: N) -> u32 {
        N::look_up(N::view(&self.of::<N>().fib), address)
    }

    /// Whether an address is where pods are.
    #[inline]
    pub fn is_pod<N: Family>(&self, address: N) -> bool {
        self.of::<N>().pods.contains(address)
    }

    /// Whether an address is a pod's or in a service range.
    pub fn is_of_cluster<N: Family>(&self, address: N) -> bool {
        self.is_pod(address) || self.route(address) == SERVICE_RANGE
    }

    /// Where a new flow comes from that came in on port `id`, over the overlay or not, with the source `src`. The node with its
    /// address on the overlay is like any pod: whoever answers finds it.
    #[inline]
    pub fn origin<N: Family>(&self, id: PortId, decapsulated: bool, src: N) -> Origin {
        if self.is_pod(src) {
            Origin::Pod
        } else if self.port(id).role == Some(PortRole::Host) {
            Origin::Node
        } else if decapsulated {
            Origin::Relayed
        } else {
            Origin::Outside
        }
    }

    /// The service that a flow to `vip` and `port` has here. To another node's address it is the one at ours: the other node
    /// has relayed it.
    #[cold]
    pub fn service_of<N: Family>(&self, vip: N, port: u16, protocol: u8) -> Option<ServiceIndex> {
        let here = self.of::<N>().services.lookup(vip, port, protocol);
        here.or_else(|| N::relayed(self, vip, port, protocol))
    }

    /// The longest prefix of the FIB that `destination` is in.
    pub fn prefix<N: Family>(&self, destination: N) -> Option<IpNet> {
        let prefixes = self.of::<N>().routes.iter().map(|(prefix, _)| *prefix);
        let longest = prefixes.filter(|prefix| prefix.holds(destination.address())).max_by_key(Prefix::bits)?;
        Some(longest.into())
    }

    /// Whether an address is the node's or the switch's, as far as the switch knows them.
    pub fn is_own(&self, address: u32) -> bool {
        self.overlay.is_some_and(|overlay| overlay.local == address)
            || address == self.ipv4.router && address != 0
            || self.ipv4.masquerade.as_ref().is_some_and(|masquerade| masquerade.is_own(address))
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
                guard: port.station.map(|Station { mac, address, ipv6 }| Guard {
                    mac: mac.to_number(),
                    address: address.into(),
                    ipv6: ipv6.map_or(0, u128::from),
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

/// A compilation at work.
struct Build<'a> {
    previous: Option<&'a Snapshot>,
    seed: u64,
    ports: &'a Ports<'a>,
    /// Next hops by VTEP.
    vteps: &'a HashMap<Ipv4Addr, u32>,
    next_hops: &'a mut NextHops,
}

impl Build<'_> {
    /// What there is of a family. What did not change is shared with the snapshot before.
    fn tables<N: Family>(&mut self, spec: &FamilySpec<N::Address>, relays: bool) -> Result<Tables<N>, CompileError> {
        let previous = self.previous.map(|previous| previous.of::<N>());
        let routes = fib_entries::<N>(spec, self.ports, self.vteps, self.next_hops)?;
        let fib = match previous {
            Some(previous) if *previous.routes == *routes => previous.fib.clone(),
            _ => Arc::new(N::build_fib(&routes, NO_ROUTE)),
        };
        let masquerade = Masquerade::of(spec)?;
        let (services, endpoints) = services(&spec.services, previous, self.seed)?;
        let tables = Tables {
            fib,
            services,
            endpoints,
            gateway: spec.gateway.map_or(N::default(), N::Address::number),
            on_link: spec.on_link,
            router: spec.router.map_or(N::default(), N::Address::number),
            masquerade,
            tracks: false,
            pods: Prefixes::new(&spec.pod_cidrs),
            routes: routes.into(),
        };
        Ok(Tables { tracks: tables.may_track(relays), ..tables })
    }
}

impl<N: Family> Tables<N> {
    /// The same with other services.
    fn with_services(&self, set: &ServiceSet<N::Address>, relays: bool, seed: u64) -> Result<Self, CompileError> {
        let (services, endpoints) = services(set, Some(self), seed)?;
        let tables = Tables { services, endpoints, ..self.clone() };
        Ok(Tables { tracks: tables.may_track(relays), ..tables })
    }

    fn may_track(&self, relays: bool) -> bool {
        !self.services.is_empty() || relays || self.masquerade.as_ref().is_some_and(Masquerade::has_egress)
    }
}

/// The table of `set` and the filter of its endpoints, which take over from `previous` what they can.
#[allow(clippy::type_complexity, reason = "two tables")]
fn services<N: Family>(
    set: &ServiceSet<N::Address>,
    previous: Option<&Tables<N>>,
    seed: u64,
) -> Result<(Arc<ServiceTable<N::Address>>, Arc<Endpoints<N::Address>>), CompileError> {
    let changed: Vec<&[ServiceSpec<N::Address>]> = match previous {
        None => set.shards().iter().map(|shard| shard.as_slice()).filter(|shard| !shard.is_empty()).collect(),
        Some(previous) => set.changed(previous.services.set()).map(|(_, new)| new).collect(),
    };
    changed.iter().try_for_each(|shard| check_services(shard))?;
    let services = ServiceTable::build(set, previous.map(|previous| &*previous.services), seed);
    let endpoints = Endpoints::of(set, &changed, previous.map(|previous| &*previous.endpoints), seed);
    Ok((Arc::new(services), Arc::new(endpoints)))
}

fn check_services<A: Address>(services: &[ServiceSpec<A>]) -> Result<(), CompileError> {
    for service in services {
        let (vip, port, protocol) = service.key();
        if let Some(rule) = service.rules().into_iter().find(|rule| rule.endpoints.len() > maglev::MAX_BACKENDS) {
            return Err(CompileError::TooManyEndpoints(vip.into(), port, protocol, rule.endpoints.len()));
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
fn fib_entries<N: Family>(
    spec: &FamilySpec<N::Address>,
    ports: &Ports,
    vteps: &HashMap<Ipv4Addr, u32>,
    next_hops: &mut NextHops,
) -> Result<Vec<(Net<N>, u32)>, CompileError> {
    let mut entries = Vec::with_capacity(spec.routes.len() + spec.service_cidrs.len() + 2);
    let mut seen = HashSet::with_capacity(spec.routes.len());
    for route in &spec.routes {
        let prefix = route.prefix.truncated();
        if !seen.insert(prefix) {
            return Err(CompileError::DuplicateRoute(prefix.into()));
        }
        let who = || format!("route {prefix}");
        let next_hop = match &route.via {
            Via::Port { port, mac } => next_hops.plain(ports.get(*port, who)?, *mac),
            Via::Gateway { port, mac: Some(mac) } => next_hops.plain(ports.get(*port, who)?, *mac),
            Via::Gateway { mac: None, .. } => UNRESOLVED,
            Via::Vtep(address) => *vteps.get(address).ok_or(CompileError::NoSuchVtep(prefix.into(), *address))?,
            Via::Unreachable => NO_ROUTE,
        };
        entries.push((prefix, next_hop));
    }
    // Routes come first: the router's address may be a route to the host port, and a service range may be routed.
    let bridge = spec.on_link.and_then(|prefix| prefix.first_host());
    let own = [spec.gateway, spec.router, bridge].into_iter().flatten().map(|address| (Net::<N>::from(address), LOCAL));
    let ranges = spec.service_cidrs.iter().map(|range| (range.truncated(), SERVICE_RANGE));
    for (prefix, next_hop) in own.chain(ranges) {
        if seen.insert(prefix) {
            entries.push((prefix, next_hop));
        }
    }
    Ok(entries)
}
