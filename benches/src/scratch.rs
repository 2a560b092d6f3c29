//! What a measurement needs on the machine and takes away again, however it ends: directories, processes, huge pages.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use shunt_control_lab::{tidy::Tidy, topology::PREFIX};

use crate::Error;

/// A directory of our own; removed when dropped, or when the program is interrupted.
pub struct Scratch {
    path: PathBuf,
    _tidy: Tidy,
}

impl Scratch {
    /// A fresh directory. It begins with the lab's prefix, so that `./dev clean` finds what a killed run left.
    pub fn create(what: &str) -> Result<Scratch, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}-{}-{what}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        let tidy = Tidy::directory(&path);
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Scratch { path, _tidy: tidy })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, and tells its path.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

/// `program`, ready for arguments, which is killed when the thread that starts it ends: also when we are killed.
pub fn mortal(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
