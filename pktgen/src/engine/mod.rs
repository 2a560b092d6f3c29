//! What sends and receives: AF_XDP, XDP live frames, or an engine in this process; one seam for all methods.

mod af_xdp;
mod lane;
mod live;
mod memory;
mod outcome;
mod tester;

use std::{fmt, time::Duration};

use shunt_dataplane::xsk::XskError;

pub(crate) use self::tester::check_core;
pub use self::{
    af_xdp::AfXdpStation,
    live::TrafficSource,
    memory::MemoryStation,
    tester::{Ports, Tester},
};

/// One thread's hold of the wire.
pub trait Station: Send {
    /// Queues a frame of `len` bytes, which `write` fills. False, and nothing written, if there is no room for it now.
    fn push(&mut self, len: usize, write: &mut dyn FnMut(&mut [u8])) -> bool;

    /// Makes what was queued leave.
    fn flush(&mut self);

    /// Hands each frame that has arrived to `take`, up to some number of them. Returns how many.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize;

    /// Frames that arrived and were dropped because this side did not take them in time, since it was opened.
    fn missed(&self) -> u64;
}

/// One trial: how fast, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// What sets it apart, for people.
    pub label: String,
    /// Packets per second; `None`: as fast as the port takes them.
    pub pps: Option<f64>,
    /// The most packets to send, over all lanes.
    pub packets: Option<u64>,
    /// How long to send.
    pub duration: Duration,
    /// How long to send before, uncounted.
    pub warm_up: Duration,
    /// How long to wait for packets afterwards. Shorter if all have come.
    pub settle: Duration,
}

/// How packets are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AF_XDP sockets.
    AfXdp,
    /// XDP live frames; received over AF_XDP.
    Live,
    /// An engine in this process.
    Memory,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::AfXdp => "af_xdp",
            Kind::Live => "live",
            Kind::Memory => "memory",
        })
    }
}

/// Why nothing can be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The profile and the ports do not go together; begins with the key's path.
    #[error("{0}")]
    Profile(String),
    /// What was asked for on the command line cannot be had.
    #[error("{0}")]
    Option(String),
    /// A socket, its memory or the program that feeds it.
    #[error(transparent)]
    Xsk(#[from] XskError),
    /// The program that sends live frames.
    #[error("interface {interface}: {what}: {reason}; {hint}")]
    Source {
        /// Interface.
        interface: String,
        /// What failed.
        what: &'static str,
        /// The kernel's answer.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The engine in this process.
    #[error("the engine in this process: {0}")]
    Memory(String),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}
