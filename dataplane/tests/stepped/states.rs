//! What the switch makes of a flow's state: what it drops, takes up, and tries again elsewhere.

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use shunt_dataplane::verdict::DropReason;

use crate::world::*;

#[test]
fn what_neither_begins_nor_continues_a_connection_is_dropped() {
    let mut world = World::new(&[backend(10)]);
    let impossible = [0, RST, RST | ACK, SYN | ACK, FIN, SYN | FIN, SYN | RST];
    for flags in impossible {
        assert_eq!(world.ask(tcp(CLIENT, to_vip(1000), flags)), None, "{flags:#x}");
    }
    assert_eq!(world.drops(DropReason::OutOfState), impossible.len() as u64);
    assert_eq!(world.switch.conntrack().in_use(), 0, "and leaves nothing behind");
}

/// After a restart the table is empty: the client's packets bring a connection back, at the backend that the hash names
/// as it did before.
#[test]
fn a_connection_is_taken_up_from_its_middle() {
    let backends = [backend(10), backend(11), backend(12)];
    let mut before = World::new(&backends);
    let mut after = World::new(&backends);
    for port in 1000..1030 {
        let server = before.connect(port);
        for flags in [ACK, FIN | ACK] {
            assert_eq!(after.ask(tcp(CLIENT, to_vip(port), flags)), Some(((CLIENT_IP, port), server)));
        }
        let answer = after.answer(tcp(SERVER, (server, (CLIENT_IP, port)), ACK));
        assert_eq!(answer, Some(((VIP, 80), (CLIENT_IP, port))));
    }
    let states: Vec<_> = after.switch.conntrack().flows().map(|flow| flow.state.name()).collect();
    assert_eq!(states, ["established"; 30], "once the backend has spoken");
}

/// A backend that speaks before its client does: untranslated, the client would reset the connection.
#[test]
fn out_of_state_answers_that_would_leak_untranslated_are_dropped_until_their_client_speaks() {
    let mut world = World::new(&[backend(10)]);
    world.switch.conntrack().complete_from(10 + 5);
    let (server, other) = ((backend(10).address, 8080), (backend(11).address, 8080));
    let (client, direct) = ((CLIENT_IP, 1000), (CLIENT_IP, 2000));
    for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
        assert_eq!(world.answer(tcp(SERVER, (server, client), flags)), None, "{flags:#x}");
    }
    assert_eq!(world.answer(sctp(SERVER, (server, client), &[(DATA, &[4; 17])])), None);
    assert_eq!(world.drops(DropReason::OutOfState), 5);
    assert!(world.answer(tcp(SERVER, (server, client), SYN)).is_some(), "it begins a connection of its own");
    assert!(world.answer(tcp(SERVER, (other, client), ACK)).is_some(), "it is no endpoint");
    assert!(world.answer(udp(SERVER, (server, client))).is_some(), "nothing is reset for it");

    assert_eq!(world.ask(tcp(CLIENT, to_vip(1000), ACK)), Some((client, server)));
    assert_eq!(world.answer(tcp(SERVER, (server, client), ACK)), Some(((VIP, 80), client)));
    // Connections past the service wait until then, too, or for five seconds.
    assert_eq!(world.answer(tcp(SERVER, (server, direct), ACK)), None);
    assert_eq!(world.ask(tcp(CLIENT, (direct, server), ACK)), Some((direct, server)));
    assert_eq!(world.answer(tcp(SERVER, (server, direct), ACK)), Some((server, direct)));
    world.now = 5_000_000_000;
    assert!(world.answer(tcp(SERVER, (server, (CLIENT_IP, 3000)), ACK)).is_some());
}

/// A segment that the client's stack finds outside its window, or one that makes no sense, is translated like any other:
/// untranslated, it would make the client reset the backend's connection.
#[test]
fn invalid_packets_of_a_connection_never_leak_untranslated() {
    let mut world = World::new(&[backend(10)]);
    let server = world.connect(1000);
    for flags in [0, ACK, SYN, SYN | ACK, FIN, RST, SYN | RST, FIN | ACK, ACK] {
        let arrived = world.answer(tcp(SERVER, (server, (CLIENT_IP, 1000)), flags));
        assert_eq!(arrived, Some(((VIP, 80), (CLIENT_IP, 1000))), "{flags:#x}");
    }
}

#[test]
fn udp_flows_to_a_removed_endpoint_are_forgotten_at_once() {
    let mut world = World::new(&[backend(10)]);
    let (client, old) = world.ask(udp(CLIENT, to_vip(1000))).unwrap();
    world.answer(udp(SERVER, (old, client))).expect("translated");
    world.switch.publish(&spec(&[backend(11)])).unwrap();
    // Neither does a late answer of the old one get through untranslated, nor does the flow go there any more.
    assert_eq!(world.answer(udp(SERVER, (old, client))), None);
    assert_eq!(world.answer(udp(SERVER, (old, client))), None);
    assert_eq!(world.drops(DropReason::StaleReply), 2);
    assert_eq!(world.ask(udp(CLIENT, to_vip(1000))).unwrap().1.0, backend(11).address);
}

/// As with kube-proxy, which forgets the flows of endpoints that do not serve, and no others.
#[test]
fn established_udp_flows_stay_with_an_endpoint_that_terminates_until_it_is_gone() {
    let mut world = World::new(&[backend(10)]);
    let (client, old) = world.ask(udp(CLIENT, to_vip(1000))).unwrap();
    let drains = with_services(spec(&[backend(11)]), |service| service.leaving = [backend(12), backend(10)].into());
    world.switch.publish(&drains).unwrap();
    assert_eq!(world.answer(udp(SERVER, (old, client))), Some(((VIP, 80), client)));
    assert_eq!(world.ask(udp(CLIENT, to_vip(1000))), Some((client, old)));
    assert_eq!(world.ask(udp(CLIENT, to_vip(1001))).unwrap().1.0, backend(11).address, "new ones go elsewhere");
    world.switch.publish(&spec(&[backend(11)])).unwrap();
    assert_eq!(world.ask(udp(CLIENT, to_vip(1000))).unwrap().1.0, backend(11).address);
}

#[test]
fn udp_works_at_once_when_the_first_endpoint_appears() {
    let mut world = World::new(&[]);
    for _ in 0..3 {
        assert_eq!(world.ask(udp(CLIENT, to_vip(1000))), None);
    }
    world.switch.publish(&spec(&[backend(10)])).unwrap();
    assert!(world.ask(udp(CLIENT, to_vip(1000))).is_some(), "nothing stale is in the way");
}

/// What makes a client's next SYN go elsewhere.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Silence,
    Reset,
    Unreachable,
}

fn unreachable(got: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], mac(SERVER).0)
        .ipv4([10, 244, 1, 77], CLIENT_IP.octets(), 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host))
        .write(&mut packet, &got[14..])
        .unwrap();
    packet
}

#[test]
fn the_next_syn_of_a_connection_that_was_not_answered_takes_another_backend() {
    let backends = [backend(10), backend(11)];
    for failure in [Failure::Silence, Failure::Reset, Failure::Unreachable] {
        let mut world = World::new(&backends);
        for port in 1000..1040 {
            world.client.send(tcp(CLIENT, to_vip(port), SYN));
            world.settle();
            let got = world.server.recv().expect("the SYN arrives");
            let (client, first) = ends(&got);
            match failure {
                Failure::Silence => {
                    // The first retransmission gives it another chance: a SYN may be lost on the way.
                    assert_eq!(world.ask(tcp(CLIENT, to_vip(port), SYN)), Some((client, first)));
                }
                Failure::Reset => drop(world.answer(tcp(SERVER, (first, client), RST | ACK)).expect("translated")),
                Failure::Unreachable => {
                    world.server.send(unreachable(&got));
                    world.settle();
                    world.client.recv().expect("the client hears of it");
                }
            }
            let (_, second) = world.ask(tcp(CLIENT, to_vip(port), SYN)).expect("the SYN arrives");
            assert_ne!(first, second, "{failure:?}, port {port}");
            // From here on it is a connection like any other.
            world.answer(tcp(SERVER, (second, client), SYN | ACK)).expect("translated");
            assert_eq!(world.ask(tcp(CLIENT, to_vip(port), ACK)), Some((client, second)));
            assert_eq!(world.ask(tcp(CLIENT, to_vip(port), SYN)), Some((client, second)), "it never moves again");
        }
        let moved: u64 = (0..2).map(|worker| world.switch.counters(worker).flows_unanswered.get()).sum();
        assert_eq!(moved, 40, "{failure:?}");
    }
}

#[test]
fn a_single_backend_gets_every_syn_again() {
    let mut world = World::new(&[backend(10)]);
    for _ in 0..6 {
        assert_eq!(world.ask(tcp(CLIENT, to_vip(1000), SYN)).unwrap().1.0, backend(10).address);
    }
}
