//! The tables the stages look things up in.
//!
//! All but [`conntrack`], [`recent`] and the buckets of [`limits`] are immutable: built by control, part of a snapshot, read by every worker; an update builds a
//! new one and shares what did not change. Tables point by index into flat arrays and answer with plain numbers;
//! addresses are `u32` in host order.

pub mod arena;
pub mod conntrack;
pub mod endpoints;
pub mod fib;
pub mod fib6;
pub(crate) mod hash;
pub mod limits;
pub mod maglev;
pub mod prefixes;
pub mod recent;
mod rendezvous;
pub mod service;
pub mod vtep;

pub use conntrack::Conntrack;
pub use endpoints::Endpoints;
pub use fib::Fib;
pub use fib6::Fib6;
pub use limits::Limits;
pub use maglev::Maglev;
pub use prefixes::Prefixes;
pub use recent::Recent;
pub use service::{Origin, ServiceIndex, ServiceTable};
pub use vtep::VtepTable;
