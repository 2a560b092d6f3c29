//! pktgen: sends known packets into a path, counts and times what comes out, and says what the path can carry.
#![deny(unsafe_code)]

pub mod compare;
pub mod plot;
pub mod progress;
pub mod quantity;
pub mod report;
pub mod require;
