//! containerd, driven as the kubelet does it.

use std::{
    collections::BTreeMap,
    env,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shunt_control_lab::{
    command::{Background, run},
    error::{LabError, Result},
    wait,
};
use tonic::Status;

use crate::{
    cri::{
        ContainerConfig, ContainerMetadata, CreateContainer, Cri, ExecSync, ExecSyncAnswer, Id, ImageSpec,
        LinuxPodSandboxConfig, Nothing, PodSandboxConfig, PodSandboxMetadata, PortMapping, RunPodSandbox, Sandboxes,
    },
    engine::{Engine, IMAGE, PORT, service},
    machine::Machine,
    podman::Podman,
};

/// A running containerd.
#[derive(Debug)]
pub struct Containerd<'a> {
    machine: &'a Machine,
    cri: Cri,
    /// Of each pod, the ids of its sandbox and of its container.
    pods: Mutex<BTreeMap<String, (String, String)>>,
    _daemon: Background,
}

impl<'a> Containerd<'a> {
    /// Starts it and imports the image.
    pub fn start(machine: &'a Machine) -> Result<Containerd<'a>> {
        let socket = machine.path("containerd.sock");
        let settings = format!(
            "version = 2\nroot = \"{root}\"\nstate = \"/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\ndisable_tcp_service = true\n\
             restrict_oom_score_adj = true\ndisable_apparmor = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{plugins}\"\nconf_dir = \"{networks}\"\n",
            root = "/var/lib/containerd",
            socket = socket.display(),
            plugins = machine.plugins().display(),
            networks = machine.networks().display(),
        );
        let settings = machine.write("containerd.toml", &settings)?;
        let program = machine.peer("containerd")?;
        // It looks for its shim and for runc there.
        let runc = machine.peer("runc")?;
        let folders = [&program, &runc].map(|path| path.parent().unwrap_or(path).to_owned());
        let path =
            env::join_paths(folders.into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())))
                .map_err(|error| LabError::Unknown(error.to_string()))?;
        let mut command = machine.command(&program);
        command.env("PATH", path).arg("--config").arg(settings);
        let daemon = Background::start(&mut command, &machine.path("containerd.log"))?;
        let cri = Cri::new(&socket);
        wait::until("containerd to answer", Duration::from_secs(20), || {
            cri.call::<_, Nothing>("Version", Nothing {}).map_err(|status| status.to_string())
        })?;
        let archive = machine.path("image.docker");
        Podman::start(machine)?.save(&archive.to_string_lossy())?;
        let mut import = machine.bounded(machine.peer("ctr")?);
        import.arg("--address").arg(&socket).args(["--namespace", "k8s.io", "images", "import"]);
        run(import.args(["--snapshotter", "native"]).arg(archive))?;
        Ok(Containerd { machine, cri, pods: Mutex::default(), _daemon: daemon })
    }

    fn call<Q: prost::Message + 'static, A: prost::Message + Default + 'static>(
        &self,
        method: &str,
        request: Q,
    ) -> Result<A> {
        self.cri.call(method, request).map_err(|status: Status| LabError::Failed {
            command: format!("RuntimeService.{method}"),
            status: status.code().to_string(),
            output: status.message().to_owned(),
        })
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, (String, String)>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_sandbox(&self, id: &str) -> Result<()> {
        let id = Id { id: id.to_owned() };
        self.call::<_, Nothing>("StopPodSandbox", id.clone())?;
        self.call::<_, Nothing>("RemovePodSandbox", id).map(drop)
    }
}

impl Engine for Containerd<'_> {
    fn start(&self, name: &str, host_port: Option<u16>) -> Result<()> {
        let mapping = |port: u16| PortMapping { protocol: 0, container_port: PORT.into(), host_port: port.into() };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "default".into() }),
            hostname: name.into(),
            port_mappings: host_port.map(mapping).into_iter().collect(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: self.machine.control_group() }),
        };
        let Id { id: sandbox } = self.call("RunPodSandbox", RunPodSandbox { config: Some(config.clone()) })?;
        self.pods().insert(name.to_owned(), (sandbox.clone(), String::new()));
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into() }),
            image: Some(ImageSpec { image: IMAGE.into() }),
            command: service(name).into(),
        };
        let request =
            CreateContainer { sandbox: sandbox.clone(), config: Some(container), sandbox_config: Some(config) };
        let container: Id = self.call("CreateContainer", request)?;
        self.call::<_, Nothing>("StartContainer", container.clone())?;
        self.pods().insert(name.to_owned(), (sandbox, container.id));
        Ok(())
    }

    fn exec(&self, name: &str, script: &str) -> Result<String> {
        let unknown = || LabError::Unknown(format!("no pod {name} was started"));
        let (_, container) = self.pods().get(name).cloned().ok_or_else(unknown)?;
        let command: Vec<_> = ["/bin/sh", "-c", script].map(str::to_owned).into();
        let answer: ExecSyncAnswer = self.call("ExecSync", ExecSync { container, command, timeout: 60 })?;
        let [output, errors] =
            [&answer.stdout, &answer.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        match answer.exit_code {
            0 => Ok(output),
            code => {
                let (command, status) = (format!("{name}: {script}"), format!("exit status {code}"));
                Err(LabError::Failed { command, status, output: output + &errors })
            }
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        let pod = self.pods().get(name).cloned();
        let Some((sandbox, _)) = pod else { return Ok(()) };
        self.remove_sandbox(&sandbox)?;
        self.pods().remove(name);
        Ok(())
    }

    fn sweep(&self) -> Result<()> {
        let all: Sandboxes = self.call("ListPodSandbox", Nothing {})?;
        for sandbox in all.items {
            self.remove_sandbox(&sandbox.id)?;
        }
        self.pods().clear();
        Ok(())
    }
}
