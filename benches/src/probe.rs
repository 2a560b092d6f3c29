//! The limit probe: the least memory work that translating and encapsulating a packet can do. It checks nothing,
//! decides nothing and counts nothing: it loads the frame's line, one random bucket line and one random entry line,
//! and writes the 50 header bytes. What the engine takes is compared with this, because machines differ.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use shunt_dataplane::{
    io::{Frame, FramePool, PacketIo},
    packet::BATCH,
    tables::arena::Arena,
};

use crate::{
    device::{Clock, Source},
    measure,
    packets::Packets,
};

/// Tables of the size the engine's are for as many flows, filled so that every access is a random one.
pub struct Probe {
    buckets: Arena,
    entries: Arena,
    source: Source,
    pool: FramePool,
    frames: Vec<Frame>,
    places: Vec<usize>,
    header: [u8; 50],
}

impl Probe {
    /// A probe over `flows` flows, which it visits in the order of `packets`.
    pub fn new(flows: usize, packets: Arc<Packets>) -> Probe {
        let buckets = Arena::new((flows / 2).next_power_of_two());
        let entries = Arena::new(flows);
        // Touched, so that no page fault is measured.
        for line in buckets.iter().chain(entries.iter()) {
            line.0[1].store(1, Relaxed);
        }
        Probe {
            buckets,
            entries,
            source: Source::new(packets, Arc::new(Clock::default())),
            pool: FramePool::on_heap(2 * BATCH as u32),
            frames: Vec::with_capacity(BATCH),
            places: vec![0; BATCH],
            header: [0x5a; 50],
        }
    }

    /// Cycles for one batch.
    pub fn batch(&mut self) -> u64 {
        self.source.rx_burst(&mut self.pool, &mut self.frames, BATCH);
        let start = measure::cycles();
        for (frame, place) in self.frames.iter().zip(&mut self.places) {
            let line = frame.bytes().first_chunk::<64>().expect("packets are at least 64 bytes");
            let word = |at: usize| u64::from_le_bytes(line[at..at + 8].try_into().expect("eight bytes"));
            // Addresses and ports of an IPv4 packet.
            let product = u128::from(word(26) ^ 0x9e37_79b9_7f4a_7c15) * u128::from(word(34) | 1);
            *place = (product as u64 ^ (product >> 64) as u64) as usize;
            self.buckets.prefetch(*place & (self.buckets.len() - 1));
        }
        for place in &mut self.places[..self.frames.len()] {
            let bucket = &self.buckets[*place & (self.buckets.len() - 1)];
            // The word is zero; the sum makes the entry's address depend on the bucket's content, as it does in truth.
            let entry = ((*place >> 16) as u64 + bucket.0[0].load(Relaxed)) as usize;
            *place = ((entry as u128 * self.entries.len() as u128) >> 48) as usize % self.entries.len();
            self.entries.prefetch(*place);
        }
        let mut sum = 0;
        for (frame, place) in self.frames.iter_mut().zip(&self.places) {
            let entry = &self.entries[*place];
            sum += entry.0[0].load(Relaxed) + entry.0[7].load(Relaxed);
            frame.reframe(0, self.header.len());
            frame.bytes_mut()[..self.header.len()].copy_from_slice(&self.header);
        }
        let taken = measure::cycles() - start;
        std::hint::black_box(sum);
        self.frames.drain(..).for_each(|frame| self.pool.give(frame));
        taken
    }
}
