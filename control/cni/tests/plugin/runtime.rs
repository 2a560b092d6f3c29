//! A runtime in a few lines: starts the plugin in a node's namespace, with the environment and input of the specification.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Child, Stdio},
};

use serde_json::{Value, json};
use shunt_control_lab::{
    netns::Namespace,
    plan::{Forwarder, Plan},
    topology::Lab,
};

/// Where Debian's plugins are (package containernetworking-plugins).
pub const PLUGINS: &str = "/usr/lib/cni";

/// The name of the tests' network.
pub const NETWORK: &str = "testnet";

/// node-a with one pod of the lab's and node-c, forwarded by the kernel, with another. Both nodes have both families.
pub fn plan() -> Plan {
    let mut plan = Plan::dual_stack(Forwarder::Shunt);
    plan.nodes.remove(1);
    plan.nodes[0].pods = 1;
    plan.services.clear();
    plan
}

/// A node's runtime.
pub struct Runtime<'a> {
    lab: &'a Lab,
    node: &'a Namespace,
    /// The configuration; `cniVersion` may be changed.
    pub config: Value,
    data: PathBuf,
}

/// What the plugin answered: its exit code's goodness, and what it printed.
#[derive(Debug)]
pub struct Answer {
    pub succeeded: bool,
    pub output: Value,
}

impl Answer {
    #[track_caller]
    pub fn result(self) -> Value {
        assert!(self.succeeded, "{}", self.output);
        self.output
    }

    /// The code of the error that it must be, which says what to do and is printed as JSON.
    #[track_caller]
    pub fn code(&self) -> u64 {
        assert!(!self.succeeded, "it succeeded: {}", self.output);
        assert!(self.output["msg"].as_str().is_some_and(|message| !message.is_empty()), "{}", self.output);
        self.output["code"].as_u64().expect("a code")
    }

    pub fn message(&self) -> &str {
        self.output["msg"].as_str().unwrap_or_default()
    }
}

impl<'a> Runtime<'a> {
    pub fn new(lab: &'a Lab) -> Runtime<'a> {
        let data = lab.folder().join("addresses");
        let config = json!({
            "cniVersion": "1.1.0",
            "name": NETWORK,
            "type": "shunt-cni",
            "socket": lab.folder().join("node-a/shuntd.sock"),
            // node-a's own pod has the first of those that are left out.
            "ipam": { "dataDir": data, "ranges": [[{ "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.50" }]] },
        });
        Runtime { lab, node: &lab.node("node-a").expect("it is there").namespace, config, data }
    }

    /// A container: a network namespace with its loopback device up.
    pub fn container(&self, id: &str) -> Container {
        let namespace = Namespace::create(&format!("{}-ctr-{id}", self.lab.name())).expect("a namespace");
        Container { id: id.to_owned(), namespace }
    }

    /// Starts the plugin with these variables and what stands on its standard input.
    pub fn start(&self, variables: &[(&str, &str)], input: &Value) -> Child {
        let mut command = self.node.command(env!("CARGO_BIN_EXE_shunt-cni"));
        command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default());
        command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("nsenter runs");
        // It may end without reading all of it.
        let _ = child.stdin.take().expect("it is piped").write_all(input.to_string().as_bytes());
        child
    }

    pub fn run(&self, variables: &[(&str, &str)], input: &Value) -> Answer {
        let output = self.start(variables, input).wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let printed = if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        Answer { succeeded: output.status.success(), output: printed }
    }

    /// A command about a container's `eth0`, with `more` in the configuration.
    pub fn call(&self, command: &str, container: &Container, more: Value) -> Answer {
        self.run(&container.variables(command).each_ref().map(|(n, v)| (*n, v.as_str())), &self.with(more))
    }

    pub fn with(&self, more: Value) -> Value {
        let mut config = self.config.clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    #[track_caller]
    pub fn add(&self, container: &Container) -> Value {
        self.call("ADD", container, json!({})).result()
    }

    #[track_caller]
    pub fn del(&self, container: &Container) {
        self.call("DEL", container, json!({})).result();
    }

    /// A file in the lab's directory.
    pub fn scratch(&self, name: &str, text: &str) -> String {
        let path = self.lab.folder().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// What there is of containers on the node: interfaces, reserved addresses, ports of the switch.
    pub fn traces(&self) -> Traces {
        let links = self.node.ip("-o link show type veth").expect("ip runs");
        let is_pod = |line: &&str| line.split_whitespace().nth(1).is_some_and(|name| name.starts_with("pod"));
        let files = fs::read_dir(self.data.join(NETWORK)).into_iter().flatten().flatten();
        let files = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let shunt = self.lab.node("node-a").and_then(|node| node.shunt()).expect("it is there");
        let ports = shunt.ctl_json(&["list", "ports"]).map(|json| json["port"].as_array().cloned().unwrap_or_default());
        let ports = ports.unwrap_or_default().into_iter().filter_map(|port| Some(port["name"].as_str()?.to_owned()));
        Traces {
            links: links.lines().filter(is_pod).map(|line| line.to_owned()).collect(),
            addresses: files.filter(|name| name.parse::<IpAddr>().is_ok()).collect(),
            ports: ports.filter(|name| name.starts_with("cni/")).collect(),
        }
    }
}

/// What containers have on a node.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traces {
    pub links: Vec<String>,
    pub addresses: Vec<String>,
    pub ports: Vec<String>,
}

/// A container.
pub struct Container {
    pub id: String,
    pub namespace: Namespace,
}

impl Container {
    pub fn netns(&self) -> String {
        format!("/run/netns/{}", self.namespace.name())
    }

    /// The environment of a command about its `eth0`.
    pub fn variables(&self, command: &str) -> [(&'static str, String); 5] {
        [
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", self.id.clone()),
            ("CNI_NETNS", self.netns()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", PLUGINS.to_owned()),
        ]
    }
}

/// A set of ranges of each family.
pub fn both_families() -> Value {
    json!([
        [{ "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.50" }],
        [{ "subnet": "fd00:10:244:1::/64", "rangeStart": "fd00:10:244:1::50" }],
    ])
}

/// The IPv6 address in a result.
#[track_caller]
pub fn ipv6_address(result: &Value) -> Ipv6Addr {
    let text = result["ips"][1]["address"].as_str().expect("a second address");
    text.strip_suffix("/128").expect("of one host").parse().expect("IPv6")
}

/// The address in a result.
#[track_caller]
pub fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().expect("an address");
    text.strip_suffix("/32").expect("of one host").parse().expect("IPv4")
}
