//! Generates the messages, client and server from `proto/` with the protoc of the system.

use std::{env, path::PathBuf};

fn main() -> std::io::Result<()> {
    let descriptors = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shunt.v1.bin");
    tonic_prost_build::configure()
        .file_descriptor_set_path(descriptors)
        // In one order, for people and tests.
        .btree_map(".")
        .compile_protos(&["proto/shunt/v1/shunt.proto"], &["proto"])
}
