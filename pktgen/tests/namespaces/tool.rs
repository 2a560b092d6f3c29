//! The program that is tested, and those of others.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use shunt_pktgen::report::{
    model::{Report, Trial},
    outputs,
};
use tempfile::TempDir;

/// The example profile of this name.
pub fn profile(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/pktgen").join(format!("{name}.toml"))
}

/// Runs pktgen to its end, whatever that is.
pub fn pktgen(arguments: &[&str]) -> Output {
    urgent(env!("CARGO_BIN_EXE_pktgen")).args(arguments).output().expect("nice runs")
}

/// A program that goes before the machine's other work, so that this does not get in the way of its figures. Not with
/// real-time priority: a program that never sleeps would starve its own other threads.
pub fn urgent(program: &str) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "-20", program]);
    command
}

/// Runs a method of pktgen that must succeed on an example profile, and reads its report.
pub fn report(method: &str, name: &str, arguments: &str) -> Report {
    let folder = TempDir::new().expect("a directory");
    let file = folder.path().join("report.json");
    let (file_name, profile) = (file.display().to_string(), profile(name).display().to_string());
    let mut all = vec![method, &profile, "--quiet", "--json", &file_name];
    all.extend(arguments.split_whitespace());
    let output = urgent(env!("CARGO_BIN_EXE_pktgen")).args(&all).output().expect("nice runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pktgen {all:?}: {}\n{text}", output.status);
    outputs::read(&file).expect("a report")
}

/// The only trial of a run, if pktgen sent all it was to send and took all that came; otherwise what it says about that.
pub fn attempt(name: &str, arguments: &str) -> Result<Trial, String> {
    let mut report = report("run", name, arguments);
    let trial = report.trials.remove(0);
    let dropped_ours = report.warnings.iter().any(|warning| warning.contains("pktgen did not take them in time"));
    if trial.total.sent == trial.total.offered && !dropped_ours {
        return Ok(trial);
    }
    Err(format!("{:?}", report.warnings))
}

/// The same from the first of three attempts that succeeds: the machine may do something else for too long.
pub fn sound_run(name: &str, arguments: &str) -> Trial {
    let mut why = String::new();
    for _ in 0..3 {
        match attempt(name, arguments) {
            Ok(trial) => return trial,
            Err(reason) => why = reason,
        }
    }
    panic!("pktgen was not up to it three times: {why}");
}

/// Somebody else's program, in the background; ended when dropped.
pub struct Background(pub Child);

impl Background {
    /// Starts it. `package` is where it comes from in Debian.
    pub fn start(command: &mut Command, package: &str) -> Background {
        // A group of its own: trafgen's children would outlive it.
        let child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Background(
            child.unwrap_or_else(|e| panic!("cannot run {command:?}: {e}; is the Debian package {package} there?")),
        )
    }

    /// Ends it as Ctrl-C would, and returns what it said.
    pub fn interrupt(mut self) -> Output {
        self.signal(Signal::SIGINT).expect("it runs");
        let mut child = std::mem::replace(&mut self.0, Command::new("true").spawn().expect("true runs"));
        let until = Instant::now() + Duration::from_secs(10);
        while child.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < until, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
        child.wait_with_output().expect("its output")
    }
}

impl Background {
    fn signal(&self, signal: Signal) -> nix::Result<()> {
        killpg(Pid::from_raw(self.0.id() as i32), signal)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
