//! Frames and their pool: who owns which 2 KiB of memory.
//!
//! Frames belong to a memory, and a pool is the account of one memory. It is unmapped only when the account shows that
//! no [`Frame`] of it exists (`xsk::PortMemory`), and never while one may. That is what lets a frame be a plain owned
//! value without a lifetime or a reference count. Which memory a frame is of is told by its address.
//!
//! ```text
//! 0          256      320                                   2048
//! | XDP room | spare  | packet as received ...              |
//!                 ^270: start after VXLAN encapsulation (50 bytes earlier)
//!                     ^320: RX_HEADROOM, a cache line boundary
//! ```
#![allow(unsafe_code)]

use std::ptr::NonNull;

/// Bytes of one frame: the AF_XDP chunk size. Frames are aligned to it.
pub const FRAME_SIZE: usize = 2048;

/// Bytes in front of a received packet: the 256 the kernel keeps for XDP, and one cache line in which an encapsulated
/// packet starts.
pub const RX_HEADROOM: usize = 320;

/// The longest packet a frame can receive, in bytes from the Ethernet header on.
pub const MAX_FRAME_LEN: usize = FRAME_SIZE - RX_HEADROOM;

/// An owned frame: one chunk of its pool's memory and the packet's place in it.
///
/// A frame is not freed by dropping it: it goes back by [`FramePool::give`] or into a device. The conservation check
/// counts any that is lost.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to its pool"]
pub struct Frame {
    /// Start of the chunk.
    base: NonNull<u8>,
    /// Offset of the packet's first byte in the chunk.
    head: u16,
    /// Length of the packet in bytes; `head + len <= FRAME_SIZE` always holds.
    len: u16,
}

// SAFETY: a frame is the only owner of its chunk, and chunks are not unmapped while a frame of their memory exists.
unsafe impl Send for Frame {}

impl Frame {
    /// The packet.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `head + len <= FRAME_SIZE`, the chunk is mapped while this frame exists, and this frame owns it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.head as usize), self.len as usize) }
    }

    /// The packet, to change.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` is the only way to the chunk.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(self.head as usize), self.len as usize) }
    }

    /// Length of the packet in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True if the frame carries no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes free in front of the packet.
    #[inline(always)]
    pub fn headroom(&self) -> usize {
        self.head as usize
    }

    /// Moves the packet's start by `strip` bytes into it and then `prepend` bytes in front of that, without moving
    /// the payload. False, and nothing changed, if the packet is shorter than `strip` or the chunk has no room.
    #[inline(always)]
    pub fn reframe(&mut self, strip: usize, prepend: usize) -> bool {
        let head = self.head as usize + strip;
        if strip > self.len as usize || prepend > head {
            return false;
        }
        self.head = (head - prepend) as u16;
        self.len = (self.len as usize - strip + prepend) as u16;
        true
    }

    /// Replaces the packet's first `strip` bytes by `N` others, and returns these, to be written: they hold anything.
    /// `None`, and nothing changed, if the packet is shorter than `strip` or the chunk has no room.
    #[inline(always)]
    pub fn replace_head<const N: usize>(&mut self, strip: usize) -> Option<&mut [u8; N]> {
        if !self.reframe(strip, N) {
            return None;
        }
        // SAFETY: the packet now starts with `N` bytes in front of what is left of it, all inside the chunk this frame
        // owns, and `&mut self` is the only way to them.
        Some(unsafe { &mut *self.base.as_ptr().add(self.head as usize).cast() })
    }

    /// Cuts the packet down to its bytes from `start` to `end`.
    ///
    /// # Panics
    /// If it has no such bytes.
    #[inline(always)]
    pub fn keep(&mut self, start: usize, end: usize) {
        assert!(start <= end && end <= self.len as usize, "a part is no longer than the whole");
        self.head += start as u16;
        self.len = (end - start) as u16;
    }

    /// Sets the packet's length, cutting it or extending it with whatever the chunk holds. False, and nothing
    /// changed, if the chunk ends before that.
    #[inline(always)]
    pub fn set_len(&mut self, len: usize) -> bool {
        if self.head as usize + len > FRAME_SIZE {
            return false;
        }
        self.len = len as u16;
        true
    }

    /// Moves the packet so that it starts at `head`, copying it within the chunk if it does not start there already.
    /// False, and nothing changed, if it would not fit.
    #[inline]
    pub fn move_to(&mut self, head: usize) -> bool {
        if head == self.head as usize {
            return true;
        }
        if head + self.len as usize > FRAME_SIZE {
            return false;
        }
        // SAFETY: both ranges lie inside the chunk this frame owns; `copy` allows overlap.
        unsafe {
            let base = self.base.as_ptr();
            std::ptr::copy(base.add(self.head as usize), base.add(head), self.len as usize);
        }
        self.head = head as u16;
        true
    }

    /// Replaces the packet with a copy of `packet`, starting at [`RX_HEADROOM`]. False, and nothing changed, if it is
    /// longer than [`MAX_FRAME_LEN`].
    pub fn fill(&mut self, packet: &[u8]) -> bool {
        if packet.len() > MAX_FRAME_LEN {
            return false;
        }
        self.head = RX_HEADROOM as u16;
        self.len = packet.len() as u16;
        self.bytes_mut().copy_from_slice(packet);
        true
    }
}

/// Where a pool's chunks lie. A device uses it to turn frames into chunk numbers for the kernel, and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunks {
    base: NonNull<u8>,
    count: u32,
}

// SAFETY: only an address and a count; reaching the memory takes a frame, which `adopt` makes under its own contract.
unsafe impl Send for Chunks {}

impl Chunks {
    /// Makes a frame of a chunk that the kernel handed back.
    ///
    /// # Safety
    /// The caller must own chunk `index`, and nobody else.
    #[inline]
    pub(crate) unsafe fn adopt(self, index: u32, head: u16, len: u16) -> Frame {
        assert!(
            index < self.count && head as usize + len as usize <= FRAME_SIZE,
            "a device returned a frame outside the pool"
        );
        // SAFETY: `index < count`, so the chunk lies inside the pool's memory.
        let base = unsafe { self.base.add(index as usize * FRAME_SIZE) };
        Frame { base, head, len }
    }

    /// Dissolves a frame into its chunk's index.
    ///
    /// # Panics
    /// If the frame belongs to another pool: giving it away under this pool's index would alias another frame.
    #[inline]
    pub(crate) fn index(self, frame: Frame) -> u32 {
        let offset = (frame.base.as_ptr() as usize).wrapping_sub(self.base.as_ptr() as usize);
        assert!(offset < self.count as usize * FRAME_SIZE, "a frame was given to a pool it does not belong to");
        (offset / FRAME_SIZE) as u32
    }

    /// True if the frame is one of these chunks.
    #[inline(always)]
    fn hold(self, frame: &Frame) -> bool {
        (frame.base.as_ptr() as usize).wrapping_sub(self.base.as_ptr() as usize) < self.count as usize * FRAME_SIZE
    }

    /// How many chunks there are.
    pub(crate) fn count(self) -> u32 {
        self.count
    }
}

/// All frames of one memory, and the free ones among them.
#[derive(Debug)]
pub struct FramePool {
    chunks: Chunks,
    free: Vec<u32>,
}

impl FramePool {
    /// A pool over heap memory, for devices that need no UMEM. The memory is never freed.
    pub fn on_heap(count: u32) -> FramePool {
        #[repr(align(2048))]
        #[derive(Clone)]
        struct Chunk(#[expect(dead_code, reason = "reached through frames only")] [u8; FRAME_SIZE]);
        let memory = Vec::leak(vec![Chunk([0; FRAME_SIZE]); count as usize]);
        // SAFETY: leaked, so it lives as long as the process, and nobody else holds it.
        unsafe { FramePool::from_raw(NonNull::from(memory).cast(), count) }
    }

    /// A pool over `count` chunks of [`FRAME_SIZE`] bytes at `base`.
    ///
    /// # Safety
    /// The memory must be aligned to [`FRAME_SIZE`], used by nothing else, and valid for as long as the pool or any frame
    /// of it exists.
    pub(crate) unsafe fn from_raw(base: NonNull<u8>, count: u32) -> FramePool {
        FramePool { chunks: Chunks { base, count }, free: (0..count).rev().collect() }
    }

    /// All frames of the pool, wherever they are.
    pub fn capacity(&self) -> u32 {
        self.chunks.count
    }

    /// Frames that are free now.
    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Takes a free frame, empty and starting at [`RX_HEADROOM`].
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        // SAFETY: what is on the free list belongs to the pool alone, and now to this frame.
        Some(unsafe { self.chunks.adopt(index, RX_HEADROOM as u16, 0) })
    }

    /// Returns a frame.
    ///
    /// # Panics
    /// If the frame belongs to another pool.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        let index = self.chunks.index(frame);
        self.free.push(index);
    }

    /// True if the frame is of this pool's memory.
    #[inline(always)]
    pub fn owns(&self, frame: &Frame) -> bool {
        self.chunks.hold(frame)
    }

    /// Takes a free frame and copies another memory's packet into it, to the same place; `None` if no frame is free.
    #[inline]
    pub fn copy_of(&mut self, foreign: &Frame) -> Option<Frame> {
        let mut copy = self.take()?;
        (copy.head, copy.len) = (foreign.head, foreign.len);
        copy.bytes_mut().copy_from_slice(foreign.bytes());
        Some(copy)
    }

    /// Takes a free chunk to hand to the kernel: the caller owns it as an index until [`Chunks::adopt`] or
    /// [`FramePool::give_index`].
    #[inline]
    pub(crate) fn take_index(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Returns a chunk taken by [`FramePool::take_index`] or dissolved by [`Chunks::index`].
    #[inline]
    pub(crate) fn give_index(&mut self, index: u32) {
        debug_assert!(index < self.chunks.count);
        self.free.push(index);
    }

    /// Where the chunks lie, for a device.
    pub(crate) fn chunks(&self) -> Chunks {
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_sixteen_bytes() {
        assert_eq!(size_of::<Frame>(), 16);
    }

    #[test]
    fn frames_come_back_to_their_pool() {
        let mut pool = FramePool::on_heap(4);
        let frames: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((frames.len(), pool.free()), (4, 0));
        frames.into_iter().for_each(|f| pool.give(f));
        assert_eq!(pool.free(), 4);
    }

    #[test]
    #[should_panic(expected = "does not belong")]
    fn a_foreign_frame_is_refused() {
        let mut ours = FramePool::on_heap(1);
        let mut theirs = FramePool::on_heap(1);
        ours.give(theirs.take().unwrap());
    }

    #[test]
    fn a_copy_is_of_the_other_memory_and_starts_where_the_packet_did() {
        let (mut ours, mut theirs) = (FramePool::on_heap(1), FramePool::on_heap(1));
        let mut foreign = theirs.take().unwrap();
        assert!(foreign.fill(b"0123456789") && foreign.reframe(0, 50));
        let copy = ours.copy_of(&foreign).unwrap();
        assert!(copy.bytes() == foreign.bytes() && copy.headroom() == RX_HEADROOM - 50);
        assert!(ours.owns(&copy) && !ours.owns(&foreign) && theirs.owns(&foreign));
        assert!(ours.copy_of(&foreign).is_none(), "no frame is free");
        ours.give(copy);
        theirs.give(foreign);
    }

    #[test]
    fn reframing_strips_then_prepends_and_refuses_what_does_not_fit() {
        let mut pool = FramePool::on_heap(1);
        let mut frame = pool.take().unwrap();
        assert!(frame.fill(b"0123456789"));
        assert!(frame.reframe(2, 0));
        assert_eq!(frame.bytes(), b"23456789");
        assert!(frame.reframe(0, 1));
        assert_eq!(frame.bytes(), b"123456789");
        assert!(!frame.reframe(10, 0), "shorter than that");
        assert!(!frame.reframe(0, RX_HEADROOM + 2), "no such room");
        assert!(frame.move_to(FRAME_SIZE - 9));
        assert!(!frame.set_len(10));
        assert_eq!(frame.bytes(), b"123456789");
        pool.give(frame);
    }
}
