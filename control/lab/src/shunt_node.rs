//! A node forwarded by Shunt: its daemon, configured, started, asked and stopped as an operator would.

use std::{
    fs, iter,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    binaries,
    cluster::Cluster,
    command::{Background, run},
    counters::{Counters, Drop},
    error::{LabError, Result, command_line},
    netns::Namespace,
    plan::{
        CLUSTER_CIDR, FRAMES, IPV6_CLUSTER_CIDR, IPV6_SERVICE_CIDR, NodePlan, Plan, Routing, SERVICE_CIDR, VNI,
        VXLAN_PORT,
    },
    wait,
};

/// How long a daemon may take until it answers. Loading the classifier and allocating tables take far less.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Flows that a lab's daemon has room for: more than any check makes, and quickly allocated.
const FLOWS: u32 = 65_536;
/// How an operator's service manager runs it.
const UNIT: &str = include_str!("../../../configs/shuntd.service");

/// A daemon in a node's namespace.
#[derive(Debug)]
pub struct ShuntNode {
    folder: PathBuf,
    daemon: Option<Background>,
}

#[derive(Serialize)]
struct Config<'a> {
    node: Node,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<Ipv6>,
    uplink: Interface<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vxlan: Option<Vxlan>,
    masquerade: Masquerade,
    host: Interface<'a>,
    #[serde(flatten)]
    machine: Machine,
    xdp: Xdp<'a>,
}
/// What is this machine's and the lab's, whatever else a configuration says.
#[derive(Serialize)]
struct Machine {
    workers: Workers,
    conntrack: Conntrack,
    api: Api,
    state: State,
}
#[derive(Serialize)]
struct Node {
    name: String,
    pod_cidr: String,
    cluster_cidr: &'static str,
    service_cidr: &'static str,
}
#[derive(Serialize)]
struct Ipv6 {
    pod_cidr: String,
    cluster_cidr: &'static str,
    service_cidr: &'static str,
}
#[derive(Serialize)]
struct Interface<'a> {
    interface: &'a str,
}
#[derive(Serialize)]
struct Vxlan {
    vni: u32,
    port: u16,
    mac: String,
}
#[derive(Serialize)]
struct Masquerade {
    egress: bool,
}
#[derive(Serialize)]
struct Workers {
    cores: Vec<usize>,
    frames: u32,
}
#[derive(Serialize)]
struct Conntrack {
    flows: u32,
}
#[derive(Serialize)]
struct Api {
    socket: PathBuf,
}
#[derive(Serialize)]
struct State {
    dir: PathBuf,
}
#[derive(Serialize)]
struct Xdp<'a> {
    mode: &'a str,
}

impl ShuntNode {
    /// Writes the daemon's configuration into `folder` and starts it in `namespace`.
    pub fn start(namespace: &Namespace, folder: &Path, node: &NodePlan, plan: &Plan) -> Result<ShuntNode> {
        let mut this = ShuntNode { folder: folder.to_owned(), daemon: None };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let config = Config {
            node: Node {
                name: node.name(),
                pod_cidr: node.pod_cidr().to_string(),
                cluster_cidr: CLUSTER_CIDR,
                service_cidr: SERVICE_CIDR,
            },
            ipv6: node.ipv6_pod_cidr().map(|pod_cidr| Ipv6 {
                pod_cidr: pod_cidr.to_string(),
                cluster_cidr: IPV6_CLUSTER_CIDR,
                service_cidr: IPV6_SERVICE_CIDR,
            }),
            uplink: Interface { interface: "eth0" },
            vxlan: (plan.routing == Routing::Overlay).then(|| Vxlan {
                vni: VNI,
                port: VXLAN_PORT,
                mac: node.vtep_mac().to_string(),
            }),
            masquerade: Masquerade { egress: plan.egress },
            host: Interface { interface: "shunt0" },
            // Nodes begin at different cores, so that two of them with one worker each do not share one.
            machine: this.machine(
                (0..plan.workers).map(|at| (at + usize::from(node.number()) - 1) % cores).collect(),
                plan.frames,
            ),
            xdp: Xdp { mode: plan.xdp_mode },
        };
        let table = plan.config.map_or_else(|| tables(&config), |theirs| written_over(&theirs(node), &config));
        this.write("shuntd.toml", &table.to_string())?;
        this.launch(namespace)?;
        Ok(this)
    }

    /// A daemon that is to run by the `shuntd.toml` that lies in `folder`: paths, cores and sizes become the lab's.
    pub fn configured(folder: &Path) -> Result<ShuntNode> {
        let this = ShuntNode { folder: folder.to_owned(), daemon: None };
        let path = folder.join("shuntd.toml");
        let text = fs::read_to_string(&path).map_err(|source| LabError::File { path, source })?;
        let mut table: toml::Table = text.parse().expect("a configuration is TOML");
        table.extend(tables(&this.machine(vec![0], FRAMES)));
        this.write("shuntd.toml", &table.to_string())?;
        Ok(this)
    }

    fn machine(&self, cores: Vec<usize>, frames: u32) -> Machine {
        Machine {
            workers: Workers { cores, frames },
            conntrack: Conntrack { flows: FLOWS },
            api: Api { socket: self.socket() },
            state: State { dir: self.folder.join("state") },
        }
    }

    /// Starts the daemon with the configuration that lies in its folder and no more capabilities than its unit gives it, and
    /// waits until it answers.
    pub fn launch(&mut self, namespace: &Namespace) -> Result<()> {
        let mut command = namespace.command("setpriv");
        command.args(["--no-new-privs", "--bounding-set", &bounding_set()]).arg(binaries::find("shuntd")?);
        command.arg("--config").arg(self.folder.join("shuntd.toml"));
        self.daemon = Some(Background::start(&mut command, &self.folder.join("shuntd.log"))?);
        wait::until("shuntd to answer `shuntctl status`", START_LIMIT, || {
            let daemon = self.daemon.as_mut().expect("just started");
            if let Some(status) = daemon.ended() {
                return Ok(Err(LabError::Failed {
                    command: daemon.line().to_owned(),
                    status: status.to_string(),
                    output: daemon.log(),
                }));
            }
            self.ctl(&["status"]).map(|_| Ok(()))
        })?
    }

    /// Runs `shuntctl` against this daemon and returns what it prints.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        run(&mut self.ctl_command(args)?)
    }

    /// Runs `shuntctl ... -o json` against this daemon.
    pub fn ctl_json(&self, args: &[&str]) -> Result<Value> {
        let mut command = self.ctl_command(args)?;
        command.args(["-o", "json"]);
        let output = run(&mut command)?;
        serde_json::from_str(&output).map_err(|error| LabError::Unreadable {
            command: command_line(&command),
            reason: error.to_string(),
            output,
        })
    }

    /// What it counts.
    pub fn counters(&self) -> Result<Counters> {
        read(&["counters"], self.ctl_json(&["counters"])?)
    }

    /// What it drops.
    pub fn drops(&self) -> Result<Vec<Drop>> {
        read(&["drops"], self.ctl_json(&["drops"])?["drops"].take())
    }

    /// Packets it has dropped for `reason`.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        let drops = self.drops()?;
        Ok(drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum())
    }

    /// `shuntctl` with this daemon's socket, ready to run.
    pub fn ctl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "30"]).arg(binaries::find("shuntctl")?).arg("--socket").arg(self.socket());
        command.args(args);
        Ok(command)
    }

    /// Writes `cluster` into a file and applies it; `more` are further arguments of `shuntctl apply`.
    pub fn apply(&self, cluster: &Cluster, more: &[&str]) -> Result<String> {
        let text = toml::to_string(cluster).expect("a cluster file has only strings, numbers and lists of them");
        let path = self.write("cluster.toml", &text)?;
        let path = path.to_string_lossy();
        self.ctl(&[&["apply", "-f", &path], more].concat())
    }

    /// The running daemon.
    ///
    /// # Errors
    /// [`LabError::Unknown`] while it is stopped.
    pub fn daemon(&self) -> Result<&Background> {
        self.daemon.as_ref().ok_or_else(|| LabError::Unknown("the daemon is stopped".to_owned()))
    }

    /// Ends the daemon as a service manager does, with SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            let line = daemon.line().to_owned();
            let log = daemon.log();
            let status = daemon.stop(STOP_LIMIT)?;
            if !status.success() {
                return Err(LabError::Failed { command: line, status: status.to_string(), output: log });
            }
        }
        Ok(())
    }

    /// Ends the daemon as a crash does, with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal("KILL")?;
            daemon.wait(STOP_LIMIT)?;
        }
        Ok(())
    }

    /// Its API's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("shuntd.sock")
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(|source| LabError::File { path: path.clone(), source })?;
        Ok(path)
    }
}

/// The capabilities that the daemon's systemd unit grants it.
///
/// # Panics
/// If the unit has no set of them.
pub fn capabilities() -> Vec<&'static str> {
    let mut lines = UNIT.lines();
    let list = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("the unit has a set");
    list.split_whitespace().collect()
}

/// The unit's capabilities as `setpriv` takes them.
fn bounding_set() -> String {
    let names = capabilities().into_iter().filter_map(|name| name.strip_prefix("CAP_"));
    iter::once("-all".to_owned())
        .chain(names.map(|name| format!("+{}", name.to_lowercase())))
        .collect::<Vec<_>>()
        .join(",")
}

fn tables(config: &impl Serialize) -> toml::Table {
    toml::Table::try_from(config).expect("a configuration has only strings, numbers and lists of them")
}

/// The configuration `text` on this machine and for this node.
fn written_over(text: &str, ours: &Config<'_>) -> toml::Table {
    let mut table: toml::Table = text.parse().expect("a configuration is TOML");
    table.extend(tables(&ours.machine));
    let ours = tables(ours);
    for (section, keys) in [("node", &["name", "pod_cidr"][..]), ("vxlan", &["mac"])] {
        if let (Some(toml::Value::Table(theirs)), Some(ours)) = (table.get_mut(section), ours.get(section)) {
            theirs.extend(keys.iter().map(|key| ((*key).to_owned(), ours[*key].clone())));
        }
    }
    table
}

fn read<T: DeserializeOwned>(args: &[&str], value: Value) -> Result<T> {
    T::deserialize(&value).map_err(|error| LabError::Unreadable {
        command: format!("shuntctl {} -o json", args.join(" ")),
        reason: error.to_string(),
        output: value.to_string(),
    })
}
