//! Sends what was captured: the frames of a pcap or pcapng file, at the pace they were captured at or another.

mod capture;
pub mod command;
mod pace;
mod send;

pub use capture::{Capture, CaptureError, Recorded, Truncated};
pub use command::ReplayError;
pub use pace::{Pace, Schedule};
