//! Running commands: to completion with a deadline, or in the background until dropped.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use crate::{
    error::{LabError, Result, command_line},
    wait,
};

/// Runs `command` to its end and returns both outputs, whatever its exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(|source| LabError::Spawn { command: command_line(command), source })
}

/// Runs `command` to its end and returns its standard output; a failure carries what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let out = output(command)?;
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(failed(command, &out)) }
}

/// Runs `command` with `input` on its standard input, as [`run`] does without.
pub fn run_with(command: &mut Command, input: &[u8]) -> Result<String> {
    let failed_to_run = |command: &Command, source| LabError::Spawn { command: command_line(command), source };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| failed_to_run(command, source))?;
    // One that ends without reading all of it says why.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    let out = child.wait_with_output().map_err(|source| failed_to_run(command, source))?;
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(failed(command, &out)) }
}

/// The error that tells that `command` ended with `out`.
pub fn failed(command: &Command, out: &Output) -> LabError {
    let output = format!("{}{}", text(&out.stdout), text(&out.stderr));
    LabError::Failed {
        command: command_line(command),
        status: out.status.to_string(),
        output: output.trim_end().to_owned(),
    }
}

/// Runs `ip` with the words of `line`.
pub fn ip(line: &str) -> Result<String> {
    run(Command::new("ip").args(line.split_whitespace()))
}

/// Bytes as text, with what is not UTF-8 replaced.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A process that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Background {
    /// Starts `command` with both outputs appended to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = |source| LabError::File { path: log.to_owned(), source };
        let out = File::options().create(true).append(true).open(log).map_err(file)?;
        let err = out.try_clone().map_err(file)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|source| LabError::Spawn { command: command_line(command), source })?;
        Ok(Background { child, line: command_line(command), log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The command line.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| text(&bytes)).unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends the signal with this name (`TERM`, `KILL`, `INT`, `STOP`).
    pub fn signal(&self, name: &str) -> Result<()> {
        run(Command::new("kill").args(["-s", name, &self.pid().to_string()])).map(drop)
    }

    /// Asks it to end with SIGTERM and waits.
    ///
    /// # Errors
    /// [`LabError::Timeout`] if it is still there after `patience`; it is killed then.
    pub fn stop(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        self.wait(patience)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`LabError::Timeout`] if it is still there after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let what = format!("the end of `{}`", self.line);
        wait::until(&what, patience, || self.ended().ok_or_else(|| "still running".to_owned()))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, and then nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
