//! The memories that a worker's frames are of: the one its ports share, and those of single ports.
//!
//! A port whose driver moves packets itself (zero-copy) needs a memory of its own: see `xsk`. A packet that leaves by a
//! port of another memory than its frame's is copied there, just before it is handed to the device.

use crate::{
    io::{Frame, FramePool},
    spec::PortId,
};

/// One memory.
pub struct Memory {
    /// The port it belongs to; `None`: all others.
    pub port: Option<PortId>,
    /// Its frames.
    pub pool: FramePool,
}

/// All of a worker's. The first is the shared one.
pub struct Memories(Vec<Memory>);

impl Memories {
    pub fn new(shared: FramePool) -> Memories {
        Memories(vec![Memory { port: None, pool: shared }])
    }

    /// Gives a port a memory of its own.
    pub fn add(&mut self, port: PortId, pool: FramePool) {
        self.0.push(Memory { port: Some(port), pool });
    }

    /// Takes a port's own memory out. All frames of it that are in hand must have been given back.
    pub fn remove(&mut self, port: PortId) -> Option<FramePool> {
        let at = self.of(port);
        (at > 0).then(|| self.0.remove(at).pool)
    }

    /// The number of the memory a port's devices use. Numbers change when one is removed.
    pub fn of(&self, port: PortId) -> usize {
        self.0.iter().position(|memory| memory.port == Some(port)).unwrap_or(0)
    }

    /// A memory's frames.
    #[inline(always)]
    pub fn pool(&mut self, at: usize) -> &mut FramePool {
        &mut self.0[at].pool
    }

    /// Returns a frame to the memory it is of.
    ///
    /// # Panics
    /// If it is of none of these.
    #[inline(always)]
    pub fn give(&mut self, frame: Frame) {
        let at = self.0.iter().position(|memory| memory.pool.owns(&frame)).expect("a frame is of one of our memories");
        self.0[at].pool.give(frame);
    }

    /// True if packets may have to cross.
    #[inline(always)]
    pub fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Copies those frames that are of another memory into frames of memory `at`, keeping the order. Those for which it
    /// has no free frame are taken out and given back. Returns how many that were.
    pub fn bring_into(&mut self, at: usize, frames: &mut Vec<Frame>) -> usize {
        let mut kept = 0;
        for i in 0..frames.len() {
            let pool = &mut self.0[at].pool;
            if !pool.owns(&frames[i]) {
                let Some(copy) = pool.copy_of(&frames[i]) else { continue };
                let foreign = std::mem::replace(&mut frames[i], copy);
                self.give(foreign);
            }
            frames.swap(kept, i);
            kept += 1;
        }
        let lost = frames.len() - kept;
        frames.drain(kept..).for_each(|frame| self.give(frame));
        lost
    }

    pub fn iter(&self) -> impl Iterator<Item = &Memory> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(pool: &mut FramePool, tag: u8) -> Frame {
        let mut frame = pool.take().expect("a free frame");
        assert!(frame.fill(&[tag]));
        frame
    }

    #[test]
    fn what_crosses_keeps_its_order_and_what_finds_no_frame_goes_home() {
        let mut memories = Memories::new(FramePool::on_heap(8));
        memories.add(PortId(3), FramePool::on_heap(4));
        assert_eq!((memories.of(PortId(3)), memories.of(PortId(4))), (1, 0));
        let mut frames = vec![tagged(memories.pool(1), 0)];
        frames.extend((1..6).map(|tag| tagged(memories.pool(0), tag)));
        frames.insert(3, tagged(memories.pool(1), 9));
        assert_eq!(memories.bring_into(1, &mut frames), 3);
        assert_eq!(frames.iter().map(|frame| frame.bytes()[0]).collect::<Vec<_>>(), [0, 1, 2, 9]);
        assert!(frames.iter().all(|frame| memories.pool(1).owns(frame)));
        assert_eq!((memories.pool(0).free(), memories.pool(1).free()), (8, 0));
        frames.into_iter().for_each(|frame| memories.give(frame));
        assert_eq!(memories.remove(PortId(3)).map(|pool| pool.free()), Some(4));
        assert!(memories.remove(PortId(3)).is_none() && !memories.are_several());
    }
}
