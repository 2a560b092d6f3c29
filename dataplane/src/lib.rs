//! The engine of Shunt.
#![deny(unsafe_code)]

pub mod flow;
pub mod io;
pub mod net;
pub mod spec;
pub mod tables;
pub mod wire;
