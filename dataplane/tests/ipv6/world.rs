//! Two pods with addresses of both families, a node behind VXLAN, and services, on two workers stepped by hand.

use std::{net::Ipv6Addr, sync::Arc};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv6};
use shunt_dataplane::{
    io::{MemoryDevice, MemoryWire},
    net::{MacAddr, Protocol},
    spec::{
        Backend, Endpoint, FamilySpec, ForwardingSpec, MasqueradeSpec, PortId, PortRole, PortSpec, RouteSpec,
        ServiceSpec, Station, Via, VtepSpec, VxlanSpec,
    },
    time::Now,
    verdict::{DropReason, Verdict},
    worker::Stepped,
};

pub const CLIENT: PortId = PortId(0);
pub const SERVER: PortId = PortId(1);
pub const UPLINK: PortId = PortId(2);
const PORTS: [PortId; 3] = [CLIENT, SERVER, UPLINK];

pub const OUR_VTEP: MacAddr = MacAddr([2, 0, 0, 0, 3, 1]);
pub const OTHER_VTEP: MacAddr = MacAddr([2, 0, 0, 0, 3, 2]);
const NEIGHBOUR: MacAddr = MacAddr([2, 0, 0, 0, 4, 1]);
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

pub fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

pub fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port.0 as u8])
}

/// The pod behind a port.
pub fn station(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port.0 as u8])
}

pub fn pod(port: PortId) -> Ipv6Addr {
    v6(&format!("fd00:10:244:1::{:x}", 10 + port.0))
}

pub fn vip() -> Ipv6Addr {
    v6("fd00:10:96::1")
}

/// What the overlay carries.
pub const OVERLAY_MTU: u16 = 1450;

pub fn service(protocol: Protocol, endpoints: &[Ipv6Addr]) -> ServiceSpec<Ipv6Addr> {
    let endpoints: Arc<[_]> =
        endpoints.iter().map(|&address| Endpoint::from(Backend { address, port: 8080 })).collect();
    ServiceSpec::simple(vip(), 80, protocol, endpoints)
}

pub fn spec(services: Vec<ServiceSpec<Ipv6Addr>>) -> ForwardingSpec {
    let port = |id: PortId, role, station| PortSpec {
        id,
        role,
        mac: mac(id),
        mtu: 1500,
        unfinished_checksums: role == PortRole::Pod,
        station,
    };
    let pod_port = |id: PortId| {
        let station = Station { mac: station(id), address: [10, 244, 1, 10 + id.0 as u8].into(), ipv6: Some(pod(id)) };
        port(id, PortRole::Pod, Some(station))
    };
    let route = |prefix: &str, via| RouteSpec { prefix: prefix.parse().unwrap(), via };
    let to_pod = |id: PortId| RouteSpec { prefix: pod(id).into(), via: Via::Port { port: id, mac: station(id) } };
    let other_node = [192, 168, 50, 2].into();
    let own = v6("fd00:10:244:1::");
    ForwardingSpec {
        ports: vec![pod_port(CLIENT), pod_port(SERVER), port(UPLINK, PortRole::Uplink, None)],
        vxlan: Some(VxlanSpec { vni: 1, udp_port: 8472, local: [192, 168, 50, 1].into(), mac: OUR_VTEP }),
        vteps: vec![VtepSpec {
            address: other_node,
            mac: OTHER_VTEP,
            uplink: UPLINK,
            next_hop: Some(NEIGHBOUR),
            direct: false,
            native: false,
        }],
        ipv6: FamilySpec {
            routes: vec![
                to_pod(CLIENT),
                to_pod(SERVER),
                route("fd00:10:244:1::/64", Via::Unreachable),
                route("fd00:10:244:2::/64", Via::Vtep(other_node)),
            ],
            services: services.into_iter().collect(),
            gateway: Some(v6("fe80::1")),
            router: Some(own),
            masquerade: Some(MasqueradeSpec {
                overlay: own,
                underlay: own,
                ports: 61_000..=62_000,
                egress: None,
                answers_led: false,
            }),
            pod_cidrs: vec!["fd00:10:244::/48".parse().unwrap()],
            service_cidrs: vec!["fd00:10:96::/112".parse().unwrap()],
            ..FamilySpec::default()
        },
        ..ForwardingSpec::default()
    }
}

/// Addresses and ports, as a packet carries them.
pub type Ends = ((Ipv6Addr, u16), (Ipv6Addr, u16));

fn builder(port: PortId, src: Ipv6Addr, dst: Ipv6Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(station(port).0, mac(port).0).ipv6(src.octets(), dst.octets(), 64)
}

/// A datagram, as the pod behind `port` sends it.
pub fn udp(port: PortId, (src, dst): Ends, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    builder(port, src.0, dst.0).udp(src.1, dst.1).write(&mut packet, payload).unwrap();
    packet
}

/// A TCP segment with these flags, numbered as the bits of the header's 14th byte.
pub fn tcp(port: PortId, (src, dst): Ends, flags: u8) -> Vec<u8> {
    let header = etherparse::TcpHeader {
        syn: flags & SYN != 0,
        ack: flags & ACK != 0,
        ..etherparse::TcpHeader::new(src.1, dst.1, 1, 1000)
    };
    let mut packet = Vec::new();
    builder(port, src.0, dst.0).tcp_header(header).write(&mut packet, &[]).unwrap();
    packet
}

pub fn icmp(port: PortId, src: Ipv6Addr, dst: Ipv6Addr, message: etherparse::Icmpv6Type, data: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    builder(port, src, dst).icmpv6(message).write(&mut packet, data).unwrap();
    packet
}

pub fn echo(port: PortId, src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
    let asked = etherparse::Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 77, seq: 1 });
    icmp(port, src, dst, asked, b"ping")
}

/// A neighbour solicitation for `target`.
pub fn solicitation(port: PortId, src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = Ipv6Addr::from(0xff02 << 112 | 0x1_ff00_0000 | u128::from(target) & 0xff_ffff);
    let data = [&target.octets()[..], &[1, 1], &station(port).0].concat();
    let kind = etherparse::Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
    let mut packet = Vec::new();
    let to = [0x33, 0x33, 0xff, target.octets()[13], target.octets()[14], target.octets()[15]];
    PacketBuilder::ethernet2(station(port).0, to)
        .ipv6(src.octets(), group.octets(), 255)
        .icmpv6(kind)
        .write(&mut packet, &data)
        .unwrap();
    packet
}

/// The ends of a UDP or TCP packet, and its hop limit, after checking its checksum.
pub fn read(frame: &[u8]) -> (Ends, u8) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6: {frame:02x?}") };
    let header = ip.header().to_header();
    let (ports, sum, expected) = match &sliced.transport {
        Some(TransportSlice::Udp(udp)) => {
            let expected = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
            ((udp.source_port(), udp.destination_port()), udp.checksum(), expected)
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let expected = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap();
            ((tcp.source_port(), tcp.destination_port()), tcp.checksum(), expected)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(sum, expected);
    let (src, dst) = (ip.header().source_addr(), ip.header().destination_addr());
    (((src, ports.0), (dst, ports.1)), header.hop_limit)
}

/// An ICMPv6 message: source, destination, what it is, and what it carries, after checking its checksum.
pub fn read_icmp(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, etherparse::Icmpv6Type, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6: {frame:02x?}") };
    let Some(TransportSlice::Icmpv6(message)) = &sliced.transport else { panic!("no ICMPv6") };
    let header = ip.header();
    assert!(message.is_checksum_valid(header.source(), header.destination()));
    let quoted = message.payload().to_vec();
    (header.source_addr(), header.destination_addr(), message.icmp_type(), quoted)
}

pub fn port_unreachable() -> etherparse::Icmpv6Type {
    etherparse::Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
}

/// The inner frame of a VXLAN packet to the other node, and the outer ECN field.
pub fn inner(frame: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4 outside") };
    assert_eq!(ip.header().destination_addr().octets(), [192, 168, 50, 2]);
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP") };
    assert_eq!((udp.destination_port(), udp.payload()[..8].to_vec()), (8472, vec![8, 0, 0, 0, 0, 0, 1, 0]));
    let inner = udp.payload()[8..].to_vec();
    assert_eq!((&inner[..6], &inner[6..12]), (&OTHER_VTEP.0[..], &OUR_VTEP.0[..]));
    inner
}

/// A frame as the other node's VTEP sends it to ours.
pub fn outer(mut inner: Vec<u8>) -> Vec<u8> {
    inner[..6].copy_from_slice(&OUR_VTEP.0);
    inner[6..12].copy_from_slice(&OTHER_VTEP.0);
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat();
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(NEIGHBOUR.0, mac(UPLINK).0)
        .ipv4([192, 168, 50, 2], [192, 168, 50, 1], 64)
        .udp(50_000, 8472)
        .write(&mut packet, &payload)
        .unwrap();
    packet
}

pub struct World {
    pub switch: Stepped,
    wires: [MemoryWire; 3],
    now: u64,
}

impl World {
    /// The client's port is served by worker 0 alone, the others by worker 1.
    pub fn new(services: Vec<ServiceSpec<Ipv6Addr>>) -> World {
        let mut switch = Stepped::new(2, 128, 100, 1).unwrap();
        switch.publish(&spec(services)).unwrap();
        let wires = [(0, CLIENT), (1, SERVER), (1, UPLINK)].map(|(worker, port)| {
            let (device, wire) = MemoryDevice::new(64);
            switch.attach(worker, port, device);
            wire
        });
        World { switch, wires, now: 10_000_000_000 }
    }

    pub fn publish(&mut self, services: Vec<ServiceSpec<Ipv6Addr>>) {
        self.switch.publish(&spec(services)).unwrap();
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now += seconds * 1_000_000_000;
    }

    /// Sends a packet in at one port and tells what came out, where: one packet at most, as it was foreseen. Packets are
    /// conserved.
    pub fn send(&mut self, port: PortId, packet: Vec<u8>) -> Option<(PortId, Vec<u8>)> {
        self.now += 1_000_000;
        let (_, fate, sent) = self.switch.dry_run(Now(self.now)).run(port, &packet);
        let foreseen = match fate {
            shunt_dataplane::explain::Fate::Decided(Verdict::Tx(out) | Verdict::Answer(_, out)) => Some((out, sent)),
            _ => None,
        };
        self.wires[usize::from(port.0)].send(packet);
        for worker in [0, 1, 0, 1] {
            self.switch.step(worker, Now(self.now));
        }
        let out: Vec<_> = PORTS.iter().filter_map(|out| Some((*out, self.wires[usize::from(out.0)].recv()?))).collect();
        assert!(out.len() <= 1, "{out:?}");
        let out = out.into_iter().next();
        // The outer identification counts up with every packet of a worker.
        let comparable = |out: &Option<(PortId, Vec<u8>)>| {
            out.clone().map(|(port, mut frame)| {
                if port == UPLINK {
                    frame[18..20].fill(0);
                    frame[24..26].fill(0);
                }
                (port, frame)
            })
        };
        assert_eq!(comparable(&out), comparable(&foreseen), "as foreseen");
        self.check_accounts();
        out
    }

    /// Sends a packet that may have to wait, and tells how many came out where the server is.
    pub fn waits(&mut self, port: PortId, packet: Vec<u8>) -> usize {
        self.now += 1_000_000;
        self.wires[usize::from(port.0)].send(packet);
        for worker in [0, 1, 0, 1] {
            self.switch.step(worker, Now(self.now));
        }
        self.check_accounts();
        std::iter::from_fn(|| self.wires[usize::from(SERVER.0)].recv()).count()
    }

    fn check_accounts(&self) {
        for worker in [0, 1] {
            let census = self.switch.census(worker);
            assert!(census.memories.iter().all(|memory| memory.capacity == memory.accounted()), "{census:?}");
        }
        let sum = |counter: &dyn Fn(&shunt_dataplane::counters::PortCounters) -> u64| -> u64 {
            PORTS.iter().flat_map(|port| [0, 1].map(|w| counter(self.switch.counters(w).port(*port)))).sum()
        };
        let all =
            |counters: &[shunt_dataplane::counters::Counter]| counters.iter().map(|counter| counter.get()).sum::<u64>();
        let fates = sum(&|port| port.forwarded.get() + all(&port.answers) + all(&port.drops) + port.held.get());
        assert_eq!(sum(&|port| port.rx_packets.get()), fates);
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        let of = |port: &PortId| [0, 1].map(|w| self.switch.counters(w).port(*port).drops[reason as usize].get());
        PORTS.iter().flat_map(of).sum()
    }

    /// Sends a packet that is dropped for this reason.
    pub fn dropped(&mut self, port: PortId, packet: Vec<u8>, reason: DropReason) {
        let before = self.drops(reason);
        assert_eq!(self.send(port, packet), None);
        assert_eq!(self.drops(reason), before + 1, "{}", reason.name());
    }
}
