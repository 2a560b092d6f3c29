//! A node's machine: what is started on it has process ids, mounts and state folders of its own, and goes with it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use shunt_control_lab::{
    binaries,
    command::{Background, run},
    error::{LabError, Result},
    topology::Lab,
    wait,
};

/// What is put in the place of the real machine's folders: empty ones, and an /etc that is as the real one to begin with.
const OWN_FOLDERS: &str = "mount -t tmpfs own /run && mount -t tmpfs own /var/lib && mount -t tmpfs own /opt \
                           && mkdir -p /run/lock /run/etc/own /run/etc/work /opt/cni/bin \
                           && mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/own,workdir=/run/etc/work own /etc";
/// Where runtimes look for plugins and networks unless told.
const PLUGINS: &str = "/opt/cni/bin";
const NETWORKS: &str = "/etc/cni/net.d";
/// Longest that a program may take, in seconds.
const LIMIT: &str = "60";

/// The machine of node-a.
#[derive(Debug)]
pub struct Machine {
    /// Whose end is the end of all other processes.
    _first: Background,
    first: u32,
    folder: PathBuf,
    name: String,
    plugins: PathBuf,
    networks: PathBuf,
}

impl Machine {
    /// Starts it, with the plugin installed where nobody else looks.
    pub fn start(lab: &Lab) -> Result<Machine> {
        let mut machine = Machine::bare(lab)?;
        (machine.plugins, machine.networks) = (machine.path("plugins"), machine.path("networks"));
        let socket = lab.node("node-a")?.shunt()?.socket();
        let mut install = Command::new(env!("CARGO_BIN_EXE_shunt-cni"));
        install.args(["install", "--network", machine.network(), "--socket"]).arg(socket);
        run(install.arg("--bin-dir").arg(machine.plugins()).arg("--conf-dir").arg(machine.networks()))?;
        // containerd brings loopback devices up by a plugin.
        let loopback = machine.plugins().join("loopback");
        symlink("/usr/lib/cni/loopback", &loopback).map_err(|source| LabError::File { path: loopback, source })?;
        Ok(machine)
    }

    /// Starts it without the plugin, which is yet to be installed in the usual places.
    pub fn bare(lab: &Lab) -> Result<Machine> {
        let folder = lab.folder().join("machine");
        make_folder(&folder)?;
        let node = &lab.node("node-a")?.namespace;
        let mut command = node.command("unshare");
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", &format!("{OWN_FOLDERS} && exec sleep infinity")]);
        let outside = Background::start(&mut command, &folder.join("machine.log"))?;
        // `nsenter` becomes `unshare`, whose only child is the machine's first process.
        let children = format!("/proc/{0}/task/{0}/children", outside.pid());
        let first = wait::until("the machine's first process", Duration::from_secs(5), || {
            let first: u32 = fs::read_to_string(&children).unwrap_or_default().trim().parse().map_err(|_| "none")?;
            let program = fs::read_to_string(format!("/proc/{first}/comm")).unwrap_or_default();
            if program.trim() == "sleep" { Ok(first) } else { Err("it is not ready") }
        })?;
        let name = lab.name().to_owned();
        Ok(Machine { _first: outside, first, folder, name, plugins: PLUGINS.into(), networks: NETWORKS.into() })
    }

    /// A program on it, ready for arguments.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--pid", "--mount", "--net", "--"]);
        command.arg(program.as_ref());
        command
    }

    /// The same for programs that end by themselves: one that does not is ended.
    pub fn bounded(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.command("timeout");
        command.args(["--kill-after=1", LIMIT]).arg(program.as_ref());
        command
    }

    /// One of a Debian package's programs; see [`binaries::peer`].
    pub fn peer(&self, name: &str) -> Result<PathBuf> {
        binaries::peer(name)
    }

    /// The name of the network that runtimes find.
    pub fn network(&self) -> &str {
        "shunt"
    }

    /// Where they find plugins.
    pub fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// Where they find networks.
    pub fn networks(&self) -> &Path {
        &self.networks
    }

    /// A file or folder in its scratch folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file there.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|source| LabError::File { path: path.clone(), source })?;
        Ok(path)
    }

    /// The control group that all of its containers are in.
    pub fn control_group(&self) -> String {
        format!("/{}", self.name)
    }

    /// The files in a folder of its own, if it is there.
    pub fn list(&self, folder: &str) -> Result<Vec<String>> {
        let script = format!("ls -A {folder} 2>/dev/null || true");
        let text = run(self.bounded("sh").args(["-c", &script]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Ids (on the real machine) of the plugins that run now, with the CNI command that each carries out.
    pub fn running_plugins(&self) -> Vec<(u32, String)> {
        let program = self.plugins().join("shunt-cni");
        let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_it = |id: &u32| fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|path| path == program);
        ids.filter(is_it)
            .filter_map(|id| {
                let environment = fs::read(format!("/proc/{id}/environ")).ok()?;
                let mut variables = environment.split(|byte| *byte == 0);
                let command = variables.find_map(|variable| variable.strip_prefix(b"CNI_COMMAND="))?;
                Some((id, String::from_utf8_lossy(command).into_owned()))
            })
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SIGKILL to the first process ends all others of its namespace.
        let _ = run(Command::new("kill").args(["-9", &self.first.to_string()]));
        let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let own = [PathBuf::from("/sys/fs/cgroup")].into_iter().chain(groups.map(|entry| entry.path()));
        for group in own.map(|hierarchy| hierarchy.join(&self.name)).filter(|group| group.is_dir()) {
            // Processes may take some time to go.
            let removed = wait::until("control groups to be empty", Duration::from_secs(5), || remove_group(&group));
            if let Err(error) = removed {
                eprintln!("left behind: {}: {error}", group.display());
            }
        }
    }
}

/// A control group goes after those in it.
fn remove_group(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&entry.path())?;
    }
    fs::remove_dir(group)
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| LabError::File { path: path.to_owned(), source })
}
