//! How much memory a process uses.

use std::fs;

use crate::error::{LabError, Result};

/// What the process with this id, or `self`, has in use, in bytes.
pub fn resident(process: &str) -> Result<u64> {
    field(process, "VmRSS:")
}

/// The most that it has had in use, in bytes.
pub fn peak(process: &str) -> Result<u64> {
    field(process, "VmHWM:")
}

/// A line of proc_pid_status(5), which has kibibytes.
fn field(process: &str, name: &str) -> Result<u64> {
    let file = format!("/proc/{process}/status");
    let text = fs::read_to_string(&file).map_err(|source| LabError::File { path: file.clone().into(), source })?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix(name)?.trim_end_matches("kB").trim().parse().ok());
    let bytes = kibibytes.map(|kibibytes: u64| kibibytes * 1024);
    bytes.ok_or_else(|| LabError::Unreadable { command: file, reason: format!("no {name}"), output: text })
}
