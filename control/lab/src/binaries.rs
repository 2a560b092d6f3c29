//! Where the programs under test are.

use std::{env, path::PathBuf};

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
