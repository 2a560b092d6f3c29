//! What Shunt costs: the engine alone, and the side-by-side report that `./dev bench` writes.
//!
//! | module | holds |
//! |---|---|
//! | [`engine`], [`stages`], [`churn`] | part 1, the engine in memory: whole paths, stage by stage, and flows that come and go |
//! | [`scenario`], [`packets`], [`family`], [`device`], [`probe`], [`measure`] | what that is made of: paths, their packets, IPv4 and IPv6, devices, the limit probe, cycles and allocations |
//! | [`veth`] | part 2, contenders end to end between two veths |
//! | [`applications`] | part 3, iperf3, sockperf and wrk between two nodes |
//! | [`control`] | part 4, changes and storms of them |
//! | [`generators`] | part 5, pktgen beside other generators |
//! | [`daemon`], [`peers`], [`scratch`] | what runs beside: Shunt's daemon, other people's switches, and their removal |
//! | [`rows`], [`table`], [`markdown`], [`page`], [`machine`] | what was measured, and how it is told |
#![deny(unsafe_code)]

pub mod applications;
pub mod churn;
pub mod control;
pub mod daemon;
pub mod device;
pub mod engine;
pub mod family;
pub mod generators;
pub mod machine;
pub mod markdown;
pub mod measure;
pub mod packets;
pub mod page;
pub mod peers;
pub mod probe;
pub mod rows;
pub mod scenario;
pub mod scratch;
pub mod stages;
pub mod table;
pub mod veth;

/// What can go wrong: shown to a person, or given as the reason for a figure that is missing.
pub type Error = Box<dyn std::error::Error>;
