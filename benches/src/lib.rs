//! What the benches share: cycles, allocations, traffic, an in-memory device that keeps the time, and the limit probe.
#![deny(unsafe_code)]

pub mod device;
pub mod measure;
pub mod probe;
pub mod scenario;
