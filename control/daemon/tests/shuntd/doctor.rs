//! `shuntd doctor` in network namespaces in which each conflict is made for real. Needs root.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::PathBuf,
    process::{self, Command},
    thread,
};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use shunt_control_daemon::doctor::CAPABILITIES;
use shunt_control_lab::{
    netns::{End, Namespace, connect},
    shunt_node,
};

struct Patient {
    node: Namespace,
    _peer: Namespace,
    folder: tempfile::TempDir,
}

impl Patient {
    fn new() -> Patient {
        let namespace = |what: &str| Namespace::create(&format!("doctor-{}-{what}", process::id())).unwrap();
        let (node, peer) = (namespace("node"), namespace("peer"));
        let (a, b) = (End { namespace: &node, interface: "eth0" }, End { namespace: &peer, interface: "eth0" });
        connect(a, b, 1, 1500).unwrap();
        node.ip("addr add 192.168.50.1/24 dev eth0").unwrap();
        node.sysctl("net.ipv4.ip_forward", "1").unwrap();
        node.sysctl("net.ipv4.conf.all.rp_filter", "2").unwrap();
        let patient = Patient { node, _peer: peer, folder: tempfile::tempdir().unwrap() };
        fs::create_dir(patient.file("cni")).unwrap();
        patient.configure("");
        patient
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, more: &str) {
        let folder = self.folder.path().display();
        let text = format!(
            "[node]\nname = \"node-a\"\npod_cidr = \"10.244.1.0/24\"\ncluster_cidr = \"10.244.0.0/16\"\n\
             service_cidr = \"10.96.0.0/16\"\n[uplink]\ninterface = \"eth0\"\n[vxlan]\n[workers]\ncores = [0]\n\
             [api]\nsocket = \"{folder}/shuntd.sock\"\n[state]\ndir = \"{folder}/state\"\n{more}"
        );
        fs::write(self.file("shuntd.toml"), text).unwrap();
    }

    /// Runs the doctor, `before` it the words of a command that starts it, and returns exit code and findings.
    fn examine(&self, before: &str) -> (i32, Vec<Value>) {
        let mut words = before.split_whitespace().chain([env!("CARGO_BIN_EXE_shuntd")]);
        let mut command = self.node.command(words.next().unwrap());
        command.args(words).args(["doctor", "-o", "json", "--config"]).arg(self.file("shuntd.toml"));
        let output = command.arg("--cni-config").arg(self.file("cni")).output().unwrap();
        let diagnosis: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap(), diagnosis["findings"].as_array().unwrap().clone())
    }

    /// The doctor must find `check` in `state` with `words` in what it says, and each finding that is not good must say
    /// what to do about it.
    fn must_find(&self, before: &str, check: &str, state: &str, words: &str) {
        let (code, findings) = self.examine(before);
        let found = findings.iter().any(|finding| {
            let text = format!("{} {}", finding["found"].as_str().unwrap(), finding["advice"].as_str().unwrap());
            finding["check"] == check && finding["state"] == state && text.contains(words)
        });
        assert!(found, "no {check} {state} with {words:?} in {findings:#?}");
        assert_eq!(code == 0, findings.iter().all(|finding| finding["state"] != "error"), "{findings:#?}");
        for finding in findings.iter().filter(|finding| finding["state"] == "error" || finding["state"] == "warning") {
            assert!(!finding["advice"].as_str().unwrap().is_empty(), "{finding}");
        }
    }

    /// Does something in the node's namespace, on a thread.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let file = fs::File::open(format!("/run/netns/{}", self.node.name())).unwrap();
        thread::scope(|scope| {
            let act = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            act.join().unwrap()
        })
    }
}

#[test]
fn the_unit_grants_what_the_doctor_wants() {
    assert_eq!(CAPABILITIES.map(|(name, ..)| name).to_vec(), shunt_node::capabilities());
}

#[test]
fn a_healthy_node_and_each_ailment() {
    let patient = Patient::new();
    let node = &patient.node;
    let (code, findings) = patient.examine("");
    assert_eq!(code, 0, "{findings:#?}");
    for check in [
        "configuration",
        "kernel",
        "capabilities",
        "af_xdp",
        "memlock",
        "ip_forward",
        "rp_filter",
        "daemon",
        "uplink",
        "mtu",
        "xdp",
        "tc",
        "vxlan",
        "masquerade",
        "rules",
        "cni",
    ] {
        let states: Vec<_> = findings.iter().filter(|f| f["check"] == check).map(|f| &f["state"]).collect();
        assert_eq!(states, ["ok"], "{check}: {findings:#?}");
    }

    // What others have taken.
    node.ip("link add flannel.1 type vxlan id 1 local 192.168.50.1 dev eth0 dstport 8472").unwrap();
    patient.must_find("", "vxlan", "error", "flannel.1 (VNI 1)");
    node.ip("link del flannel.1").unwrap();
    let socket = patient.inside(|| UdpSocket::bind("0.0.0.0:8472").unwrap());
    patient.must_find("", "vxlan", "error", "a socket on UDP port 8472");
    drop(socket);
    let listener = patient.inside(|| TcpListener::bind("127.0.0.1:61234").unwrap());
    patient.must_find("", "masquerade", "error", "61234");
    drop(listener);

    // What others have put in the way.
    let (source, object) = (patient.file("foreign.c"), patient.file("foreign.o"));
    let program = "__attribute__((section(\"xdp\"), used)) int foreign_pass(void *ctx) { return 2; }\n\
                   __attribute__((section(\"tc\"), used)) int foreign_tc(void *skb) { return 0; }\n\
                   char LICENSE[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";
    fs::write(&source, program).unwrap();
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-c"]).arg(&source).arg("-o").arg(&object);
    assert!(clang.status().unwrap().success());
    let object = object.display();
    node.ip(&format!("link set eth0 xdp obj {object} sec xdp")).unwrap();
    patient.must_find("", "xdp", "error", "foreign_pass");
    node.ip("link set eth0 xdp off").unwrap();
    node.run("tc qdisc add dev eth0 clsact").unwrap();
    node.run(&format!("tc filter add dev eth0 ingress bpf direct-action object-file {object} section tc")).unwrap();
    patient.must_find("", "tc", "warning", "bpf filter");
    node.run("tc qdisc del dev eth0 clsact").unwrap();
    node.run("nft add table ip kube-proxy").unwrap();
    node.run("nft add chain ip kube-proxy services").unwrap();
    patient.must_find("", "rules", "warning", "kube-proxy");
    node.run("nft delete table ip kube-proxy").unwrap();
    node.run("nft add table ip filter").unwrap();
    let policy = "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }";
    node.command("nft").arg(policy).status().unwrap();
    patient.must_find("", "rules", "warning", "FORWARD of table filter");
    node.run("nft delete table ip filter").unwrap();
    fs::write(patient.file("cni/10-flannel.conflist"), r#"{"plugins": [{"type": "flannel"}]}"#).unwrap();
    patient.must_find("", "cni", "warning", "10-flannel.conflist");
    fs::remove_file(patient.file("cni/10-flannel.conflist")).unwrap();

    // How the node is set.
    node.sysctl("net.ipv4.ip_forward", "0").unwrap();
    patient.must_find("", "ip_forward", "warning", "is 0");
    node.sysctl("net.ipv4.ip_forward", "1").unwrap();
    for key in ["all", "eth0"] {
        node.sysctl(&format!("net.ipv4.conf.{key}.rp_filter"), "1").unwrap();
    }
    patient.must_find("", "rp_filter", "warning", "strict on eth0");
    node.sysctl("net.ipv4.conf.all.rp_filter", "2").unwrap();
    node.ip("link set eth0 mtu 1300").unwrap();
    patient.must_find("", "mtu", "warning", "leaves 1250");
    node.ip("link set eth0 mtu 9000").unwrap();
    patient.must_find("", "uplink", "error", "does not fit a frame");
    node.ip("link set eth0 mtu 1500").unwrap();

    // What the process may do, and what it is told.
    patient.must_find("setpriv --bounding-set=-net_raw", "capabilities", "error", "CAP_NET_RAW");
    patient.must_find("setpriv --bounding-set=-net_raw", "af_xdp", "error", "no AF_XDP socket");
    patient.must_find("setpriv --bounding-set=-perfmon", "capabilities", "error", "CAP_PERFMON");
    let little = "setpriv --bounding-set=-ipc_lock prlimit --memlock=1048576:1048576";
    patient.must_find(little, "memlock", "error", "64 MiB of frames do not fit");
    patient.configure("[xdp]\nmode = \"generic\"\n");
    patient.must_find("", "xdp", "warning", "generic mode");
    patient.configure("[xdp]\nmode = \"skb\"\n");
    patient.must_find("", "configuration", "error", "xdp.mode");
    patient.configure("");
    assert_eq!(patient.examine("").0, 0);
}
