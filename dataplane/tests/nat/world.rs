//! A node on two workers stepped by hand: two pods, the kernel, and an uplink to the other node and the world.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use etherparse::{IcmpEchoHeader, Icmpv4Type, IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use shunt_dataplane::{
    explain::Fate,
    io::{MemoryDevice, MemoryWire},
    net::{MacAddr, Protocol},
    spec::{
        Backend, Endpoint, FamilySpec, ForwardingSpec, MasqueradeSpec, PortId, PortRole, PortSpec, RouteSpec, Rule,
        ServiceSpec, Via, VtepSpec, VxlanSpec,
    },
    time::Now,
    verdict::{DropReason, Verdict},
    wire::sctp,
    worker::Stepped,
};

pub const POD_A: PortId = PortId(0);
pub const POD_B: PortId = PortId(1);
pub const HOST: PortId = PortId(2);
pub const UPLINK: PortId = PortId(3);
const PORTS: [PortId; 4] = [POD_A, POD_B, HOST, UPLINK];

pub const A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
/// Pods of the other node.
pub const REMOTE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 2, 10), Ipv4Addr::new(10, 244, 2, 11)];
/// The node on the underlay and on the overlay.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
pub const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
pub const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Someone outside of the cluster.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The masquerade ports: few, so that tests can use them up.
pub const MASQUERADE: std::ops::RangeInclusive<u16> = 61_000..=61_063;

/// Nanoseconds between two packets.
const PACKET: u64 = 1_000_000;

pub const STATION: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
pub const VTEP: MacAddr = MacAddr([2, 0, 0, 0, 3, 1]);
const OTHER_VTEP: MacAddr = MacAddr([2, 0, 0, 0, 3, 2]);

pub fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port.0 as u8])
}

/// An address and a port.
pub type End = (Ipv4Addr, u16);

/// An endpoint list.
pub fn endpoints(ends: &[End]) -> Arc<[Endpoint]> {
    ends.iter().map(|&(address, port)| Backend { address, port }.into()).collect()
}

/// A rule that gives `ends`.
pub fn rule(ends: &[End], masquerade: bool) -> Rule {
    Rule { endpoints: endpoints(ends), masquerade, ..Rule::default() }
}

/// A service at the VIP's port 80 that gives everybody `ends`.
pub fn service(protocol: Protocol, ends: &[End]) -> ServiceSpec {
    ServiceSpec::simple(VIP, 80, protocol, endpoints(ends))
}

/// The node with `services`.
pub fn spec(services: Vec<ServiceSpec>) -> ForwardingSpec {
    let port = |id, role| PortSpec {
        id,
        role,
        mac: mac(id),
        mtu: 1500,
        unfinished_checksums: role != PortRole::Uplink,
        station: None,
    };
    let to = |prefix: &str, port| RouteSpec { prefix: prefix.parse().unwrap(), via: Via::Port { port, mac: STATION } };
    ForwardingSpec {
        ports: vec![
            port(POD_A, PortRole::Pod),
            port(POD_B, PortRole::Pod),
            port(HOST, PortRole::Host),
            port(UPLINK, PortRole::Uplink),
        ],
        bandwidth: Default::default(),
        vxlan: Some(VxlanSpec { vni: 1, udp_port: 8472, local: NODE, mac: VTEP }),
        vteps: vec![VtepSpec {
            address: OTHER_NODE,
            mac: OTHER_VTEP,
            uplink: UPLINK,
            next_hop: Some(STATION),
            direct: true,
            native: false,
        }],
        ipv6: FamilySpec::default(),
        ipv4: FamilySpec {
            routes: vec![
                to("0.0.0.0/0", HOST),
                to("10.244.1.10/32", POD_A),
                to("10.244.1.11/32", POD_B),
                to("10.244.1.0/32", HOST),
                RouteSpec { prefix: "10.244.2.0/24".parse().unwrap(), via: Via::Vtep(OTHER_NODE) },
                RouteSpec {
                    prefix: "203.0.113.0/24".parse().unwrap(),
                    via: Via::Gateway { port: UPLINK, mac: Some(STATION) },
                },
            ],
            services: services.into_iter().collect(),
            gateway: Some(GATEWAY),
            on_link: None,
            router: Some(OVERLAY),
            masquerade: Some(MasqueradeSpec {
                overlay: OVERLAY,
                underlay: NODE,
                ports: MASQUERADE,
                egress: None,
                answers_led: false,
            }),
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        },
    }
}

/// What a packet is, apart from its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Udp,
    /// With the flags SYN, ACK, FIN, RST that are set.
    Tcp(&'static str),
    /// Of the first chunk, the one that [`CHUNKS`] has under this name.
    Sctp(&'static str),
    /// The end that asks has the identifier as its port, the other one 8.
    Ping,
    Pong,
}

/// Types of SCTP chunks by name; what begins an association is called as in TCP.
/// `E` is the client's COOKIE ECHO, `K` the backend's COOKIE ACK.
const CHUNKS: [(&str, u8); 7] = [("S", 1), ("SA", 2), ("A", 0), ("F", 7), ("R", 6), ("E", 10), ("K", 11)];

/// What is sent and what arrives.
pub type Packet = (Kind, End, End);

pub fn build((kind, src, dst): Packet, to: MacAddr) -> Vec<u8> {
    let start = PacketBuilder::ethernet2(STATION.0, to.0).ipv4(src.0.octets(), dst.0.octets(), 64);
    let mut bytes = Vec::new();
    let written = match kind {
        Kind::Udp => start.udp(src.1, dst.1).write(&mut bytes, b"payload"),
        Kind::Tcp(flags) => {
            let mut header = etherparse::TcpHeader::new(src.1, dst.1, 1, 1000);
            header.syn = flags.contains('S');
            header.ack = flags.contains('A');
            header.fin = flags.contains('F');
            header.rst = flags.contains('R');
            start.tcp_header(header).write(&mut bytes, b"payload")
        }
        Kind::Sctp(name) => {
            let chunk = CHUNKS.iter().find(|(known, _)| *known == name).expect("a chunk").1;
            let ports = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
            let mut segment = [&ports[..], &[1, 2, 3, 4, 0, 0, 0, 0, chunk, 0, 0, 11], b"payload", &[0]].concat();
            sctp::finish(&mut segment);
            start.write(&mut bytes, IpNumber::SCTP, &segment)
        }
        Kind::Ping => start.icmpv4_echo_request(src.1, 1).write(&mut bytes, b"payload"),
        Kind::Pong => start.icmpv4_echo_reply(dst.1, 1).write(&mut bytes, b"payload"),
    };
    written.unwrap();
    bytes
}

/// Reads a packet, after checking its checksums.
pub fn read(bytes: &[u8]) -> Packet {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let (src, dst) = (ip.header().source_addr(), ip.header().destination_addr());
    let (kind, sport, dport) = match sliced.transport {
        None if ip.payload_ip_number() == IpNumber::SCTP => read_sctp(ip.payload().payload),
        None => panic!("{ip:?}"),
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap());
            assert_eq!(udp.payload(), b"payload");
            (Kind::Udp, udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(tcp.checksum(), tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap());
            let flags = match (tcp.syn(), tcp.ack(), tcp.fin(), tcp.rst()) {
                (true, false, false, false) => "S",
                (true, true, false, false) => "SA",
                (false, true, false, false) => "A",
                (false, true, true, false) => "FA",
                (false, _, false, true) => "R",
                other => panic!("flags {other:?}"),
            };
            (Kind::Tcp(flags), tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let header = icmp.header();
            assert_eq!(header.checksum, header.icmp_type.calc_checksum(icmp.payload()));
            match header.icmp_type {
                Icmpv4Type::EchoRequest(IcmpEchoHeader { id, .. }) => (Kind::Ping, id, 8),
                Icmpv4Type::EchoReply(IcmpEchoHeader { id, .. }) => (Kind::Pong, 8, id),
                other => panic!("{other:?}"),
            }
        }
        Some(other) => panic!("{other:?}"),
    };
    (kind, (src, sport), (dst, dport))
}

fn read_sctp(segment: &[u8]) -> (Kind, u16, u16) {
    let mut zeroed = segment.to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(segment[8..12], crc32c::crc32c(&zeroed).to_le_bytes());
    assert_eq!(segment[16..23], *b"payload");
    let name = CHUNKS.iter().find(|(_, kind)| *kind == segment[12]).expect("a chunk").0;
    let port = |at| u16::from_be_bytes([segment[at], segment[at + 1]]);
    (Kind::Sctp(name), port(0), port(2))
}

pub struct World {
    pub switch: Stepped,
    /// By port and worker.
    wires: BTreeMap<(PortId, usize), MemoryWire>,
    /// The worker that gets what comes in by the uplink next.
    turn: usize,
    /// Nanoseconds since the world began.
    pub now: u64,
}

impl World {
    /// A world whose table holds a thousand flows.
    pub fn new(spec: &ForwardingSpec) -> World {
        World::with_flows(1000, spec)
    }

    /// Pod A and the host are served by worker 0, pod B by worker 1, and the uplink by both, in turns.
    pub fn with_flows(flows: u32, spec: &ForwardingSpec) -> World {
        let mut switch = Stepped::new(2, 256, flows, 1).unwrap();
        switch.publish(spec).unwrap();
        let mut wires = BTreeMap::new();
        for (port, worker) in [(POD_A, 0), (POD_B, 1), (HOST, 0), (UPLINK, 0), (UPLINK, 1)] {
            let (device, wire) = MemoryDevice::new(64);
            switch.attach(worker, port, device);
            wires.insert((port, worker), wire);
        }
        World { switch, wires, turn: 0, now: 0 }
    }

    fn time(&self) -> Now {
        Now(10_000_000_000 + self.now)
    }

    /// The tick of the connection table.
    pub fn tick(&self) -> u32 {
        self.time().seconds()
    }

    /// Lets a second pass.
    pub fn wait(&mut self) {
        self.now += 1_000_000_000;
        for worker in [0, 1] {
            self.switch.step(worker, Now(10_000_000_000 + self.now));
        }
    }

    /// Checks that every packet and every frame is accounted for. Every packet that came out has been taken off.
    pub fn check_accounts(&self) {
        let (mut received, mut left) = (0, 0);
        for worker in [0, 1] {
            let census = self.switch.census(worker);
            assert!(census.memories.iter().all(|memory| memory.capacity == memory.accounted()), "{census:?}");
            for port in PORTS.map(|port| self.switch.counters(worker).port(port)) {
                received += port.rx_packets.get() + port.fragments.get();
                let counters = port.drops.iter().chain(&port.answers).chain([&port.forwarded, &port.to_host]);
                left += counters.map(|counter| counter.get()).sum::<u64>();
            }
        }
        assert_eq!(received, left);
    }

    /// Sends a packet in on a port, over the overlay if it comes from a pod of the other node. Returns what comes out.
    pub fn send(&mut self, port: PortId, packet: Packet) -> Option<(PortId, Packet)> {
        let overlay = port == UPLINK && REMOTE.contains(&packet.1.0);
        let bytes = match overlay {
            true => wrap(&build(packet, VTEP)),
            false => build(packet, mac(port)),
        };
        self.send_bytes(port, bytes)
            .map(|(port, bytes)| (port, read(if port == UPLINK && is_to_vtep(&bytes) { &bytes[50..] } else { &bytes })))
    }

    /// As [`World::send`]; what comes out must be what was foreseen.
    pub fn send_bytes(&mut self, port: PortId, bytes: Vec<u8>) -> Option<(PortId, Vec<u8>)> {
        self.now += PACKET;
        let (_, fate, sent) = self.switch.dry_run(Now(10_000_000_000 + self.now)).run(port, &bytes);
        let foreseen = match fate {
            Fate::Decided(Verdict::Tx(port) | Verdict::Answer(_, port)) => Some((port, numberless(sent))),
            _ => None,
        };
        self.turn = 1 - self.turn;
        let worker = if port == UPLINK { self.turn } else { usize::from(port == POD_B) };
        self.wires.get_mut(&(port, worker)).unwrap().send(bytes);
        for worker in [0, 1, 0, 1] {
            self.switch.step(worker, self.time());
        }
        let mut out = self.wires.iter_mut().filter_map(|((port, _), wire)| Some((*port, wire.recv()?)));
        let first = out.next();
        assert_eq!(out.next(), None, "one packet in, one out");
        assert_eq!(first.clone().map(|(port, bytes)| (port, numberless(bytes))), foreseen, "not as foreseen");
        first
    }

    /// Sends a packet that must come out, and returns it.
    #[track_caller]
    pub fn pass(&mut self, port: PortId, packet: Packet) -> (PortId, Packet) {
        self.send(port, packet).unwrap_or_else(|| panic!("{packet:?} at {port} is lost: {:?}", self.all_drops()))
    }

    /// Sends the answer to a packet that came out, and checks that it comes back as what `asked` waits for.
    #[track_caller]
    pub fn answer(&mut self, (at, came): (PortId, Packet), asked: (PortId, Packet)) {
        let kind = |kind| match kind {
            Kind::Tcp("S") => Kind::Tcp("SA"),
            Kind::Sctp("S") => Kind::Sctp("SA"),
            Kind::Ping => Kind::Pong,
            kind => kind,
        };
        let answer = (kind(came.0), came.2, came.1);
        let expected = (kind(asked.1.0), asked.1.2, asked.1.1);
        assert_eq!(self.pass(at, answer), (asked.0, expected));
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        let of = |port: PortId, worker| self.switch.counters(worker).port(port).drops[reason as usize].get();
        PORTS.into_iter().flat_map(|port| [of(port, 0), of(port, 1)]).sum()
    }

    fn all_drops(&self) -> Vec<(&'static str, u64)> {
        let counted = DropReason::ALL.into_iter().map(|reason| (reason.name(), self.drops(reason)));
        counted.filter(|(_, n)| *n > 0).collect()
    }
}

/// A packet whose outer header, if it has one, has no number, and no checksum over it: workers count.
fn numberless(mut packet: Vec<u8>) -> Vec<u8> {
    if is_to_vtep(&packet) {
        packet[18..20].fill(0);
        packet[24..26].fill(0);
    }
    packet
}

/// True for a VXLAN packet to the other node.
fn is_to_vtep(packet: &[u8]) -> bool {
    packet[30..34] == OTHER_NODE.octets() && packet[36..38] == [0x21, 0x18]
}

/// The outer headers of the other node around a frame.
pub fn wrap(inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(STATION.0, mac(UPLINK).0)
        .ipv4(OTHER_NODE.octets(), NODE.octets(), 64)
        .udp(50_000, 8472)
        .write(&mut bytes, &[&[8, 0, 0, 0, 0, 0, 1, 0], inner].concat())
        .unwrap();
    bytes
}
