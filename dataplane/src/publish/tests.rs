use std::{
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, ThreadId},
};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A value that reports where it is dropped.
struct Recorded {
    number: u64,
    dropped: Sender<(u64, ThreadId)>,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.dropped.send((self.number, thread::current().id())).expect("the test outlives its values");
    }
}

fn recorder() -> (impl Fn(u64) -> Arc<Recorded>, Receiver<(u64, ThreadId)>) {
    let (dropped, drops) = channel();
    (move |number| Arc::new(Recorded { number, dropped: dropped.clone() }), drops)
}

fn numbers(drops: &Receiver<(u64, ThreadId)>) -> Vec<u64> {
    drops.try_iter().map(|(number, _)| number).collect()
}

#[test]
fn workers_move_forward_only_and_control_frees_what_they_left() {
    const LAST: u64 = 2_000;
    let (value, drops) = recorder();
    let publisher = Publisher::new(value(0));
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for worker in 0..3 {
            let mut subscriber = publisher.subscribe(format!("worker {worker}"));
            let (acknowledged, stop) = (&acknowledged, &stop);
            scope.spawn(move || {
                let mut last = subscriber.current().number;
                while !stop.load(Ordering::Relaxed) {
                    let refreshed = subscriber.refresh();
                    let number = subscriber.current().number;
                    assert_eq!(number, subscriber.sequence());
                    assert_eq!(refreshed, number > last, "{last} then {number}");
                    last = number;
                    // Acknowledged by all, so by this worker, and it cannot have gone back.
                    assert!(number >= acknowledged.load(Ordering::Acquire));
                }
            });
        }
        for number in 1..=LAST {
            assert_eq!(publisher.publish(value(number)), number);
            // Now and then several in a row, so that workers skip some.
            if number % 3 == 0 || number == LAST {
                publisher.wait_adopted(number, LONG).unwrap();
                acknowledged.store(number, Ordering::Release);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let here = thread::current().id();
    let drops: Vec<_> = drops.try_iter().collect();
    assert!(drops.iter().all(|&(_, thread)| thread == here), "a worker dropped a value");
    let mut dropped: Vec<_> = drops.into_iter().map(|(number, _)| number).collect();
    dropped.sort();
    assert_eq!(dropped, (0..LAST).collect::<Vec<_>>(), "each once, all but the newest");
}

#[test]
fn a_worker_that_does_not_look_is_named_and_holds_its_value_back() {
    let (value, drops) = recorder();
    let publisher = Publisher::new(value(0));
    let mut quick = publisher.subscribe("worker 0");
    let mut slow = publisher.subscribe("worker 1");
    publisher.publish(value(1));
    let sequence = publisher.publish(value(2));
    assert!(quick.refresh());
    let lagging = publisher.wait_adopted(sequence, Duration::from_millis(1)).unwrap_err();
    assert_eq!(lagging, Lagging { sequence: 2, workers: vec!["worker 1".into()] });
    assert!(lagging.to_string().contains("generation 2 yet: worker 1 lag"), "{lagging}");
    assert_eq!((slow.current().number, numbers(&drops)), (0, vec![]));
    assert!(slow.refresh());
    publisher.wait_adopted(sequence, LONG).unwrap();
    assert_eq!((slow.current().number, numbers(&drops)), (2, vec![0, 1]));
}

#[test]
fn nothing_new_is_not_refreshed() {
    let publisher = Publisher::new(Arc::new(5));
    let mut subscriber = publisher.subscribe("worker 0");
    assert!(!subscriber.refresh());
    publisher.publish(Arc::new(6));
    assert!(subscriber.refresh());
    assert!(!subscriber.refresh());
    assert_eq!(**subscriber.current(), 6);
}

#[test]
fn a_mailbox_held_by_control_is_left_for_the_next_burst() {
    let publisher = Publisher::new(Arc::new(5));
    let mut subscriber = publisher.subscribe("worker 0");
    publisher.publish(Arc::new(6));
    let mailbox = subscriber.seat.0.clone();
    let held = mailbox.next.lock().unwrap();
    assert!(!subscriber.refresh());
    assert_eq!(**subscriber.current(), 5);
    drop(held);
    assert!(subscriber.refresh());
    assert_eq!(**subscriber.current(), 6);
}

#[test]
fn a_worker_that_has_ended_holds_nothing_back_and_a_late_one_starts_with_the_newest() {
    let (value, drops) = recorder();
    let publisher = Publisher::new(value(0));
    let gone = publisher.subscribe("worker 0");
    publisher.publish(value(1));
    // With value 1 unread in its mailbox.
    drop(gone);
    let sequence = publisher.publish(value(2));
    publisher.wait_adopted(sequence, LONG).unwrap();
    assert_eq!(numbers(&drops), [0, 1]);
    assert!(publisher.state().mailboxes.is_empty());
    let late = publisher.subscribe("worker 1");
    assert_eq!((late.current().number, late.sequence()), (2, 2));
    assert_eq!(publisher.lagging(2), Vec::<String>::new());
    drop(late);
    drop(publisher);
    assert_eq!(numbers(&drops), [2]);
}
