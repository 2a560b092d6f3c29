//! pktgen: sends known packets into a path, counts and times what comes out, and says what the path can carry.
#![deny(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod compare;
pub mod connections;
pub mod dry_run;
pub mod engine;
pub mod measure;
pub mod method;
pub mod pace;
pub mod packet;
pub mod player;
pub mod plot;
pub mod profile;
pub mod progress;
pub mod quantity;
pub mod random;
pub mod rate;
pub mod replay;
pub mod report;
pub mod require;
pub mod script;
pub mod session;
