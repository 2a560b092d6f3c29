//! ICMP errors follow the flow of the packet they quote, and the quoted packet is translated too, in every direction.

use std::net::Ipv4Addr;

use etherparse::{
    Icmpv4Type, Ipv4Header, PacketBuilder,
    icmpv4::{DestUnreachableHeader, ParameterProblemHeader, TimeExceededCode},
};
use shunt_dataplane::verdict::DropReason;

use crate::world::*;

/// Some router on the way to the servers.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 77);

const ERRORS: [Icmpv4Type; 5] = [
    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 }),
    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host),
    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
    Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
    Icmpv4Type::ParameterProblem(ParameterProblemHeader::PointerIndicatesError(6)),
];

/// An error that quotes so many bytes of an IP packet.
fn error(port: shunt_dataplane::spec::PortId, kind: &Icmpv4Type, ends: (Ipv4Addr, Ipv4Addr), quote: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(port).0)
        .ipv4(ends.0.octets(), ends.1.octets(), 64)
        .icmpv4(kind.clone())
        .write(&mut packet, quote)
        .unwrap();
    packet
}

/// The frame's IP packet as it is one hop on.
fn one_hop_on(frame: &[u8]) -> Vec<u8> {
    let (mut header, rest) = Ipv4Header::from_slice(&frame[14..]).unwrap();
    header.time_to_live -= 1;
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], rest].concat()
}

/// Asks once over each protocol; what the client sent, and what the server got.
fn asked(world: &mut World) -> Vec<[Vec<u8>; 2]> {
    let requests =
        [udp(CLIENT, to_vip(1000)), syn(CLIENT, to_vip(1000)), sctp(CLIENT, to_vip(1000), &[(INIT, &[7; 16])])];
    requests
        .into_iter()
        .map(|sent| {
            world.client.send(sent.clone());
            world.settle();
            [sent, world.server.recv().expect("the request arrives")]
        })
        .collect()
}

/// An error about a request, from whoever is behind the translation, is about the VIP when it reaches the client, and
/// comes from there: bit for bit what a router in front of the translation would have sent.
#[test]
fn an_error_about_a_request_reaches_the_client_as_one_about_the_vip() {
    let mut world = World::new(&[backend(10), backend(11)]);
    for [sent, got] in asked(&mut world) {
        let (_, (server, _)) = ends(&got);
        for kind in &ERRORS {
            // The whole packet, as little as must be quoted, so much that half of the UDP payload is in it, and the least
            // that holds SCTP's checksum.
            for quoted in [got.len() - 14, 28, 31, 32] {
                for from in [ROUTER, server] {
                    world.server.send(error(SERVER, kind, (from, CLIENT_IP), &got[14..14 + quoted]));
                    world.settle();
                    let arrived = world.client.recv().expect("the error arrives");
                    let expected = error(CLIENT, kind, (VIP, CLIENT_IP), &one_hop_on(&sent)[..quoted]);
                    assert_eq!(arrived[14..], one_hop_on(&expected), "{kind:?}, {quoted} bytes quoted");
                }
            }
        }
    }
    // Of the flows, the connection and the association have changed: their backend cannot be reached.
    let mut states: Vec<_> = world.switch.conntrack().flows().map(|flow| flow.state.name()).collect();
    states.sort_unstable();
    assert_eq!(states, ["declined", "refused", "unreplied"]);
}

/// An error about a reply, from whoever is in front of the translation, reaches the backend as one about what it sent.
#[test]
fn an_error_about_a_reply_reaches_the_backend_as_one_about_what_it_sent() {
    let mut world = World::new(&[backend(10), backend(11)]);
    for (at, [_, got]) in asked(&mut world).iter().enumerate() {
        let (client, server) = ends(got);
        let reply = match at {
            0 => udp(SERVER, (server, client)),
            1 => syn(SERVER, (server, client)),
            _ => sctp(SERVER, (server, client), &[(INIT_ACK, &[7; 20])]),
        };
        world.server.send(reply.clone());
        world.settle();
        let translated = world.client.recv().expect("the reply arrives");
        assert_eq!(ends(&translated).0, (VIP, 80));
        for kind in &ERRORS {
            for (from, quoted) in [(CLIENT_IP, 28), (CLIENT_IP, translated.len() - 14), (ROUTER, 28)] {
                world.client.send(error(CLIENT, kind, (from, VIP), &translated[14..14 + quoted]));
                world.settle();
                let arrived = world.server.recv().expect("the error arrives");
                let expected = error(SERVER, kind, (from, server.0), &one_hop_on(&reply)[..quoted]);
                assert_eq!(arrived[14..], one_hop_on(&expected), "{kind:?} from {from}, {quoted} bytes quoted");
            }
        }
    }
}

/// As with Linux's connection tracking: an error that belongs to no flow is a packet like any other.
#[test]
fn unrelated_errors_are_plain_packets() {
    let mut world = World::new(&[backend(10)]);
    let [_, got] = asked(&mut world).swap_remove(0);
    let kind = &ERRORS[0];
    let mut expect_plain = |quote: &[u8], to| {
        let sent = error(SERVER, kind, (ROUTER, to), quote);
        world.server.send(sent.clone());
        world.settle();
        let arrived = if to == CLIENT_IP { world.client.recv() } else { world.server.recv() };
        assert_eq!(arrived.expect("the error arrives")[14..], one_hop_on(&sent));
    };
    // Too little quoted; a later fragment; another flow; not the quoted packet's sender.
    expect_plain(&got[14..41], CLIENT_IP);
    let mut fragment = got[14..].to_vec();
    fragment[7] = 1;
    expect_plain(&fragment, CLIENT_IP);
    let mut other = got[14..].to_vec();
    other[21] ^= 1;
    expect_plain(&other, CLIENT_IP);
    expect_plain(&got[14..], Ipv4Addr::new(10, 244, 1, 10));
    expect_plain(&[], CLIENT_IP);

    // To a VIP, nobody is there to get it.
    world.client.send(error(CLIENT, kind, (CLIENT_IP, VIP), &other));
    world.settle();
    assert_eq!((world.server.recv(), world.drops(DropReason::NoBackend)), (None, 1));
}

/// As an answer would be: a UDP flow to an endpoint that was removed.
#[test]
fn an_error_about_a_flow_that_is_forgotten_is_dropped() {
    let mut world = World::new(&[backend(10)]);
    let [_, got] = asked(&mut world).swap_remove(0);
    world.switch.publish(&spec(&[backend(11)])).unwrap();
    world.server.send(error(SERVER, &ERRORS[2], (ROUTER, CLIENT_IP), &got[14..]));
    world.settle();
    assert_eq!((world.client.recv(), world.drops(DropReason::StaleReply)), (None, 1));
}
