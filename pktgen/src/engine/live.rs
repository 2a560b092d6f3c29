//! Sends by XDP live frames: the kernel calls a BPF program for one frame after the other (`BPF_PROG_TEST_RUN` with
//! `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18), and the program plays the script. No socket buffer is made, so one core
//! sends several times what AF_XDP does in copy mode.
//!
//! What the interface has no room for is gone without a trace in the program: compare with the interface's counters. Into
//! a veth that room is its other end's receive queue.

use std::{
    os::unix::thread::JoinHandleExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, MapData},
    programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp},
};
use nix::sys::{pthread::pthread_kill, signal::Signal};
use shunt_dataplane::xsk::{Interface, with_sources};

use super::{EngineError, lane::Task};
use crate::{
    clock,
    measure::Histogram,
    packet::{Template, signature},
    profile::Protocol,
    script::{Rolling, Script, Slot},
};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/source.bpf.o"));

/// Frames that the kernel runs the program on before it sends what was redirected and lets other work on the core run.
const BATCH: u32 = 64;

/// Frames of one system call: more than any trial has. A signal ends it, after a batch.
const FRAMES_PER_CALL: u32 = i32::MAX as u32;

/// The signal: its handler does nothing.
const WAKE: Signal = Signal::SIGUSR2;

/// 8-byte words of a template's headers: `HEADER_WORDS` of the program.
const HEADER_WORDS: usize = 16;

/// Words of the program's state in front of its histogram of gaps.
const HEAD: usize = 11;

/// Buckets of the program's histogram of gaps.
const GAPS: usize = 1088;

/// `struct template` in 8-byte words.
type TemplateValue = [u64; 4 + HEADER_WORDS];

/// `struct slot` in 4-byte words.
type SlotValue = [u32; 6];

/// `struct rolling` in 8-byte words.
type RollingValue = [u64; 11];

/// `state` in 8-byte words.
type State = [u64; HEAD + GAPS];

/// A loaded program that plays one lane of a script from one core.
pub struct TrafficSource {
    object: Arc<Ebpf>,
    state: Array<MapData, State>,
    sequences: Array<MapData, u32>,
    /// A frame as it comes to the program: as long as the longest, and zero.
    frame: Arc<Vec<u8>>,
    core: usize,
    script: Arc<Script>,
    /// Where in the script it begins.
    position: usize,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
    /// When it will send no more.
    end: u64,
}

/// What a source sent.
pub struct Sent {
    /// Packets, handed to the interface.
    pub packets: u64,
    /// Bytes of each stream's.
    pub bytes: Vec<u64>,
    /// Packets of each stream.
    pub sequences: Vec<u32>,
    /// Between packets.
    pub departures: Histogram,
    /// When it was done: when the last packet left, or at the end of its time if it had more to send.
    pub ended: u64,
}

impl TrafficSource {
    /// Loads the program with `script` for one of the lanes, to send out of `interface` from `core`. It sends nothing yet.
    ///
    /// # Errors
    /// [`EngineError::Source`] with the kernel's reason.
    pub fn load(
        interface: &Interface,
        script: &Arc<Script>,
        (lane, lanes): (usize, usize),
        core: usize,
    ) -> Result<TrafficSource, EngineError> {
        let fail = |what, error: &dyn std::error::Error| {
            let reason = with_sources(error);
            let hint = if reason.contains("Operation not permitted") {
                "the capabilities CAP_BPF and CAP_NET_ADMIN are missing: run as root or grant them"
            } else {
                "live frames need Linux 5.18 or newer"
            };
            EngineError::Source { interface: interface.name.clone(), what, reason, hint }
        };
        let headers = script.templates.iter().map(|template| template.payload + signature::LEN).max().unwrap_or(0);
        let frame_len = script.templates.iter().map(|template| template.bytes.len()).max().unwrap_or(0);
        let mut object = EbpfLoader::new()
            .map_max_entries("slots", script.slots.len() as u32)
            .map_max_entries("templates", script.templates.len() as u32)
            .map_max_entries("sequences", script.streams as u32)
            .map_max_entries("streams", script.streams as u32)
            .override_global("interface", &interface.index, true)
            .override_global("slot_count", &(script.slots.len() as u32), true)
            .override_global("first_track", &((lane * script.streams) as u32), true)
            .override_global("lane", &(lane as u32), true)
            .override_global("lanes", &(lanes as u32), true)
            .override_global("frame_len", &(frame_len as u32), true)
            .load(OBJECT)
            .map_err(|e| fail("cannot load the program that sends", &e))?;
        let mut take = |name: &str| object.take_map(name).expect("the object defines this map");
        let (slots, templates, sequences, state) = (take("slots"), take("templates"), take("sequences"), take(".bss"));
        let streams = take("streams");
        let refused = "cannot fill the maps of the program that sends";
        let mut slots: Array<_, SlotValue> = Array::try_from(slots).map_err(|e| fail(refused, &e))?;
        for (slot, index) in script.slots.iter().zip(0..) {
            slots.set(index, slot_value(slot), 0).map_err(|e| fail(refused, &e))?;
        }
        let mut templates: Array<_, TemplateValue> = Array::try_from(templates).map_err(|e| fail(refused, &e))?;
        for (template, index) in script.templates.iter().zip(0..) {
            templates.set(index, template_value(template, headers), 0).map_err(|e| fail(refused, &e))?;
        }
        let mut streams: Array<_, RollingValue> = Array::try_from(streams).map_err(|e| fail(refused, &e))?;
        for (stream, rolling) in (0..).zip(&script.rolling) {
            // All sizes of a stream carry the same protocol.
            let slot = script.slots.iter().find(|slot| u32::from(slot.stream) == stream);
            let protocol = slot.map_or(Protocol::Udp, |slot| script.templates[slot.template as usize].protocol);
            streams.set(stream, rolling_value(rolling.as_ref(), protocol), 0).map_err(|e| fail(refused, &e))?;
        }
        let sequences = Array::try_from(sequences).map_err(|e| fail(refused, &e))?;
        let state = Array::try_from(state).map_err(|e| fail(refused, &e))?;
        let program: &mut Xdp =
            object.program_mut("source").expect("the object defines it").try_into().expect("it is in the xdp section");
        program.load().map_err(|e| fail("the kernel refuses the program that sends", &e))?;
        Ok(TrafficSource {
            object: Arc::new(object),
            state,
            sequences,
            frame: Arc::new(vec![0; frame_len]),
            core,
            script: script.clone(),
            position: script.slots.len() * lane / lanes,
            running: None,
        })
    }

    /// Begins to send as the task says, at its start.
    ///
    /// # Errors
    /// [`EngineError::Thread`] if there are no threads to be had.
    ///
    /// # Panics
    /// If it is sending already.
    pub fn start(&mut self, task: &Task) -> Result<(), EngineError> {
        assert!(self.running.is_none(), "a source sends once at a time");
        let mut state: State = [0; HEAD + GAPS];
        let interval = task.pps.map_or(0.0, |pps| 1e9 / pps * 65536.0);
        state[..7].copy_from_slice(&[
            task.start,
            task.deadline(),
            interval as u64,
            task.script.burst.into(),
            task.limit,
            task.epoch.into(),
            self.position as u64,
        ]);
        let unwritable = "a map that was written before";
        self.state.set(0, state, 0).expect(unwritable);
        (0..self.script.streams as u32).for_each(|stream| self.sequences.set(stream, 0, 0).expect(unwritable));
        let stop = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(WAKE as i32, Arc::default())?;
        let (object, frame, stopped, core) = (self.object.clone(), self.frame.clone(), stop.clone(), self.core);
        let sending = move || send(&object, &frame, core, &stopped);
        let thread = thread::Builder::new().name("source".into()).spawn(sending)?;
        self.running = Some(Running { stop, thread, end: task.deadline() });
        Ok(())
    }

    /// Packets sent so far in this trial.
    pub fn sent(&self) -> u64 {
        self.read()[9]
    }

    /// Stops, and says what was sent.
    ///
    /// # Errors
    /// [`EngineError::Option`] if the kernel does not run live frames.
    pub fn finish(&mut self) -> Result<Sent, EngineError> {
        let mut end = clock::now();
        if let Some(Running { stop, thread, end: until }) = self.running.take() {
            end = end.min(until);
            stop.store(true, Relaxed);
            // A signal that comes just before the system call is lost on it, so it is sent until it has been heard.
            while !thread.is_finished() {
                // It fails if the thread has ended meanwhile.
                let _ = pthread_kill(thread.as_pthread_t(), WAKE);
                thread::sleep(Duration::from_millis(1));
            }
            let result = thread.join().unwrap_or_else(|_| Err("its thread panicked".into()));
            result.map_err(|reason| {
                EngineError::Option(format!("cannot send live frames: {reason}; they need Linux 5.18 or newer"))
            })?;
        }
        let state = self.read();
        let mut departures = Histogram::new(3);
        for (bucket, &count) in state[HEAD..].iter().enumerate().filter(|(_, count)| **count > 0) {
            departures.record_n(bucket_middle(bucket as u64), count);
        }
        let sequences =
            (0..self.script.streams as u32).map(|stream| self.sequences.get(&stream, 0).unwrap_or(0)).collect();
        let packets = state[9];
        let ended = if packets >= state[4] { state[10] } else { end };
        Ok(Sent { packets, bytes: self.script.bytes(self.position, packets), sequences, departures, ended })
    }

    fn read(&self) -> State {
        self.state.get(&0, 0).expect("the map has one entry")
    }
}

impl Drop for TrafficSource {
    fn drop(&mut self) {
        // What went wrong was for `finish` to say.
        let _ = self.finish();
    }
}

/// Has the kernel run the program on one frame after the other, until told to stop.
fn send(object: &Ebpf, frame: &[u8], core: usize, stop: &AtomicBool) -> Result<(), String> {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
    let program: &Xdp = object.program("source").expect("it was loaded").try_into().expect("it is an XDP program");
    while !stop.load(Relaxed) {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = FRAMES_PER_CALL;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        match program.test_run(options) {
            Ok(_) => {}
            Err(error) if with_sources(&error).contains("Interrupted system call") => {}
            Err(error) => return Err(with_sources(&error)),
        }
    }
    Ok(())
}

/// The time in the middle of a bucket: 32 buckets for each doubling.
fn bucket_middle(bucket: u64) -> u64 {
    if bucket < 64 {
        return bucket;
    }
    let (octave, part) = (bucket / 32 - 1, bucket % 32);
    (2 * (32 + part) + 1) << octave >> 1
}

/// `struct slot`, header fields in network order.
fn slot_value(slot: &Slot) -> SlotValue {
    let pair = |a: [u8; 2], b: [u8; 2]| u32::from_ne_bytes([a[0], a[1], b[0], b[1]]);
    [
        slot.flow.src.to_be(),
        slot.flow.dst.to_be(),
        pair(slot.flow.src_port.to_be_bytes(), slot.flow.dst_port.to_be_bytes()),
        pair(slot.ip_checksum.to_be_bytes(), slot.transport_checksum.to_be_bytes()),
        pair(slot.entropy.to_be_bytes(), slot.template.to_ne_bytes()),
        slot.stream.into(),
    ]
}

/// `struct template`, of which the first `headers` bytes are written anew for each packet.
fn template_value(template: &Template, headers: usize) -> TemplateValue {
    let written = headers.min(template.bytes.len());
    let tail = if written.is_multiple_of(8) { 0 } else { written - 4 };
    let fields = [
        written / 8,
        tail,
        template.ip,
        template.ports,
        template.transport_checksum,
        template.payload,
        template.entropy().unwrap_or(0),
        0,
        0,
        0,
    ];
    let mut bytes = (template.bytes.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(fields.iter().flat_map(|field| (*field as u16).to_ne_bytes()));
    bytes.extend(&template.bytes[..written]);
    bytes.resize(size_of::<TemplateValue>(), 0);
    let words = bytes.as_chunks::<8>().0;
    std::array::from_fn(|i| u64::from_ne_bytes(words[i]))
}

/// `struct rolling`.
fn rolling_value(rolling: Option<&Rolling>, protocol: Protocol) -> RollingValue {
    let Some(rolling) = rolling else { return [0; 11] };
    let pair = |a: u32, b: u32| {
        let (a, b) = (a.to_ne_bytes(), b.to_ne_bytes());
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
    };
    let mut value = [0; 11];
    value[0] = rolling.step;
    value[1] = pair(rolling.open, (protocol != Protocol::Icmp).into());
    value[2] = pair((protocol == Protocol::Udp).into(), 0);
    for (field, (first, count)) in rolling.ranges.iter().enumerate() {
        value[3 + field] = (*first).into();
        value[7 + field] = *count;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program's `count_gap`.
    fn bucket(gap: u64) -> u64 {
        let bit = 63 - u64::from((gap | 1).leading_zeros());
        if bit >= 5 { (bit - 4) * 32 + (gap >> (bit - 5) & 31) } else { gap }
    }

    #[test]
    fn buckets_are_told_by_their_middle() {
        for gap in [0, 1, 31, 32, 63, 64, 65, 100, 1000, 123_456, 1_000_000_007] {
            let middle = bucket_middle(bucket(gap));
            assert!(middle.abs_diff(gap) <= gap / 32, "{gap} is told as {middle}");
        }
    }
}
