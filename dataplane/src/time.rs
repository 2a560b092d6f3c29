//! Time as the engine sees it: given, never asked for.

/// Nanoseconds since some moment well before the switch was started; never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now(pub u64);

impl Now {
    /// Whole seconds: the tick of the connection table.
    #[inline(always)]
    pub fn seconds(self) -> u32 {
        (self.0 / 1_000_000_000) as u32
    }
}

/// Lets through so many events a second on average, and a burst of them at once.
#[derive(Debug)]
pub struct TokenBucket {
    nanos_per_token: u64,
    burst_nanos: u64,
    /// The bucket was empty at this moment.
    empty_at: u64,
}

impl TokenBucket {
    /// A full bucket. Both numbers are at least 1.
    pub fn new(per_second: u32, burst: u32) -> TokenBucket {
        let nanos_per_token = 1_000_000_000 / u64::from(per_second.max(1));
        TokenBucket { nanos_per_token, burst_nanos: nanos_per_token * u64::from(burst.max(1)), empty_at: 0 }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Now) -> bool {
        self.empty_at = self.empty_at.max(now.0.saturating_sub(self.burst_nanos));
        let enough = now.0 - self.empty_at.min(now.0) >= self.nanos_per_token;
        if enough {
            self.empty_at += self.nanos_per_token;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = TokenBucket::new(10, 3);
        let second = 1_000_000_000;
        let mut taken_at = |now: u64| (0..100).filter(|_| bucket.take(Now(now))).count();
        assert_eq!(taken_at(5 * second), 3);
        assert_eq!(taken_at(5 * second), 0);
        assert_eq!(taken_at(5 * second + second / 10), 1);
        assert_eq!(taken_at(6 * second), 3, "no more than the burst is saved up");
    }
}
