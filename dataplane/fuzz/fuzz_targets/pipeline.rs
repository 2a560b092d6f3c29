//! Any script through the pipeline: it must not panic, nor do anything the oracle finds wrong.
#![no_main]

use shunt_dataplane_fuzz::{input, run};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    run(input::decode(input));
});
