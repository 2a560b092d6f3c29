//! Real TCP connections: handshakes, a request and its answer, closes; how many a second, how many at once, and how long
//! each step takes.

mod arp;
pub mod command;
mod conversation;
mod crowd;
mod link;
mod message;
mod meter;
mod port;
mod profile;
mod run;
mod stack;
#[cfg(test)]
mod tests;

pub use link::Link;
pub use port::Port;
pub use profile::Profile;
pub use run::{ConnectionsError, connect, serve};
