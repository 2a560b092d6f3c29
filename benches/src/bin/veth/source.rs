//! Overloads an interface from one core: XDP live frames, which cost the kernel no socket buffer.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use aya::{
    EbpfLoader, include_bytes_aligned,
    maps::{Array, MapData},
    programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp},
};
use nix::net::if_::if_nametoindex;
use shunt_dataplane::net::MacAddr;

use crate::{Error, topology::pin};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/source.bpf.o"));

/// Frames of one packet between batches: the kernel lets other work on the core run in between.
const BATCH: u32 = 64;

/// Frames of one system call, after which a thread looks whether it should stop: some hundred milliseconds' worth.
const FRAMES_PER_CALL: u32 = BATCH * 8192;

/// Threads of a source, on one core: each call waits for RCU when it begins and when it ends, some milliseconds in which
/// the other thread sends.
const THREADS: usize = 2;

/// Bytes of a packet: 64 on the wire with the frame check sequence.
pub const PACKET_LEN: usize = 60;

/// Where packets come from and go to.
#[derive(Clone, Copy)]
pub struct Traffic {
    pub from_mac: MacAddr,
    pub to_mac: MacAddr,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub to_port: u16,
    /// A power of two: source ports in use.
    pub flows: u32,
    /// Of so many frames, one is sent: 1 for all that the core can send.
    pub one_in: u32,
}

impl Traffic {
    /// The packet with source port 0.
    fn packet(&self) -> [u8; PACKET_LEN] {
        let mut packet = [0; PACKET_LEN];
        packet[..6].copy_from_slice(&self.to_mac.0);
        packet[6..12].copy_from_slice(&self.from_mac.0);
        packet[12..14].copy_from_slice(&[0x08, 0x00]);
        packet[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
        packet[26..30].copy_from_slice(&self.from.octets());
        packet[30..34].copy_from_slice(&self.to.octets());
        let header = checksum(&packet[14..34], 0);
        packet[24..26].copy_from_slice(&header.to_be_bytes());
        packet[36..38].copy_from_slice(&self.to_port.to_be_bytes());
        packet[38..40].copy_from_slice(&26_u16.to_be_bytes());
        // Source port and its balance (see source.bpf.c) always add up to this.
        packet[42..44].copy_from_slice(&[0xff, 0xff]);
        let udp = checksum(&packet[26..], 17 + 26);
        packet[40..42].copy_from_slice(&udp.to_be_bytes());
        packet
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8], pseudo: u32) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let mut sum = sum + pseudo;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A running source. Dropping it stops it.
pub struct Source {
    stop: Arc<AtomicBool>,
    /// The program's count of frames, which wraps.
    sent: Array<MapData, [u32; 2]>,
    threads: Vec<JoinHandle<()>>,
}

impl Source {
    /// Sends `traffic` out of `interface` without pause, on `core`. `limit` stops it after that many frames (rounded up
    /// to a batch).
    pub fn start(interface: &str, traffic: Traffic, core: usize, limit: Option<u32>) -> Result<Source, Error> {
        let packet = traffic.packet();
        let header: [u64; 6] =
            std::array::from_fn(|i| u64::from_ne_bytes(packet[i * 8..i * 8 + 8].try_into().expect("eight bytes")));
        let index = if_nametoindex(interface)?;
        let mask = traffic.flows - 1;
        let mut object = EbpfLoader::new()
            .override_global("header", &header, true)
            .override_global("interface", &index, true)
            .override_global("flow_mask", &mask, true)
            .override_global("one_in", &traffic.one_in, true)
            .load(OBJECT)?;
        let program: &mut Xdp = object.program_mut("source").ok_or("the object defines source")?.try_into()?;
        program.load()?;

        let sent = Array::try_from(object.take_map(".bss").ok_or("the object counts in .bss")?)?;
        let stop = Arc::new(AtomicBool::new(false));
        let object = Arc::new(object);
        let threads = (0..if limit.is_some() { 1 } else { THREADS }).map(|_| {
            let (object, stop) = (object.clone(), stop.clone());
            thread::Builder::new().name("source".into()).spawn(move || {
                pin(core);
                let program: &Xdp = object.program("source").expect("as above").try_into().expect("as above");
                while !stop.load(Ordering::Relaxed) {
                    let mut options = TestRunOptions::new();
                    options.data_in = Some(&packet);
                    options.repeat = limit.unwrap_or(FRAMES_PER_CALL);
                    options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
                    program.test_run(options).expect("the kernel runs live frames (5.18 and newer)");
                    if limit.is_some() {
                        break;
                    }
                }
            })
        });
        Ok(Source { threads: threads.collect::<Result<_, _>>()?, stop, sent })
    }

    /// Frames sent so far, modulo 2^32.
    pub fn sent(&self) -> Result<u32, Error> {
        Ok(self.sent.get(&0, 0)?[0])
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic has been printed; the measurement fails for want of packets.
            let _ = thread.join();
        }
    }
}
