//! SCTP as a service's protocol: translation with its own checksum, and associations as connections are.

use shunt_dataplane::verdict::DropReason;

use crate::world::*;

/// What an association's two sides say, in this order, and the state after it: from whom, the chunks.
const LIFE: [(bool, &[Chunk], &str); 9] = [
    (true, &[(INIT, &[1; 16])], "cookie-wait"),
    (false, &[(INIT_ACK, &[2; 60])], "cookie-echoed"),
    (true, &[(COOKIE_ECHO, &[3; 40]), (DATA, &[4; 17])], "cookie-echoed"),
    (false, &[(COOKIE_ACK, &[]), (SACK, &[0; 12])], "associated"),
    (false, &[(DATA, &[5; 1400])], "associated"),
    (true, &[(SACK, &[0; 12]), (SHUTDOWN, &[0; 4])], "shutting-down"),
    (false, &[(SHUTDOWN_ACK, &[])], "shutting-down"),
    (true, &[(SHUTDOWN_COMPLETE, &[])], "closed"),
    (false, &[(SHUTDOWN_ACK, &[])], "closed"),
];

fn state(world: &World) -> &'static str {
    world.switch.conntrack().flows().next().expect("a flow").state.name()
}

#[test]
fn an_association_through_a_service_from_its_beginning_to_its_end() {
    let mut world = World::new(&[backend(10), backend(11), backend(12)]);
    let mut server = None;
    for (from_client, chunks, then) in LIFE {
        let client = (CLIENT_IP, 1000);
        match server {
            None => server = Some(world.ask(sctp(CLIENT, to_vip(1000), chunks)).expect("it arrives").1),
            Some(server) if from_client => {
                assert_eq!(world.ask(sctp(CLIENT, to_vip(1000), chunks)), Some((client, server)), "{then}");
            }
            Some(server) => {
                let answered = world.answer(sctp(SERVER, (server, client), chunks));
                assert_eq!(answered, Some(((VIP, 80), client)), "{then}");
            }
        }
        assert_eq!(state(&world), then);
    }
    assert_eq!(server.unwrap().1, 8080);
}

#[test]
fn the_same_port_on_different_protocols() {
    let mut world = World::new(&[backend(10)]);
    let other = with_services(spec(&[backend(10)]), |service| {
        let n = 10 + service.protocol as u8;
        service.from_pods.endpoints = [backend(n).into()].into();
    });
    world.switch.publish(&other).unwrap();
    let asked = [udp(CLIENT, to_vip(1000)), syn(CLIENT, to_vip(1000)), sctp(CLIENT, to_vip(1000), &[(INIT, &[1; 16])])];
    for (packet, protocol) in asked.into_iter().zip([17, 6, 132]) {
        assert_eq!(world.ask(packet).expect("it arrives").1.0, backend(10 + protocol).address);
    }
    assert_eq!(world.switch.conntrack().in_use(), 3);
}

/// A pod's kernel leaves the checksum to its device, which has no hardware that would compute it.
#[test]
fn a_checksum_left_unfinished_is_finished_and_a_wrong_one_stays_wrong() {
    let mut world = World::new(&[backend(10)]);
    let direct = ((CLIENT_IP, 1000), (backend(20).address, 7));
    for ends in [to_vip(1000), direct] {
        let whole = sctp(CLIENT, ends, &[(INIT, &[1; 33])]);
        let mut unfinished = whole.clone();
        unfinished[42..46].fill(0);
        world.client.send(unfinished);
        world.settle();
        let got = world.server.recv().expect("it arrives");
        assert_eq!(crate::world::ends(&got).0, ends.0, "and its checksum is right");

        let mut damaged = whole;
        damaged[60] ^= 0x10;
        world.client.send(damaged);
        world.settle();
        let mut got_damaged = world.server.recv().expect("it arrives");
        assert_ne!(got_damaged, got);
        got_damaged[60] ^= 0x10;
        assert_eq!(got_damaged, got, "only its receiver can tell");
    }
}

#[test]
fn what_neither_begins_nor_continues_an_association_is_dropped() {
    let mut world = World::new(&[backend(10)]);
    let impossible: [&[Chunk]; 5] =
        [&[], &[(INIT_ACK, &[2; 60])], &[(ABORT, &[])], &[(SHUTDOWN_COMPLETE, &[])], &[(SACK, &[0; 12]), (ABORT, &[])]];
    for chunks in impossible {
        assert_eq!(world.ask(sctp(CLIENT, to_vip(1000), chunks)), None, "{chunks:?}");
    }
    assert_eq!(world.drops(DropReason::OutOfState), impossible.len() as u64);
    let mut short = sctp(CLIENT, to_vip(1000), &[]);
    short.truncate(45);
    let ip = etherparse::Ipv4Header::from_slice(&short[14..]).unwrap().0;
    let mut header = etherparse::Ipv4Header { total_len: 31, ..ip };
    header.header_checksum = header.calc_header_checksum();
    short[14..34].copy_from_slice(&header.to_bytes());
    world.client.send(short);
    world.settle();
    assert_eq!(world.drops(DropReason::BadL4Header), 1);
    assert_eq!(world.switch.conntrack().in_use(), 0, "and leaves nothing behind");
}

#[test]
fn an_association_is_taken_up_from_its_middle_and_stays_through_its_backends_removal() {
    let backends = [backend(10), backend(11), backend(12)];
    let (mut before, mut after) = (World::new(&backends), World::new(&backends));
    for port in 1000..1030 {
        let (client, server) = before.ask(sctp(CLIENT, to_vip(port), &[(INIT, &[1; 16])])).expect("it arrives");
        let data = sctp(CLIENT, to_vip(port), &[(DATA, &[4; 17])]);
        assert_eq!(after.ask(data), Some((client, server)));
        let answer = sctp(SERVER, (server, client), &[(SACK, &[0; 12])]);
        assert_eq!(after.answer(answer), Some(((VIP, 80), client)));
        assert!(after.switch.conntrack().flows().all(|flow| flow.state.name() == "associated"));
    }
    after.switch.publish(&spec(&[backend(13)])).unwrap();
    for port in 1000..1030 {
        let (_, server) = after.ask(sctp(CLIENT, to_vip(port), &[(DATA, &[4; 17])])).expect("it arrives");
        assert!(backends.iter().any(|backend| backend.address == server.0));
    }
    assert_eq!(after.ask(sctp(CLIENT, to_vip(2000), &[(INIT, &[1; 16])])).unwrap().1.0, backend(13).address);
}

#[test]
fn the_next_init_of_an_association_that_was_not_answered_takes_another_backend() {
    for aborts in [true, false] {
        let mut world = World::new(&[backend(10), backend(11)]);
        for port in 1000..1020 {
            let init = || sctp(CLIENT, to_vip(port), &[(INIT, &[1; 16])]);
            let (client, first) = world.ask(init()).expect("it arrives");
            if aborts {
                world.answer(sctp(SERVER, (first, client), &[(ABORT, &[])])).expect("translated");
            } else {
                assert_eq!(world.ask(init()), Some((client, first)), "another chance");
            }
            let (_, second) = world.ask(init()).expect("it arrives");
            assert_ne!(first, second, "port {port}");
            world.answer(sctp(SERVER, (second, client), &[(INIT_ACK, &[2; 60])])).expect("translated");
            assert_eq!(world.ask(init()), Some((client, second)), "it never moves again");
        }
    }
}

#[test]
fn idle_associations_expire_by_their_state() {
    let mut world = World::new(&[backend(10)]);
    for (port, steps) in (1000..).zip([1, 4, 6, 8]) {
        let server = (backend(10).address, 8080);
        for (from_client, chunks, _) in &LIFE[..steps] {
            match from_client {
                true => drop(world.ask(sctp(CLIENT, to_vip(port), chunks)).expect("it arrives")),
                false => drop(world.answer(sctp(SERVER, (server, (CLIENT_IP, port)), chunks)).expect("it arrives")),
            }
        }
    }
    let mut left = Vec::new();
    for seconds in 1..=240 {
        world.now = seconds * 1_000_000_000;
        world.settle();
        if [9, 30, 80, 200, 240].contains(&seconds) {
            left.push(world.switch.conntrack().in_use());
        }
    }
    assert_eq!(left, [4, 3, 1, 1, 0], "10 seconds, twice 60, and 210");
}
