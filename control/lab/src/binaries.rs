//! Where the programs under test are, and other people's.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::error::{LabError, Result};

/// The program `name` of this workspace, built in the same profile as the running one.
///
/// # Errors
/// [`LabError::Capability`] that says what to build.
pub fn find(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().map_err(|source| LabError::File { path: PathBuf::from("/proc/self/exe"), source })?;
    // Programs lie in `target/PROFILE`, test programs in `target/PROFILE/deps`.
    let candidates = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        LabError::Capability(format!(
            "{name} is not built beside {}: run `cargo build --workspace --bins` in the same profile",
            own.display()
        ))
    })
}

/// Folders of Debian packages that programs are in.
const FOLDERS: [&str; 3] = ["usr/bin", "usr/sbin", "usr/lib/openvswitch-switch-dpdk"];

/// Where `./dev` has unpacked programs of Debian packages that must not be installed for a test, in the folder `peers` beside
/// the running program's; `/` if it has not.
pub fn peers() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    let root = own.ancestors().map(|folder| folder.join("peers")).find(|folder| folder.is_dir());
    root.unwrap_or_else(|| PathBuf::from("/"))
}

/// One of these programs; what is not unpacked may be installed.
///
/// # Errors
/// [`LabError::Capability`] if it is neither.
pub fn peer(name: &str) -> Result<PathBuf> {
    let root = peers();
    let roots = [root.as_path(), Path::new("/")];
    let mut paths = roots.iter().flat_map(|root| FOLDERS.map(|folder| root.join(folder).join(name)));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        let (root, how) = (root.display(), "`./dev test` and `./dev bench` do that");
        LabError::Capability(format!("{name} is neither installed nor unpacked in {root}: {how}"))
    })
}
