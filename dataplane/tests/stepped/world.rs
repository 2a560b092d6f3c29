//! A client pod, a port behind which all backends live, and a service, on two workers stepped by hand.

use std::{net::Ipv4Addr, sync::Arc};

use etherparse::{IpNumber, PacketBuilder, SlicedPacket, TransportSlice};
use shunt_dataplane::{
    explain::Fate,
    io::{MemoryDevice, MemoryWire},
    net::{MacAddr, Protocol},
    spec::{Backend, Endpoint, FamilySpec, ForwardingSpec, PortId, PortRole, PortSpec, RouteSpec, ServiceSpec, Via},
    time::Now,
    verdict::{DropReason, Verdict},
    worker::Stepped,
};

pub const CLIENT: PortId = PortId(0);
pub const SERVER: PortId = PortId(1);
/// The node itself, which has no address.
pub const HOST: PortId = PortId(9);
const PORTS: [PortId; 3] = [CLIENT, SERVER, HOST];
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

// Types of SCTP chunks (RFC 9260, section 3.2).
pub const DATA: u8 = 0;
pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;
pub const SACK: u8 = 3;
pub const ABORT: u8 = 6;
pub const SHUTDOWN: u8 = 7;
pub const SHUTDOWN_ACK: u8 = 8;
pub const COOKIE_ECHO: u8 = 10;
pub const COOKIE_ACK: u8 = 11;
pub const SHUTDOWN_COMPLETE: u8 = 14;

pub fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port.0 as u8])
}

pub fn backend(n: u8) -> Backend {
    Backend { address: Ipv4Addr::new(10, 244, 1, n), port: 8080 }
}

/// A client pod, a port behind which all backends live, and one service for each protocol.
pub fn spec(backends: &[Backend]) -> ForwardingSpec {
    let port = |id, role| PortSpec { id, role, mac: mac(id), mtu: 1500, unfinished_checksums: true, station: None };
    let station = MacAddr([2, 0, 0, 0, 1, 0]);
    let endpoints: Arc<[Endpoint]> = backends.iter().copied().map(Endpoint::from).collect();
    let service = |protocol| ServiceSpec::simple(VIP, 80, protocol, endpoints.clone());
    ForwardingSpec {
        ports: vec![port(CLIENT, PortRole::Pod), port(SERVER, PortRole::Pod), port(HOST, PortRole::Host)],
        ipv4: FamilySpec {
            routes: vec![
                RouteSpec { prefix: CLIENT_IP.into(), via: Via::Port { port: CLIENT, mac: station } },
                RouteSpec { prefix: "10.244.1.0/24".parse().unwrap(), via: Via::Port { port: SERVER, mac: station } },
            ],
            services: [Protocol::Udp, Protocol::Tcp, Protocol::Sctp].map(service).into(),
            gateway: Some(Ipv4Addr::new(169, 254, 1, 1)),
            router: Some(Ipv4Addr::new(10, 244, 1, 0)),
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            ..FamilySpec::default()
        },
        ..ForwardingSpec::default()
    }
}

/// The spec with every service changed, in the order TCP, UDP, SCTP.
pub fn with_services(spec: ForwardingSpec, mut change: impl FnMut(&mut ServiceSpec)) -> ForwardingSpec {
    let services = spec.ipv4.services.iter().cloned().map(|mut service| {
        change(&mut service);
        service
    });
    ForwardingSpec { ipv4: FamilySpec { services: services.collect(), ..spec.ipv4 }, ..spec }
}

/// Addresses and ports, as a packet carries them.
pub type Ends = ((Ipv4Addr, u16), (Ipv4Addr, u16));

pub fn udp(port: PortId, (src, dst): Ends) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(port).0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .udp(src.1, dst.1)
        .write(&mut packet, b"payload")
        .unwrap();
    packet
}

/// A TCP segment with these flags, numbered as the bits of the header's 14th byte.
pub fn tcp(port: PortId, (src, dst): Ends, flags: u8) -> Vec<u8> {
    let header = etherparse::TcpHeader {
        fin: flags & 1 != 0,
        syn: flags & 2 != 0,
        rst: flags & 4 != 0,
        ack: flags & 16 != 0,
        ..etherparse::TcpHeader::new(src.1, dst.1, 1, 1000)
    };
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(port).0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .tcp_header(header)
        .write(&mut packet, &[])
        .unwrap();
    packet
}

pub fn syn(port: PortId, (src, dst): Ends) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(port).0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .tcp(src.1, dst.1, 1, 1000)
        .syn()
        .write(&mut packet, &[])
        .unwrap();
    packet
}

/// An SCTP chunk: its type and its value.
pub type Chunk = (u8, &'static [u8]);

/// An SCTP packet.
pub fn sctp(port: PortId, (src, dst): Ends, chunks: &[(u8, &[u8])]) -> Vec<u8> {
    let mut segment = [&src.1.to_be_bytes()[..], &dst.1.to_be_bytes(), &[0xab, 0xcd, 1, 2], &[0; 4]].concat();
    for (kind, value) in chunks {
        segment.extend([*kind, 0]);
        segment.extend((4 + value.len() as u16).to_be_bytes());
        segment.extend(*value);
        segment.resize(segment.len().next_multiple_of(4), 0);
    }
    let sum = crc32c::crc32c(&segment);
    segment[8..12].copy_from_slice(&sum.to_le_bytes());
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(port).0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .write(&mut packet, IpNumber::SCTP, &segment)
        .unwrap();
    packet
}

/// The ports of an SCTP packet, after checking its checksum.
fn sctp_ports(segment: &[u8]) -> (u16, u16) {
    let mut zeroed = segment.to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(segment[8..12], crc32c::crc32c(&zeroed).to_le_bytes());
    let port = |at| u16::from_be_bytes([segment[at], segment[at + 1]]);
    (port(0), port(2))
}

/// Reads a packet's ends, after checking both checksums.
pub fn ends(packet: &[u8]) -> Ends {
    let sliced = SlicedPacket::from_ethernet(packet).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let ends = |ports: (u16, u16)| ((ip.header().source_addr(), ports.0), (ip.header().destination_addr(), ports.1));
    let (ports, sum, expected) = match sliced.transport {
        None if ip.payload_ip_number() == IpNumber::SCTP => return ends(sctp_ports(ip.payload().payload)),
        Some(TransportSlice::Udp(udp)) => {
            let owned = udp.to_header();
            let expected = owned.calc_checksum_ipv4(&header, udp.payload()).unwrap();
            ((udp.source_port(), udp.destination_port()), udp.checksum(), expected)
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let expected = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap();
            ((tcp.source_port(), tcp.destination_port()), tcp.checksum(), expected)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(sum, expected);
    ends(ports)
}

/// Nanoseconds that pass before a packet is seen.
const SETTLE: u64 = 1_000_000;

pub struct World {
    pub switch: Stepped,
    pub client: MemoryWire,
    pub server: MemoryWire,
    pub host: MemoryWire,
    /// Nanoseconds since the world began.
    pub now: u64,
}

impl World {
    /// The client's port is served by worker 0 alone, the servers' and the node's by worker 1 alone.
    pub fn new(backends: &[Backend]) -> World {
        let mut switch = Stepped::new(2, 128, 100, 1).unwrap();
        switch.publish(&spec(backends)).unwrap();
        let ((client_port, client), (server_port, server)) = (MemoryDevice::new(64), MemoryDevice::new(64));
        switch.attach(0, CLIENT, client_port);
        switch.attach(1, SERVER, server_port);
        let (host_port, host) = MemoryDevice::new(64);
        switch.attach(1, HOST, host_port);
        World { switch, client, server, host, now: 0 }
    }

    /// Lets both workers make two rounds, so that what was handed over is sent, and counts frames and packets.
    pub fn settle(&mut self) {
        self.now += SETTLE;
        for worker in [0, 1, 0, 1] {
            self.switch.step(worker, Now(10_000_000_000 + self.now));
        }
        for worker in [0, 1] {
            self.switch.step(worker, Now(10_000_000_000 + self.now));
            let census = self.switch.census(worker);
            assert!(census.memories.iter().all(|memory| memory.capacity == memory.accounted()), "{census:?}");
        }
        let counted = |port: PortId, counter: &dyn Fn(&shunt_dataplane::counters::PortCounters) -> u64| -> u64 {
            (0..2).map(|worker| counter(self.switch.counters(worker).port(port))).sum()
        };
        let both = |counter: &dyn Fn(&shunt_dataplane::counters::PortCounters) -> u64| {
            PORTS.into_iter().map(|port| counted(port, counter)).sum::<u64>()
        };
        let dropped = both(&|port| port.drops.iter().map(|counter| counter.get()).sum());
        let held = both(&|port| port.held.get());
        assert_eq!(held, (0..2).map(|worker| u64::from(self.switch.census(worker).memories[0].in_hand)).sum::<u64>());
        let left = both(&|port| {
            port.forwarded.get() + port.to_host.get() + port.answers.iter().map(|counter| counter.get()).sum::<u64>()
        });
        assert_eq!(both(&|port| port.rx_packets.get() + port.fragments.get()), dropped + left + held);
        assert_eq!(left, both(&|port| port.tx_packets.get() + port.tx_dropped.get()));
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        PORTS
            .into_iter()
            .flat_map(|port| [0, 1].map(|worker| self.switch.counters(worker).port(port).drops[reason as usize].get()))
            .sum()
    }

    /// Sends a packet from a server and tells what the client got.
    pub fn answer(&mut self, packet: Vec<u8>) -> Option<Ends> {
        let foreseen = self.foresee(SERVER, &packet, CLIENT);
        self.server.send(packet);
        self.settle();
        let came = self.client.recv();
        assert_eq!(came, foreseen, "not as foreseen");
        came.map(|packet| ends(&packet))
    }

    /// Opens a TCP connection from the client's `port` to the VIP. Returns who took it.
    pub fn connect(&mut self, port: u16) -> (Ipv4Addr, u16) {
        let (client, server) = self.ask(tcp(CLIENT, to_vip(port), SYN)).expect("the SYN arrives");
        assert_eq!(self.answer(tcp(SERVER, (server, client), SYN | ACK)), Some(((VIP, 80), client)));
        assert_eq!(self.ask(tcp(CLIENT, to_vip(port), ACK)), Some((client, server)));
        server
    }

    /// Packets that wait.
    pub fn held(&self) -> u64 {
        PORTS.into_iter().flat_map(|port| [0, 1].map(|worker| self.switch.counters(worker).port(port).held.get())).sum()
    }

    /// Sends a packet from the client and tells which backend got it. That must be what was foreseen.
    pub fn ask(&mut self, packet: Vec<u8>) -> Option<Ends> {
        let foreseen = self.foresee(CLIENT, &packet, SERVER);
        self.client.send(packet);
        self.settle();
        let came = self.server.recv();
        assert_eq!(came, foreseen, "not as foreseen");
        came.map(|packet| ends(&packet))
    }

    /// What is to come out at `out` of a packet that comes in at `port` now.
    fn foresee(&mut self, port: PortId, packet: &[u8], out: PortId) -> Option<Vec<u8>> {
        let (_, fate, sent) = self.switch.dry_run(Now(10_000_000_000 + self.now + SETTLE)).run(port, packet);
        (fate == Fate::Decided(Verdict::Tx(out))).then_some(sent)
    }
}

pub fn to_vip(port: u16) -> Ends {
    ((CLIENT_IP, port), (VIP, 80))
}
