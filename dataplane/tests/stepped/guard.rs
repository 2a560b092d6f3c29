//! A pod speaks for itself alone, and not to VTEPs.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use shunt_dataplane::{
    net::MacAddr,
    spec::{
        Backend, ForwardingSpec, MasqueradeSpec, PortId, PortRole, PortSpec, RouteSpec, Station, Via, VtepSpec,
        VxlanSpec,
    },
    verdict::DropReason,
};

use crate::world::*;

const POD: Station = Station { mac: MacAddr([2, 0, 0, 0, 1, 0]), address: CLIENT_IP, ipv6: None };
const VTEP: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const UPLINK: PortId = PortId(2);

/// The client's port is for one pod only; there is a VTEP, and what leaves the cluster is masqueraded.
fn guarded(endpoints: &[Backend]) -> World {
    let mut spec: ForwardingSpec = spec(endpoints);
    spec.ports[0].station = Some(POD);
    let uplink = PortSpec { id: UPLINK, role: PortRole::Uplink, mac: mac(UPLINK), ..spec.ports[1].clone() };
    spec.ports.push(uplink);
    spec.vxlan = Some(VxlanSpec { vni: 1, udp_port: 8472, local: OURS, mac: MacAddr([2, 0, 0, 0, 3, 1]) });
    spec.vteps = vec![VtepSpec {
        address: VTEP,
        mac: MacAddr([2, 0, 0, 0, 3, 2]),
        uplink: UPLINK,
        next_hop: Some(POD.mac),
        direct: false,
        native: false,
    }];
    spec.ipv4.masquerade = Some(MasqueradeSpec {
        overlay: Ipv4Addr::new(10, 244, 1, 0),
        underlay: OURS,
        ports: 61_000..=62_000,
        egress: Some(Vec::new()),
        answers_led: false,
    });
    spec.ipv4.routes.push(RouteSpec { prefix: VTEP.into(), via: Via::Gateway { port: UPLINK, mac: Some(POD.mac) } });
    let mut world = World::new(endpoints);
    world.switch.publish(&spec).unwrap();
    world
}

fn datagram(from: MacAddr, src: Ipv4Addr, dst: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(from.0, mac(CLIENT).0)
        .ipv4(src.octets(), dst.0.octets(), 64)
        .udp(1000, dst.1)
        .write(&mut packet, &[8; 64])
        .unwrap();
    packet
}

fn dropped(world: &mut World, packet: Vec<u8>, reason: DropReason) {
    let before = world.drops(reason);
    assert_eq!(world.ask(packet), None, "{}", reason.name());
    assert_eq!(world.drops(reason), before + 1, "{}", reason.name());
}

/// An ARP message in the frame of `from`.
fn arp(from: MacAddr, sender: Station, operation: u8, target: Ipv4Addr) -> Vec<u8> {
    let head = [&[0xff; 6], &from.0[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    [&head[..], &sender.mac.0, &sender.address.octets(), &[0; 6], &target.octets()].concat()
}

#[test]
fn a_pod_has_its_own_addresses_and_no_other() {
    let mut world = guarded(&[backend(10)]);
    let to = (backend(10).address, 53);
    let other = (MacAddr([2, 0, 0, 0, 1, 9]), backend(10).address);
    assert!(world.ask(datagram(POD.mac, POD.address, to)).is_some());
    dropped(&mut world, datagram(other.0, POD.address, to), DropReason::SpoofedMac);
    dropped(&mut world, datagram(POD.mac, other.1, to), DropReason::SpoofedAddress);
    // Not even through a service.
    dropped(&mut world, datagram(POD.mac, other.1, (VIP, 80)), DropReason::SpoofedAddress);

    let arp = |from: MacAddr, mac: MacAddr, address: Ipv4Addr, operation: u8| {
        arp(from, Station { mac, address, ipv6: None }, operation, [169, 254, 1, 1].into())
    };
    let nobody = Ipv4Addr::UNSPECIFIED;
    for (right, address) in
        [(true, POD.address), (true, nobody), (false, other.1), (false, Ipv4Addr::new(169, 254, 1, 1))]
    {
        world.client.send(arp(POD.mac, POD.mac, address, 1));
        world.settle();
        assert_eq!(world.client.recv().is_some(), right, "{address}");
    }
    assert_eq!(world.drops(DropReason::SpoofedAddress), 4);
    dropped(&mut world, arp(other.0, POD.mac, POD.address, 1), DropReason::SpoofedMac);
    dropped(&mut world, arp(POD.mac, other.0, POD.address, 1), DropReason::SpoofedMac);
    // Also when it says unasked that another's address is at its own.
    dropped(&mut world, arp(POD.mac, POD.mac, other.1, 2), DropReason::SpoofedAddress);
}

/// As behind a bridge, to which flannel's pods are used.
#[test]
fn what_a_pod_takes_to_be_on_its_link_is_answered_for_but_its_own_address() {
    let mut spec: ForwardingSpec = spec(&[backend(10)]);
    spec.ports[0].station = Some(POD);
    spec.ipv4.on_link = Some("10.244.1.0/24".parse().unwrap());
    let mut world = World::new(&[]);
    world.switch.publish(&spec).unwrap();
    let answer = |world: &mut World, packet| {
        world.client.send(packet);
        world.settle();
        world.client.recv()
    };
    let bridge = Ipv4Addr::new(10, 244, 1, 1);
    for (target, answered) in
        [(backend(10).address, true), (bridge, true), (POD.address, false), (Ipv4Addr::new(10, 244, 2, 1), false)]
    {
        let ignored = world.drops(DropReason::ArpIgnored);
        let reply = answer(&mut world, arp(POD.mac, POD, 1, target));
        assert_eq!(reply.is_some(), answered, "{target}");
        assert_eq!(world.drops(DropReason::ArpIgnored) == ignored, answered, "{target}");
        if let Some(reply) = reply {
            assert_eq!((&reply[22..28], &reply[28..32]), (&mac(CLIENT).0[..], &target.octets()[..]));
        }
    }
    // It may know them already, by their own addresses.
    let mut known = datagram(POD.mac, POD.address, (backend(10).address, 53));
    known[..6].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
    assert!(world.ask(known.clone()).is_some());
    known[0] |= 1;
    dropped(&mut world, known.clone(), DropReason::NotOurMac);
    spec.ipv4.on_link = None;
    world.switch.publish(&spec).unwrap();
    known[0] &= !1;
    dropped(&mut world, known, DropReason::NotOurMac);
    spec.ipv4.on_link = Some("10.244.1.0/24".parse().unwrap());
    world.switch.publish(&spec).unwrap();
    // The bridge's address is the switch's own.
    let mut ping = Vec::new();
    PacketBuilder::ethernet2(POD.mac.0, mac(CLIENT).0)
        .ipv4(POD.address.octets(), bridge.octets(), 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut ping, &[8; 64])
        .unwrap();
    assert_eq!(answer(&mut world, ping).expect("an answer")[26..30], bridge.octets());
    // Where it is not known who is behind a port, any address might be its own.
    world.server.send(arp(POD.mac, Station { address: backend(10).address, ..POD }, 1, backend(11).address));
    world.settle();
    assert!(world.server.recv().is_none());
}

#[test]
fn a_pod_reaches_no_vtep_s_port_whichever_way() {
    let mut world = guarded(&[Backend { address: VTEP, port: 8472 }]);
    for vtep in [VTEP, OURS] {
        dropped(&mut world, datagram(POD.mac, POD.address, (vtep, 8472)), DropReason::VtepOnly);
        // In fragments: without the first one the rest is nothing.
        let mut first = datagram(POD.mac, POD.address, (vtep, 8472));
        first[20] |= 0x20;
        first[24..26].fill(0);
        let sum = etherparse::Ipv4Header::from_slice(&first[14..]).unwrap().0.calc_header_checksum();
        first[24..26].copy_from_slice(&sum.to_be_bytes());
        dropped(&mut world, first, DropReason::VtepOnly);
    }
    // Through a service that someone gave such an endpoint.
    dropped(&mut world, datagram(POD.mac, POD.address, (VIP, 80)), DropReason::VtepOnly);
    // From behind another port, as what comes from another node's pod would be masqueraded.
    world.server.send(udp(SERVER, ((Ipv4Addr::new(10, 244, 2, 9), 1000), (VTEP, 8472))));
    world.settle();
    assert_eq!(world.drops(DropReason::VtepOnly), 6);
    // Where no VTEP listens it is traffic like any other: to a pod, and out of the cluster if there is a route.
    assert!(world.ask(datagram(POD.mac, POD.address, (backend(12).address, 8472))).is_some());
    let before = world.drops(DropReason::VtepOnly);
    world.ask(datagram(POD.mac, POD.address, (OUTSIDE, 8472)));
    assert_eq!(world.drops(DropReason::VtepOnly), before);
}
