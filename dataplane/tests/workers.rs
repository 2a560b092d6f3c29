//! Several workers over one connection table, stepped by hand: who receives, who decides and who sends may all differ.

use std::{net::Ipv4Addr, sync::Arc};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use shunt_dataplane::{
    io::{MemoryDevice, MemoryWire},
    net::{MacAddr, Protocol},
    spec::{Backend, ForwardingSpec, PortId, PortRole, PortSpec, RouteSpec, ServiceSpec, Via},
    time::Now,
    verdict::DropReason,
    worker::Stepped,
};

const CLIENT: PortId = PortId(0);
const SERVER: PortId = PortId(1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);

fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port.0 as u8])
}

fn backend(n: u8) -> Backend {
    Backend { address: Ipv4Addr::new(10, 244, 1, n), port: 8080 }
}

/// A client pod, a port behind which all backends live, and one service for TCP and UDP.
fn spec(backends: &[Backend]) -> ForwardingSpec {
    let port = |id| PortSpec { id, role: PortRole::Pod, mac: mac(id), mtu: 1500, unfinished_checksums: true };
    let station = MacAddr([2, 0, 0, 0, 1, 0]);
    let service = |protocol| ServiceSpec { vip: VIP, port: 80, protocol, backends: Arc::from(backends) };
    ForwardingSpec {
        ports: vec![port(CLIENT), port(SERVER)],
        routes: vec![
            RouteSpec { prefix: CLIENT_IP.into(), via: Via::Port { port: CLIENT, mac: station } },
            RouteSpec { prefix: "10.244.1.0/24".parse().unwrap(), via: Via::Port { port: SERVER, mac: station } },
        ],
        services: vec![service(Protocol::Udp), service(Protocol::Tcp)],
        gateway: Some(Ipv4Addr::new(169, 254, 1, 1)),
        router: Some(Ipv4Addr::new(10, 244, 1, 0)),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        ..ForwardingSpec::default()
    }
}

/// Addresses and ports, as a packet carries them.
type Ends = ((Ipv4Addr, u16), (Ipv4Addr, u16));

fn udp(port: PortId, (src, dst): Ends) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(port).0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .udp(src.1, dst.1)
        .write(&mut packet, b"payload")
        .unwrap();
    packet
}

fn syn(port: PortId, (src, dst): Ends) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(port).0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .tcp(src.1, dst.1, 1, 1000)
        .syn()
        .write(&mut packet, &[])
        .unwrap();
    packet
}

/// Reads a packet's ends, after checking both checksums.
fn ends(packet: &[u8]) -> Ends {
    let sliced = SlicedPacket::from_ethernet(packet).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let (ports, sum, expected) = match sliced.transport.unwrap() {
        TransportSlice::Udp(udp) => {
            let owned = udp.to_header();
            let expected = owned.calc_checksum_ipv4(&header, udp.payload()).unwrap();
            ((udp.source_port(), udp.destination_port()), udp.checksum(), expected)
        }
        TransportSlice::Tcp(tcp) => {
            let expected = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap();
            ((tcp.source_port(), tcp.destination_port()), tcp.checksum(), expected)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(sum, expected);
    ((ip.header().source_addr(), ports.0), (ip.header().destination_addr(), ports.1))
}

struct World {
    switch: Stepped,
    client: MemoryWire,
    server: MemoryWire,
    now: u64,
}

impl World {
    /// The client's port is served by worker 0 alone, the servers' by worker 1 alone.
    fn new(backends: &[Backend]) -> World {
        let mut switch = Stepped::new(2, 64, 100, 1).unwrap();
        switch.publish(&spec(backends)).unwrap();
        let ((client_port, client), (server_port, server)) = (MemoryDevice::new(64), MemoryDevice::new(64));
        switch.attach(0, CLIENT, client_port);
        switch.attach(1, SERVER, server_port);
        World { switch, client, server, now: 0 }
    }

    /// Lets both workers make two rounds, so that what was handed over is sent, and counts frames and packets.
    fn settle(&mut self) {
        self.now += 1_000_000;
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
            counted(CLIENT, counter) + counted(SERVER, counter)
        };
        let dropped = both(&|port| port.drops.iter().map(|counter| counter.get()).sum());
        let left = both(&|port| port.forwarded.get() + port.answers.iter().map(|counter| counter.get()).sum::<u64>());
        assert_eq!(both(&|port| port.rx_packets.get()), dropped + left);
        assert_eq!(left, both(&|port| port.tx_packets.get() + port.tx_dropped.get()));
    }

    fn drops(&self, reason: DropReason) -> u64 {
        [CLIENT, SERVER]
            .into_iter()
            .flat_map(|port| [0, 1].map(|worker| self.switch.counters(worker).port(port).drops[reason as usize].get()))
            .sum()
    }

    /// Sends a packet from the client and tells which backend got it.
    fn ask(&mut self, packet: Vec<u8>) -> Option<Ends> {
        self.client.send(packet);
        self.settle();
        self.server.recv().map(|packet| ends(&packet))
    }
}

fn to_vip(port: u16) -> Ends {
    ((CLIENT_IP, port), (VIP, 80))
}

#[test]
fn both_directions_of_a_flow_on_different_workers() {
    let mut world = World::new(&[backend(10), backend(11), backend(12)]);
    let mut chosen = Vec::new();
    for port in 1000..1020 {
        let (client, server) = world.ask(udp(CLIENT, to_vip(port))).expect("delivered");
        assert_eq!(client, (CLIENT_IP, port));
        assert_eq!(server.1, 8080);
        chosen.push(server);
    }
    assert!(chosen.iter().any(|server| *server != chosen[0]), "the service spreads over its backends");
    for (port, server) in (1000..1020).zip(chosen) {
        world.server.send(udp(SERVER, (server, (CLIENT_IP, port))));
        world.settle();
        assert_eq!(world.client.recv().map(|p| ends(&p)), Some(((VIP, 80), (CLIENT_IP, port))));
        let again = world.ask(udp(CLIENT, to_vip(port))).expect("delivered");
        assert_eq!(again.1, server, "an established flow stays with its backend");
    }
    assert_eq!(world.switch.conntrack().in_use(), 20);
}

#[test]
fn an_update_elsewhere_moves_no_flow_and_a_removed_endpoint_frees_its_udp_flows_only() {
    let all = [backend(10), backend(11), backend(12)];
    let mut world = World::new(&all);
    let before: Vec<_> = (1000..1030).map(|port| world.ask(udp(CLIENT, to_vip(port))).unwrap().1).collect();
    let connections: Vec<_> = (2000..2030).map(|port| world.ask(syn(CLIENT, to_vip(port))).unwrap().1).collect();

    world.switch.publish(&spec(&all[1..])).unwrap();
    for (port, old) in (1000..1030).zip(before) {
        let new = world.ask(udp(CLIENT, to_vip(port))).expect("delivered").1;
        if old.0 == all[0].address {
            assert_ne!(new.0, old.0, "flows to the removed endpoint are forgotten");
        } else {
            assert_eq!(new, old);
        }
    }
    for (port, old) in (2000..2030).zip(connections) {
        assert_eq!(world.ask(syn(CLIENT, to_vip(port))).expect("delivered").1, old, "connections are never moved");
    }
}

#[test]
fn a_service_without_endpoints_refuses_and_an_unknown_address_of_the_range_is_dropped() {
    let mut world = World::new(&[]);
    assert_eq!(world.ask(udp(CLIENT, to_vip(1000))), None);
    let refusal = world.client.recv().expect("an ICMP error");
    let sliced = SlicedPacket::from_ethernet(&refusal).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("no ICMP: {refusal:?}") };
    assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 3), "port unreachable");

    let nobody = ((CLIENT_IP, 1000), (Ipv4Addr::new(10, 96, 0, 9), 80));
    assert_eq!(world.ask(udp(CLIENT, nobody)), None);
    assert_eq!(world.drops(DropReason::NoService), 1);
}

#[test]
fn a_full_connection_table_refuses_new_flows_and_keeps_the_old() {
    let mut world = World::new(&[backend(10)]);
    for port in 1000..1100 {
        assert!(world.ask(udp(CLIENT, to_vip(port))).is_some());
    }
    assert_eq!(world.ask(udp(CLIENT, to_vip(3000))), None);
    assert_eq!(world.drops(DropReason::ConntrackFull), 1);
    assert!(world.ask(udp(CLIENT, to_vip(1000))).is_some());
    // Each worker looks at its share of the table once in eight seconds.
    for seconds in 1..=60 {
        world.now = seconds * 1_000_000_000;
        world.settle();
    }
    assert_eq!(world.switch.conntrack().in_use(), 0, "idle flows have expired");
    assert!(world.ask(udp(CLIENT, to_vip(3000))).is_some());
}

#[test]
fn a_client_that_is_its_own_backend_is_dropped_until_it_can_be_masqueraded() {
    let mut world = World::new(&[Backend { address: CLIENT_IP, port: 8080 }]);
    assert_eq!(world.ask(udp(CLIENT, to_vip(1000))), None);
    assert_eq!(world.drops(DropReason::Hairpin), 1);
}
