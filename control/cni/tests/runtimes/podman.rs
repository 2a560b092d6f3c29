//! Podman, with its CNI backend.

use std::{path::PathBuf, process::Command};

use shunt_control_lab::{command::run, error::Result};

use crate::{
    engine::{Engine, IMAGE, PORT, files, service},
    machine::Machine,
};

/// Podman on a machine.
#[derive(Debug)]
pub struct Podman<'a> {
    machine: &'a Machine,
    settings: PathBuf,
}

impl<'a> Podman<'a> {
    /// Makes the image.
    pub fn start(machine: &'a Machine) -> Result<Podman<'a>> {
        let settings = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\nruntime = \"runc\"\n\
             [engine.runtimes]\nrunc = [\"{}\"]\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\"]\nnetwork_config_dir = \"{}\"\n",
            machine.peer("runc")?.display(),
            machine.plugins().display(),
            machine.networks().display(),
        );
        let podman = Podman { machine, settings: machine.write("containers.conf", &settings)? };
        let archive = files(machine)?;
        // What a container runs that is told nothing: a pod's sandbox.
        let sandbox = "CMD [\"/bin/sleep\", \"300\"]";
        run(podman.command(&["import", "--quiet", "--change", sandbox]).arg(archive).arg(IMAGE))?;
        Ok(podman)
    }

    /// `podman` with its settings and `arguments`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.bounded(PathBuf::from("podman"));
        command.env("CONTAINERS_CONF", &self.settings);
        command.args(["--storage-driver", "vfs"]).args(arguments);
        command
    }

    /// The image as containerd takes it.
    pub fn save(&self, archive: &str) -> Result<()> {
        run(&mut self.command(&["save", "--quiet", "--format", "docker-archive", "--output", archive, IMAGE])).map(drop)
    }
}

impl Engine for Podman<'_> {
    fn start(&self, name: &str, host_port: Option<u16>) -> Result<()> {
        let (network, group) = (self.machine.network(), self.machine.control_group());
        let mut command = self.command(&["run", "--detach", "--name", name, "--network", network]);
        command.args(["--cgroup-parent", &group]);
        if let Some(port) = host_port {
            command.args(["--publish", &format!("{port}:{PORT}")]);
        }
        run(command.arg(IMAGE).args(service(name))).map(drop)
    }

    fn exec(&self, name: &str, script: &str) -> Result<String> {
        run(&mut self.command(&["exec", name, "/bin/sh", "-c", script]))
    }

    fn remove(&self, name: &str) -> Result<()> {
        run(&mut self.command(&["rm", "--force", "--time", "0", name])).map(drop)
    }

    fn sweep(&self) -> Result<()> {
        run(&mut self.command(&["rm", "--force", "--all", "--time", "0"])).map(drop)
    }
}
