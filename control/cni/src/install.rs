//! `shunt-cni install` and `uninstall`: the plugin where runtimes look for plugins, and the configuration list that names it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// The plugin's name as a program and in configurations.
const PLUGIN: &str = "shunt-cni";

/// shunt-cni is a CNI plugin: runtimes start it with CNI_COMMAND and the other variables in its environment. On the
/// command line it installs itself.
#[derive(Debug, Parser)]
#[command(name = PLUGIN, version, about, long_about = None)]
pub struct Options {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Copies the plugin and writes the configuration list; running pods are not touched
    Install {
        #[command(flatten)]
        places: Places,
        /// The network's name
        #[arg(long, default_value = "shunt")]
        network: String,
        /// Where shuntd listens
        #[arg(long, default_value = "/run/shunt/shuntd.sock")]
        socket: PathBuf,
    },
    /// Removes both
    Uninstall {
        #[command(flatten)]
        places: Places,
    },
}

#[derive(Debug, Args)]
struct Places {
    /// Where runtimes look for plugins
    #[arg(long, default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where they look for configuration lists
    #[arg(long, default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
}

impl Places {
    fn program(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    /// Runtimes take the first list in the order of names.
    fn list(&self) -> PathBuf {
        self.conf_dir.join("10-shunt.conflist")
    }
}

/// Does what the command line says.
///
/// # Errors
/// A sentence for a person.
pub fn run(options: Options) -> Result<(), String> {
    match options.command {
        What::Install { places, network, socket } => install(&places, &network, &socket),
        What::Uninstall { places } => uninstall(&places),
    }
}

fn install(places: &Places, network: &str, socket: &Path) -> Result<(), String> {
    if !crate::environment::is_name(network) {
        return Err(format!("--network: {network:?} is no name of a network; use letters, digits, '_', '.' and '-'"));
    }
    let own = std::env::current_exe().map_err(|e| format!("cannot find the running program: {e}"))?;
    let program = fs::read(&own).map_err(|e| format!("cannot read {}: {e}", own.display()))?;
    // The list comes last: it makes runtimes use the plugin. 1.0.0, because containerd before 1.7 refuses 1.1.0.
    put(&places.program(), &program, 0o755)?;
    let list = json!({
        "cniVersion": "1.0.0",
        "name": network,
        "plugins": [{ "type": PLUGIN, "socket": socket, "capabilities": capabilities() }],
    });
    put(&places.list(), format!("{list:#}\n").as_bytes(), 0o644)
}

/// What runtimes may ask for.
fn capabilities() -> Value {
    json!({ "ips": true, "mac": true, "dns": true, "portMappings": true, "bandwidth": true })
}

/// In the reverse order: no runtime ever sees a list whose plugin is not there.
fn uninstall(places: &Places) -> Result<(), String> {
    for path in [places.list(), places.program()] {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(format!("cannot remove {}: {e}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Puts a whole file in the place of `path`: whoever opens it has the former one or this one.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|e| format!("cannot write {}: {e}", path.display()))
}
