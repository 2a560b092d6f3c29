//! The engine of Shunt.
#![deny(unsafe_code)]

pub mod counters;
pub mod flow;
pub mod io;
pub mod net;
pub mod next_hop;
pub mod packet;
pub mod pipeline;
pub mod publish;
pub mod snapshot;
pub mod spec;
pub mod stages;
pub mod switch;
pub mod tables;
pub mod time;
pub mod verdict;
pub mod wire;
pub mod worker;
pub mod xsk;
