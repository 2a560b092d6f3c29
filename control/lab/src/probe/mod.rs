//! Probes: clients that measure. Each runs as a process of its own in a pod's or node's namespace and prints one line of
//! JSON, which the lab reads back into the same type.

pub mod ask;
pub mod backwards;
pub mod hold;
pub mod stream;
pub mod transfer;
pub mod vxlan;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::de::DeserializeOwned;

use crate::{
    binaries,
    command::{self, Background},
    error::{LabError, Result, command_line},
    netns::Namespace,
};

/// Runs the probe that `args` name inside `namespace`, to its end.
pub fn run<T: DeserializeOwned>(namespace: &Namespace, args: &[&str]) -> Result<T> {
    let mut command = namespace.bounded(binaries::find("shunt-lab")?);
    command.arg("probe").args(args);
    let output = command::run(&mut command)?;
    read(&command_line(&command), output)
}

/// A probe that runs while something else happens.
#[derive(Debug)]
pub struct Running(Background);

/// Starts the probe that `args` name inside `namespace`; `log` gets its output and must not exist.
pub fn start(namespace: &Namespace, args: &[&str], log: &std::path::Path) -> Result<Running> {
    let mut command = namespace.bounded(binaries::find("shunt-lab")?);
    command.arg("probe").args(args);
    Background::start(&mut command, log).map(Running)
}

impl Running {
    /// True when it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.ended().is_some()
    }

    /// What it has said so far.
    fn output(&self) -> String {
        self.0.log()
    }

    /// Waits for its end and reads its report, the last line that it said.
    pub fn finish<T: DeserializeOwned>(mut self, patience: std::time::Duration) -> Result<T> {
        let status = self.0.wait(patience)?;
        let (command, output) = (self.0.line().to_owned(), self.output());
        if status.success() {
            read(&command, output)
        } else {
            Err(LabError::Failed { command, status: status.to_string(), output })
        }
    }
}

/// The address to bind to for any of one's own to be taken, of the family of `to`.
fn any_address(to: SocketAddr) -> IpAddr {
    if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn read<T: DeserializeOwned>(command: &str, output: String) -> Result<T> {
    serde_json::from_str(output.lines().last().unwrap_or_default()).map_err(|error| LabError::Unreadable {
        command: command.to_owned(),
        reason: error.to_string(),
        output,
    })
}
