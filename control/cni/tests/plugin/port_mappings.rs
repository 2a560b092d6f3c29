//! The capability `portMappings`: ports of the node that lead to containers.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Value, json};
use shunt_control_lab::{
    checks,
    cluster::{Cluster, Exposure, Policy, Service},
    error::Result,
    netns::Namespace,
    plan::{TCP_PORT, UDP_PORT},
    topology::Lab,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

use crate::runtime::{Container, NETWORK, PLUGINS, Runtime, Traces, address, plan};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// The node's ports that lead to the lab's server, by protocol.
const TCP: u16 = 8000;
const UDP: u16 = 8053;
/// Where a process of the node listens.
const TAKEN: u16 = 9000;
const NODE_PORT: u16 = 30_080;

fn mapping(host_port: u16, container_port: u16, protocol: &str) -> Value {
    json!({ "hostPort": host_port, "containerPort": container_port, "protocol": protocol })
}

fn asking(mappings: &[Value]) -> Value {
    json!({ "runtimeConfig": { "portMappings": mappings } })
}

fn served() -> Value {
    asking(&[mapping(TCP, TCP_PORT, "tcp"), mapping(UDP, UDP_PORT, "UDP"), mapping(TCP, TCP_PORT, "sctp")])
}

/// Each of new flows to a published port is answered by `server`, which sees the client as `seen_as`.
fn is_answered(from: &Namespace, protocol: &str, port: u16, server: &str, seen_as: Ipv4Addr) -> Result<()> {
    let answers = checks::ask(from, protocol, SocketAddrV4::new(NODE, port), 8)?;
    assert_eq!(answers.by_server, [(server.to_owned(), 8)].into(), "{protocol} from {}: {answers:?}", from.name());
    assert_eq!(answers.seen_as, [seen_as.into()].into(), "{protocol} from {}: {answers:?}", from.name());
    Ok(())
}

/// Nobody answers: the node's kernel has it again.
fn is_refused(from: &Namespace, port: u16) -> Result<()> {
    let answers = checks::ask(from, "tcp", SocketAddrV4::new(NODE, port), 1)?;
    assert!(answers.failures.keys().any(|text| text.contains("refused")), "{answers:?}");
    Ok(())
}

/// From outside, from a pod of each kind of node, from the node and the container themselves; over each protocol.
fn all_reach(lab: &Lab, client: &Namespace, web: &Container, own: Ipv4Addr) -> Result<()> {
    let outside = Ipv4Addr::new(192, 168, 50, 200);
    for (protocol, port) in [("tcp", TCP), ("udp", UDP), ("sctp", TCP)] {
        is_answered(client, protocol, port, "web", outside)?;
    }
    let a1 = lab.pod("a1")?;
    is_answered(&a1.namespace, "tcp", TCP, "web", a1.address())?;
    is_answered(&web.namespace, "tcp", TCP, "web", own)?;
    is_answered(&web.namespace, "udp", UDP, "web", own)?;
    let node_c = lab.node("node-c")?;
    is_answered(&node_c.namespace, "tcp", TCP, "web", node_c.plan.underlay())?;
    // The pod of a node without a switch, and the node's own processes: both are seen as one of the nodes' addresses.
    for (from, protocol, port) in [
        (&lab.pod("c1")?.namespace, "tcp", TCP),
        (&lab.node("node-a")?.namespace, "tcp", TCP),
        (&lab.node("node-a")?.namespace, "udp", UDP),
    ] {
        let answers = checks::ask(from, protocol, SocketAddrV4::new(NODE, port), 8)?;
        assert_eq!(answers.by_server, [("web".to_owned(), 8)].into(), "{protocol} from {}: {answers:?}", from.name());
    }
    let echo = checks::echo(client, SocketAddrV4::new(NODE, TCP), 1_000_000)?;
    echo.must_hold("a transfer by a published port");
    Ok(())
}

#[test]
fn published_ports_lead_to_the_container_from_everywhere_until_it_goes() {
    trial(plan(), |lab| {
        let client = lab.outsider("client", 200)?;
        let (node_namespace, overlay) = (&lab.node("node-a")?.namespace, lab.node("node-a")?.plan.overlay());
        // As on every node of Kubernetes: answers to who is outside take the kernel's way.
        node_namespace.sysctl("net.ipv4.ip_forward", "1")?;
        let web = {
            let runtime = Runtime::new(lab);
            let web = runtime.container("web");
            let result = runtime.call("ADD", &web, served()).result();
            let _server = lab.serve(&web.namespace, "web", address(&result))?;
            all_reach(lab, &client, &web, overlay)?;
            let mut check = served();
            check["prevResult"] = result;
            runtime.call("CHECK", &web, check.clone()).result();
            check["runtimeConfig"]["portMappings"][0]["hostPort"] = 8001.into();
            let answer = runtime.call("CHECK", &web, check);
            assert!(answer.code() == 100 && answer.message().contains("8001/tcp"), "{}", answer.output);

            let shunt = lab.node("node-a")?.shunt()?;
            let listed = shunt.ctl(&["list", "ports"])?;
            assert!(listed.contains("8000->8080/tcp,8053->5353/udp,8000->8080/sctp"), "{listed}");
            let question = ["explain", "192.168.50.200:1234", &format!("{NODE}:{TCP}"), "--port", "uplink"];
            let explained = shunt.ctl(&question)?;
            let name = format!("cni/{NETWORK}/web/eth0");
            assert!(
                explained.contains(&format!("It is for {name} at {NODE}:{TCP}, its published port")),
                "{explained}"
            );
            web
        };
        refusals(lab, &web)?;
        let (shunt, namespace) = lab.node_mut("node-a")?.shunt_mut()?;
        shunt.kill()?;
        shunt.launch(namespace)?;
        let runtime = Runtime::new(lab);
        let own = runtime.traces().addresses[0].parse().expect("an address");
        {
            let _server = lab.serve(&web.namespace, "web", own)?;
            all_reach(lab, &client, &web, overlay)?;
        }
        runtime.del(&web);
        is_refused(&client, TCP)?;
        // Another one takes them over, also from one that GC removes.
        let next = runtime.container("next");
        runtime.call("ADD", &next, served()).result();
        let gc = runtime.with(json!({ "cni.dev/valid-attachments": [] }));
        runtime.run(&[("CNI_COMMAND", "GC"), ("CNI_PATH", PLUGINS)], &gc).result();
        is_refused(&client, TCP)?;
        let last = runtime.container("last");
        let result = runtime.call("ADD", &last, served()).result();
        let _server = lab.serve(&last.namespace, "last", address(&result))?;
        is_answered(&client, "udp", UDP, "last", Ipv4Addr::new(192, 168, 50, 200))?;
        runtime.del(&last);
        assert_eq!(runtime.traces(), Traces::default());
        Ok(())
    });
}

/// A port that somebody has is refused by name, and nothing is left of who asked for it.
fn refusals(lab: &Lab, web: &Container) -> Result<()> {
    let runtime = Runtime::new(lab);
    let node = lab.node("node-a")?;
    let _server = lab.serve_at(&node.namespace, "node", TAKEN, &[SocketAddrV4::new(NODE, TAKEN).into()])?;
    checks::ask(&node.namespace, "tcp", SocketAddrV4::new(NODE, TAKEN), 1)?;
    let service = Service::simple("exposed", [10, 96, 0, 80].into(), Protocol::Tcp, 80, TCP_PORT, []);
    let mut service = Service { exposure: Some(Exposure::balanced(Policy::Cluster)), ..service };
    service.ports[0].node_port = Some(NODE_PORT);
    node.shunt()?.apply(&Cluster { services: vec![service], ..Cluster::default() }, &[])?;

    let second = runtime.container("second");
    let before = runtime.traces();
    let at = |address: &str, port| {
        let mut mapping = mapping(port, 80, "tcp");
        mapping["hostIP"] = address.into();
        mapping
    };
    for (mapping, code, named) in [
        (mapping(TCP, 80, "tcp"), 102, format!("8000/tcp of the node is port cni/{NETWORK}/{}/eth0's", web.id)),
        (at("192.168.50.1", TCP), 102, format!("192.168.50.1:8000/tcp is port cni/{NETWORK}/{}/eth0's", web.id)),
        (mapping(NODE_PORT, 80, "tcp"), 102, "30080/tcp of the node is service default/exposed's".to_owned()),
        (mapping(TAKEN, 80, "tcp"), 102, "portMappings[0].hostPort: 192.168.50.1:9000/tcp cannot be had".to_owned()),
        (mapping(TAKEN, 80, "udp"), 102, "portMappings[0].hostPort: 192.168.50.1:9000/udp cannot be had".to_owned()),
        (mapping(65_000, 80, "tcp"), 102, "65000 is one of the masquerade ports".to_owned()),
        (at("127.0.0.1", 8002), 7, "portMappings[0].hostIP: 127.0.0.1".to_owned()),
        (mapping(8002, 0, "tcp"), 7, "portMappings[0].containerPort".to_owned()),
    ] {
        let answer = runtime.call("ADD", &second, asking(&[mapping]));
        assert!(answer.code() == code && answer.message().contains(&named), "{code}, {named}: {}", answer.output);
        assert_eq!(runtime.traces(), before);
    }
    // The same number is another port for another protocol, and at the node's address alone.
    let mappings = [mapping(NODE_PORT, UDP_PORT, "udp"), at("192.168.50.1", 8002)];
    let result = runtime.call("ADD", &second, asking(&mappings)).result();
    let _server = lab.serve(&second.namespace, "second", address(&result))?;
    let a1 = lab.pod("a1")?;
    is_answered(&a1.namespace, "udp", NODE_PORT, "second", a1.address())?;
    runtime.del(&second);
    assert_eq!(runtime.traces(), before);
    Ok(())
}
