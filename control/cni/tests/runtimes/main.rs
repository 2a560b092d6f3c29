//! The plugin, driven by container runtimes that nobody here wrote.

mod containerd;
mod cri;
mod daemon_set;
mod engine;
mod machine;
mod manifest;
mod podman;
mod storm;

use std::{net::Ipv4Addr, time::Duration};

use shunt_control_lab::{
    cluster::{Cluster, Service},
    error::{LabError, Result},
    plan::{Forwarder, Plan},
    tools,
    topology::Lab,
    trial::trial,
    wait,
};
use shunt_dataplane::net::Protocol;

use crate::{
    containerd::Containerd,
    engine::{Engine, PORT, ask, greeting},
    machine::Machine,
    podman::Podman,
};

/// The node's port at which the first container is published.
const PUBLISHED: u16 = 8081;

/// node-a, whose pods are the runtime's, and node-c, forwarded by the kernel, with one pod of the lab's.
fn plan() -> Plan {
    let mut plan = Plan::three_nodes(Forwarder::Shunt);
    plan.nodes.remove(1);
    plan.nodes[0].pods = 0;
    plan.services.clear();
    plan
}

#[test]
fn podman() {
    trial(plan(), |lab| {
        let machine = Machine::start(lab)?;
        let podman = Podman::start(&machine)?;
        live(lab, &machine, &podman)?;
        storm::storm(lab, &machine, &podman)
    });
}

#[test]
fn containerd() {
    trial(plan(), |lab| {
        let machine = Machine::start(lab)?;
        let containerd = Containerd::start(&machine)?;
        live(lab, &machine, &containerd)?;
        storm::storm(lab, &machine, &containerd)
    });
}

/// Containers reach one another, themselves by a service, other nodes' pods and the node, and are reached; also when the
/// daemon was killed in between.
fn live(lab: &mut Lab, machine: &Machine, engine: &dyn Engine) -> Result<()> {
    // As on every node of Kubernetes: answers to who is outside take the kernel's way.
    lab.node("node-a")?.namespace.sysctl("net.ipv4.ip_forward", "1")?;
    let started = std::time::Instant::now();
    engine.start("one", Some(PUBLISHED))?;
    println!("the first container is there after {:?}", started.elapsed());
    engine.start("other", None)?;
    let (one, other) = (address(engine, "one")?, address(engine, "other")?);
    let vip = Ipv4Addr::new(10, 96, 0, 80);
    let service = Service::simple("both", vip, Protocol::Tcp, 80, PORT, [one, other]);
    lab.node("node-a")?.shunt()?.apply(&Cluster { services: vec![service], ..Cluster::default() }, &[])?;
    reach(lab, engine, one, other, vip)?;

    let (shunt, namespace) = lab.node_mut("node-a")?.shunt_mut()?;
    shunt.kill()?;
    // Without it the runtime cannot do its work, and says so.
    let refused = engine.start("late", None).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("shuntd does not answer"), "{refused}");
    shunt.launch(namespace)?;
    reach(lab, engine, one, other, vip)?;
    engine.sweep()?;
    assert_eq!(leftovers(lab, machine)?, Vec::<String>::new());
    Ok(())
}

fn reach(lab: &Lab, engine: &dyn Engine, one: Ipv4Addr, other: Ipv4Addr, vip: Ipv4Addr) -> Result<()> {
    assert_eq!(engine.exec("one", &ask(other, PORT))?.trim(), "other");
    assert_eq!(engine.exec("other", &ask(one, PORT))?.trim(), "one");
    // Of so many flows to a service of both, some come back to who asked.
    for from in ["one", "other"] {
        let script = format!("for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do {}; done", ask(vip, 80));
        let answers = engine.exec(from, &script)?;
        assert_eq!(answers.lines().count(), 16, "{from}: {answers}");
        assert!(answers.contains("one") && answers.contains("other"), "{from}: {answers}");
    }
    // The node, another node's pod, and back.
    let remote = lab.pod("c1")?;
    for from in [&lab.node("node-a")?.namespace, &remote.namespace] {
        assert_eq!(tools::curl(from, &format!("http://{one}:{PORT}/"))?.trim(), "one", "from {}", from.name());
    }
    // By the node's port: from another machine, from a container, and back to where it leads.
    let node = lab.node("node-a")?.plan.underlay();
    let published = tools::curl(&lab.node("node-c")?.namespace, &format!("http://{node}:{PUBLISHED}/"))?;
    assert_eq!(published.trim(), "one");
    for from in ["one", "other"] {
        assert_eq!(engine.exec(from, &ask(node, PUBLISHED))?.trim(), "one", "from {from}");
    }
    for (to, name) in [(remote.address(), "c1"), (lab.node("node-a")?.plan.overlay(), "node-a")] {
        let greeting = engine.exec("one", &greeting(to))?;
        assert!(greeting.starts_with(name), "{to}: {greeting}");
    }
    Ok(())
}

/// The address of a container's `eth0`, as it sees it.
fn address(engine: &dyn Engine, name: &str) -> Result<Ipv4Addr> {
    let text = engine.exec(name, "ip -4 -o addr show dev eth0")?;
    let address = text.split_whitespace().skip_while(|word| *word != "inet").nth(1);
    let address = address.and_then(|address| address.strip_suffix("/32")?.parse().ok());
    address.ok_or_else(|| LabError::Unknown(format!("{name} has no address of its own: {text}")))
}

/// What is left of containers on the node, once the kernel has removed what belongs to namespaces that are gone.
fn leftovers(lab: &Lab, machine: &Machine) -> Result<Vec<String>> {
    let node = lab.node("node-a")?;
    let look = || -> Result<Vec<String>> {
        let mut left = machine.list(&format!("/var/lib/cni/networks/{}", machine.network()))?;
        left.retain(|name| name.parse::<Ipv4Addr>().is_ok());
        left.extend(machine.list("/run/netns")?);
        let links = node.namespace.ip("-o link show type veth")?;
        left.extend(links.lines().filter(|line| line.contains(": pod")).map(str::to_owned));
        let ports = node.shunt()?.ctl_json(&["list", "ports"])?;
        left.extend(ports["port"].as_array().into_iter().flatten().map(|port| port["name"].to_string()));
        Ok(left)
    };
    // A tie is no failure of the wait: the caller says what it expects.
    let quiet = wait::until("nothing to be left", Duration::from_secs(5), || match look() {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(left.join(", ")),
        Err(error) => Err(error.to_string()),
    });
    if quiet.is_ok() { Ok(Vec::new()) } else { look() }
}
