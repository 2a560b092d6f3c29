//! Compiles the XDP classifier to BPF, and passes on that loom is to watch the tables.

use std::env;

fn main() {
    // As a flag for the compiler it would make everything else be built anew, and without it again.
    if env::var_os("CARGO_FEATURE_LOOM").is_some() {
        println!("cargo::rustc-cfg=loom");
    }
    shunt_bpf_build::compile("classifier");
}
