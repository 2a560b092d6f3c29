use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::*;
use crate::{
    io::MemoryDevice,
    net::{MacAddr, Protocol},
    spec::{Backend, Endpoint, FamilySpec, ForwardingSpec, PortId, PortRole, PortSpec, RouteSpec, ServiceSpec, Via},
    time::Now,
    wire::{ipv4, tcp},
    worker::Stepped,
};
use etherparse::PacketBuilder;
use proptest::prelude::*;

fn table(capacity: u32) -> Conntrack {
    Conntrack::new(capacity, FlowSeed::from_number(7))
}

/// The keys of a connection from client `n` to one VIP, translated to a backend that `n` decides.
fn keys(n: u32) -> [Key; 2] {
    let forward =
        FiveTuple { src: 0x0a00_0000 + n, dst: 0x0a60_0001, src_port: n as u16, dst_port: 80, protocol: ipv4::TCP };
    let backend = FiveTuple { dst: 0x0af4_0001 + n % 5, dst_port: 8080, ..forward };
    [forward.to_words(), backend.reversed().to_words()]
}

fn hashed(table: &Conntrack, keys: [Key; 2]) -> [(Key, u64); 2] {
    keys.map(|key| (key, table.hash(key)))
}

fn new(keys: [(Key, u64); 2], next_hops: [u32; 2], generation: u32, tick: u32) -> NewFlow {
    NewFlow { keys, next_hops, generation, state: FlowState::Opening, tick, counted: false }
}

fn insert(table: &Conntrack, n: u32, tick: u32) -> Result<(), InsertError> {
    table.insert(&new(hashed(table, keys(n)), [n % 100, n % 7], 3, tick))
}

fn find(table: &Conntrack, key: Key) -> Option<Hit> {
    let hash = table.hash(key);
    let found = table.find(key, hash);
    let probed = table.probe(hash).and_then(|slot| table.read(slot, key));
    assert!(probed.is_none_or(|probed| found.is_some_and(|found| found.slot == probed.slot)), "both ways agree");
    found
}

#[test]
fn a_flow_is_found_under_both_keys_with_its_decisions() {
    let table = table(16);
    insert(&table, 42, 0).unwrap();
    let [forward, reply] = keys(42);
    let hit = find(&table, forward).unwrap();
    assert_eq!((hit.slot.direction(), hit.other, hit.next_hop(), hit.generation()), (Direction::Forward, reply, 42, 3));
    let hit = find(&table, reply).unwrap();
    assert_eq!((hit.slot.direction(), hit.other, hit.next_hop()), (Direction::Reply, forward, 0));
    assert!(find(&table, keys(43)[0]).is_none());
    assert_eq!(table.in_use(), 1);
}

#[test]
fn a_second_insert_and_a_clashing_reply_are_told_apart() {
    let table = table(16);
    insert(&table, 1, 0).unwrap();
    assert_eq!(insert(&table, 1, 0), Err(InsertError::Exists));
    let [mut forward, reply] = keys(1);
    forward[0] += 1; // another VIP, the same backend and client port
    let clash = |table: &Conntrack| table.insert(&new(hashed(table, [forward, reply]), [0, 0], 0, 0));
    assert_eq!(clash(&table), Err(InsertError::ReplyInUse));
    assert_eq!(table.in_use(), 1);

    let hit = find(&table, keys(1)[0]).unwrap();
    table.touch(&hit, FlowState::Reset, 0);
    assert_eq!(clash(&table), Err(InsertError::Exists), "the flow that is over gives way");
    assert_eq!(clash(&table), Ok(()));
}

#[test]
fn a_full_table_refuses_and_recovers() {
    let table = table(100);
    for n in 0..100 {
        insert(&table, n, 0).unwrap();
    }
    assert_eq!(insert(&table, 100, 0), Err(InsertError::Full));
    table.remove(&find(&table, keys(50)[0]).unwrap());
    assert!(find(&table, keys(50)[1]).is_none());
    assert_eq!(insert(&table, 100, 0), Ok(()));
    assert_eq!(table.in_use(), 100);
}

#[test]
fn idle_flows_expire_by_their_state_and_active_ones_stay() {
    let table = table(8);
    for n in 0..3 {
        insert(&table, n, 0).unwrap();
    }
    table.touch(&find(&table, keys(1)[0]).unwrap(), FlowState::Established, 0);
    table.touch(&find(&table, keys(2)[0]).unwrap(), FlowState::Opening, 50);
    let sweep = |tick| (0..4).map(|share| table.sweep(&mut Sweep::new(), (share, 4), 100, tick).removed).sum::<u32>();
    assert_eq!(sweep(60), 0);
    assert_eq!(sweep(61), 1);
    assert!(find(&table, keys(0)[0]).is_none());
    assert_eq!(sweep(111), 1);
    assert_eq!(sweep(86_401), 1);
    assert_eq!(table.in_use(), 0);
}

#[test]
fn updates_meant_for_a_flow_that_has_gone_change_nothing() {
    let table = table(1);
    insert(&table, 1, 0).unwrap();
    let stale = find(&table, keys(1)[0]).unwrap();
    table.remove(&stale);
    insert(&table, 2, 9).unwrap();
    table.redecide(&stale, 77, 9);
    table.touch(&stale, FlowState::Reset, 9);
    table.remove(&stale);
    let hit = find(&table, keys(2)[0]).unwrap();
    assert_eq!((hit.next_hop(), hit.generation(), hit.state()), (2, 3, FlowState::Opening));
}

#[test]
fn a_decision_is_replaced_for_one_direction() {
    let table = table(1);
    insert(&table, 1, 0).unwrap();
    table.redecide(&find(&table, keys(1)[1]).unwrap(), 900, 4);
    let [forward, reply] = keys(1).map(|key| find(&table, key).unwrap());
    assert_eq!((forward.next_hop(), forward.generation()), (1, 3));
    assert_eq!((reply.next_hop(), reply.generation()), (900, 4));
}

/// As full as a table gets: half of all slots. Some buckets then have more keys than slots.
#[test]
fn keys_that_find_no_room_near_their_hash_are_found_further_away() {
    let table = table(4096);
    let accepted: Vec<u32> = (0..4096).filter(|n| insert(&table, *n, 0).is_ok()).collect();
    assert_eq!(accepted.len(), 4096, "nothing is refused");
    assert!(table.strays.count() > 0, "or this test tests nothing");
    for n in &accepted {
        assert!(keys(*n).iter().all(|key| find(&table, *key).is_some()));
        table.remove(&find(&table, keys(*n)[0]).unwrap());
    }
    assert_eq!((table.in_use(), table.strays.count()), (0, 0));
}

/// Nobody has to give way while there is an entry left, for want of a slot.
#[test]
fn a_large_table_has_a_place_for_every_flow_that_it_has_an_entry_for() {
    const FLOWS: u32 = 1 << 20;
    let table = table(FLOWS);
    let refused = (0..FLOWS).filter(|n| insert(&table, *n, 0).is_err()).count();
    assert_eq!((refused, table.in_use()), (0, FLOWS));
}

/// Slots that a key can have.
const CROWD: usize = HOMES * SLOTS;

/// Keys that have the same slots.
fn crowd<'a>(table: &'a Conntrack, key: impl Fn(u32) -> Key + 'a) -> impl Iterator<Item = u32> {
    let slots = move |n| {
        let mut buckets: [usize; HOMES] = std::array::from_fn(|at| table.home(table.hash(key(n)), at));
        buckets.sort_unstable();
        buckets
    };
    let wanted = slots(0);
    assert!(wanted.windows(2).all(|pair| pair[0] != pair[1]), "all differ");
    (0..).filter(move |n| slots(*n) == wanted)
}

proptest! {
    /// The slots that a key can have are all taken, though the table is half empty.
    #[test]
    fn where_keys_crowd_the_most_silent_flow_gives_way(
        flows in prop::collection::vec((prop::sample::select(FlowState::ALL.to_vec()), 0..50u32), CROWD / 2),
        both in any::<bool>(),
    ) {
        const NOW: u32 = 55;
        let table = table(64);
        let crowded: Vec<Key> = crowd(&table, |n| [n.into(), 1]).map(|n| [n.into(), 1]).take(CROWD + 2).collect();
        let (keys, last) = crowded.split_at(CROWD);
        let new = |keys: &[Key], state, tick| NewFlow {
            keys: hashed(&table, [keys[0], keys[1]]), next_hops: [0; 2], generation: 1, state, tick, counted: false,
        };
        for (keys, (state, seen)) in keys.chunks(2).zip(&flows) {
            prop_assert_eq!(table.insert(&new(keys, *state, *seen)), Ok(()));
        }
        let last = if both { [last[0], last[1]] } else { [[1, 2], last[0]] };
        let flow = new(&last, FlowState::Opening, NOW);
        let Err(InsertError::Crowded(hash)) = table.insert(&flow) else { panic!("there is a place") };
        prop_assert!(flow.keys.iter().any(|(_, its)| *its == hash));

        let goes = |way: fn(FlowState) -> bool| {
            let may = flows.iter().filter(|(state, seen)| way(*state) || NOW - seen > state.idle_limit());
            may.map(|(_, seen)| *seen).min()
        };
        let expected = goes(FlowState::gives_way).or_else(|| goes(FlowState::gives_way_last));
        prop_assert_eq!(table.make_room_for(hash, NOW), expected.is_some());
        let gone: Vec<u32> = keys.chunks(2).zip(&flows)
            .filter(|(keys, _)| keys.iter().all(|key| find(&table, *key).is_none()))
            .map(|(_, (_, seen))| *seen).collect();
        prop_assert_eq!(&gone, &Vec::from_iter(expected));
        prop_assert_eq!(table.insert(&flow).is_ok(), expected.is_some());
        prop_assert_eq!(table.in_use() as usize, CROWD / 2);
        prop_assert_eq!(table.flows().count(), CROWD / 2);
    }
}

/// A worker whose packets' keys crowd sends them on all the same, and an established flow among them stays.
#[test]
fn new_flows_whose_keys_crowd_are_sent_on() {
    const CLIENT: PortId = PortId(0);
    const SERVER: PortId = PortId(1);
    let forward = |n: u32| FiveTuple {
        src: 0x0a00_0000 | n >> 8,
        dst: 0x0a60_0001,
        src_port: (n as u16 & 0xff) + 1,
        dst_port: 80,
        protocol: ipv4::UDP,
    };
    let mut switch = Stepped::new(1, 64, 96, 7).unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let port = |id| PortSpec { id, role: PortRole::Pod, mac, mtu: 1500, unfinished_checksums: true, station: None };
    let route = |prefix: &str, port| RouteSpec { prefix: prefix.parse().unwrap(), via: Via::Port { port, mac } };
    let backend = Backend { address: [10, 1, 0, 1].into(), port: 53 };
    let spec = ForwardingSpec {
        ports: vec![port(CLIENT), port(SERVER)],
        ipv4: FamilySpec {
            routes: vec![route("10.0.0.0/16", CLIENT), route("10.1.0.0/16", SERVER)],
            services: [ServiceSpec::simple([10, 96, 0, 1].into(), 80, Protocol::Udp, [Endpoint::from(backend)].into())]
                .into(),
            ..FamilySpec::default()
        },
        ..ForwardingSpec::default()
    };
    switch.publish(&spec).unwrap();
    let ((client, to_client), (server, to_server)) = (MemoryDevice::new(64), MemoryDevice::new(64));
    switch.attach(0, CLIENT, client);
    switch.attach(0, SERVER, server);
    let datagram = |tuple: FiveTuple| {
        let mut packet = Vec::new();
        let builder =
            PacketBuilder::ethernet2([2; 6], mac.0).ipv4(tuple.src.to_be_bytes(), tuple.dst.to_be_bytes(), 64);
        builder.udp(tuple.src_port, tuple.dst_port).write(&mut packet, b"payload").unwrap();
        packet
    };
    const FLOWS: usize = CROWD + 16;
    let keys = crowd(switch.conntrack(), |n| forward(n).to_words());
    let crowded: Vec<FiveTuple> = keys.map(forward).take(FLOWS).collect();
    for (at, tuple) in crowded.iter().enumerate() {
        to_client.send(datagram(*tuple));
        assert!(switch.step(0, Now(at as u64)) && to_server.recv().is_some(), "flow {at} is sent on");
        if at == 0 {
            let reply = FiveTuple { dst: backend.address.into(), dst_port: backend.port, ..*tuple }.reversed();
            to_server.send(datagram(reply));
            assert!(switch.step(0, Now(0)) && to_client.recv().is_some());
        }
    }
    let table = switch.conntrack();
    assert!(find(table, crowded[0].to_words()).is_some_and(|hit| hit.state() == FlowState::Replied));
    let gave_way = switch.counters(0).flows_gave_way.get();
    assert!(gave_way >= 16 && table.in_use() == FLOWS as u32 - gave_way as u32, "{gave_way} gave way of {FLOWS}");
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32),
    Remove(u32),
    Packet(u32, bool, u8),
    Wait(u32),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..60u32;
    prop_oneof![
        n.clone().prop_map(Step::Insert),
        n.clone().prop_map(Step::Remove),
        (n, any::<bool>(), prop::sample::select(vec![0, tcp::SYN, tcp::FIN, tcp::RST, tcp::ACK]))
            .prop_map(|(n, reply, flags)| Step::Packet(n, reply, flags)),
        (1..40u32).prop_map(Step::Wait),
        Just(Step::Sweep),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_map(steps in prop::collection::vec(step(), 1..200)) {
        let table = table(40);
        let mut model: HashMap<u32, (FlowState, u32)> = HashMap::new();
        let mut tick = 0;
        for step in steps {
            match step {
                Step::Insert(n) => {
                    // A full table has no entry to try with, so it cannot tell that the flow exists.
                    let full = model.len() == 40;
                    let expected = match model.entry(n) {
                        _ if full => Err(InsertError::Full),
                        Entry::Occupied(_) => Err(InsertError::Exists),
                        Entry::Vacant(vacant) => {
                            vacant.insert((FlowState::Opening, tick));
                            Ok(())
                        }
                    };
                    prop_assert_eq!(insert(&table, n, tick), expected);
                }
                Step::Remove(n) => {
                    let hit = find(&table, keys(n)[0]);
                    prop_assert_eq!(hit.is_some(), model.remove(&n).is_some());
                    if let Some(hit) = hit {
                        table.remove(&hit);
                    }
                }
                Step::Packet(n, reply, flags) => {
                    let hit = find(&table, keys(n)[usize::from(reply)]);
                    prop_assert_eq!(hit.is_some(), model.contains_key(&n));
                    if let (Some(hit), Some((state, seen))) = (hit, model.get_mut(&n)) {
                        prop_assert_eq!(hit.state(), *state);
                        *state = state.after(hit.slot.direction(), flags);
                        *seen = tick;
                        table.touch(&hit, *state, tick);
                    }
                }
                Step::Wait(seconds) => tick += seconds,
                Step::Sweep => {
                    let before = model.len();
                    model.retain(|_, (state, seen)| tick - *seen <= state.idle_limit());
                    prop_assert_eq!(table.sweep(&mut Sweep::new(), (0, 1), 1000, tick).removed as usize, before - model.len());
                }
            }
            prop_assert_eq!(table.in_use() as usize, model.len());
        }
        let mut left: Vec<_> = table.flows().map(|flow| flow.forward.src).collect();
        left.sort_unstable();
        let client = |n| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n));
        let mut expected: Vec<_> = model.into_keys().map(client).collect();
        expected.sort_unstable();
        prop_assert_eq!(left, expected);
    }
}

/// Threads insert, use, remove and expire the same few flows. Whatever they see must be a flow as it was inserted,
/// each key must be there at most once, and nothing may be lost at the end.
#[test]
fn threads_that_fight_over_few_flows_leave_the_table_whole() {
    let table = table(24);
    let errors = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (table, errors) = (&table, &errors);
            scope.spawn(move || {
                let mut random = u64::from(thread) + 1;
                for _ in 0..200_000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let n = (random >> 33) as u32 % 32;
                    let key = keys(n)[(random >> 40) as usize & 1];
                    match (random >> 45) % 4 {
                        0 => drop(insert(table, n, 0)),
                        1 => {
                            if let Some(hit) = table.find(key, table.hash(key)) {
                                table.remove(&hit);
                            }
                        }
                        _ => {
                            if let Some(hit) = table.find(key, table.hash(key)) {
                                let [forward, reply] = keys(n);
                                let right = match hit.slot.direction() {
                                    Direction::Forward => hit.other == reply && hit.next_hop() == n % 100,
                                    Direction::Reply => hit.other == forward && hit.next_hop() == n % 7,
                                };
                                errors.fetch_add(u32::from(!right), Relaxed);
                                table.touch(&hit, FlowState::Established, 0);
                            }
                        }
                    }
                }
            });
        }
    });
    assert_eq!(errors.load(Relaxed), 0, "a reader saw a mixture of flows");
    let mut left: Vec<_> = table.flows().map(|flow| flow.forward.src).collect();
    left.sort_unstable();
    assert!(left.windows(2).all(|pair| pair[0] != pair[1]), "a key was in the table twice");
    assert_eq!(left.len() as u32, table.in_use());
    let slots = table.buckets.iter().flat_map(|line| &line.0).filter(|word| word.load(Ordering::Relaxed) != 0).count();
    assert_eq!(slots, 2 * left.len(), "two slots a flow, and none without a flow");
    for n in 0..32 {
        if let Some(hit) = find(&table, keys(n)[0]) {
            table.remove(&hit);
        }
    }
    for n in 0..24 {
        insert(&table, n, 0).unwrap();
    }
}
