//! The engine of Shunt: frames in, verdicts out.
//!
//! # The walk of a packet
//!
//! A [`worker`] takes a burst of frames off its devices ([`io`], [`xsk`]) into a [`packet::Batch`] and sends it through
//! [`pipeline::Pipeline::run`], the hot path. Each stage goes over the whole batch before the next one starts:
//!
//! 1. [`stages::parse`] checks the headers, strips VXLAN ([`stages::decap`]), and notes the five-tuple.
//! 2. [`stages::track`] looks the flow up in the connection table; a hit carries the whole decision.
//! 3. [`stages::service`] chooses a backend for the first packet of a flow to a service and tracks the flow; if answers
//!    would not come back here, [`stages::masquerade`] replaces its source.
//! 4. [`stages::forward`] asks the FIB where everything else goes ([`stages::route`]), checks TTL and MTU, translates
//!    ([`stages::nat`]), and puts the next hop's header on: a plain one, or the outer headers of VXLAN.
//!
//! Every packet ends with a [`verdict`]. What the switch says itself (ARP, echo, ICMP errors) is made in place by
//! [`stages::local`] and routed like any packet. The worker then queues the frames at their ports and makes the devices
//! send.
//!
//! A batch is of one family of addresses. What is IPv6 leaves the batch of IPv4 after parsing and goes through the same stages in
//! one of its own ([`stages::ipv6`] has what is different), when the rest is on its way. What both have (the connection
//! table, services, masquerade, routing) is written once over the type of an address as a number: `u32` or `u128`
//! ([`net::Number`], [`snapshot::Family`]).
//!
//! # State
//!
//! Workers forward by an immutable [`snapshot::Snapshot`], compiled from the plain [`spec::ForwardingSpec`] that control
//! writes, and handed over between bursts ([`publish`]). The one table they write to and share is
//! [`tables::conntrack`]. [`counters`] belong to one worker each. Time is passed in ([`time`]).
//!
//! # From outside
//!
//! [`switch::Switch`] starts workers, attaches ports, publishes, and reports. [`worker::Stepped`] runs the same workers
//! without threads, kernel or clock.
//!
//! Modules use each other one way: wire, tables, stages, pipeline, worker, switch. `unsafe` is allowed in three places:
//! `io/frame.rs` (who owns which memory), `xsk` (AF_XDP) and `tables/arena.rs` (huge pages and prefetching).
#![deny(unsafe_code)]

pub mod counters;
pub mod explain;
pub mod flow;
pub mod io;
pub mod net;
pub mod next_hop;
pub mod packet;
pub mod pipeline;
pub mod publish;
pub mod record;
pub mod service_set;
pub mod shards;
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
