//! The paths that are measured: a stepped switch, the packets it gets, and what must come out.

use std::{net::Ipv4Addr, sync::Arc, sync::Mutex};

use shunt_dataplane::{
    net::{MacAddr, Protocol},
    packet::BATCH,
    snapshot::Net,
    spec::{
        Backend, FamilySpec, ForwardingSpec, PortId, PortRole, PortSpec, RouteSpec, ServiceSpec, Via, VtepSpec,
        VxlanSpec,
    },
    time::Now,
    wire::{ethernet, ipv4, vxlan},
    worker::Stepped,
};

use crate::{
    device::{Clock, Sink, Source},
    family::{self, Family, IpVersion},
    measure,
    packets::{self, Packets},
};

const UPLINK: PortId = PortId(0);
const POD: PortId = PortId(1);
pub(crate) const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(crate) const VTEP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
pub(crate) const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);
pub(crate) const UNDERLAY: u32 = 0xc0a8_3201; // 192.168.50.1
pub(crate) const VTEPS: u32 = 250;
const BACKENDS: u32 = 10;
/// The number of this node; those of the others follow.
pub(crate) const HERE: u32 = 1;
/// Nanoseconds from one batch to the next, at most.
const TICK: u64 = 100_000;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// Natively in and out over the uplink.
    Route,
    /// From a pod to pods on other nodes.
    RouteEncap,
    /// From other nodes to a pod.
    DecapRoute,
    /// From a pod through a ClusterIP to pods on other nodes; flows are established.
    ServiceEncap,
    /// The answers to that.
    DecapServiceReply,
    /// As `ServiceEncap`, but every packet opens a flow.
    NewFlow,
}

impl Path {
    /// All of them.
    pub const ALL: [Path; 6] =
        [Path::Route, Path::RouteEncap, Path::DecapRoute, Path::ServiceEncap, Path::DecapServiceReply, Path::NewFlow];
    /// Those that are measured of IPv6, too.
    pub const OF_IPV6: [Path; 4] = [Path::RouteEncap, Path::DecapRoute, Path::ServiceEncap, Path::NewFlow];

    fn has_services(self) -> bool {
        matches!(self, Path::ServiceEncap | Path::DecapServiceReply | Path::NewFlow)
    }

    /// Where its packets come in, and where they leave.
    pub fn ports(self) -> (PortId, PortId) {
        match self {
            Path::Route => (UPLINK, UPLINK),
            Path::DecapRoute | Path::DecapServiceReply => (UPLINK, POD),
            Path::RouteEncap | Path::ServiceEncap | Path::NewFlow => (POD, UPLINK),
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Path::Route => "route",
            Path::RouteEncap => "route + encap",
            Path::DecapRoute => "decap + route",
            Path::ServiceEncap => "service + encap",
            Path::DecapServiceReply => "decap + service reply",
            Path::NewFlow => "service + encap, new flow",
        }
    }
}

/// How much there is of everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// Flows, one packet of each.
    pub flows: u32,
    /// Native prefixes, beside those of 250 nodes and 250 local pods.
    pub routes: u32,
    /// Services of 10 endpoints each, where the path has services.
    pub services: u32,
}

impl Scale {
    /// What there is unless something else is said.
    pub const USUAL: Scale = Scale { flows: 131_072, routes: 4_750, services: 1_000 };
}

/// One path at one scale, ready to run.
pub struct Scenario {
    path: Path,
    version: IpVersion,
    scale: Scale,
    switch: Stepped,
    clock: Arc<Clock>,
    packets: Arc<Packets>,
    /// Nanoseconds from one batch to the next.
    tick: u64,
    now: u64,
}

/// One batch, and the flows that expire after it.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// From the batch in hand to the batch queued for sending.
    pub cycles: u64,
    /// Sent.
    pub packets: u64,
    /// To expire flows.
    pub expiring: u64,
}

impl Scenario {
    /// Builds the switch and the packets, opens the flows if the path wants them established, and checks what comes out.
    /// The packets are IPv4.
    ///
    /// # Panics
    /// If the switch does not forward every packet as it should: then there is nothing to measure.
    pub fn new(path: Path, scale: Scale) -> Scenario {
        Scenario::of(IpVersion::V4, path, scale)
    }

    /// As [`Scenario::new`], with packets of either version.
    pub fn of(version: IpVersion, path: Path, scale: Scale) -> Scenario {
        // So short that all flows have had a packet before the first of them expires.
        let tick = TICK.min(20_000_000_000 / u64::from(scale.flows.div_ceil(BATCH as u32)));
        // A table as full as it gets; where flows are opened, so full only in the end.
        let capacity = if path == Path::NewFlow { 2 * scale.flows } else { scale.flows };
        Scenario::with(version, path, scale, capacity, tick)
    }

    /// As [`Scenario::new`], with room for so many flows, and so many nanoseconds from one batch to the next.
    pub fn with(version: IpVersion, path: Path, scale: Scale, capacity: u32, tick: u64) -> Scenario {
        match version {
            IpVersion::V4 => Scenario::of_family::<u32>(version, path, scale, capacity, tick),
            IpVersion::V6 => Scenario::of_family::<u128>(version, path, scale, capacity, tick),
        }
    }

    fn of_family<N: Family>(version: IpVersion, path: Path, scale: Scale, capacity: u32, tick: u64) -> Scenario {
        let mut switch = Stepped::new(1, 4 * BATCH as u32, capacity, 1).expect("descriptors for a waker");
        switch.publish(&spec::<N>(path, scale)).expect("the spec is sound");
        let clock = Arc::new(Clock::default());
        let packets = match path {
            Path::ServiceEncap | Path::DecapServiceReply => established::<N>(path, scale, &mut switch),
            Path::Route | Path::RouteEncap | Path::DecapRoute | Path::NewFlow => packets::requests::<N>(path, scale),
        };
        let packets = Arc::new(packets);
        let (input, output) = path.ports();
        let knows_flows = path == Path::DecapServiceReply;
        check::<N>(path, scale, &packets, input, output, if knows_flows { Some(&mut switch) } else { None });
        attach(&mut switch, input, output, packets.clone(), &clock, None);
        Scenario { path, version, scale, switch, clock, packets, tick, now: 0 }
    }

    /// Runs one batch: cycles, packets sent, allocator calls. Opens new flows only as long as there are unused packets:
    /// see [`Scenario::batches`].
    pub fn batch(&mut self) -> (u64, u64, u64) {
        let now = self.tick();
        self.switch.step(0, now);
        self.clock.take()
    }

    /// Runs one batch, and lets flows expire.
    pub fn turn(&mut self) -> Turn {
        let now = self.tick();
        self.switch.burst(0, now);
        let (cycles, packets, _) = self.clock.take();
        let start = measure::cycles();
        self.switch.expire(0, now);
        Turn { cycles, packets, expiring: measure::cycles() - start }
    }

    /// The time of the next batch.
    pub fn tick(&mut self) -> Now {
        self.now += self.tick;
        Now(10_000_000_000 + self.now)
    }

    /// The switch.
    pub fn switch(&self) -> &Stepped {
        &self.switch
    }

    /// How many batches can be measured before the scenario must be made anew.
    pub fn batches(&self) -> usize {
        if self.path == Path::NewFlow { self.scale.flows as usize / BATCH } else { usize::MAX }
    }

    /// The packets.
    pub fn packets(&self) -> Arc<Packets> {
        self.packets.clone()
    }

    /// Packets of as many flows from pods to services, for the limit probe.
    pub fn requests(&self) -> Arc<Packets> {
        match self.path {
            Path::ServiceEncap | Path::NewFlow => self.packets(),
            _ => Arc::new(match self.version {
                IpVersion::V4 => packets::requests::<u32>(Path::ServiceEncap, self.scale),
                IpVersion::V6 => packets::requests::<u128>(Path::ServiceEncap, self.scale),
            }),
        }
    }
}

/// One device that both receives and sends, or two.
fn attach(
    switch: &mut Stepped,
    input: PortId,
    output: PortId,
    packets: Arc<Packets>,
    clock: &Arc<Clock>,
    copies: Option<Arc<Mutex<Vec<Vec<u8>>>>>,
) {
    // The port's first queue sends for it, so the sink comes first; the source is read last, so that its clock starts
    // when the batch is complete.
    switch.attach(0, output, Sink::new(clock.clone(), copies));
    switch.attach(0, input, Source::new(packets, clock.clone()));
}

fn port(id: PortId, role: PortRole, mac: MacAddr) -> PortSpec {
    PortSpec { id, role, mac, mtu: 1500, unfinished_checksums: role != PortRole::Uplink, station: None }
}

pub(crate) fn vtep_address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(UNDERLAY + 1 + n)
}

/// 250 nodes on the overlay, native prefixes, 250 local pods; for the paths with a service services of 10 endpoints each.
/// With services, every packet is looked up in the connection table, so plain paths have none, as VPP's plain paths have
/// no NAT.
fn spec<N: Family>(path: Path, scale: Scale) -> ForwardingSpec {
    let mut routes = Vec::new();
    for node in 0..VTEPS {
        routes.push(RouteSpec { prefix: N::pod(node + 2, 0).subnet(), via: Via::Vtep(vtep_address(node)) });
    }
    for network in 0..scale.routes {
        let via = Via::Gateway { port: UPLINK, mac: Some(PEER_MAC) };
        routes.push(RouteSpec { prefix: N::outside(network, 0).subnet(), via });
    }
    for pod in 2..252 {
        let prefix = Net::<N>::from(N::pod(HERE, pod).address());
        routes.push(RouteSpec { prefix, via: Via::Port { port: POD, mac: PEER_MAC } });
    }
    let vteps = (0..VTEPS).map(|n| VtepSpec {
        address: vtep_address(n),
        mac: MacAddr([2, 1, 0, 0, 0, n as u8]),
        uplink: UPLINK,
        next_hop: Some(PEER_MAC),
        direct: false,
        native: false,
    });
    let services = if path.has_services() { scale.services } else { 0 };
    let services = (0..services).map(|n| {
        let endpoints = (0..BACKENDS).map(|b| {
            let pod = n * BACKENDS + b;
            let address = N::pod(2 + pod % VTEPS, 2 + pod / VTEPS % 250).address();
            Backend { address, port: 8080 }.into()
        });
        ServiceSpec::simple(N::service(n).address(), 80, Protocol::Udp, endpoints.collect())
    });
    let mut spec = ForwardingSpec {
        ports: vec![port(UPLINK, PortRole::Uplink, UPLINK_MAC), port(POD, PortRole::Pod, POD_MAC)],
        vxlan: Some(VxlanSpec { vni: 1, udp_port: 8472, local: UNDERLAY.into(), mac: VTEP_MAC }),
        vteps: vteps.collect(),
        ..ForwardingSpec::default()
    };
    let [pods, virtual_addresses] = N::cidrs();
    *N::part(&mut spec) = FamilySpec {
        routes,
        services: services.collect(),
        gateway: Some(N::gateway().address()),
        router: Some(N::pod(HERE, 0).address()),
        pod_cidrs: vec![pods],
        service_cidrs: vec![virtual_addresses],
        ..FamilySpec::default()
    };
    spec
}

/// Opens every flow. Returns a packet of each as the path has them, in an order that has nothing to do with that in which they
/// were opened: or what belongs to them would lie in the table in the order in which it is needed.
fn established<N: Family>(path: Path, scale: Scale, switch: &mut Stepped) -> Packets {
    let requests = Arc::new(packets::requests::<N>(path, scale));
    let copies = (path == Path::DecapServiceReply).then(Arc::default);
    attach(switch, POD, UPLINK, requests.clone(), &Arc::default(), copies.clone());
    let count = requests.count();
    for batch in 0..count.div_ceil(BATCH) + 1 {
        switch.step(0, Now(10_000_000_000 + batch as u64 * 1000));
    }
    switch.detach(0, UPLINK);
    switch.detach(0, POD);
    match copies {
        Some(sent) => packets::answers::<N>(&sent.lock().expect("no holder panics")[..count]).shuffled(),
        None => requests.shuffled(),
    }
}

/// Runs some packets through a switch of their own (or the one that knows their flows) and looks at what comes out:
/// all of it, with the right length and right checksums.
fn check<N: Family>(
    path: Path,
    scale: Scale,
    packets: &Arc<Packets>,
    input: PortId,
    output: PortId,
    known: Option<&mut Stepped>,
) {
    let mut own;
    let switch = match known {
        Some(switch) => switch,
        None => {
            own = Stepped::new(1, 4 * BATCH as u32, 4 * BATCH as u32, 1).expect("descriptors for a waker");
            own.publish(&spec::<N>(path, scale)).expect("the spec is sound");
            &mut own
        }
    };
    let copies = Arc::new(Mutex::new(Vec::new()));
    let few = Packets { len: packets.len, bytes: packets.bytes[..packets.len * BATCH].to_vec() };
    attach(switch, input, output, Arc::new(few), &Arc::default(), Some(copies.clone()));
    switch.step(0, Now(10_000_000_000));
    switch.step(0, Now(10_000_001_000));
    switch.detach(0, UPLINK);
    switch.detach(0, POD);
    let sent = std::mem::take(&mut *copies.lock().expect("no holder panics"));
    assert_eq!(sent.len(), BATCH, "{}: every packet of the first batch is sent", path.name());
    for packet in &sent {
        let encapsulated = matches!(path, Path::RouteEncap | Path::ServiceEncap | Path::NewFlow);
        let inner = if encapsulated {
            let outer: &[u8; ipv4::HEADER_LEN] = packet[ethernet::HEADER_LEN..].first_chunk().expect("an outer header");
            assert!(ipv4::checksum_holds(outer), "{}: outer checksum", path.name());
            &packet[vxlan::OVERHEAD..]
        } else {
            &packet[..]
        };
        family::check::<N>(path.name(), inner);
    }
}
