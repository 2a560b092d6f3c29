//! What went wrong, as the CNI specification has it: a code, a message, and what to do.

use std::fmt::Display;

use serde_json::{Value, json};

/// Codes of the specification's section "Error".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is none of ours.
    IncompatibleVersion = 1,
    /// An environment variable is missing or wrong.
    BadEnvironment = 4,
    /// A file, a netlink request, another program.
    Io = 5,
    /// What came on standard input, or from a delegate, is no JSON of the right shape.
    Decode = 6,
    /// The network configuration makes no sense.
    InvalidConfig = 7,
    /// CNI_NETNS is no network namespace.
    BadNamespace = 8,
    /// The daemon does not answer: later it may.
    TryAgain = 11,
    /// STATUS: an ADD could not succeed now.
    Unavailable = 50,
    /// The pod is not attached as the result of its ADD says.
    Changed = 100,
    /// No address is left.
    NoAddress = 101,
    /// The switch does not take the pod.
    Refused = 102,
}

/// An error as it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    code: u64,
    message: String,
    details: String,
}

/// What everything here returns.
pub type Result<T> = std::result::Result<T, CniError>;

impl CniError {
    /// An error of ours: what is wrong, and what to do about it.
    pub fn new(code: Code, message: impl Display, details: impl Display) -> CniError {
        CniError { code: code as u64, message: message.to_string(), details: details.to_string() }
    }

    /// Something of the operating system's that failed: what was to be done, and why it could not be.
    pub fn io(what: impl Display, why: impl Display) -> CniError {
        CniError::new(Code::Io, format!("cannot {what}"), why)
    }

    /// A delegate's error, passed on as it came.
    pub fn of_delegate(plugin: &str, output: &Value) -> CniError {
        let text = |key: &str| output[key].as_str().unwrap_or_default().to_owned();
        CniError {
            code: output["code"].as_u64().unwrap_or(Code::Io as u64),
            message: format!("{plugin}: {}", text("msg")),
            details: text("details"),
        }
    }

    /// True if it has this code.
    #[cfg(test)]
    pub fn is(&self, code: Code) -> bool {
        self.code == code as u64
    }

    /// As the specification wants it on standard output.
    pub fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.message, "details": self.details })
    }
}
