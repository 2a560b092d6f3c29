//! What can go wrong while a lab is built or measured.

use std::{io, path::PathBuf, process::Command, time::Duration};

/// A failure of the lab itself or of a command it ran.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command could not be started.
    #[error("could not run `{command}`: {source}")]
    Spawn {
        /// The command line.
        command: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A command ended with a failure.
    #[error("`{command}` failed ({status}): {output}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it printed on both outputs.
        output: String,
    },
    /// A command's output did not have the expected shape.
    #[error("`{command}` printed what cannot be read ({reason}): {output}")]
    Unreadable {
        /// The command line.
        command: String,
        /// What is missing or wrong.
        reason: String,
        /// What it printed.
        output: String,
    },
    /// A file of the lab could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("waited {waited:?} for {what}; last answer: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// What was seen instead.
        last: String,
    },
    /// This machine lacks something the lab needs.
    #[error("{0}")]
    Capability(String),
    /// The lab was asked for something it does not have.
    #[error("{0}")]
    Unknown(String),
}

/// The result of the lab's functions.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// `command` as a person would type it.
pub fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        line.push(' ');
        if arg.is_empty() || arg.contains([' ', '"', '\'', '{', ';']) {
            line.push_str(&format!("'{arg}'"));
        } else {
            line.push_str(&arg);
        }
    }
    line
}
