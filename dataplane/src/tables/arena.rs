//! Memory for the big tables: zeroed cache lines on huge pages, and the prefetch instruction.
//!
//! This is the one table module with `unsafe`. It earns it: at a million flows, 4 KiB pages cost a page walk per
//! table access, and without a prefetch a batch's cache misses queue up one behind the other (both measured by the
//! `engine` bench).
#![allow(unsafe_code)]

use std::ops::Deref;
#[cfg(not(loom))]
use std::ptr::NonNull;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// One cache line of eight atomic words.
#[repr(align(64))]
#[derive(Debug)]
pub struct Line(pub [AtomicU64; 8]);

/// A fixed array of zeroed lines, backed by memory from the start: a worker that met an untouched huge page would stand
/// still while the kernel clears it.
#[derive(Debug)]
pub struct Arena {
    #[cfg(not(loom))]
    base: NonNull<Line>,
    #[cfg(not(loom))]
    len: usize,
    #[cfg(loom)]
    lines: Vec<Line>,
}

// SAFETY: the memory consists of atomics only, owned by the arena until it is dropped.
unsafe impl Send for Arena {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for Arena {}

#[cfg(not(loom))]
impl Arena {
    /// Maps `len` zeroed lines.
    ///
    /// # Panics
    /// If the kernel has no address space left, as an allocation would.
    pub fn new(len: usize) -> Arena {
        let arena = Arena::sparse(len);
        let bytes = len.max(1) * size_of::<Line>();
        // SAFETY: the mapping is ours, and of this length. Advice only: without huge pages, or populated later, the table works,
        // slower.
        unsafe {
            libc::madvise(arena.base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
            libc::madvise(arena.base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE);
        }
        arena
    }

    /// As [`Arena::new`], but a page has memory behind it only once something is written there: for what may never be used.
    pub fn sparse(len: usize) -> Arena {
        let bytes = len.max(1) * size_of::<Line>();
        // SAFETY: a fresh anonymous mapping touches no existing memory; all-zero bytes are valid atomics.
        let base = unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            );
            assert!(
                base != libc::MAP_FAILED,
                "cannot map {bytes} bytes for a table: {}",
                std::io::Error::last_os_error()
            );
            NonNull::new_unchecked(base.cast())
        };
        Arena { base, len }
    }

    /// Asks for the line at `index` to be brought into the cache. Any index is allowed.
    #[inline(always)]
    pub fn prefetch(&self, index: usize) {
        prefetch(self.base.as_ptr().wrapping_add(index));
    }
}

#[cfg(not(loom))]
impl Deref for Arena {
    type Target = [Line];

    #[inline(always)]
    fn deref(&self) -> &[Line] {
        // SAFETY: the mapping has `len` lines and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

#[cfg(not(loom))]
impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and nobody borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len.max(1) * size_of::<Line>()) };
    }
}

#[cfg(loom)]
impl Arena {
    /// As without loom, on the heap.
    pub fn new(len: usize) -> Arena {
        Arena { lines: (0..len).map(|_| Line(std::array::from_fn(|_| AtomicU64::new(0)))).collect() }
    }

    /// As without loom, but for the memory.
    pub fn sparse(len: usize) -> Arena {
        Arena::new(len)
    }

    /// Nothing to model.
    pub fn prefetch(&self, _index: usize) {}
}

#[cfg(loom)]
impl Deref for Arena {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.lines
    }
}

/// Asks for the cache line at `address`. Any address is allowed: a prefetch never faults.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the instruction has no effect but on the cache.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zero_and_aligned() {
        let arena = Arena::new(1000);
        assert_eq!(arena.len(), 1000);
        assert_eq!(arena.as_ptr() as usize % 64, 0);
        assert!(arena.iter().flat_map(|line| &line.0).all(|word| word.load(Ordering::Relaxed) == 0));
        arena.prefetch(usize::MAX);
    }
}
