//! Every interleaving (within loom's preemption bound) of writers and a reader at the same entries.

use loom::{sync::Arc, thread};

use super::*;

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn a_reader_beside_two_writers_sees_one_of_them_or_nothing() {
    model(|| {
        let table = Arc::new(Recent::new(4, FlowSeed::from_number(3)));
        let writers: Vec<_> = [(1u64, 5u32), (2, 6)]
            .into_iter()
            .map(|(n, tick)| {
                let table = table.clone();
                thread::spawn(move || {
                    let _ = table.put([n, n], n, tick);
                })
            })
            .collect();
        for (n, tick) in [(1, 5), (2, 6)] {
            let seen = table.get([n, n]);
            assert!(seen.is_none_or(|seen| seen == Seen { value: n, tick }), "{seen:?}");
        }
        for writer in writers {
            writer.join().unwrap();
        }
        // One may have found the other at its entry and done without.
        let found = [1, 2].into_iter().filter(|n| table.get([*n, *n]).is_some()).count();
        assert!(found >= 1);
    });
}

#[test]
fn two_writers_of_one_key_leave_one_of_their_values() {
    model(|| {
        let table = Arc::new(Recent::new(4, FlowSeed::from_number(3)));
        table.put([1, 1], 1, 1);
        let other = {
            let table = table.clone();
            thread::spawn(move || {
                let _ = table.put([1, 1], 2, 2);
            })
        };
        table.put([1, 1], 3, 3);
        other.join().unwrap();
        assert!(table.get([1, 1]).is_some_and(|seen| seen.value == u64::from(seen.tick) && seen.value > 1));
    });
}
