//! What a node's own processes send to node ports, load balancer addresses and external IPs, with real sockets in the node's
//! namespace and kube-proxy's nftables rules as the oracle.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use shunt_control_lab::{
    change, checks,
    cluster::{Cluster, EndpointPort, Exposure, Policy, Service, ServicePort},
    error::Result,
    for_both_forwarders,
    netns::{End, Namespace, connect},
    plan::{Forwarder, Plan, TCP_PORT, UDP_PORT, UNDERLAY_MTU},
    topology::Lab,
    trial::trial,
    wait,
};
use shunt_dataplane::net::Protocol;

use crate::frontends::{REFUSED, fails};

for_both_forwarders!(every_kind_of_frontend_is_reached, long_packets_and_endpoints_on_nodes);

const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 254);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 75);
const BALANCED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 75);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 75);
const NODE_PORT: u16 = 30_075;
const ALL: [&str; 3] = ["a2", "b1", "c1"];

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// By `lo`, and out of the uplink.
const FRONTENDS: [(Ipv4Addr, u16); 3] = [(NODE_A, NODE_PORT), (BALANCED, 80), (EXTERNAL, 80)];

fn exposure(policy: Policy) -> Exposure {
    Exposure { load_balancer_ips: vec![BALANCED], external_ips: vec![EXTERNAL], ..Exposure::balanced(policy) }
}

/// One endpoint on each node, had everywhere, for TCP and UDP by the same numbers.
fn service(plan: &Plan) -> Service {
    let backends = [plan.nodes[0].pod(2).address, plan.nodes[1].pod(1).address, plan.nodes[2].pod(1).address];
    let port = |name: &str, protocol| ServicePort { name: name.into(), protocol, port: 80, node_port: Some(NODE_PORT) };
    let target = |name: &str, port| EndpointPort { name: name.into(), port };
    Service {
        exposure: Some(exposure(Policy::Cluster)),
        ports: vec![port("stream", Protocol::Tcp), port("datagram", Protocol::Udp)],
        targets: vec![target("stream", TCP_PORT), target("datagram", UDP_PORT)],
        ..Service::simple("everywhere", VIP, Protocol::Tcp, 80, TCP_PORT, backends)
    }
}

/// Runs `body` on node-a, where a router is the way to all that nobody knows.
fn on_the_node(plan: Plan, body: impl FnOnce(&mut Lab) -> Result<()>) {
    trial(plan, |lab| {
        lab.underlay.ip(&format!("addr add {ROUTER}/24 dev br0"))?;
        for node in &lab.nodes {
            node.namespace.sysctl("net.ipv4.ip_forward", "1")?;
            node.namespace.ip(&format!("route add default via {ROUTER}"))?;
        }
        body(lab)
    });
}

fn goes_to(from: &Namespace, protocol: &str, to: SocketAddrV4, backends: &[&str]) -> Result<()> {
    let answers = checks::ask(from, protocol, to, 24 * backends.len() as u32)?;
    let servers: Vec<_> = answers.by_server.keys().map(String::as_str).collect();
    assert_eq!((servers.as_slice(), answers.failed()), (backends, 0), "{to}/{protocol}: {answers:?}");
    Ok(())
}

/// Also of a service with the external policy `Local`, whose endpoints on other nodes are for the node's processes as well.
fn every_kind_of_frontend_is_reached(forwarder: Forwarder) {
    let mut plan = Plan::three_nodes(forwarder);
    let everywhere = service(&plan);
    let c1 = plan.nodes[2].pod(1).address;
    let mut elsewhere = Service::simple("elsewhere", [10, 96, 0, 76].into(), Protocol::Tcp, 81, TCP_PORT, [c1]);
    elsewhere.ports[0].node_port = Some(NODE_PORT + 1);
    elsewhere.exposure = Some(exposure(Policy::Local));
    plan.services = vec![everywhere, elsewhere];
    // The kernel may lack its translation.
    let has_sctp = forwarder == Forwarder::Shunt;
    if has_sctp {
        let mut messages = Service::simple("messages", VIP, Protocol::Sctp, 80, TCP_PORT, [c1]);
        messages.ports[0].node_port = Some(NODE_PORT);
        messages.exposure = Some(exposure(Policy::Cluster));
        plan.services.push(messages);
    }
    on_the_node(plan, |lab| {
        let node = &lab.node("node-a")?.namespace;
        for (address, port) in FRONTENDS {
            goes_to(node, "tcp", at(address, port), &ALL)?;
            goes_to(node, "udp", at(address, port), &ALL)?;
            goes_to(node, "tcp", at(address, port + 1), &["c1"])?;
            if has_sctp {
                goes_to(node, "sctp", at(address, port), &["c1"])?;
            }
            checks::echo(node, at(address, port), 1_000_000)?.must_hold("a transfer");
        }
        if let Ok(shunt) = lab.node("node-a")?.shunt() {
            for (port, told) in [(NODE_PORT, "it is led to the host port"), (NODE_PORT + 9, "past the switch")] {
                let to = at(NODE_A, port).to_string();
                let explained = shunt.ctl(&["explain", &NODE_A.to_string(), &to])?;
                assert!(explained.contains(told), "{to}: {explained}");
            }
        }
        // What is no service's is nobody else's than before.
        fails(node, "tcp", at(NODE_A, NODE_PORT + 9), REFUSED)?;
        let router = lab.serve(&lab.underlay, "router", ROUTER)?;
        checks::reach(node, ROUTER)?.must_hold("the router");
        drop(router);
        Ok(())
    });
}

/// What is longer than the way to pods carries, though `lo` carries 64 KiB and the uplink a full Ethernet frame; and endpoints
/// that are processes of nodes, which announce longer segments than pods.
fn long_packets_and_endpoints_on_nodes(forwarder: Forwarder) {
    let mut plan = Plan::three_nodes(forwarder);
    let [here, there] = [0, 2].map(|at: usize| plan.nodes[at].underlay());
    let mut services = vec![service(&plan)];
    for (number, endpoint) in [(1, here), (2, there)] {
        let vip = [10, 96, 0, 75 + number as u8].into();
        let name = format!("on-node-{number}");
        let mut service = Service::simple(&name, vip, Protocol::Tcp, 80 + number, TCP_PORT, [endpoint]);
        service.ports[0].node_port = Some(NODE_PORT + number);
        service.exposure = Some(exposure(Policy::Cluster));
        services.push(service);
    }
    plan.services = services;
    on_the_node(plan, |lab| {
        let node = &lab.node("node-a")?.namespace;
        for (address, port) in FRONTENDS {
            goes_to(node, "tcp", at(address, port + 1), &["node-a"])?;
            goes_to(node, "tcp", at(address, port + 2), &["node-c"])?;
            for number in [1, 2] {
                checks::echo(node, at(address, port + number), 1_000_000)?.must_hold("a transfer to a node's process");
            }
            // Their sender hears how long they may be: 1500 bytes to the switch, and then 1450. Where it is the node's own
            // address, only sockets opened later know.
            for size in [5000, 1460] {
                checks::stream(node, at(address, port), 100, 2, size)?;
            }
            for size in [1400, 1460, 1472, 1473, 3000, 9000] {
                let stream = checks::stream(node, at(address, port), 100, 20, size)?;
                assert!(stream.is_complete(), "{size} bytes to {address}: {stream:?}");
            }
        }
        Ok(())
    });
}

/// Services come and go, the uplink goes and comes back, and the daemon is killed: what is not the switch's is the kernel's at once.
#[test]
fn services_uplink_and_daemon_come_and_go() {
    let mut plan = Plan::three_nodes(Forwarder::Shunt);
    let everywhere = service(&plan);
    plan.services = vec![everywhere.clone()];
    on_the_node(plan, |lab| {
        let to = at(NODE_A, NODE_PORT);
        let tell = |lab: &Lab, service: Service| {
            let cluster = Cluster { services: vec![service], ..Cluster::default() };
            lab.node("node-a")?.shunt()?.apply(&cluster, &[]).map(drop)
        };
        goes_to(&lab.node("node-a")?.namespace, "tcp", to, &ALL)?;
        let mut inside = Service { exposure: None, ..everywhere.clone() };
        inside.ports.iter_mut().for_each(|port| port.node_port = None);
        tell(lab, inside)?;
        fails(&lab.node("node-a")?.namespace, "tcp", to, REFUSED)?;
        tell(lab, everywhere.clone())?;
        goes_to(&lab.node("node-a")?.namespace, "tcp", to, &ALL)?;

        // Another interface of the same name.
        let node = lab.node("node-a")?;
        node.namespace.ip("link del eth0")?;
        let (here, there) = (&node.namespace, &lab.underlay);
        let ends = [(here, "eth0"), (there, "node-a")].map(|(namespace, interface)| End { namespace, interface });
        connect(ends[0], ends[1], 1, UNDERLAY_MTU)?;
        there.ip("link set node-a master br0")?;
        here.ip(&format!("addr add {NODE_A}/24 dev eth0"))?;
        here.ip(&format!("route add default via {ROUTER}"))?;
        for to in [to, at(BALANCED, 80)] {
            wait::until(&format!("{to} to be reached"), Duration::from_secs(10), || {
                let answers = checks::ask(here, "tcp", to, 1).map_err(|error| error.to_string())?;
                if answers.failed() == 0 { Ok(()) } else { Err(answers.table()) }
            })?;
            goes_to(here, "udp", to, &ALL)?;
        }

        let held = change::hold(lab, &lab.node("node-a")?.namespace, at(BALANCED, 80), Duration::from_secs(3))?;
        change::restart_under(lab, "node-a", change::End::Kill, held)?.must_hold("a connection");
        goes_to(&lab.node("node-a")?.namespace, "udp", to, &ALL)
    });
}
