//! Compiles the traffic source to BPF.

use std::{env, io::ErrorKind, path::PathBuf, process::Command};

const SOURCE: &str = "bpf/source.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("source.bpf.o");
    // -g for BTF, in which the maps are described.
    let status = Command::new(&clang)
        .args(["-target", target(), "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-c", SOURCE, "-o"])
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile {SOURCE} to BPF ({status}); its messages are above"),
        Err(error) if error.kind() == ErrorKind::NotFound => panic!(
            "{clang} is needed to compile the traffic source and was not found: \
             install it (Debian and Ubuntu: apt-get install clang) or name one in the environment variable CLANG"
        ),
        Err(error) => panic!("cannot run {clang}: {error}"),
    }
}

/// BPF in the byte order of the machine the switch will run on.
fn target() -> &'static str {
    match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    }
}
