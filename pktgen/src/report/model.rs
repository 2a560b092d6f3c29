//! A finished run as plain data: what is written as JSON, read again by `compare`, and rendered for people.
//!
//! Rates are in packets per second, times in nanoseconds where a name ends in `_ns` and in seconds where it ends in
//! `_s`, lengths in bytes of the Ethernet frame without FCS. Shares (loss, percentiles) run from 0 to 1.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything one invocation found, with what is needed to repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Version of pktgen that wrote it.
    pub version: String,
    /// When the run began: RFC 3339, UTC.
    pub started: String,
    /// How long it took, settling and searching included.
    pub duration_s: f64,
    /// False if Ctrl-C ended the run before it was done: what is here was still measured.
    pub complete: bool,
    /// Where it ran.
    pub machine: Machine,
    /// What it was told.
    pub setup: Setup,
    /// Each trial, in the order they ran. A plain run has one.
    pub trials: Vec<Trial>,
    /// What the method concluded from its trials, in the order to be read.
    pub findings: Vec<Finding>,
    /// The `--require` conditions, each with its verdict.
    pub requirements: Vec<Requirement>,
    /// What a reader must know to trust the figures: a generator that could not keep up, an emulated mode.
    pub warnings: Vec<String>,
}

/// The machine of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Host name.
    pub host: String,
    /// Kernel release, as `uname -r` has it.
    pub kernel: String,
    /// Processor model.
    pub processor: String,
    /// Processors online.
    pub processors: u32,
}

/// What the run was told to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The method, by its subcommand: `run`, `search`, `loss-sweep`, `back-to-back`, `latency`, `replay`, `connections`.
    pub method: String,
    /// The command line.
    pub command: Vec<String>,
    /// The profile's name.
    pub profile: String,
    /// The profile as it was read, in TOML, so that the run can be repeated from the report.
    pub profile_text: String,
    /// How packets are sent: `af_xdp`, `live` (XDP live frames) or `memory` (an engine in this process).
    pub engine: String,
    /// Interfaces sent on and received from, with their XDP modes, as a person would write them.
    pub interfaces: Vec<String>,
    /// Processors that sending and receiving were pinned to.
    pub pinned: Vec<u32>,
    /// Seed of everything random.
    pub seed: u64,
}

/// One measurement at one offered load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What sets it apart from its neighbours, for people: `50% of 1.00 Mpps`.
    pub label: String,
    /// How long packets were sent, without warm-up and settling.
    pub seconds: f64,
    /// The load that was asked for. Absent: as fast as the port takes them.
    pub offered_pps: Option<f64>,
    /// All streams together.
    pub total: Counts,
    /// Each stream of the profile, by name.
    pub streams: BTreeMap<String, Stream>,
    /// Latency of all streams together, from the moment each packet was due (corrected for coordinated omission).
    /// Absent where nothing that carries a timestamp came back.
    pub latency: Option<Distribution>,
    /// The same from the moment each packet was sent, which hides what a generator that is late leaves out.
    pub latency_uncorrected: Option<Distribution>,
    /// Time between departures, as they left the generator. Absent where the engine can't see it.
    pub departures: Option<Distribution>,
    /// Connections, where the method makes them.
    pub connections: Option<Connections>,
    /// How the trial went over time.
    pub samples: Vec<Sample>,
}

/// Packets counted, with each packet in exactly one of `lost` and the first arrivals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// What the offered load asks for in the time of the trial. Equals `sent` at full speed.
    pub offered: u64,
    /// Packets handed to the kernel, or to the engine in this process.
    pub sent: u64,
    /// Bytes of those frames.
    pub sent_bytes: u64,
    /// Test packets that came back, duplicates included.
    pub received: u64,
    /// Bytes of those frames.
    pub received_bytes: u64,
    /// Sent, and not come back by the end of settling.
    pub lost: u64,
    /// Arrived after a packet of their stream that was sent later.
    pub reordered: u64,
    /// Arrivals beyond a packet's first.
    pub duplicates: u64,
    /// Arrived with a signature, and with a payload or checksum that is not what was sent.
    pub corrupt: u64,
    /// Frames received that are not this run's test packets.
    pub foreign: u64,
}

/// One stream in one trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Its packets. `foreign` is zero: those belong to no stream.
    pub counts: Counts,
    /// Its latency.
    pub latency: Option<Distribution>,
    /// Its jitter: the change of latency from one packet to the next (RFC 3393, consecutive packets).
    pub jitter: Option<Distribution>,
}

/// A distribution of times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// The least.
    pub min_ns: u64,
    /// The mean.
    pub mean_ns: f64,
    /// The greatest.
    pub max_ns: u64,
    /// The value below which a share of all values lie, in rising order of share; fine enough to draw (0 to 0.99999), and always with
    /// 0.5, 0.9, 0.99, 0.999 and 0.9999.
    pub percentiles: Vec<Percentile>,
}

/// One point of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Percentile {
    /// The share of values, 0 to 1.
    pub share: f64,
    /// No more than this.
    pub value_ns: u64,
}

/// What became of connections (TCP).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    /// Begun.
    pub opened: u64,
    /// Handshakes that finished.
    pub established: u64,
    /// Requests that were answered in full.
    pub answered: u64,
    /// Closed in order, by both sides.
    pub closed: u64,
    /// Refused or reset.
    pub reset: u64,
    /// Given up for want of an answer.
    pub timed_out: u64,
    /// The most that were open at once.
    pub peak: u64,
    /// Finished handshakes per second.
    pub established_per_s: f64,
    /// From the first SYN sent to the handshake's end at the client. Absent if none finished.
    pub handshake: Option<Distribution>,
    /// From a request's first byte sent to its answer's last byte received. Absent if none was answered.
    pub request: Option<Distribution>,
}

/// A moment of a running trial: what happened since the sample before. Also what live progress shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Since the trial began, at the end of this sample.
    pub at_s: f64,
    /// Sent in this sample, per second.
    pub sent_pps: f64,
    /// Received in this sample, per second.
    pub received_pps: f64,
    /// Bits per second received, frames without FCS.
    pub received_bps: f64,
    /// Packets known to be lost so far: sequence numbers passed over and not seen since.
    pub lost: u64,
    /// Median latency in this sample.
    pub p50_ns: Option<u64>,
    /// 99th percentile of latency in this sample.
    pub p99_ns: Option<u64>,
    /// Handshakes finished in this sample, per second, where the method makes connections.
    pub established_per_s: Option<f64>,
    /// Connections open at its end, where the method makes them.
    pub open_connections: Option<u64>,
}

/// One conclusion of the method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// What it is: `throughput`, `NDR`, `PDR`, `longest burst`.
    pub name: String,
    /// How much. Absent where the method could not tell; `note` then says why.
    pub value: Option<f64>,
    /// Of what: `pps`, `bps`, `packets`, `ns`, `connections/s`.
    pub unit: String,
    /// What a reader must know about it: the loss ratio allowed, the precision of the search, that the generator was the limit.
    pub note: String,
}

/// A `--require` condition and whether it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// As it was written: `loss<=0.001`, `p99<=50us`, `rate>=1Mpps`.
    pub condition: String,
    /// What was measured, as a person would write it.
    pub measured: String,
    /// Whether the condition holds. An interrupted run that did not measure it does not hold it.
    pub met: bool,
}

impl Counts {
    /// The share of sent packets that did not come back.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { self.lost as f64 / self.sent as f64 }
    }
}

impl Trial {
    /// An amount of the trial per second; none in a trial that was ended before it began.
    pub fn per_second(&self, amount: u64) -> f64 {
        if self.seconds > 0.0 { amount as f64 / self.seconds } else { 0.0 }
    }

    /// Whether it is told what became of each packet: connections send lost ones again, and a replay receives nothing.
    pub fn tracks_loss(&self) -> bool {
        self.connections.is_none() && self.total.received + self.total.lost > 0
    }
}

impl Distribution {
    /// The value below which `share` of the values lie, from the nearest point that is at or above it.
    pub fn at(&self, share: f64) -> u64 {
        self.percentiles.iter().find(|p| p.share >= share).map_or(self.max_ns, |p| p.value_ns)
    }
}
