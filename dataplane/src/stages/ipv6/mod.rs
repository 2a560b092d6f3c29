//! What is different for IPv6: how packets are read and rewritten, and what the switch says itself. All else is one code for
//! both families.

pub mod forward;
pub mod local;
pub mod nat;
pub mod parse;
pub mod related;
