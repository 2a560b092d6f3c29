//! When packets are due.

/// The schedule of one lane.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    start: u64,
    /// Nanoseconds from packet to packet; 0: as fast as the port takes them.
    interval: f64,
    burst: u64,
    sent: u64,
    limit: u64,
}

impl Pacer {
    /// Sends `limit` packets from `start` (ns) on, `pps` a second, in bursts of `burst`.
    pub fn new(start: u64, pps: Option<f64>, burst: u32, limit: u64) -> Pacer {
        Pacer { start, interval: pps.map_or(0.0, |pps| 1e9 / pps), burst: burst.into(), sent: 0, limit }
    }

    /// When the next packet should leave, if it should have by `now`. At full speed that is always now.
    #[inline]
    pub fn due(&self, now: u64) -> Option<u64> {
        if self.sent >= self.limit {
            return None;
        }
        if self.interval == 0.0 {
            return Some(now);
        }
        let burst = self.sent - self.sent % self.burst;
        let due = self.start + (burst as f64 * self.interval) as u64;
        (due <= now).then_some(due)
    }

    /// The packet that was due is gone.
    #[inline]
    pub fn advance(&mut self) {
        self.sent += 1;
    }

    /// All packets are gone.
    pub fn done(&self) -> bool {
        self.sent >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_by(pacer: &mut Pacer, now: u64) -> u64 {
        let before = pacer.sent;
        while pacer.due(now).is_some() {
            pacer.advance();
        }
        pacer.sent - before
    }

    #[test]
    fn packets_are_due_at_even_distances() {
        let mut pacer = Pacer::new(1_000, Some(3e6), 1, 10);
        assert_eq!(sent_by(&mut pacer, 999), 0);
        assert_eq!(sent_by(&mut pacer, 1_000), 1);
        assert_eq!(sent_by(&mut pacer, 1_332), 0);
        assert_eq!(sent_by(&mut pacer, 2_000), 3);
        assert_eq!((sent_by(&mut pacer, 1_000_000), pacer.done()), (6, true), "what is late is made up for");
    }

    #[test]
    fn bursts_keep_the_mean() {
        let mut pacer = Pacer::new(0, Some(1e6), 32, u64::MAX);
        assert_eq!(sent_by(&mut pacer, 0), 32);
        assert_eq!(sent_by(&mut pacer, 31_999), 0);
        assert_eq!(sent_by(&mut pacer, 32_000), 32);
        assert_eq!(sent_by(&mut pacer, 1_000_000_000) + 64, 1_000_000_000 / 32_000 * 32 + 32);
    }

    #[test]
    fn at_full_speed_packets_are_due_at_once_and_end_at_the_limit() {
        let mut pacer = Pacer::new(5, None, 1, 7);
        assert_eq!(pacer.due(123), Some(123));
        assert_eq!(sent_by(&mut pacer, 123), 7);
        assert_eq!(pacer.due(124), None);
    }
}
