//! The processor's time stamp counter, and an allocator that counts.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Cycles of the time stamp counter, which ticks at one rate whatever the core's clock does. All memory accesses before
/// the call are finished when it is read: the cost of one thing is not charged to the next.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn cycles() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _mm_mfence, _rdtsc};
    // SAFETY: every x86-64 processor has the instructions.
    unsafe {
        _mm_mfence();
        _mm_lfence();
        let cycles = _rdtsc();
        _mm_lfence();
        cycles
    }
}

/// Ticks of the architecture's counter.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub fn cycles() -> u64 {
    let ticks: u64;
    // SAFETY: the virtual counter may be read at any privilege level.
    unsafe { std::arch::asm!("dsb sy", "isb", "mrs {}, cntvct_el0", out(reg) ticks) };
    ticks
}

/// Counter ticks per second, measured once against the system clock.
pub fn cycles_per_second() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, ticks) = (Instant::now(), cycles());
        while start.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        (cycles() - ticks) as f64 / start.elapsed().as_secs_f64()
    })
}

/// Computes for so many cycles on a core of one's own, and touches no memory. Returns how many passed.
pub fn compute(cycles: f64) -> u64 {
    static ROUND: OnceLock<f64> = OnceLock::new();
    const TRIED: u64 = 10_000;
    let each = *ROUND.get_or_init(|| {
        let fastest = (0..100).map(|_| chain(TRIED)).min().expect("there are some");
        fastest as f64 / TRIED as f64
    });
    chain((cycles / each) as u64)
}

/// Cycles that multiplications take, each of which waits for the one before.
fn chain(rounds: u64) -> u64 {
    let start = cycles();
    let mut number = start | 1;
    for _ in 0..rounds {
        number = number.wrapping_mul(number | 1);
    }
    std::hint::black_box(number);
    cycles() - start
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting.
pub struct Counting;

// SAFETY: all work is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Calls of the allocator so far, allocating or freeing. Counts only where [`Counting`] is the global allocator.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Relaxed)
}
