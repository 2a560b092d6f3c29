//! Every interleaving (within loom's preemption bound) of control and workers.

use loom::{
    cell::UnsafeCell,
    sync::Arc,
    thread::{self, ThreadId},
};

use super::*;

/// A value on which loom watches every access: it fails the test if one could meet another's write or the drop.
struct Watched {
    number: u64,
    content: UnsafeCell<u64>,
    control: ThreadId,
}

impl Watched {
    fn new(number: u64) -> Arc<Watched> {
        let content = UnsafeCell::new(0);
        content.with_mut(|_| ());
        Arc::new(Watched { number, content, control: thread::current().id() })
    }

    fn read(&self) -> u64 {
        self.content.with(|_| self.number)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.content.with_mut(|_| ());
        assert_eq!(thread::current().id(), self.control, "value {} was dropped by a worker", self.number);
    }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// A worker of two bursts; returns what it forwarded by in the end.
fn work(mut subscriber: Subscriber<Arc<Watched>>) -> Subscriber<Arc<Watched>> {
    let mut last = subscriber.current().read();
    for _ in 0..2 {
        let refreshed = subscriber.refresh();
        let number = subscriber.current().read();
        assert_eq!(number, subscriber.sequence());
        assert_eq!(refreshed, number > last, "{last} then {number}");
        last = number;
    }
    subscriber
}

#[test]
fn a_worker_moves_forward_only_and_never_drops_a_value() {
    model(|| {
        let publisher = Publisher::new(Watched::new(0));
        let subscriber = publisher.subscribe("worker");
        let worker = thread::spawn(move || work(subscriber));
        publisher.publish(Watched::new(1));
        publisher.publish(Watched::new(2));
        let mut subscriber = worker.join().unwrap();
        subscriber.refresh();
        assert_eq!(subscriber.current().read(), 2, "what was published is found in the end");
        assert!(publisher.lagging(2).is_empty());
        assert_eq!(publisher.state().retained.len(), 1);
        drop(subscriber);
    });
}

#[test]
fn acknowledged_by_all_means_that_nobody_reads_the_old_value() {
    model(|| {
        let publisher = Publisher::new(Watched::new(0));
        let workers: Vec<_> = ["one", "other"]
            .map(|name| publisher.subscribe(name))
            .map(|subscriber| thread::spawn(move || work(subscriber)))
            .into();
        let sequence = publisher.publish(Watched::new(1));
        // If so, this has dropped the old value, while the workers go on.
        let adopted = publisher.lagging(sequence).is_empty();
        for worker in workers {
            let subscriber = worker.join().unwrap();
            assert!(!adopted || subscriber.current().read() == 1);
            drop(subscriber);
        }
    });
}

#[test]
fn a_worker_that_ends_leaves_every_value_to_control() {
    model(|| {
        let publisher = Publisher::new(Watched::new(0));
        let subscriber = publisher.subscribe("worker");
        let worker = thread::spawn(move || drop(work(subscriber)));
        publisher.publish(Watched::new(1));
        publisher.publish(Watched::new(2));
        worker.join().unwrap();
        assert!(publisher.lagging(2).is_empty(), "whoever has ended does not lag");
        let state = publisher.state();
        assert_eq!((state.mailboxes.len(), state.retained.len()), (0, 1));
    });
}
