//! What a machine must offer so that a lab can run on it.

use std::{env, process::Command};

use socket2::{Domain, Socket, Type};

use crate::{
    command::run,
    error::{LabError, Result},
};

/// The address family of AF_XDP sockets (`linux/socket.h`).
const AF_XDP: i32 = 44;

/// The programs that the lab runs, each with the Debian package it comes from.
const PROGRAMS: [(&str, &str); 13] = [
    ("bridge", "iproute2"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("sysctl", "procps"),
    ("tcpdump", "tcpdump"),
    ("timeout", "coreutils"),
    ("tshark", "tshark"),
];

/// Checks everything the lab needs of the machine.
///
/// # Errors
/// [`LabError::Capability`] with each thing that is missing and what to do about it.
pub fn check() -> Result<()> {
    let mut missing = Vec::new();
    for (program, package) in PROGRAMS {
        if !on_path(program) {
            missing.push(format!("the program {program} is missing: install the Debian package {package}"));
        }
    }
    if run(Command::new("id").arg("-u"))?.trim() != "0" {
        missing.push("network namespaces need root: run as root".to_owned());
    } else if let Err(error) = Socket::new(Domain::from(AF_XDP), Type::RAW, None) {
        missing.push(format!(
            "the kernel gives no AF_XDP socket ({error}): a kernel with CONFIG_XDP_SOCKETS and CAP_NET_RAW are needed"
        ));
    }
    if missing.is_empty() { Ok(()) } else { Err(LabError::Capability(missing.join("\n"))) }
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Root's programs lie in directories that an ordinary user's PATH may lack.
    let administrator = ["/usr/sbin", "/sbin"].map(Into::into);
    env::split_paths(&path).chain(administrator).any(|folder| folder.join(program).is_file())
}
