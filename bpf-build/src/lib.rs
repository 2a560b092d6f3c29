//! Compiles a crate's BPF programs with clang. For build scripts. What programs use of the kernel's interface is in
//! `include/kernel.h`.
#![deny(unsafe_code)]

use std::{env, io::ErrorKind, path::PathBuf, process::Command};

/// Where the headers for all crates' programs are.
const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

/// Compiles `bpf/NAME.bpf.c` to `NAME.bpf.o` in `OUT_DIR`, in the byte order of the machine that the crate is built for.
///
/// # Panics
/// With what to do, if clang is missing or refuses the program.
pub fn compile(name: &str) {
    let source = format!("bpf/{name}.bpf.c");
    // The source and what it includes.
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed={INCLUDE}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // -g for BTF, in which the maps are described.
    let status = Command::new(&clang)
        .args(["-target", target(), "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-ffreestanding"])
        .args(["-I", INCLUDE, "-c", &source, "-o"])
        .arg(folder.join(format!("{name}.bpf.o")))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile {source} to BPF ({status}); its messages are above"),
        Err(error) if error.kind() == ErrorKind::NotFound => panic!(
            "{clang} is needed to compile {source} to BPF and was not found: \
             install it (Debian and Ubuntu: apt-get install clang) or name one in the environment variable CLANG"
        ),
        Err(error) => panic!("cannot run {clang}: {error}"),
    }
}

fn target() -> &'static str {
    match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    }
}
