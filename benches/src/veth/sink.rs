//! Receives: counts the source's packets and the time each took, in the kernel, for some tens of nanoseconds a packet.

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, MapData},
    programs::{Xdp, XdpMode},
};

use crate::Error;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sink.bpf.o"));

/// Buckets to a power of two, as in sink.bpf.c.
const PER_OCTAVE: usize = 16;
const BUCKETS: usize = PER_OCTAVE * 40;
const WORDS: usize = 2 + BUCKETS;

/// A program on the receiving interface. Dropping it takes it off.
pub struct Sink {
    _object: Ebpf,
    arrivals: Array<MapData, [u64; WORDS]>,
}

/// What has arrived.
#[derive(Clone)]
pub struct Arrivals {
    words: [u64; WORDS],
}

impl Sink {
    /// Counts on `interface`, where a packet's signature is so many bytes from its start.
    pub fn attach(interface: &str, signature_at: u32) -> Result<Sink, Error> {
        let mut object = EbpfLoader::new().override_global("signature_at", &signature_at, true).load(OBJECT)?;
        let program: &mut Xdp = object.program_mut("sink").ok_or("the object defines sink")?.try_into()?;
        program.load()?;
        program.attach(interface, XdpMode::Driver)?;
        let arrivals = Array::try_from(object.take_map(".bss").ok_or("the object counts in .bss")?)?;
        Ok(Sink { _object: object, arrivals })
    }

    /// All that has arrived so far.
    pub fn arrivals(&self) -> Result<Arrivals, Error> {
        Ok(Arrivals { words: self.arrivals.get(&0, 0)? })
    }
}

impl Arrivals {
    /// Packets.
    pub fn received(&self) -> u64 {
        self.words[0]
    }

    /// Bytes of them.
    pub fn bytes(&self) -> u64 {
        self.words[1]
    }

    /// What has arrived since `before`.
    pub fn since(&self, before: &Arrivals) -> Arrivals {
        Arrivals { words: std::array::from_fn(|i| self.words[i] - before.words[i]) }
    }

    /// Nanoseconds within which `share` of the packets arrived, to a sixteenth. None if none did.
    pub fn within(&self, share: f64) -> Option<f64> {
        let buckets = &self.words[2..];
        let wanted = (self.received() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        buckets.iter().enumerate().find_map(|(at, count)| {
            seen += count;
            (seen >= wanted).then(|| upper(at) as f64)
        })
    }
}

/// The greatest number of nanoseconds that falls into a bucket.
fn upper(bucket: usize) -> u64 {
    let octave = (bucket / PER_OCTAVE).saturating_sub(1);
    let first = bucket - octave * PER_OCTAVE;
    ((first as u64 + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As sink.bpf.c does it.
    fn bucket(ns: u64) -> usize {
        let octave = (64 - ns.leading_zeros() as usize).saturating_sub(5);
        octave * PER_OCTAVE + (ns >> octave) as usize
    }

    #[test]
    fn a_bucket_ends_where_the_next_begins() {
        for at in 0..BUCKETS - PER_OCTAVE {
            assert_eq!(bucket(upper(at)), at);
            assert_eq!(bucket(upper(at) + 1), at + 1);
        }
    }

    #[test]
    fn percentiles_are_found_in_the_buckets() {
        let mut words = [0; WORDS];
        words[0] = 100;
        words[2 + bucket(1000)] = 99;
        words[2 + bucket(50_000)] = 1;
        let arrivals = Arrivals { words };
        assert_eq!(bucket(arrivals.within(0.5).unwrap() as u64), bucket(1000));
        assert_eq!(bucket(arrivals.within(0.99).unwrap() as u64), bucket(1000));
        assert_eq!(bucket(arrivals.within(0.999).unwrap() as u64), bucket(50_000));
        assert_eq!(Arrivals { words: [0; WORDS] }.within(0.5), None);
    }
}
