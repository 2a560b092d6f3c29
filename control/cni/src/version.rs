//! The versions of the CNI specification that are spoken.

use std::str::FromStr;

use crate::error::{CniError, Code, Result};

/// A version. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

impl FromStr for Version {
    type Err = CniError;

    fn from_str(text: &str) -> Result<Version> {
        Version::ALL.into_iter().find(|version| version.name() == text).ok_or_else(|| {
            let ours = Version::ALL.map(Version::name).join(", ");
            let message = format!("cniVersion: {text:?} is not spoken here");
            CniError::new(Code::IncompatibleVersion, message, format!("use one of {ours}"))
        })
    }
}
