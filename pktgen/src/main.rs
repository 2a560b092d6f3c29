//! pktgen: see `pktgen --help` and docs/pktgen.md.
#![deny(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use shunt_pktgen::{cli::Cli, session};

fn main() -> ExitCode {
    match session::run(&Cli::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("pktgen: {failure}");
            failure.exit_code()
        }
    }
}
