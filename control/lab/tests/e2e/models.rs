//! Each network model by its own configuration, configs/models/*.toml: who reaches whom, who does not, and as whom.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

use shunt_control_lab::{
    Result,
    capture::Capture,
    checks,
    cluster::{Cluster, EndpointPort, Exposure, Policy, Service, ServicePort},
    netns::Namespace,
    plan::{Forwarder, NodePlan, POD_MTU, Plan, Routing, TCP_PORT, WEB},
    tools,
    topology::Lab,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

const ROUTER: &str = "192.168.50.254";
const CLIENT: u8 = 200;
const BALANCED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 70);

/// Two Shunt nodes with two pods each.
fn two_nodes(config: fn(&NodePlan) -> String) -> Plan {
    let node = |letter| NodePlan { letter, forwarder: Forwarder::Shunt, pods: 2, ipv6: false };
    Plan {
        nodes: vec![node('a'), node('b')],
        services: Vec::new(),
        config: Some(config),
        ..Plan::three_nodes(Forwarder::Shunt)
    }
}

fn pings(from: &Namespace, to: Ipv4Addr) -> Result<bool> {
    Ok(tools::ping(from, "-c 2 -i 0.05 -W 0.5", to)?.is_complete())
}

/// A client outside, that sends what is for pods to `via`.
fn client(lab: &Lab, via: &str) -> Result<Namespace> {
    let client = lab.outsider("client", CLIENT)?;
    client.ip(&format!("route add 10.244.0.0/16 via {via}"))?;
    client.ip(&format!("route add {BALANCED} via 192.168.50.1"))?;
    Ok(client)
}

/// As on every node of Kubernetes.
fn forward(lab: &Lab) -> Result<()> {
    lab.nodes.iter().try_for_each(|node| node.namespace.sysctl("net.ipv4.ip_forward", "1"))
}

/// The network routes each node's pods, and nodes only know the router.
#[test]
fn flat() {
    let config = |_: &NodePlan| include_str!("../../../../configs/models/flat.toml").to_owned();
    trial(Plan { routing: Routing::Native, ..two_nodes(config) }, |lab| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/models/flat-cluster.toml");
        lab.underlay.ip(&format!("addr add {ROUTER}/24 dev br0"))?;
        lab.underlay.sysctl("net.ipv4.ip_forward", "1")?;
        forward(lab)?;
        for node in &lab.nodes {
            lab.underlay.ip(&format!("route add {} via {}", node.plan.pod_cidr(), node.plan.underlay()))?;
            let ports = Cluster { routes: Vec::new(), ..lab.plan.cluster_for(&node.plan) };
            node.shunt()?.apply(&ports, &["--replace"])?;
            node.shunt()?.ctl(&["apply", "-f", &file.to_string_lossy()])?;
        }
        let client = client(lab, ROUTER)?;
        // The kernels find the router first.
        for (from, to) in [("a1", "b1"), ("b1", "a1")] {
            checks::comes_back(lab, from, to)?;
        }
        let capture = Capture::start(&lab.underlay, "br0", "udp port 8472", lab.folder())?;
        checks::all_reach(lab, &[("a1", "b1"), ("b2", "a1"), ("a1", "a2"), ("node-a", "b1")])?;
        let answers = checks::ask(&client, "tcp", SocketAddrV4::new(lab.pod("b1")?.address(), TCP_PORT), 10)?;
        assert_eq!(answers.by_server.get("b1"), Some(&10), "a client outside reaches pods: {answers:?}");
        let outside = Ipv4Addr::new(192, 168, 50, CLIENT);
        assert!(pings(&lab.pod("a1")?.namespace, outside)?, "and they it, without translation");
        assert_eq!(capture.finish()?.count("udp")?, 0, "nothing is encapsulated");
        Ok(())
    });
}

/// No way in, and none out.
#[test]
fn isolated() {
    let config = |_: &NodePlan| include_str!("../../../../configs/models/isolated.toml").to_owned();
    let mut plan = two_nodes(config);
    let ends = [plan.nodes[0].pod(2).address, plan.nodes[1].pod(1).address];
    plan.services.push(Service::simple("web", WEB, Protocol::Tcp, 80, TCP_PORT, ends));
    plan.services.push(published(&plan, &[BALANCED]));
    trial(plan, |lab| {
        forward(lab)?;
        let client = client(lab, "192.168.50.1")?;
        for to in [SocketAddrV4::new(lab.node("node-a")?.plan.underlay(), 30_080), SocketAddrV4::new(BALANCED, 8000)] {
            let answers = checks::ask(&client, "tcp", to, 1)?;
            assert_eq!(answers.failed(), 1, "somebody outside reaches {to}: {answers:?}");
        }
        assert!(lab.node("node-a")?.shunt()?.dropped("no_local_backend")? >= 2, "and it is said why not");
        checks::all_reach(
            lab,
            &[("a1", "b1"), ("b1", "a2"), ("a1", "a2"), ("node-a", "a1"), ("node-a", "b1"), ("a1", "node-a")],
        )?;
        checks::spread(&lab.pod("a1")?.namespace, "tcp", SocketAddrV4::new(WEB, 80), 150, &["a2", "b1"])?
            .must_hold("a service");
        let a1 = lab.pod("a1")?;
        for outside in
            [Ipv4Addr::new(192, 168, 50, CLIENT), lab.node("node-b")?.plan.underlay(), Ipv4Addr::new(192, 168, 50, 1)]
        {
            assert!(!pings(&a1.namespace, outside)?, "a1 reaches {outside}");
        }
        let before = lab.node("node-a")?.shunt()?.dropped("spoofed_address")?;
        assert!(!pings(&client, a1.address())?, "somebody outside reaches a1");
        assert!(
            lab.node("node-a")?.shunt()?.dropped("spoofed_address")? > before,
            "what the kernel forwarded was dropped"
        );
        Ok(())
    });
}

/// A service that is had at a node port and at a load balancer's address.
fn published(plan: &Plan, external: &[Ipv4Addr]) -> Service {
    let backends: Vec<_> = plan.nodes.iter().map(|node| node.pod(1).address).collect();
    Service {
        exposure: Some(Exposure { external_ips: external.to_vec(), ..Exposure::balanced(Policy::Cluster) }),
        ports: vec![ServicePort { name: "main".into(), protocol: Protocol::Tcp, port: 8000, node_port: Some(30_080) }],
        targets: vec![EndpointPort { name: "main".into(), port: TCP_PORT }],
        ..Service::simple("published", [10, 96, 0, 80].into(), Protocol::Tcp, 8000, TCP_PORT, backends)
    }
}

/// Out with the node's address; in by what services publish, and by a proxy on the node.
#[test]
fn island() {
    let config = |_: &NodePlan| include_str!("../../../../configs/models/island.toml").to_owned();
    let mut plan = two_nodes(config);
    plan.services.push(published(&plan, &[BALANCED]));
    let b2 = plan.nodes[1].pod(2).address;
    plan.services.push(Service::simple("site", WEB, Protocol::Tcp, 80, 8081, [b2]));
    trial(plan, |lab| {
        forward(lab)?;
        // The kernel believes what leaves with a load balancer's address if it has a way back there.
        for node in &lab.nodes {
            node.namespace.ip(&format!("route add default via {ROUTER}"))?;
        }
        let client = client(lab, "192.168.50.1")?;
        checks::all_reach(lab, &[("a1", "b1"), ("b1", "a2"), ("node-a", "b1")])?;
        let node_a = lab.node("node-a")?.plan.underlay();
        for to in [SocketAddrV4::new(node_a, 30_080), SocketAddrV4::new(BALANCED, 8000)] {
            checks::spread(&client, "tcp", to, 150, &["a1", "b1"])?.must_hold(&format!("{to} from outside"));
        }
        // A server in a pod, and on the node a proxy that passes what comes to the node on to its service.
        let site = lab.folder().join("site");
        let _site = tools::Nginx::start(&lab.pod("b2")?.namespace, 8081, "the site\n", 1000, &site)?;
        let proxy = lab.folder().join("proxy");
        let _proxy = tools::Nginx::proxy(&lab.node("node-a")?.namespace, 8088, SocketAddrV4::new(WEB, 80), &proxy)?;
        assert_eq!(tools::curl(&client, &format!("http://{node_a}:8088/"))?, "the site\n");
        // Out: as the node.
        let _server = lab.serve(&client, "outside", Ipv4Addr::new(192, 168, 50, CLIENT))?;
        let outside = SocketAddrV4::new(Ipv4Addr::new(192, 168, 50, CLIENT), TCP_PORT);
        let answers = checks::ask(&lab.pod("a1")?.namespace, "tcp", outside, 10)?;
        assert_eq!(answers.by_server.get("outside"), Some(&10), "{answers:?}");
        assert_eq!(answers.seen_as, [node_a.into()].into());
        Ok(())
    });
}

/// Two clusters, one space of pod addresses, services of the same address, and islands to the rest.
#[test]
fn archipelago() {
    let config = |node: &NodePlan| {
        let text = include_str!("../../../../configs/models/archipelago.toml");
        if node.letter == 'a' { text.to_owned() } else { text.replace("10.244.0.0/23", "10.244.2.0/23") }
    };
    // Each cluster's pods are a native route at the other.
    trial(Plan { routing: Routing::Native, pod_mtu: POD_MTU, ..two_nodes(config) }, |lab| {
        forward(lab)?;
        for (node, end) in [("node-a", "a2"), ("node-b", "b2")] {
            let service = Service::simple("web", WEB, Protocol::Tcp, 80, TCP_PORT, [lab.pod(end)?.address()]);
            lab.node(node)?.shunt()?.apply(&Cluster { services: vec![service], ..Cluster::default() }, &[])?;
        }
        checks::all_reach(lab, &[("a1", "b1"), ("b1", "a1"), ("a1", "a2")])?;
        let (a1, b1) = (lab.pod("a1")?, lab.pod("b1")?);
        let answers = checks::ask(&a1.namespace, "tcp", SocketAddrV4::new(b1.address(), TCP_PORT), 10)?;
        assert_eq!(
            answers.seen_as.iter().collect::<Vec<_>>(),
            [&a1.address()],
            "pods of both clusters know one another"
        );
        for (from, end) in [(a1, "a2"), (b1, "b2")] {
            checks::spread(&from.namespace, "tcp", SocketAddrV4::new(WEB, 80), 20, &[end])?
                .must_hold("its own service");
        }
        let client = lab.outsider("client", CLIENT)?;
        let _server = lab.serve(&client, "outside", Ipv4Addr::new(192, 168, 50, CLIENT))?;
        let outside = SocketAddrV4::new(Ipv4Addr::new(192, 168, 50, CLIENT), TCP_PORT);
        let answers = checks::ask(&a1.namespace, "tcp", outside, 10)?;
        assert_eq!(
            answers.seen_as.iter().collect::<Vec<_>>(),
            [&lab.node("node-a")?.plan.underlay()],
            "to the rest it is the node"
        );
        Ok(())
    });
}

/// As Docker's bridge: addresses that the node alone knows, and published ports.
#[test]
fn host_private() {
    let config = |_: &NodePlan| include_str!("../../../../configs/models/host-private.toml").to_owned();
    let node = NodePlan { letter: 'a', forwarder: Forwarder::Shunt, pods: 2, ipv6: false };
    let mut plan = Plan { nodes: vec![node], routing: Routing::Native, ..two_nodes(config) };
    // `docker run --publish 8000:8080`, on the node's own address.
    let own = plan.nodes[0].underlay();
    plan.services.push(published(&plan, &[own]));
    trial(plan, |lab| {
        forward(lab)?;
        let client = lab.outsider("client", CLIENT)?;
        checks::all_reach(lab, &[("a1", "a2"), ("node-a", "a1"), ("a2", "node-a")])?;
        for (from, to) in [(&client, 8000), (&client, 30_080), (&lab.pod("a2")?.namespace, 8000)] {
            checks::spread(from, "tcp", SocketAddrV4::new(own, to), 10, &["a1"])?.must_hold("a published port");
        }
        let _server = lab.serve(&client, "outside", Ipv4Addr::new(192, 168, 50, CLIENT))?;
        let outside = SocketAddrV4::new(Ipv4Addr::new(192, 168, 50, CLIENT), TCP_PORT);
        let answers = checks::ask(&lab.pod("a1")?.namespace, "tcp", outside, 10)?;
        assert_eq!(answers.seen_as.iter().collect::<Vec<_>>(), [&own], "out with the node's address");
        Ok(())
    });
}

/// An island whose nodes reach the pods of those on their own network natively.
pub fn direct_routing(_: &NodePlan) -> String {
    let text = include_str!("../../../../configs/models/island.toml");
    text.replace("[vxlan]\n", "[vxlan]\ndirect_routing = true\n")
}

/// Nodes on one network natively, those behind a router by VXLAN, side by side: flannel's DirectRouting.
#[test]
fn direct_routing_beside_the_overlay() {
    trial(Plan { config: Some(direct_routing), ..Plan::three_nodes(Forwarder::Shunt) }, |lab| {
        lab.underlay.ip(&format!("addr add {ROUTER}/24 dev br0"))?;
        lab.underlay.sysctl("net.ipv4.ip_forward", "1")?;
        let c = lab.node("node-c")?;
        let (underlay, b_is) = (c.plan.underlay(), lab.node("node-b")?.plan.underlay());
        // node-a reaches node-c by the router only; node-b and the kernel's node-c are direct, as flannel sets that up.
        lab.node("node-a")?.namespace.ip(&format!("route add {underlay}/32 via {ROUTER}"))?;
        c.namespace.ip(&format!("route replace {} via {b_is} dev eth0", lab.node("node-b")?.plan.pod_cidr()))?;
        let on_the_wire = Capture::start(&lab.underlay, "node-a", "udp port 8472", lab.folder())?;
        checks::all_reach(lab, &[("a1", "b1"), ("b2", "a2"), ("b1", "c1"), ("c1", "b1")])?;
        assert_eq!(on_the_wire.finish()?.count("udp")?, 0, "neighbours need no VXLAN");
        let on_the_wire = Capture::start(&lab.underlay, "node-a", "udp port 8472", lab.folder())?;
        checks::all_reach(lab, &[("a1", "c1"), ("c1", "a2")])?;
        assert!(on_the_wire.finish()?.count("udp")? > 0, "beyond the router there is VXLAN");
        Ok(())
    });
}
