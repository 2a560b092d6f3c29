//! The engine of Shunt.
#![deny(unsafe_code)]

pub mod io;
pub mod net;
pub mod spec;
pub mod xsk;
