//! The tidy-up registry: what a run has made on this machine and must remove, however it ends.
//!
//! Owners remove their things when dropped. When SIGINT or SIGTERM arrives no destructor would run, so a thread that
//! waits for these signals removes what is still registered, newest first, and ends the process.

use std::{
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::command::{ip, output};

/// Something to remove.
#[derive(Debug)]
enum Leftover {
    /// A network namespace with the processes in it.
    Namespace(String),
    /// A directory with what is in it.
    Directory(PathBuf),
    /// A kernel setting that was changed, and what it was before.
    Setting(PathBuf, String),
}

static REGISTRY: Mutex<Vec<(u64, Leftover)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
static SIGNALS: Once = Once::new();

/// A registered leftover: removed when dropped.
#[derive(Debug)]
pub struct Tidy(u64);

impl Tidy {
    /// Registers a network namespace, with the processes that will run in it.
    pub fn namespace(name: &str) -> Tidy {
        register(Leftover::Namespace(name.to_owned()))
    }

    /// Registers a directory.
    pub fn directory(path: &Path) -> Tidy {
        register(Leftover::Directory(path.to_owned()))
    }

    /// Registers a setting of the kernel that is about to be changed, with the value that it must have again.
    pub fn setting(path: &Path, value: &str) -> Tidy {
        register(Leftover::Setting(path.to_owned(), value.to_owned()))
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        let mut registry = registry();
        if let Some(at) = registry.iter().position(|(id, _)| *id == self.0) {
            remove(&registry.remove(at).1);
        }
    }
}

/// Forgets everything registered so far: it stays on the machine after this process ends.
pub fn keep_everything() {
    registry().clear();
}

fn registry() -> MutexGuard<'static, Vec<(u64, Leftover)>> {
    // A panic while the lock is held leaves a list that is still right: entries are taken out before they are removed.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn register(leftover: Leftover) -> Tidy {
    SIGNALS.call_once(watch_signals);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    registry().push((id, leftover));
    Tidy(id)
}

fn watch_signals() {
    let mut signals = Signals::new([SIGINT, SIGTERM]).expect("handlers for SIGINT and SIGTERM can be installed");
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("\ninterrupted: removing namespaces and processes");
            let mut registry = registry();
            while let Some((_, leftover)) = registry.pop() {
                remove(&leftover);
            }
            process::exit(128 + signal);
        }
    });
}

/// Says what could not be removed and goes on: the rest must still go.
fn remove(leftover: &Leftover) {
    match leftover {
        Leftover::Namespace(name) => {
            let pids = ip(&format!("netns pids {name}")).unwrap_or_default();
            if !pids.is_empty() {
                // A process that ended in between makes `kill` fail, which is what was wanted.
                let _ = output(Command::new("kill").arg("-9").args(pids.split_whitespace()));
            }
            if let Err(error) = ip(&format!("netns del {name}")) {
                eprintln!("left behind: network namespace {name}: {error}");
            }
        }
        Leftover::Directory(path) => {
            if let Err(error) = std::fs::remove_dir_all(path) {
                eprintln!("left behind: directory {}: {error}", path.display());
            }
        }
        Leftover::Setting(path, value) => {
            if let Err(error) = std::fs::write(path, value) {
                eprintln!("left behind: {} is not {value} again: {error}", path.display());
            }
        }
    }
}
