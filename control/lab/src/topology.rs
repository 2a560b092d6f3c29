//! A built lab: namespaces, cables, nodes, pods and the servers in them.

use std::{
    env, fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    binaries, capability,
    command::Background,
    error::{LabError, Result},
    kernel_node,
    netns::{End, Namespace, connect},
    plan::{Forwarder, GATEWAY, IPV6_GATEWAY, NodePlan, Plan, PodPlan, TCP_PORT, UDP_PORT, UNDERLAY_MTU},
    shunt_node::ShuntNode,
    tidy::Tidy,
    tools, wait,
};

/// Begins the name of each namespace and directory that a lab makes; the process id follows.
pub const PREFIX: &str = "shuntlab";

/// How long a cable may take until it carries packets.
const LINK_LIMIT: Duration = Duration::from_secs(10);

static LABS: AtomicU32 = AtomicU32::new(0);

/// A pod: a namespace with one interface, `eth0`.
#[derive(Debug)]
pub struct Pod {
    /// Its place in the plan.
    pub plan: PodPlan,
    /// Its namespace.
    pub namespace: Namespace,
    /// What it serves by.
    pub server: Background,
}

impl Pod {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.plan.address
    }

    /// Its IPv6 address.
    ///
    /// # Errors
    /// [`LabError::Unknown`] if it has none.
    pub fn ipv6(&self) -> Result<Ipv6Addr> {
        self.plan.ipv6.ok_or_else(|| LabError::Unknown(format!("{} has no IPv6 address", self.plan.name)))
    }

    /// Switches a NIC feature of `eth0` on or off, as `ethtool -K` names it.
    pub fn offload(&self, feature: &str, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        self.namespace.run(&format!("ethtool -K eth0 {feature} {state}")).map(drop)
    }
}

/// A node: a namespace with the underlay on `eth0` and one veth per pod.
#[derive(Debug)]
pub struct Node {
    /// Its place in the plan.
    pub plan: NodePlan,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its pods.
    pub pods: Vec<Pod>,
    shunt: Option<ShuntNode>,
    _server: Background,
}

impl Node {
    /// Its daemon.
    ///
    /// # Errors
    /// [`LabError::Unknown`] if the kernel forwards here.
    pub fn shunt(&self) -> Result<&ShuntNode> {
        self.shunt.as_ref().ok_or_else(|| no_daemon(&self.plan))
    }

    /// Its daemon, to stop and start it.
    ///
    /// # Errors
    /// [`LabError::Unknown`] if the kernel forwards here.
    pub fn shunt_mut(&mut self) -> Result<(&mut ShuntNode, &Namespace)> {
        match &mut self.shunt {
            Some(shunt) => Ok((shunt, &self.namespace)),
            None => Err(no_daemon(&self.plan)),
        }
    }
}

fn no_daemon(plan: &NodePlan) -> LabError {
    LabError::Unknown(format!("{} has no daemon: the kernel forwards there", plan.name()))
}

/// A built lab. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    /// What it was built from.
    pub plan: Plan,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// The underlay's switch: a bridge with one port per node, named as the node. Everything nodes send to one another
    /// can be seen here as it is on the wire.
    pub underlay: Namespace,
    folder: PathBuf,
    name: String,
    _tidy: Tidy,
}

impl Lab {
    /// Builds the plan: namespaces and cables, then daemons, pods and servers, and tells each node its cluster.
    ///
    /// # Errors
    /// [`LabError::Capability`] if this machine lacks something; otherwise what failed. What was made is removed.
    pub fn build(plan: Plan) -> Result<Lab> {
        let mut lab = Lab::bare(plan)?;
        for at in 0..lab.nodes.len() {
            let planned = lab.nodes[at].plan.pods();
            for pod in planned {
                lab.plug(at, pod)?;
            }
            lab.tell(at)?;
        }
        lab.settle()?;
        Ok(lab)
    }

    /// Builds the nodes without their pods; Shunt nodes know no cluster yet.
    pub fn bare(plan: Plan) -> Result<Lab> {
        capability::check()?;
        let name = format!("{PREFIX}-{}-{}", process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let folder = env::temp_dir().join(&name);
        let tidy = Tidy::directory(&folder);
        make_folder(&folder)?;
        let underlay = Namespace::create(&format!("{name}-underlay"))?;
        // With an address of its own: else it takes its ports' lowest one, another whenever a port with a lower one comes.
        underlay.ip("link add br0 address 0a:58:ff:00:00:01 type bridge")?;
        underlay.ip("link set br0 up")?;
        let mut lab = Lab { plan, nodes: Vec::new(), underlay, folder, name, _tidy: tidy };
        for node in lab.plan.nodes.clone() {
            lab.add_node(node)?;
        }
        Ok(lab)
    }

    fn add_node(&mut self, plan: NodePlan) -> Result<()> {
        let name = plan.name();
        let namespace = Namespace::create(&format!("{}-{name}", self.name))?;
        let here = End { namespace: &namespace, interface: "eth0" };
        connect(here, End { namespace: &self.underlay, interface: &name }, self.plan.workers, UNDERLAY_MTU)?;
        self.underlay.ip(&format!("link set {name} master br0"))?;
        namespace.ip(&format!("addr add {}/24 dev eth0", plan.underlay()))?;
        let shunt = match plan.forwarder {
            Forwarder::Kernel => {
                kernel_node::set_up(&namespace, &plan, &self.plan)?;
                None
            }
            Forwarder::Shunt => {
                let folder = self.folder.join(&name);
                make_folder(&folder)?;
                Some(ShuntNode::start(&namespace, &folder, &plan, &self.plan)?)
            }
        };
        let server = self.serve(&namespace, &name, plan.overlay())?;
        self.nodes.push(Node { plan, namespace, pods: Vec::new(), shunt, _server: server });
        Ok(())
    }

    /// Makes a pod, connects it to its node and starts the lab's servers in it. A Shunt node is not told.
    pub fn plug(&mut self, node: usize, plan: PodPlan) -> Result<()> {
        let namespace = Namespace::create(&format!("{}-pod-{}", self.name, plan.name))?;
        let here = End { namespace: &namespace, interface: "eth0" };
        let there = End { namespace: &self.nodes[node].namespace, interface: &plan.interface };
        connect(here, there, self.plan.workers, self.plan.pod_mtu)?;
        namespace.ip(&format!("link set eth0 address {}", plan.mac))?;
        namespace.ip(&format!("addr add {}/32 dev eth0", plan.address))?;
        namespace.ip(&format!("route add {GATEWAY} dev eth0 scope link"))?;
        namespace.ip(&format!("route add default via {GATEWAY} dev eth0"))?;
        if let Some(address) = plan.ipv6 {
            // Without duplicate address detection: it is usable at once, and given by who knows that it is the only one.
            namespace.ip(&format!("addr add {address}/128 dev eth0 nodad"))?;
            namespace.ip(&format!("route add default via {IPV6_GATEWAY} dev eth0"))?;
        }
        if self.nodes[node].plan.forwarder == Forwarder::Kernel {
            kernel_node::add_pod(&self.nodes[node].namespace, &plan)?;
        }
        let places: Vec<_> = plan.addresses().map(|address| SocketAddr::new(address, UDP_PORT)).collect();
        let server = self.serve_at(&namespace, &plan.name, TCP_PORT, &places)?;
        carries(&namespace, "eth0")?;
        carries(&self.nodes[node].namespace, &plan.interface)?;
        self.nodes[node].pods.push(Pod { plan, namespace, server });
        Ok(())
    }

    /// Waits until each cable carries packets. The kernel notices that a link is up a little later, up to a second when
    /// many come up, and drops what is sent before.
    fn settle(&self) -> Result<()> {
        for node in &self.nodes {
            carries(&node.namespace, "eth0")?;
            carries(&self.underlay, &node.plan.name())?;
        }
        wait::until("the underlay's bridge to forward", LINK_LIMIT, || {
            let ports = self.underlay.run("bridge link show").map_err(|error| error.to_string())?;
            if ports.lines().all(|port| port.contains("state forwarding")) { Ok(()) } else { Err(ports) }
        })
    }

    /// Removes a pod with its namespace and veth.
    pub fn unplug(&mut self, name: &str) -> Result<()> {
        let holds = |node: &&mut Node| node.pods.iter().any(|pod| pod.plan.name == name);
        let node = self.nodes.iter_mut().find(holds).ok_or_else(|| unknown("pod", name))?;
        for pod in node.pods.extract_if(.., |pod| pod.plan.name == name) {
            // The kernel takes a namespace's devices down some time after the namespace has gone; a new veth may need
            // this one's name before.
            node.namespace.ip(&format!("link del {}", pod.plan.interface))?;
        }
        Ok(())
    }

    /// Tells a Shunt node the cluster as planned; a kernel node knows it from the start.
    fn tell(&self, node: usize) -> Result<()> {
        let node = &self.nodes[node];
        match &node.shunt {
            Some(shunt) => shunt.apply(&self.plan.cluster_for(&node.plan), &[]).map(drop),
            None => Ok(()),
        }
    }

    /// Starts the lab's servers in a pod's or node's namespace; `name` is what they answer.
    pub fn serve(&self, namespace: &Namespace, name: &str, address: Ipv4Addr) -> Result<Background> {
        self.serve_at(namespace, name, TCP_PORT, &[SocketAddr::new(address.into(), UDP_PORT)])
    }

    /// Starts the lab's servers on other ports than its own, for UDP at each of these places, and waits until they listen.
    pub fn serve_at(&self, namespace: &Namespace, name: &str, tcp: u16, udp: &[SocketAddr]) -> Result<Background> {
        let mut command = namespace.command(binaries::find("shunt-lab")?);
        command.args(["serve", "--name", name, "--tcp", &tcp.to_string()]);
        for place in udp {
            command.args(["--udp", &place.to_string()]);
        }
        let server = Background::start(&mut command, &self.log(&format!("server-{name}")))?;
        // TCP's socket is made last.
        tools::await_listener(namespace, &tcp.to_string())?;
        Ok(server)
    }

    /// A station on the underlay that is no node: 192.168.50.`number`.
    pub fn outsider(&self, name: &str, number: u8) -> Result<Namespace> {
        let namespace = Namespace::create(&format!("{}-{name}", self.name))?;
        let here = End { namespace: &namespace, interface: "eth0" };
        connect(here, End { namespace: &self.underlay, interface: name }, 1, UNDERLAY_MTU)?;
        self.underlay.ip(&format!("link set {name} master br0"))?;
        namespace.ip(&format!("addr add 192.168.50.{number}/24 dev eth0"))?;
        carries(&namespace, "eth0")?;
        carries(&self.underlay, name)?;
        Ok(namespace)
    }

    /// The pod with this name (`a1`).
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let mut pods = self.nodes.iter().flat_map(|node| &node.pods);
        pods.find(|pod| pod.plan.name == name).ok_or_else(|| unknown("pod", name))
    }

    /// The node with this name (`node-a`).
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.plan.name() == name).ok_or_else(|| unknown("node", name))
    }

    /// The namespace of a pod or node, and its address on the overlay.
    pub fn station(&self, name: &str) -> Result<(&Namespace, Ipv4Addr)> {
        match self.node(name) {
            Ok(node) => Ok((&node.namespace, node.plan.overlay())),
            Err(_) => self.pod(name).map(|pod| (&pod.namespace, pod.address())),
        }
    }

    /// The node with this name, to stop and start its daemon.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.plan.name() == name).ok_or_else(|| unknown("node", name))
    }

    /// Each Shunt node with its daemon.
    pub fn daemons(&self) -> impl Iterator<Item = (&Node, &ShuntNode)> {
        self.nodes.iter().filter_map(|node| Some((node, node.shunt.as_ref()?)))
    }

    /// Begins the names of all of this lab's namespaces.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's directory: logs, configurations, captures.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file for a program's output.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

fn carries(namespace: &Namespace, interface: &str) -> Result<()> {
    wait::until(&format!("{interface} in {} to be up", namespace.name()), LINK_LIMIT, || {
        let link = namespace.ip(&format!("-o link show dev {interface}")).map_err(|error| error.to_string())?;
        if link.contains(" state UP ") { Ok(()) } else { Err(link) }
    })
}

fn unknown(what: &str, name: &str) -> LabError {
    LabError::Unknown(format!("this lab has no {what} {name}"))
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| LabError::File { path: path.to_owned(), source })
}
