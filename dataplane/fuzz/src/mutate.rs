//! Small damage to scripts, the same for the same seed.

use crate::input::Step;

/// A source of damage.
pub struct Mutator(u64);

/// Bytes that fields like to break at.
const EDGES: [u8; 16] = [0, 1, 4, 5, 15, 43, 44, 58, 60, 0x45, 0x60, 127, 128, 135, 254, 255];

impl Mutator {
    /// The mutator of a seed.
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed)
    }

    /// A few packets of scripts, of all families alike, damaged and mixed with their other steps.
    pub fn script(&mut self, families: &[Vec<Vec<Step>>]) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..=self.below(2) {
            let scripts = &families[self.below(families.len())];
            steps.extend_from_slice(&scripts[self.below(scripts.len())]);
        }
        for _ in 0..=self.below(3) {
            let (from, to) = (self.below(steps.len()), self.below(steps.len()));
            steps.swap(from, to);
        }
        for step in &mut steps {
            if self.below(2) == 0 {
                self.damage(step);
            }
        }
        steps
    }

    fn damage(&mut self, step: &mut Step) {
        let Step::Packet { port, mend, wrap, bytes } = step else { return };
        match self.below(24) {
            0 => *port = self.below(4) as u16,
            1 => *mend = !*mend,
            2 => *wrap = !*wrap,
            3 => bytes.truncate(self.below(bytes.len() + 1)),
            4 => bytes.resize(bytes.len() + self.below(1500), 0xa5),
            _ => {}
        }
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            // Most of what matters is in the first bytes.
            let headers = if bytes.get(12..14) == Some(&[0x86, 0xdd]) { 84 } else { 64 };
            let reach = if self.below(4) == 0 { bytes.len() } else { bytes.len().min(headers) };
            let at = self.below(reach);
            match self.below(4) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = EDGES[self.below(EDGES.len())],
                2 => bytes[at] = self.next() as u8,
                _ => {
                    let from = self.below(bytes.len());
                    let length = self.below(8).min(bytes.len() - from.max(at));
                    bytes.copy_within(from..from + length, at);
                }
            }
        }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}
