//! Immutable lookup tables: built by control, part of a snapshot, read by every worker.
//!
//! Tables point by index into flat vectors and answer with plain numbers; addresses are `u32` in host order. None is
//! changed after it is built: an update builds a new one and shares what did not change.

pub mod fib;
mod hash;
pub mod maglev;
pub mod service;
pub mod vtep;

pub use fib::Fib;
pub use maglev::Maglev;
pub use service::{ServiceIndex, ServiceTable};
pub use vtep::VtepTable;
