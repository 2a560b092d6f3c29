//! shunt-cni: the CNI plugin that connects pods to Shunt's switch.
//!
//! A pod's veth has one end in the pod; the other is a port of the switch, which the plugin asks `shuntd` for over its unix
//! socket. Everything that DEL has to undo is found by the attachment's name: there is no record to lose.
#![deny(unsafe_code)]

mod addresses;
mod bandwidth;
mod config;
mod daemon;
mod environment;
mod error;
mod install;
mod ipam;
mod link;
mod outcome;
mod plugin;
mod port_mapping;
mod version;

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use clap::Parser;
use serde_json::Value;

use crate::{
    config::Config,
    environment::{Command, Environment},
    error::{CniError, Result},
    version::Version,
};

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        return match install::run(install::Options::parse()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("shunt-cni: {e}");
                ExitCode::FAILURE
            }
        };
    }
    let mut input = String::new();
    // What cannot be read is found to be no configuration.
    let _ = io::stdin().read_to_string(&mut input);
    match execute(&input) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => print(&result, ExitCode::SUCCESS),
        // Runtimes read errors from standard output.
        Err(e) => print(&e.to_json(&asked_version(&input)), ExitCode::FAILURE),
    }
}

fn print(value: &Value, status: ExitCode) -> ExitCode {
    match writeln!(io::stdout(), "{value}") {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

fn execute(input: &str) -> Result<Option<Value>> {
    let environment = Environment::read(|name| std::env::var(name).ok())?;
    if environment.command == Command::Version {
        return Ok(Some(plugin::versions(&asked_version(input))));
    }
    let config = Config::parse(input)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| CniError::io("start", e))?;
    runtime.block_on(plugin::run(&environment, &config))
}

/// The version that the configuration asks for, or the latest of ours if it names none.
fn asked_version(input: &str) -> String {
    let config: Value = serde_json::from_str(input).unwrap_or_default();
    config["cniVersion"].as_str().unwrap_or(Version::ALL[Version::ALL.len() - 1].name()).to_owned()
}
