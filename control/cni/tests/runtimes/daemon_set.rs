//! The container image and the DaemonSet: shuntd in a container, as the manifest says and the kubelet would run it, with
//! podman for want of a cluster.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use shunt_control_lab::{
    binaries,
    command::{output, run},
    error::{LabError, Result},
    shunt_node, tools,
    topology::Lab,
    trial::trial,
    wait,
};

use crate::{
    address,
    engine::{Engine, PORT, archive, greeting, put_programs},
    machine::Machine,
    manifest::{self, Container, DaemonSet},
    plan,
    podman::Podman,
};

/// What the image is built on here: nothing but busybox and the libraries that the programs want.
const BASE: &str = "localhost/base:1";
const CONTAINERFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/container/Containerfile");
const PROGRAMS: [&str; 3] = ["shuntd", "shuntctl", "shunt-cni"];
/// The container of shuntd.
const NAME: &str = "shuntd";

#[test]
fn daemon_set() {
    let set = manifest::read();
    let daemon = match &set.spec.template.spec.containers[..] {
        [daemon] => daemon,
        others => panic!("one container, not {}", others.len()),
    };
    let granted: Vec<_> = daemon.security_context.capabilities.add.iter().map(|name| format!("CAP_{name}")).collect();
    assert_eq!(granted, shunt_node::capabilities(), "as the systemd unit");
    trial(plan(), |lab| {
        let machine = Machine::bare(lab)?;
        let podman = Podman::start(&machine)?;
        build(&machine, &podman, &daemon.image)?;
        configure(lab, &machine)?;
        // From here on the container is the node's daemon.
        lab.node_mut("node-a")?.shunt_mut()?.0.stop()?;
        start(&machine, &podman, &set, daemon)?;
        forward(lab, &podman)?;

        let patience = set.spec.template.spec.termination_grace_period_seconds.to_string();
        run(&mut podman.command(&["stop", "--time", &patience, NAME]))?;
        let ended = run(&mut podman.command(&["inspect", "--format", "{{.State.ExitCode}}", NAME]))?;
        assert_eq!(ended.trim(), "0", "it ends by itself when told");
        let links = lab.node("node-a")?.namespace.ip("-d link show")?;
        assert!(!links.contains("shunt0") && !links.contains("xdp"), "nothing is left in the kernel: {links}");
        let (shunt, namespace) = lab.node_mut("node-a")?.shunt_mut()?;
        shunt.launch(namespace)
    });
}

/// Builds the image of the programs as they are here, without what only debuggers need.
fn build(machine: &Machine, podman: &Podman<'_>, image: &str) -> Result<()> {
    let (base, context) = (machine.path("base"), machine.path("context"));
    put_programs(machine, &base)?;
    make_folder(&context)?;
    for program in PROGRAMS {
        let path = binaries::find(program)?;
        let mut libraries: Vec<_> =
            run(Command::new("ldd").arg(&path))?.split_whitespace().map(str::to_owned).collect();
        libraries.retain(|word| word.starts_with('/'));
        run(Command::new("cp").args(["--dereference", "--parents", "--target-directory"]).arg(&base).args(libraries))?;
        run(Command::new("strip").arg("-o").arg(context.join(program)).arg(path))?;
    }
    run(podman.command(&["import", "--quiet"]).arg(archive(machine, &base)?).arg(BASE))?;
    let argument = format!("BASE={BASE}");
    let mut build = podman.command(&[
        "build",
        "--pull=never",
        "--layers=false",
        "--network",
        "none",
        "--build-arg",
        &argument,
        "--tag",
        image,
    ]);
    run(build.arg("--file").arg(CONTAINERFILE).arg(context)).map(drop)
}

/// Puts the node's configuration where the manifest has it: the lab's, with sockets and state in their usual places.
fn configure(lab: &Lab, machine: &Machine) -> Result<()> {
    let theirs = lab.folder().join("node-a/shuntd.toml");
    let text = fs::read_to_string(&theirs).map_err(|source| LabError::File { path: theirs, source })?;
    let mut table: toml::Table = text.parse().expect("a configuration is TOML");
    table.retain(|section, _| !matches!(section, "api" | "state"));
    let cluster = lab.plan.cluster_for(&lab.node("node-a")?.plan);
    for (name, text) in [("shuntd.toml", table.to_string()), ("cluster.toml", toml::to_string(&cluster).expect("TOML"))]
    {
        let file = machine.write(name, &text)?;
        run(machine.bounded("install").args(["-D", "-m", "0644", "-t", "/etc/shunt"]).arg(file))?;
    }
    Ok(())
}

/// What the kubelet does: the volumes, the init containers one after the other, the container, and its probe until it is ready.
fn start(machine: &Machine, podman: &Podman<'_>, set: &DaemonSet, daemon: &Container) -> Result<()> {
    let pod = &set.spec.template.spec;
    for volume in &pod.volumes {
        let path = &volume.host_path.path;
        match volume.host_path.r#type.as_str() {
            "Directory" => run(machine.bounded("test").args(["-d", path]))?,
            "DirectoryOrCreate" => run(machine.bounded("mkdir").args(["-p", path]))?,
            "CharDevice" => run(machine.bounded("test").args(["-c", path]))?,
            other => panic!("{}: what is a {other}?", volume.name),
        };
    }
    let group = machine.control_group();
    for container in &pod.init_containers {
        run(podman.command(&["run", "--rm", "--cgroup-parent", &group]).args(pod.podman(container)))?;
    }
    let [ready, alive] =
        [&daemon.readiness_probe, &daemon.liveness_probe].map(|probe| probe.as_ref().expect("a probe"));
    // A probe fails where no daemon is.
    let alone = ["run", "--rm", "--cgroup-parent", &group, "--entrypoint", &ready.exec.command[0], &daemon.image];
    assert!(!output(podman.command(&alone).args(&ready.exec.command[1..]))?.status.success());
    run(podman.command(&["run", "--detach", "--name", NAME, "--cgroup-parent", &group]).args(pod.podman(daemon)))?;
    wait::until("the readiness probe", Duration::from_secs(20), || {
        exec(podman, &ready.exec.command).map_err(|error| {
            let log = output(&mut podman.command(&["logs", NAME]))
                .map(|out| String::from_utf8_lossy(&out.stderr).into_owned());
            format!("{error}\n{}", log.unwrap_or_default())
        })
    })?;
    exec(podman, &alive.exec.command)?;
    let has = run(&mut podman.command(&["inspect", "--format", "{{json .EffectiveCaps}}", NAME]))?;
    let has: BTreeSet<String> = serde_json::from_str(&has).expect("a list");
    assert_eq!(has, shunt_node::capabilities().into_iter().map(str::to_owned).collect(), "no more and no less");
    Ok(())
}

/// A pod that podman connects with the plugin that the init container installed: another node's pod and the node reach it, and
/// it reaches them.
fn forward(lab: &Lab, podman: &Podman<'_>) -> Result<()> {
    exec(podman, &["shuntctl", "apply", "-f", "/etc/shunt/cluster.toml"].map(str::to_owned))?;
    podman.start("one", None)?;
    let one = address(podman, "one")?;
    let (node, remote) = (lab.node("node-a")?, lab.pod("c1")?);
    for from in [&node.namespace, &remote.namespace] {
        assert_eq!(tools::curl(from, &format!("http://{one}:{PORT}/"))?.trim(), "one", "from {}", from.name());
    }
    for (to, name) in [(remote.address(), "c1"), (node.plan.overlay(), "node-a")] {
        let greeting = podman.exec("one", &greeting(to))?;
        assert!(greeting.starts_with(name), "{to}: {greeting}");
    }
    podman.remove("one")?;
    exec(podman, &["shuntctl", "conservation"].map(str::to_owned)).map(drop)
}

/// Runs a command in shuntd's container, as the kubelet does for a probe.
fn exec(podman: &Podman<'_>, command: &[String]) -> Result<String> {
    run(podman.command(&["exec", NAME]).args(command))
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| LabError::File { path: path.to_owned(), source })
}
