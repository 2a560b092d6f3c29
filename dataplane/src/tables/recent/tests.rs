use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn table(entries: usize) -> Recent {
    Recent::new(entries, FlowSeed::from_number(7))
}

fn key(n: u64) -> Key {
    [n + 1, 7]
}

#[test]
fn what_was_put_is_there_with_its_tick() {
    let table = table(16);
    assert_eq!(table.get(key(1)), None);
    assert_eq!(table.put(key(1), 10, 3), None);
    assert_eq!(table.get(key(1)), Some(Seen { value: 10, tick: 3 }));
    assert_eq!(table.put(key(1), 11, 4), None, "it replaces itself");
    assert_eq!(table.get(key(1)), Some(Seen { value: 11, tick: 4 }));
}

#[test]
fn what_was_seen_longest_ago_gives_way() {
    // All keys share the same four entries.
    let table = table(4);
    for n in 0..4 {
        assert_eq!(table.put(key(n), n, n as u32 + 1), None);
    }
    assert_eq!(table.put(key(0), 0, 9), None, "seen again");
    assert_eq!(table.put(key(4), 4, 10), Some(2));
    assert_eq!(table.get(key(1)), None);
    assert!([0, 2, 3, 4].into_iter().all(|n| table.get(key(n)).is_some_and(|seen| seen.value == n)));
}

#[test]
fn ticks_may_wrap_round() {
    let table = table(4);
    for (n, tick) in [(0, u32::MAX - 1), (1, u32::MAX), (2, 0), (3, 1)] {
        table.put(key(n), n, tick);
    }
    assert_eq!(table.put(key(4), 4, 2), Some(u32::MAX - 1));
}

proptest! {
    /// Against a map that never forgets: what the table knows is what was put last, what it forgot was the oldest of a
    /// full set of entries, and as many keys are there as were put and did not give way.
    #[test]
    fn behaves_like_a_map_that_forgets_the_oldest(
        puts in prop::collection::vec((0u64..40, any::<u64>(), 0u32..3), 1..300),
    ) {
        let table = table(16);
        let mut model: HashMap<u64, Seen> = HashMap::new();
        let (mut tick, mut given_way) = (0, 0);
        for (n, value, later) in puts {
            tick += later;
            if let Some(gone) = table.put(key(n), value, tick) {
                given_way += 1;
                let old = model.iter().filter(|(k, _)| **k != n && table.get(key(**k)).is_none());
                let old: Vec<_> = old.map(|(k, seen)| (*k, seen.tick)).collect();
                prop_assert_eq!(old.len(), 1, "one gives way at a time");
                prop_assert_eq!(old[0].1, gone);
                model.remove(&old[0].0);
            }
            model.insert(n, Seen { value, tick });
            for (n, seen) in &model {
                prop_assert_eq!(table.get(key(*n)), Some(*seen));
            }
        }
        prop_assert!(model.len() <= 16);
        prop_assert!(given_way == 0 || model.len() >= 4);
    }
}

/// Threads write and read the same few keys; each value tells its key, so a mixture would show.
#[test]
fn threads_never_see_a_mixture() {
    let table = table(4);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let table = &table;
            scope.spawn(move || {
                for round in 0..100_000u64 {
                    let n = (round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).wrapping_add(thread) % 6;
                    if round % 3 == 0 {
                        table.put(key(n), n << 32 | round, round as u32);
                    } else if let Some(seen) = table.get(key(n)) {
                        assert_eq!((seen.value >> 32, seen.value as u32), (n, seen.tick));
                    }
                }
            });
        }
    });
}
