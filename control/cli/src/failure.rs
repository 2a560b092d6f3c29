//! Why a command failed: one line for people, a code for scripts.

use std::{fmt, io, path::PathBuf, process::ExitCode};

use tonic::{Code, Status};

/// A failed command.
#[derive(Debug)]
pub enum Failure {
    /// A file is not what it should be.
    File {
        /// Which.
        file: String,
        /// The key and what is wrong with it.
        problem: String,
    },
    /// Nobody answers on the socket.
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// Why.
        problem: String,
    },
    /// The daemon answered with an error.
    Refused(Status),
    /// The daemon refused what is in a file.
    RefusedFile {
        /// Which.
        file: String,
        /// The error.
        status: Status,
    },
    /// Nothing was deleted.
    NothingToDelete(String),
    /// Packets or frames do not add up; what was to be said is said.
    Imbalance(usize),
    /// The output, or the machine's resources.
    Output(io::Error),
}

impl Failure {
    /// As documented in `--help`.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::File { .. } => 2,
            Failure::Unreachable { .. } => 3,
            Failure::Refused(status) | Failure::RefusedFile { status, .. } => match status.code() {
                Code::Aborted => 4,
                Code::NotFound => 5,
                Code::Unavailable => 3,
                _ => 1,
            },
            Failure::NothingToDelete(_) => 5,
            Failure::Imbalance(_) => 6,
            Failure::Output(_) => 1,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::File { file, problem } => write!(f, "{file}: {problem}"),
            Failure::Unreachable { socket, problem } => {
                write!(
                    f,
                    "cannot reach shuntd on {}: {problem}; is it running, and is this its --socket?",
                    socket.display()
                )
            }
            Failure::Refused(status) => f.write_str(status.message()),
            Failure::RefusedFile { file, status } if status.code() == Code::InvalidArgument => {
                write!(f, "{file}: {}", file_path(status.message()))
            }
            Failure::RefusedFile { status, .. } => f.write_str(status.message()),
            Failure::NothingToDelete(what) => write!(f, "there is no {what}; nothing was deleted"),
            Failure::Imbalance(1) => f.write_str("1 account does not add up"),
            Failure::Imbalance(n) => write!(f, "{n} accounts do not add up"),
            Failure::Output(e) => write!(f, "{e}"),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Refused(status)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Output(e)
    }
}

/// A message that begins with a field's path in the request, with its path in the cluster file instead: there lists
/// have the name of their items (`service[0].port[1].port`).
pub fn file_path(message: &str) -> String {
    let (mut path, rest) = match message.split_once(": ") {
        Some((path, rest)) => (path.to_owned(), rest),
        None => return message.to_owned(),
    };
    for item in ["vtep", "port", "route", "service", "endpoint_slice", "endpoint"] {
        path = path.replace(&format!("{item}s["), &format!("{item}["));
    }
    format!("{path}: {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_file() {
        let message = "endpoint_slices[3].ports[0].port: 0 is not a port; ports[0] is another";
        assert_eq!(file_path(message), "endpoint_slice[3].port[0].port: 0 is not a port; ports[0] is another");
        assert_eq!(file_path("endpoint_slices[3].endpoints[1].address: x"), "endpoint_slice[3].endpoint[1].address: x");
        assert_eq!(file_path("no path"), "no path");
    }
}
