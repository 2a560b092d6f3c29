//! What it costs to send a packet whose start has moved: a descriptor minted for that start against moving the payload
//! back to where the kernel had put it. The figures of `docs/decisions/0001-moving-the-packet-start.md`.
//!
//! `cargo run --release -p shunt-benches --bin descriptors`, as root. Times `tx_burst` alone; the kernel's part of
//! sending is in `kick`, which is not timed.
#![deny(unsafe_code)]

use std::{process::Command, time::Instant};

use nix::sched::{CloneFlags, unshare};
use shunt_dataplane::{
    io::{Frame, FramePool, PacketIo, RX_HEADROOM},
    spec::PortRole,
    xsk::{WorkerMemory, XskDevice},
};

type Error = Box<dyn std::error::Error>;

const FRAMES: u32 = 8192;
const BURST: usize = 64;
const ROUNDS: usize = 4000;

fn main() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    for command in ["link add port type veth peer name peer", "link set dev port up", "link set dev peer up"] {
        if !Command::new("ip").args(command.split(' ')).status()?.success() {
            return Err(format!("'ip {command}' failed; are you root?").into());
        }
    }
    let (memory, mut pool) = WorkerMemory::new(FRAMES)?;
    let mut device = memory.open("port", 0, PortRole::Uplink, 1)?;
    println!("ns per packet in tx_burst, median and 95th percentile of {ROUNDS} bursts of {BURST}\n");
    println!(
        "{:>6} {:>22} {:>22} {:>22} {:>22}",
        "bytes", "not moved", "minted, encap", "minted, decap", "payload moved"
    );
    for len in [60, 256, 512, 1024, 1450] {
        let columns = [
            (RX_HEADROOM, RX_HEADROOM),
            (RX_HEADROOM - 50, RX_HEADROOM - 50),
            (RX_HEADROOM + 50, RX_HEADROOM + 50),
            (RX_HEADROOM - 50, RX_HEADROOM),
        ]
        .map(|(start, send_from)| measure(&mut device, &mut pool, len, start, send_from));
        print!("{len:6}");
        columns.iter().for_each(|(median, tail)| print!(" {:>22}", format!("{median:.1} ({tail:.1})")));
        println!();
    }
    Ok(())
}

/// Sends packets of `len` bytes that start at `start`, moved to `send_from` first.
fn measure(device: &mut XskDevice, pool: &mut FramePool, len: usize, start: usize, send_from: usize) -> (f64, f64) {
    let packet = vec![0xff; len];
    let mut times = Vec::with_capacity(ROUNDS);
    let mut frames: Vec<Frame> = Vec::with_capacity(BURST);
    // The frames a worker has in hand are spread over its memory: it takes them in a fixed, scattered order.
    let mut order: Vec<Frame> = std::iter::from_fn(|| pool.take()).collect();
    scatter(&mut order);
    order.into_iter().for_each(|frame| pool.give(frame));
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..ROUNDS {
        // First in, first out, as chunks go round through the fill ring.
        while let Some(frame) = pool.take() {
            waiting.push_back(frame);
        }
        for mut frame in waiting.drain(..BURST) {
            // The pipeline has written the packet's headers, so it is in the cache.
            assert!(frame.fill(&packet) && frame.move_to(start));
            frames.push(frame);
        }
        let before = Instant::now();
        if send_from != start {
            for frame in &mut frames {
                frame.move_to(send_from);
            }
        }
        device.tx_burst(&mut frames);
        times.push(before.elapsed().as_secs_f64() * 1e9 / BURST as f64);
        assert!(frames.is_empty());
        device.kick();
        device.reclaim(pool);
    }
    waiting.into_iter().for_each(|frame| pool.give(frame));
    times.sort_by(f64::total_cmp);
    (times[ROUNDS / 2], times[ROUNDS * 95 / 100])
}

/// A fixed shuffle.
fn scatter(frames: &mut [Frame]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..frames.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        frames.swap(i, (state % (i as u64 + 1)) as usize);
    }
}
