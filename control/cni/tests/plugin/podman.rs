//! A runtime that nobody here wrote: podman with its CNI backend, and containers from an image made here of busybox.

use std::{fs, net::Ipv4Addr, os::unix::fs::symlink, path::Path, process::Command};

use serde_json::Value;
use shunt_control_lab::{
    cluster::{Cluster, Service},
    command::run,
    netns::Namespace,
    tools,
    topology::Lab,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

use crate::runtime::{NETWORK, PLUGINS, Runtime, Traces, plan};

/// Where Debian's package busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "localhost/box";

/// podman on a node, with all that it keeps in the lab's directory.
struct Podman<'a> {
    lab: &'a Lab,
    node: &'a Namespace,
}

impl Podman<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.node.bounded("podman");
        let folder = self.lab.folder();
        command.env("CONTAINERS_CONF", folder.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"));
        command.args(words);
        command
    }

    fn run(&self, line: &str) -> shunt_control_lab::Result<String> {
        run(&mut self.command(&line.split_whitespace().collect::<Vec<_>>()))
    }

    /// Starts a container that serves its name over HTTP, and tells its address.
    fn start(&self, name: &str) -> shunt_control_lab::Result<Ipv4Addr> {
        // Limits that a sandbox may forbid to raise.
        let limits = "--ulimit nofile=1024:1024 --ulimit nproc=4096:4096";
        let script = format!("echo {name} > /index.html; exec httpd -f -p 8080 -h /");
        let words = format!("run --detach --name {name} --network {NETWORK} {limits} {IMAGE} sh -c");
        let words: Vec<_> = words.split_whitespace().chain([script.as_str()]).collect();
        run(&mut self.command(&words))?;
        let inspected = self.run(&format!("inspect {name}"))?;
        let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
        let address = inspected[0]["NetworkSettings"]["Networks"][NETWORK]["IPAddress"].as_str();
        Ok(address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no address: {inspected}")))
    }
}

/// Containers are in namespaces of their own, which the lab knows nothing of: they must not outlive a test that fails.
impl Drop for Podman<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.run("rm --force --all --time 0") {
            eprintln!("containers may be left: {error}");
        }
    }
}

fn prepare(lab: &Lab, runtime: &Runtime) -> shunt_control_lab::Result<()> {
    let folder = lab.folder();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("a file");
    let place = |name: &str| folder.join(name).display().to_string();
    // As an operator does it, but for the addresses: they are kept in the lab's directory.
    let (bin, conf, socket) = (place("bin"), place("net.d"), place("node-a/shuntd.sock"));
    let words = ["install", "--bin-dir", &bin, "--conf-dir", &conf, "--network", NETWORK, "--socket", &socket];
    run(Command::new(env!("CARGO_BIN_EXE_shunt-cni")).args(words))?;
    let list = folder.join("net.d/10-shunt.conflist");
    let mut json: Value = serde_json::from_slice(&fs::read(&list).expect("it was written")).expect("JSON");
    json["plugins"][0]["ipam"] = runtime.config["ipam"].clone();
    fs::write(&list, json.to_string()).expect("a file");
    write(
        "containers.conf",
        format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{bin}\", \"{PLUGINS}\"]\n\
             network_config_dir = \"{conf}\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
             runtime = \"runc\"\n[containers]\nlog_driver = \"k8s-file\"\n"
        ),
    );
    let (graph, running) = (place("graph"), place("running"));
    write("storage.conf", format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{graph}\"\nrunroot = \"{running}\"\n"));
    image(folder)
}

/// An image's root file system in a tar file: busybox, under the names of what is used.
fn image(folder: &Path) -> shunt_control_lab::Result<()> {
    let bin = folder.join("image/bin");
    fs::create_dir_all(&bin).expect("a directory");
    fs::copy(BUSYBOX, bin.join("busybox")).expect("busybox, of Debian's package busybox-static");
    for name in ["sh", "ping", "nc", "httpd"] {
        symlink("busybox", bin.join(name)).expect("a link");
    }
    run(Command::new("tar").arg("-C").arg(folder.join("image")).arg("-cf").arg(folder.join("image.tar")).arg("."))
        .map(drop)
}

#[test]
fn podman_runs_containers_on_the_switch() {
    trial(plan(), |lab| {
        let runtime = Runtime::new(lab);
        prepare(lab, &runtime)?;
        let node = &lab.node("node-a")?.namespace;
        let podman = Podman { lab, node };
        podman.run(&format!("import --quiet {} {IMAGE}", lab.folder().join("image.tar").display()))?;
        let (one, other) = (podman.start("one")?, podman.start("other")?);
        let traces = runtime.traces();
        assert_eq!((traces.links.len(), traces.addresses.len(), traces.ports.len()), (2, 2, 2), "{traces:?}");

        // Pod to pod, to other nodes' pods, to the node, and the node to it.
        let others = [other, lab.pod("a1")?.address(), lab.pod("c1")?.address(), lab.node("node-a")?.plan.overlay()];
        for to in others {
            podman.run(&format!("exec one ping -c 3 -W 2 {to}"))?;
        }
        assert!(tools::ping(node, "-c 3 -i 0.05", one)?.is_complete());
        assert_eq!(tools::curl(node, &format!("http://{one}:8080/"))?, "one\n");
        // Pod to service, and back to itself.
        let service = |name: &str, last: u8, backend| {
            Service::simple(name, [10, 96, 0, last].into(), Protocol::Tcp, 80, 8080, [backend])
        };
        let services = vec![service("one", 81, one), service("other", 82, other)];
        lab.node("node-a")?.shunt()?.apply(&Cluster { services, ..Cluster::default() }, &[])?;
        for (vip, server) in [("10.96.0.82", "other"), ("10.96.0.81", "one")] {
            let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {vip} 80");
            let answer = run(&mut podman.command(&["exec", "one", "sh", "-c", &script]))?;
            assert!(answer.ends_with(&format!("\n{server}\n")), "{answer}");
        }
        assert_eq!(tools::curl(node, "http://10.96.0.82/")?, "other\n");

        podman.run("rm --force --time 0 one other")?;
        assert_eq!(runtime.traces(), Traces::default());
        Ok(())
    });
}
