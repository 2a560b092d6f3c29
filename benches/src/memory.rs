//! How much memory a process has in use.

use std::fs;

use crate::Error;

/// Of the process with this id, or of `self`, in bytes.
pub fn resident(process: &str) -> Result<u64, Error> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process without memory")?;
    Ok(line.trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
