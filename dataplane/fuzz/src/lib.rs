//! Hostile packets for the engine.
//!
//! An input is a little script ([`input`]): packets for the ports of a small node ([`world`]), the passing of time,
//! updates. It is run through the real pipeline, and everything that comes out is compared with what went in by an
//! oracle that shares no code with the engine ([`oracle`]). [`seeds`] are inputs that walk the main paths.
//!
//! `tests/pipeline.rs` runs the kept corpus and three million mutated packets. To search further, guided by coverage,
//! with libFuzzer (which needs a C++ compiler, but no nightly one of Rust):
//!
//! ```text
//! cargo run -p shunt-dataplane-fuzz --bin seeds -- found
//! RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!   -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions" \
//! CARGO_PROFILE_RELEASE_LTO=false cargo run --release --target x86_64-unknown-linux-gnu --target-dir target/fuzz \
//!   -p shunt-dataplane-fuzz --features libfuzzer --bin pipeline -- \
//!   found dataplane/fuzz/corpus/pipeline -max_len=4096 -max_total_time=600
//! ```
//!
//! With `-set_cover_merge=1 dataplane/fuzz/corpus/pipeline found` instead of the last line, the same program adds what
//! was found and reaches further to the corpus.
//!
//! An input that fails becomes a named file in the corpus, beside the fix.
#![deny(unsafe_code)]

pub mod input;
pub mod ipv6;
pub mod mutate;
pub mod oracle;
pub mod seeds;
pub mod world;

pub use world::{run, run_explained};
