//! How many keys are not in the bucket that their hash names, which was full when they came: a counter for every bucket.
//!
//! Mostly it is 0, and then whoever does not find a key in its own bucket has to look nowhere else. Seven more buckets would
//! be seven more lines, of a table that no cache holds; the counters of 64 buckets are one.

use crate::tables::arena::{Arena, AtomicU64, Ordering};

/// Bits of a counter. They are enough: there are 56 slots for a bucket's strays, and beside these every worker counts at most
/// one that finds no slot.
const BITS: usize = 8;
/// Counters in a word.
const IN_WORD: usize = u64::BITS as usize / BITS;
/// Words of a line.
const WORDS: usize = 8;
/// Counters in a line.
const IN_LINE: usize = WORDS * IN_WORD;

/// A counter for each bucket.
#[derive(Debug)]
pub(super) struct Strays(Arena);

impl Strays {
    /// For so many buckets.
    pub(super) fn new(buckets: usize) -> Strays {
        Strays(Arena::new(buckets.div_ceil(IN_LINE)))
    }

    /// Brings a bucket's counter into the cache.
    #[inline(always)]
    pub(super) fn prefetch(&self, bucket: usize) {
        self.0.prefetch(bucket / IN_LINE);
    }

    /// Whether a key of this bucket may be elsewhere.
    #[inline(always)]
    pub(super) fn any(&self, bucket: usize, ordering: Ordering) -> bool {
        self.word(bucket).load(ordering) >> shift(bucket) & ((1 << BITS) - 1) != 0
    }

    /// Counts one more, which is about to be put elsewhere.
    pub(super) fn add(&self, bucket: usize) {
        self.word(bucket).fetch_add(1 << shift(bucket), Ordering::SeqCst);
    }

    /// Counts one less, which is not there any more.
    pub(super) fn remove(&self, bucket: usize) {
        self.word(bucket).fetch_sub(1 << shift(bucket), Ordering::SeqCst);
    }

    /// The word with a bucket's counter.
    #[inline(always)]
    fn word(&self, bucket: usize) -> &AtomicU64 {
        &self.0[bucket / IN_LINE].0[bucket / IN_WORD % WORDS]
    }

    /// All there are.
    #[cfg(all(test, not(loom)))]
    pub(super) fn count(&self) -> u64 {
        let words = self.0.iter().flat_map(|line| &line.0);
        words.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).map(u64::from).sum()
    }
}

/// Where in its word a bucket's counter is.
#[inline(always)]
fn shift(bucket: usize) -> usize {
    bucket % IN_WORD * BITS
}
