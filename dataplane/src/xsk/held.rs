//! The chunks a device holds: one bit per chunk of the worker's memory.

/// A set of chunk numbers. 1 KiB for 8192 frames, so it stays in the first-level cache.
#[derive(Debug)]
pub(super) struct Held {
    words: Box<[u64]>,
}

impl Held {
    pub(super) fn new(chunks: u32) -> Held {
        Held { words: vec![0; chunks.div_ceil(64) as usize].into() }
    }

    /// Adds a chunk.
    #[inline(always)]
    pub(super) fn insert(&mut self, chunk: u32) {
        debug_assert!(!self.contains(chunk), "chunk {chunk} is given to the kernel twice");
        self.words[chunk as usize / 64] |= 1 << (chunk % 64);
    }

    /// Removes a chunk.
    ///
    /// # Panics
    /// If it is not in the set: the kernel named a chunk that is somebody else's, and to go on would share its memory.
    #[inline(always)]
    pub(super) fn remove(&mut self, chunk: u32) {
        assert!(self.contains(chunk), "the kernel returned chunk {chunk}, which it was not given");
        self.words[chunk as usize / 64] &= !(1 << (chunk % 64));
    }

    #[inline(always)]
    fn contains(&self, chunk: u32) -> bool {
        self.words.get(chunk as usize / 64).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// All chunks in the set, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.words.len() as u32 * 64).filter(|&chunk| self.contains(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_inserted_and_not_removed() {
        let mut held = Held::new(130);
        for chunk in [0, 63, 64, 129] {
            held.insert(chunk);
        }
        held.remove(63);
        assert_eq!(held.iter().collect::<Vec<_>>(), [0, 64, 129]);
    }

    #[test]
    #[should_panic(expected = "which it was not given")]
    fn a_chunk_that_is_not_held_cannot_come_back() {
        Held::new(64).remove(5);
    }

    #[test]
    #[should_panic(expected = "which it was not given")]
    fn nor_can_one_outside_the_memory() {
        Held::new(64).remove(64);
    }
}
