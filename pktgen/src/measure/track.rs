//! Sequence numbers of one track as they arrive: what is new, late, or there for the second time.

/// How far back a late packet is told from a duplicate.
const WINDOW: u64 = 1 << 14;

/// What an arrival is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Later in sequence than all before it.
    InOrder,
    /// Its first time, after one that was sent later (RFC 4737, section 3.3).
    Reordered,
    /// It was here before; or so old that nobody knows.
    Duplicate,
}

/// The arrivals of one track.
#[derive(Clone, Debug)]
pub struct Track {
    /// One more than the greatest number seen.
    next: u64,
    /// First arrivals.
    arrived: u64,
    /// One bit for each of the last numbers below `next`.
    seen: Vec<u64>,
}

impl Track {
    /// Nothing has arrived.
    pub fn new() -> Track {
        Track { next: 0, arrived: 0, seen: vec![0; WINDOW as usize / 64] }
    }

    /// Packet `sequence` (modulo 2^32) arrives.
    #[inline]
    pub fn arrive(&mut self, sequence: u32) -> Arrival {
        // The number next to what is expected, as packets are not 2^31 late.
        let ahead = i64::from(sequence.wrapping_sub(self.next as u32) as i32);
        let Some(number) = self.next.checked_add_signed(ahead) else { return Arrival::Duplicate };
        if ahead >= 0 {
            // What is skipped has not been seen.
            let skipped = (number - self.next).min(WINDOW);
            (number - skipped..number).for_each(|skipped| self.mark(skipped, false));
            self.mark(number, true);
            self.next = number + 1;
            self.arrived += 1;
            return Arrival::InOrder;
        }
        if number + WINDOW < self.next || self.is_marked(number) {
            return Arrival::Duplicate;
        }
        self.mark(number, true);
        self.arrived += 1;
        Arrival::Reordered
    }

    /// One more than the greatest number seen.
    pub fn passed(&self) -> u64 {
        self.next
    }

    /// Packets that arrived, each once.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    #[inline]
    fn mark(&mut self, number: u64, seen: bool) {
        let word = &mut self.seen[(number % WINDOW / 64) as usize];
        let bit = 1 << (number % 64);
        *word = if seen { *word | bit } else { *word & !bit };
    }

    #[inline]
    fn is_marked(&self, number: u64) -> bool {
        self.seen[(number % WINDOW / 64) as usize] >> (number % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_kind_is_told() {
        let mut track = Track::new();
        let kinds: Vec<_> = [0, 1, 4, 2, 2, 4, 3, 7].into_iter().map(|n| track.arrive(n)).collect();
        use Arrival::*;
        assert_eq!(kinds, [InOrder, InOrder, InOrder, Reordered, Duplicate, Duplicate, Reordered, InOrder]);
        assert_eq!((track.arrived(), track.passed()), (6, 8));
    }

    #[test]
    fn numbers_go_round_and_a_gap_beyond_the_window_is_a_gap() {
        let mut track = Track::new();
        track.next = (1 << 32) - 1;
        track.arrived = track.next;
        assert_eq!(track.arrive(u32::MAX), Arrival::InOrder);
        assert_eq!(track.arrive(0), Arrival::InOrder);
        assert_eq!(track.arrive(u32::MAX), Arrival::Duplicate);
        assert_eq!(track.arrive(100_000), Arrival::InOrder);
        assert_eq!(track.passed() - track.arrived(), 99_999);
        assert_eq!(track.arrive(100_000 - 1), Arrival::Reordered);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(arrivals in proptest::collection::vec(0u32..3000, 0..4000)) {
            let mut track = Track::new();
            let mut seen = BTreeSet::new();
            for sequence in arrivals {
                let greatest = seen.last().copied();
                let expected = match (seen.insert(sequence), greatest) {
                    (false, _) => Arrival::Duplicate,
                    (true, Some(last)) if sequence < last => Arrival::Reordered,
                    (true, _) => Arrival::InOrder,
                };
                prop_assert_eq!(track.arrive(sequence), expected);
            }
            prop_assert_eq!(track.arrived(), seen.len() as u64);
        }
    }
}
