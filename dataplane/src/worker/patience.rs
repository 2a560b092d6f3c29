//! How long a worker polls in vain before it sleeps.
//!
//! To sleep costs latency: on a virtual machine a core that was halted takes 150 microseconds and more to come back. To poll
//! costs the core. So a worker polls as long as packets are likely to come: long after a sleep that polling on would have
//! spared, shorter after each that was long, as KVM polls before it halts a virtual processor. Past [`LEAST`] it offers
//! the core to others at every turn, and once one of them took it for long, it is not offered for a while: who sleeps gets
//! the core back when a packet comes, who offered it only when the other is done.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long it polls at least, without a thought for others: what a wake-up costs on a real machine.
const LEAST: Duration = Duration::from_micros(50);

/// How long it polls at most. So a core is never halted between packets from a thousand a second on.
const MOST: Duration = Duration::from_millis(1);

/// Who was away for longer than this had lost the core to somebody with much to do. A timer's interrupt or a short errand
/// takes less.
const TAKEN: Duration = Duration::from_micros(500);

/// For how many times as long as it was away it does not offer the core again.
const WARY: u32 = 32;

/// One worker's.
pub struct Patience {
    limit: Duration,
    idle_since: Instant,
    wary_until: Instant,
}

impl Patience {
    /// It has just seen a packet.
    pub fn new(now: Instant) -> Patience {
        Patience { limit: LEAST, idle_since: now, wary_until: now }
    }

    /// Packets moved.
    pub fn moved(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// Nothing moved in a round that began at `now`: waits a moment. False: time to sleep.
    pub fn lasts(&mut self, now: Instant) -> bool {
        let idle = now - self.idle_since;
        if idle <= LEAST {
            std::hint::spin_loop();
            return true;
        }
        if idle > self.limit || now < self.wary_until {
            return false;
        }
        thread::yield_now();
        let taken = now.elapsed();
        if taken > TAKEN {
            self.wary_until = now + taken * WARY;
        }
        true
    }

    /// It slept from `start` to `end`.
    pub fn slept(&mut self, start: Instant, end: Instant) {
        self.limit = if end - start < MOST { MOST } else { (self.limit / 2).max(LEAST) };
        self.idle_since = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sleeps for so long, and tells how long it would poll after that.
    fn after(patience: &mut Patience, micros: u64) -> Duration {
        let start = Instant::now();
        patience.slept(start, start + Duration::from_micros(micros));
        patience.limit
    }

    #[test]
    fn it_polls_on_after_a_short_sleep_and_less_after_each_long_one() {
        let mut patience = Patience::new(Instant::now());
        assert_eq!(patience.limit, LEAST);
        assert_eq!(after(&mut patience, 900), MOST);
        assert_eq!(after(&mut patience, 500_000), MOST / 2);
        assert_eq!(after(&mut patience, 1_000), MOST / 4);
        for _ in 0..10 {
            after(&mut patience, 500_000);
        }
        assert_eq!(patience.limit, LEAST);
    }

    #[test]
    fn it_lasts_until_its_limit() {
        let start = Instant::now() + MOST;
        let mut patience = Patience { limit: MOST, idle_since: start, wary_until: start };
        assert!(patience.lasts(start + LEAST));
        assert!(patience.lasts(start + MOST));
        assert!(!patience.lasts(start + MOST + Duration::from_nanos(1)));
        patience.moved(start + MOST);
        assert!(patience.lasts(start + MOST + LEAST));
    }

    #[test]
    fn who_lost_the_core_does_not_offer_it_for_a_while() {
        let start = Instant::now() - TAKEN * 6 / 5;
        let mut patience = Patience { limit: MOST, idle_since: start - 2 * LEAST, wary_until: start };
        // The round began before somebody else had the core.
        assert!(patience.lasts(start));
        // Its limit is not reached yet.
        assert!(!patience.lasts(start + TAKEN));
        let later = patience.wary_until;
        patience.moved(later);
        assert!(patience.lasts(later + 2 * LEAST));
    }
}
