//! Every interleaving (within loom's preemption bound) of two workers at one flow.
//!
//! Updates of a live entry (`touch`, `redecide`) are left to the tests with real threads: loom does not place a relaxed
//! compare-and-swap right behind the store it read in modification order, and so reports orders that cannot happen.

use loom::{sync::Arc, thread};

use super::*;

fn keys(n: u64) -> [Key; 2] {
    [[n, 1], [n, 2]]
}

fn table() -> Arc<Conntrack> {
    Arc::new(Conntrack::new(2, FlowSeed::from_number(3)))
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    bounded(3, test);
}

fn bounded(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(test);
}

fn hashed<N, K: FlowKey<N>>(table: &Conntrack, keys: [K; 2]) -> [(K, u64); 2] {
    keys.map(|key| (key, table.hash(key)))
}

fn new<K>(keys: [(K, u64); 2], next_hops: [u32; 2], generation: u32) -> NewFlow<K> {
    NewFlow { keys, next_hops, generation, state: FlowState::Opening, tick: 0, counted: false }
}

fn flow(table: &Conntrack, n: u64) -> NewFlow {
    new(hashed(table, keys(n)), [5, 6], 1)
}

fn insert(table: &Conntrack, n: u64) -> Result<(), InsertError> {
    table.insert(&flow(table, n))
}

#[test]
fn two_workers_insert_the_same_flow_and_it_is_there_once() {
    model(|| {
        let table = table();
        let other = table.clone();
        let worker = thread::spawn(move || insert(&other, 1));
        let mine = insert(&table, 1);
        let theirs = worker.join().unwrap();
        assert!(!(mine.is_ok() && theirs.is_ok()), "only one insert may win");
        assert_eq!(table.in_use(), u32::from(mine.is_ok()) + u32::from(theirs.is_ok()));
        for key in keys(1) {
            assert_eq!(table.find(key, table.hash(key)).is_some(), mine.is_ok() || theirs.is_ok());
        }
        let slots = table.buckets.iter().flat_map(|line| &line.0).filter(|w| w.load(Ordering::Relaxed) != 0).count();
        assert_eq!(slots as u32, 2 * table.in_use());
    });
}

#[test]
fn a_reader_never_mixes_an_old_flow_with_the_one_that_took_its_entry() {
    never_mixes(3, keys);
}

/// The addresses are in a line of their own, read and written with the entry.
#[test]
fn a_reader_of_ipv6_never_mixes_either() {
    never_mixes(2, |n| [[n, 1, 1, 1, 1], [n, 2, 2, 2, 2]]);
}

fn never_mixes<N: 'static, K: FlowKey<N>>(preemptions: usize, keys: fn(u64) -> [K; 2]) {
    bounded(preemptions, move || {
        let table = table();
        table.insert(&new(hashed(&table, keys(1)), [5, 6], 1)).unwrap();
        let other = table.clone();
        let worker = thread::spawn(move || {
            let key = keys(1)[0];
            other.remove(&other.find(key, other.hash(key)).unwrap());
            other.insert(&new(hashed(&other, keys(2)), [7, 8], 2)).unwrap();
        });
        let slot = Slot::new(0, Direction::Forward);
        for n in [1, 2] {
            if let Some(hit) = table.read(slot, keys(n)[0]) {
                assert_eq!(hit.other, keys(n)[1]);
                assert_eq!((hit.next_hop(), hit.generation()), if n == 1 { (5, 1) } else { (7, 2) });
            }
        }
        worker.join().unwrap();
        assert!(table.find(keys(2)[0], table.hash(keys(2)[0])).is_some());
    });
}

/// One worker takes a bundle apart while another one returns an entry and takes what there is.
#[test]
fn two_workers_share_the_free_entries() {
    model(|| {
        let table = Arc::new(Conntrack::new(3, FlowSeed::from_number(3)));
        let mut all = Vec::new();
        table.take_entries(3, &mut all);
        let last = all.pop().expect("there are three");
        table.give_entries(&mut all);
        let other = table.clone();
        let worker = thread::spawn(move || {
            let mut entries = vec![last];
            other.give_entries(&mut entries);
            other.take_entries(2, &mut entries);
            entries
        });
        let mut entries = Vec::new();
        table.take_entries(1, &mut entries);
        entries.extend(worker.join().unwrap());
        assert!(entries.len() >= 2, "one may have had the rest of a bundle in hand while the other one looked");
        table.take_entries(3 - entries.len(), &mut entries);
        entries.sort_unstable();
        assert_eq!(entries, [0, 1, 2]);
        assert_eq!(table.in_use(), 3);
    });
}

/// Two workers want the only two ports of a range: each gets one, and both are there again once given back.
#[test]
fn two_workers_take_different_ports() {
    model(|| {
        let table = Arc::new(Conntrack::new(1, FlowSeed::from_number(3)));
        let answer = FiveTuple { src: 1u32, dst: 2, src_port: 80, dst_port: 0, protocol: 17 };
        let range = 2000..=2001;
        let other = {
            let (table, range) = (table.clone(), range.clone());
            thread::spawn(move || table.take_port(answer.to_words(), &range, 0))
        };
        let ours = table.take_port(answer.to_words(), &range, 0).expect("there are two");
        let theirs = other.join().unwrap().expect("there are two");
        assert_ne!(ours, theirs);
        for port in [ours, theirs] {
            let forward = FiveTuple { src: 9u32, dst: 8, src_port: 7, dst_port: 80, protocol: 17 };
            table.give_back([forward.to_words(), FiveTuple { dst_port: port, ..answer }.to_words()]);
        }
        let again = [0, 1].map(|random| table.take_port(answer.to_words(), &range, random).expect("both came back"));
        assert_ne!(again[0], again[1]);
    });
}

/// Two workers insert the same flow, whose bucket is full when one of them looks for a place and may no longer be when the
/// other one does.
#[test]
fn two_workers_insert_the_same_flow_in_its_bucket_and_elsewhere() {
    // A stray's place is looked for in eight buckets: with three, there are millions of interleavings.
    bounded(2, || {
        let table = table();
        let homes = |n| hashed(&table, keys(n)).map(|(_, hash)| table.home(hash, 0));
        let n = (1..).find(|n| homes(*n)[0] != homes(*n)[1]).expect("most are so");
        let hash = table.hash(keys(n)[0]);
        let taken = (0x1234_5678_u64 << 33) | COMMITTED | Slot::new(1, Direction::Forward).to_word();
        table.buckets[table.home(hash, 0)].0.iter().for_each(|word| word.store(taken, Ordering::Relaxed));
        let other = table.clone();
        let worker = thread::spawn(move || {
            let word = &other.buckets[other.home(hash, 0)].0[3];
            word.compare_exchange(taken, 0, Ordering::AcqRel, Ordering::Relaxed).unwrap();
            insert(&other, n)
        });
        let mine = insert(&table, n);
        let theirs = worker.join().unwrap();
        assert!(!(mine.is_ok() && theirs.is_ok()), "only one insert may win");
        for key in keys(n) {
            assert_eq!(table.find(key, table.hash(key)).is_some(), mine.is_ok() || theirs.is_ok());
        }
        let strays = (1..HOMES).flat_map(|at| &table.buckets[table.home(hash, at)].0);
        let strays = strays.filter(|word| word.load(Ordering::Relaxed) >> 33 == hash >> 33).count();
        assert_eq!(table.strays.any(table.home(hash, 0), Ordering::Relaxed), strays > 0);
    });
}

/// Two workers want places for new flows where all are taken, by an established flow and a half open one among others. What
/// is half open gives way; what is not stays; and no slot is left without a flow, or a flow without its slots.
#[test]
fn two_workers_make_room_in_the_same_buckets() {
    // Each looks at every slot of eight buckets several times over: with two, there are millions of interleavings.
    bounded(1, || {
        let table = Arc::new(Conntrack::new(5, FlowSeed::from_number(3)));
        table.insert(&NewFlow { state: FlowState::Established, ..flow(&table, 1) }).unwrap();
        table.insert(&flow(&table, 2)).unwrap();
        // With eight buckets, every key has all the slots. These lead to an entry that is free.
        let taken = (0x1234_5678_u64 << 33) | COMMITTED | Slot::new(4, Direction::Forward).to_word();
        let words = || table.buckets.iter().flat_map(|line| &line.0);
        words().filter(|word| word.load(Ordering::Relaxed) == 0).for_each(|word| word.store(taken, Ordering::Relaxed));
        let mut entries = Vec::new();
        table.take_entries(2, &mut entries);
        let open = |table: &Conntrack, entry: u32, n: u64| {
            let new = flow(table, n);
            (0..2).any(|_| match table.put(entry, &new) {
                Ok(()) => true,
                Err(InsertError::Crowded(hash)) => !table.make_room_for(hash, 0) && table.put(entry, &new).is_ok(),
                other => panic!("{other:?}"),
            })
        };
        let (other, entry) = (table.clone(), entries[0]);
        let worker = thread::spawn(move || open(&other, entry, 3));
        open(&table, entries[1], 4);
        worker.join().unwrap();
        let there = |n: u64| keys(n).map(|key| table.find(key, table.hash(key)).is_some());
        assert_eq!(there(1), [true; 2], "two sides have agreed on it");
        assert_eq!(there(2), [false; 2]);
        let new: Vec<_> = [3, 4].into_iter().map(there).collect();
        assert!(new.iter().all(|[forward, reply]| forward == reply), "{new:?}");
        let slots = words().filter(|word| ![0, taken].contains(&word.load(Ordering::Relaxed))).count();
        assert_eq!(slots, 2 + 2 * new.iter().filter(|there| there[0]).count());
    });
}
