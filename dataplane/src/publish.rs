//! Publication: how workers come by a new snapshot without ever stopping, and how the old one leaves.
//!
//! ```text
//! control                                  each worker, between two bursts
//!   put the value into every mailbox         offered > mine?     one load, mostly no
//!   offered = sequence                       try the mailbox     held by control: next burst then
//!   wait until adopted >= sequence           swap, let go of the old value
//!   drop what nobody can hold                adopted = sequence
//! ```
//!
//! Control keeps a reference of its own to every value until all workers have moved past it. What a worker lets go of
//! is therefore never the last reference: it counts down one, and the memory is freed on control's thread.

use std::{
    collections::VecDeque,
    sync::TryLockError,
    time::{Duration, Instant},
};

#[cfg(loom)]
use loom::{
    sync::{
        Arc as Shared, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::yield_now,
};
#[cfg(not(loom))]
use std::{
    sync::{
        Arc as Shared, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::yield_now,
};

/// For how long control looks without a pause whether the workers have adopted what it published: most do between two
/// bursts, or as soon as they are woken, and a pause is longer than that.
const LOOK: Duration = Duration::from_micros(100);
/// How often it looks after that.
const POLL: Duration = Duration::from_micros(50);

/// Control's end. Publishing from several threads at once is in order: each gets its sequence number.
///
/// `V` is a counted reference, such as an `Arc` of a snapshot: cheap to clone, and to drop unless it is the last.
pub struct Publisher<V> {
    state: Mutex<State<V>>,
}

struct State<V> {
    mailboxes: Vec<Shared<Mailbox<V>>>,
    /// The value published last and those before it that a worker may still hold, oldest first.
    retained: VecDeque<(u64, V)>,
}

/// A worker's end.
pub struct Subscriber<V> {
    // Dropped in this order: whoever has left its seat holds no value any more.
    current: V,
    seat: Seat<V>,
    sequence: u64,
}

/// A worker's hold on its mailbox.
struct Seat<V>(Shared<Mailbox<V>>);

/// Lies between control and one worker. Aligned so that no two workers' share a pair of cache lines.
#[repr(align(128))]
struct Mailbox<V> {
    worker: String,
    /// The newest value, until the worker takes it.
    next: Mutex<Option<(u64, V)>>,
    /// The sequence of the newest value put into `next`.
    offered: AtomicU64,
    /// The sequence of the value the worker forwards by; [`GONE`] once it has ended.
    adopted: AtomicU64,
}

/// Adopted by a worker that has ended: it holds no value back.
const GONE: u64 = u64::MAX;

/// Workers did not adopt a value in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not all workers forward by generation {sequence} yet: {} lag; are they running?", .workers.join(", "))]
pub struct Lagging {
    /// The value waited for.
    pub sequence: u64,
    /// The names of the workers that have not adopted it.
    pub workers: Vec<String>,
}

impl<V: Clone> Publisher<V> {
    /// A publisher whose subscribers start with `initial`, which has sequence 0.
    pub fn new(initial: V) -> Publisher<V> {
        Publisher { state: Mutex::new(State { mailboxes: Vec::new(), retained: VecDeque::from([(0, initial)]) }) }
    }

    /// A further worker; it starts with the value published last. `worker` names it in [`Lagging`].
    ///
    /// Workers must end, or at least drop this, before the publisher does: the values go with it.
    pub fn subscribe(&self, worker: impl Into<String>) -> Subscriber<V> {
        let mut state = self.state();
        let (sequence, current) = state.newest().clone();
        let mailbox = Shared::new(Mailbox {
            worker: worker.into(),
            next: Mutex::new(None),
            offered: AtomicU64::new(sequence),
            adopted: AtomicU64::new(sequence),
        });
        state.mailboxes.push(mailbox.clone());
        Subscriber { current, seat: Seat(mailbox), sequence }
    }

    /// Offers `value` to every worker and returns its sequence, one more than the last. Waits for nobody.
    ///
    /// A sleeping worker must be woken afterwards, not before: it then finds the value when it looks.
    /// Drops on this thread the values that all workers have moved past.
    pub fn publish(&self, value: V) -> u64 {
        let mut state = self.state();
        let sequence = state.newest().0 + 1;
        state.retained.push_back((sequence, value.clone()));
        for mailbox in &state.mailboxes {
            let unread = lock(&mailbox.next).replace((sequence, value.clone()));
            // Released after the mailbox, so that a worker who looks now seldom finds it held.
            mailbox.offered.store(sequence, Ordering::Release);
            drop(unread);
        }
        let retired = state.retire();
        // A large value takes long to drop: nobody should wait for that at the lock.
        drop(state);
        drop(retired);
        sequence
    }

    /// Waits until every worker forwards by the value with this sequence or a newer one, for `timeout` at most.
    /// Drops on this thread the values that all workers have moved past.
    pub fn wait_adopted(&self, sequence: u64, timeout: Duration) -> Result<(), Lagging> {
        let start = Instant::now();
        loop {
            let workers = self.lagging(sequence);
            if workers.is_empty() {
                return Ok(());
            }
            match start.elapsed() {
                elapsed if elapsed >= timeout => return Err(Lagging { sequence, workers }),
                // A worker may have to share this core.
                elapsed if elapsed < LOOK => std::thread::yield_now(),
                _ => std::thread::sleep(POLL),
            }
        }
    }

    /// The names of the workers that still forward by an older value than that with this sequence. Workers that have
    /// ended are not among them. Drops on this thread the values that all workers have moved past.
    pub fn lagging(&self, sequence: u64) -> Vec<String> {
        let mut state = self.state();
        let retired = state.retire();
        let lags = |mailbox: &&Shared<Mailbox<V>>| mailbox.adopted() < sequence;
        let workers = state.mailboxes.iter().filter(lags).map(|mailbox| mailbox.worker.clone()).collect();
        drop(state);
        drop(retired);
        workers
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().expect("nothing panics while it holds the publisher")
    }
}

impl<V: Clone> State<V> {
    fn newest(&self) -> &(u64, V) {
        self.retained.back().expect("the newest value is always retained")
    }

    /// Takes out the values that no worker holds or can come to hold.
    fn retire(&mut self) -> Vec<(u64, V)> {
        let gone = self.mailboxes.extract_if(.., |mailbox| mailbox.adopted() == GONE);
        let mut retired: Vec<_> = gone.filter_map(|mailbox| lock(&mailbox.next).take()).collect();
        let newest = self.newest().0;
        let oldest_in_use = self.mailboxes.iter().map(|mailbox| mailbox.adopted()).fold(newest, u64::min);
        let passed = self.retained.partition_point(|&(sequence, _)| sequence < oldest_in_use);
        retired.extend(self.retained.drain(..passed));
        retired
    }
}

impl<V> Mailbox<V> {
    fn adopted(&self) -> u64 {
        // Acquire: the worker has let go of older values before it said so.
        self.adopted.load(Ordering::Acquire)
    }
}

/// Locks a mailbox from control's side. By trying, not by queueing: the worker's unlock would have to wake a queue
/// with a system call, and it holds the mailbox for a few instructions only.
fn lock<M>(mailbox: &Mutex<M>) -> MutexGuard<'_, M> {
    loop {
        match mailbox.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::WouldBlock) => yield_now(),
            Err(TryLockError::Poisoned(_)) => unreachable!("nothing panics while it holds a mailbox"),
        }
    }
}

impl<V> Drop for Seat<V> {
    fn drop(&mut self) {
        // Release: the worker let go of its value before.
        self.0.adopted.store(GONE, Ordering::Release);
    }
}

impl<V: Clone> Subscriber<V> {
    /// Adopts the newest value if there is one: true if so. Called between two bursts, when nothing that was read
    /// from the current value is still in use; the call acknowledges to control that this worker forwards by it.
    ///
    /// Does not block, allocate, free or make a system call. If control is at the mailbox this very moment, the value
    /// is adopted by a later call.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        self.has_news() && self.adopt()
    }

    /// Whether a newer value waits. A worker that is about to sleep looks once more.
    #[inline]
    pub fn has_news(&self) -> bool {
        // Relaxed: a hint only; the mailbox's lock orders the value itself.
        self.seat.0.offered.load(Ordering::Relaxed) > self.sequence
    }

    #[cold]
    fn adopt(&mut self) -> bool {
        let taken = match self.seat.0.next.try_lock() {
            Ok(mut next) => next.take(),
            Err(_) => None,
        };
        let Some((sequence, value)) = taken else { return false };
        // Never the last reference: control retains the old value until it reads the store below.
        drop(std::mem::replace(&mut self.current, value));
        self.sequence = sequence;
        // Release: what this worker did with the old value, letting go of it included, comes before.
        self.seat.0.adopted.store(sequence, Ordering::Release);
        true
    }

    /// The value this worker forwards by.
    #[inline]
    pub fn current(&self) -> &V {
        &self.current
    }

    /// Its sequence.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
