//! Node ports, load balancer addresses and external IPs, with a client outside of the cluster, real sockets, and
//! kube-proxy's nftables rules as the oracle. Every test carries the names of the lines that it shows.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use shunt_control_lab::{
    capture::Capture,
    change::{self, End},
    checks,
    cluster::{Cluster, Endpoint, EndpointPort, Exposure, Policy, Service, ServicePort},
    command,
    error::Result,
    for_both_forwarders,
    netns::Namespace,
    plan::{Forwarder, Plan, TCP_PORT, UDP_PORT},
    shunt_node::ShuntNode,
    topology::Lab,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

use crate::models::direct_routing;

for_both_forwarders!(
    external_traffic_policy_cluster_masquerades_everywhere,
    external_traffic_policy_local_keeps_the_source_and_drops_when_none_local,
    source_ranges_drop_others_pods_included_and_reject_when_no_endpoints,
    host_network_endpoints_here_and_on_other_nodes,
    multiport_endpoints_and_same_port_on_different_protocols,
);

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);
pub const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 254);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 70);
pub const BALANCED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 70);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 70);
pub const NODE_PORT: u16 = 30_070;
const ALL: [&str; 3] = ["a2", "b1", "c1"];

pub fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// The frontends that are there for clients outside.
pub const FRONTENDS: [(Ipv4Addr, u16); 3] = [(NODE_A, NODE_PORT), (BALANCED, 80), (EXTERNAL, 80)];

/// A service with one endpoint on each node, had everywhere, for TCP and UDP by the same numbers.
pub fn service(plan: &Plan, policy: Policy) -> Service {
    let backends = [plan.nodes[0].pod(2).address, plan.nodes[1].pod(1).address, plan.nodes[2].pod(1).address];
    let port = |name: &str, protocol| ServicePort { name: name.into(), protocol, port: 80, node_port: Some(NODE_PORT) };
    Service {
        exposure: Some(Exposure {
            load_balancer_ips: vec![BALANCED],
            external_ips: vec![EXTERNAL],
            ..Exposure::balanced(policy)
        }),
        ports: vec![port("stream", Protocol::Tcp), port("datagram", Protocol::Udp)],
        targets: vec![
            EndpointPort { name: "stream".into(), port: TCP_PORT },
            EndpointPort { name: "datagram".into(), port: UDP_PORT },
        ],
        ..Service::simple("everywhere", VIP, Protocol::Tcp, 80, TCP_PORT, backends)
    }
}

fn plan(forwarder: Forwarder, policy: Policy) -> Plan {
    let mut plan = Plan::three_nodes(forwarder);
    plan.services = vec![service(&plan, policy)];
    plan
}

/// Runs `body` with a client outside who sends what is for the service's addresses to node-a.
pub fn exposed(plan: Plan, body: impl FnOnce(&mut Lab, &Namespace) -> Result<()>) {
    trial(plan, |lab| {
        let client = lab.outsider("client", CLIENT.octets()[3])?;
        for address in [BALANCED, EXTERNAL] {
            client.ip(&format!("route add {address} via {NODE_A}"))?;
        }
        // As on every node of Kubernetes: answers to who is outside take the kernel's way.
        for node in &lab.nodes {
            node.namespace.sysctl("net.ipv4.ip_forward", "1")?;
            node.namespace.ip(&format!("route add default via {ROUTER}"))?;
        }
        body(lab, &client)
    })
}

/// New flows go to these, and their servers see one of `seen_as`.
pub fn goes_to(
    from: &Namespace,
    protocol: &str,
    to: SocketAddrV4,
    backends: &[&str],
    seen_as: &[Ipv4Addr],
) -> Result<()> {
    let answers = checks::ask(from, protocol, to, 24 * backends.len() as u32)?;
    let servers: Vec<_> = answers.by_server.keys().map(String::as_str).collect();
    assert_eq!((servers.as_slice(), answers.failed()), (backends, 0), "{to}/{protocol}: {answers:?}");
    assert!(
        answers.seen_as.iter().all(|address| seen_as.iter().any(|seen| address == seen)),
        "{to}/{protocol}: {answers:?}"
    );
    Ok(())
}

/// No new flow gets through, for this reason.
pub fn fails(from: &Namespace, protocol: &str, to: SocketAddrV4, reason: &str) -> Result<()> {
    let answers = checks::ask(from, protocol, to, 1)?;
    assert_eq!((answers.by_server.len(), answers.failed()), (0, 1), "{to}/{protocol}: {answers:?}");
    assert!(answers.failures.keys().all(|text| text.contains(reason)), "{to}/{protocol}: {answers:?}");
    Ok(())
}

pub const REFUSED: &str = "refused";
const SILENCE: &str = "timed out";

/// The addresses that may stand in for others on node-a: the kernel takes any of its own.
fn stand_ins(lab: &Lab) -> Result<Vec<Ipv4Addr>> {
    let node = &lab.node("node-a")?.plan;
    Ok(vec![node.underlay(), node.overlay()])
}

/// Also the line "NodePort": TCP and UDP are separate keys; and that a pod's source is kept at the ClusterIP.
fn external_traffic_policy_cluster_masquerades_everywhere(forwarder: Forwarder) {
    exposed(plan(forwarder, Policy::Cluster), |lab, client| {
        let nodes = stand_ins(lab)?;
        for (address, port) in FRONTENDS {
            for (from, protocol) in [(client, "tcp"), (client, "udp"), (&lab.pod("a1")?.namespace, "tcp")] {
                goes_to(from, protocol, at(address, port), &ALL, &nodes)?;
            }
        }
        checks::echo(client, at(NODE_A, NODE_PORT), 1_000_000)?.must_hold("a transfer by the node port");
        goes_to(&lab.pod("a1")?.namespace, "tcp", at(VIP, 80), &ALL, &[lab.pod("a1")?.address()])?;
        // An endpoint reaches itself.
        goes_to(&lab.pod("a2")?.namespace, "udp", at(NODE_A, NODE_PORT), &ALL, &nodes)?;
        // A port of the node that is no service's is its kernel's: nobody listens there.
        fails(client, "tcp", at(NODE_A, NODE_PORT + 1), REFUSED)
    });
}

/// Also "pods and nodes reach all endpoints".
fn external_traffic_policy_local_keeps_the_source_and_drops_when_none_local(forwarder: Forwarder) {
    let mut plan = plan(forwarder, Policy::Local);
    let c1 = plan.nodes[2].pod(1).address;
    let only_c = Service {
        namespace: "other".into(),
        cluster_ip: Some([10, 96, 0, 71].into()),
        ..service(&plan, Policy::Local)
    };
    let mut only_c = Service { endpoints: vec![Endpoint::ready(c1)], ..only_c };
    only_c.ports.iter_mut().for_each(|port| port.node_port = Some(NODE_PORT + 1));
    only_c.exposure = Some(Exposure::balanced(Policy::Local));
    plan.services.push(only_c);
    exposed(plan, |lab, client| {
        let a1 = lab.pod("a1")?;
        for (address, port) in FRONTENDS {
            goes_to(client, "tcp", at(address, port), &["a2"], &[CLIENT])?;
            goes_to(client, "udp", at(address, port), &["a2"], &[CLIENT])?;
            goes_to(&a1.namespace, "tcp", at(address, port), &ALL, &[a1.address()])?;
        }
        checks::echo(client, at(BALANCED, 80), 1_000_000)?.must_hold("a transfer by the load balancer's address");
        fails(client, "tcp", at(NODE_A, NODE_PORT + 1), SILENCE)?;
        goes_to(&a1.namespace, "tcp", at(NODE_A, NODE_PORT + 1), &["c1"], &[a1.address()])
    });
}

fn source_ranges_drop_others_pods_included_and_reject_when_no_endpoints(forwarder: Forwarder) {
    let mut plan = plan(forwarder, Policy::Cluster);
    let ranges = |plan: &mut Plan, ranges: &[&str]| {
        let exposure = plan.services[0].exposure.as_mut().expect("it has one");
        exposure.load_balancer_source_ranges = ranges.iter().map(|range| (*range).to_owned()).collect();
    };
    ranges(&mut plan, &["192.168.50.200/32"]);
    let mut empty = Service {
        namespace: "other".into(),
        cluster_ip: Some([10, 96, 0, 71].into()),
        ..service(&plan, Policy::Local)
    };
    empty.endpoints.clear();
    empty.ports.iter_mut().for_each(|port| (port.port, port.node_port) = (81, Some(NODE_PORT + 1)));
    plan.services.push(empty);
    exposed(plan, |lab, client| {
        let (nodes, a1) = (stand_ins(lab)?, &lab.pod("a1")?.namespace);
        let other = lab.outsider("other", 201)?;
        other.ip(&format!("route add {BALANCED} via {NODE_A}"))?;
        goes_to(client, "tcp", at(BALANCED, 80), &ALL, &nodes)?;
        fails(&other, "tcp", at(BALANCED, 80), SILENCE)?;
        fails(a1, "tcp", at(BALANCED, 80), SILENCE)?;
        // Node ports and external IPs are not affected.
        goes_to(&other, "tcp", at(NODE_A, NODE_PORT), &ALL, &nodes)?;
        goes_to(a1, "tcp", at(EXTERNAL, 80), &ALL, &nodes)?;
        // Nobody serves the other one: everybody learns it at once, whatever the policy.
        for (from, address, port) in [
            (client, NODE_A, NODE_PORT + 1),
            (client, BALANCED, 81),
            (client, EXTERNAL, 81),
            (a1, NODE_A, NODE_PORT + 1),
        ] {
            fails(from, "tcp", at(address, port), REFUSED)?;
        }
        Ok(())
    });
}

/// Endpoints that are processes of a node, of this one and of others. The kernel forwards node-c in any case.
fn host_network_endpoints_here_and_on_other_nodes(forwarder: Forwarder) {
    let mut plan = plan(forwarder, Policy::Cluster);
    let every = plan.nodes.iter().map(|node| Endpoint::ready(node.underlay())).collect();
    let stream = |service: Service| Service {
        ports: service.ports.into_iter().take(1).collect(),
        targets: service.targets.into_iter().take(1).collect(),
        ..service
    };
    plan.services = vec![Service { endpoints: every, ..stream(service(&plan, Policy::Cluster)) }];
    exposed(plan, |lab, client| {
        let names = ["node-a", "node-b", "node-c"];
        // Whoever asks: the source may be kept or replaced, but answers come back.
        for (from, address, port) in [
            (&lab.pod("a1")?.namespace, VIP, 80),
            (&lab.pod("b1")?.namespace, VIP, 80),
            (&lab.node("node-a")?.namespace, VIP, 80),
            (client, NODE_A, NODE_PORT),
            (&lab.pod("a1")?.namespace, BALANCED, 80),
        ] {
            let answers = checks::ask(from, "tcp", at(address, port), 60)?;
            let servers: Vec<_> = answers.by_server.keys().map(String::as_str).collect();
            assert_eq!((servers.as_slice(), answers.failed()), (&names[..], 0), "{address}:{port}: {answers:?}");
        }
        checks::echo(client, at(NODE_A, NODE_PORT), 1_000_000)?.must_hold("a transfer");
        Ok(())
    });
}

/// Services share an address, a port and a node port by their protocols; one of them has two ports. SCTP by Shunt only: the
/// kernel may lack its translation.
fn multiport_endpoints_and_same_port_on_different_protocols(forwarder: Forwarder) {
    let mut plan = plan(forwarder, Policy::Cluster);
    let (a2, b1) = (plan.nodes[0].pod(2).address, plan.nodes[1].pod(1).address);
    let both = service(&plan, Policy::Cluster);
    let [stream, datagram] = [0, 1].map(|at| (both.ports[at].clone(), both.targets[at].clone()));
    let mut streams = Service { endpoints: vec![Endpoint::ready(a2)], ..both.clone() };
    (streams.ports, streams.targets) = (vec![stream.0.clone()], vec![stream.1.clone()]);
    let more = ServicePort { name: "more".into(), port: 81, node_port: Some(NODE_PORT + 1), ..stream.0 };
    streams.ports.push(more);
    streams.targets.push(EndpointPort { name: "more".into(), ..stream.1 });
    let mut datagrams = Service { name: "datagrams".into(), endpoints: vec![Endpoint::ready(b1)], ..both };
    (datagrams.ports, datagrams.targets) = (vec![datagram.0], vec![datagram.1]);
    plan.services = vec![streams, datagrams];
    let has_sctp = forwarder == Forwarder::Shunt;
    if has_sctp {
        let c1 = plan.nodes[2].pod(1).address;
        let mut messages = Service::simple("messages", VIP, Protocol::Sctp, 80, TCP_PORT, [c1]);
        messages.ports[0].node_port = Some(NODE_PORT);
        messages.exposure = Some(Exposure { load_balancer_ips: vec![BALANCED], ..Exposure::balanced(Policy::Cluster) });
        plan.services.push(messages);
    }
    exposed(plan, |lab, client| {
        let (nodes, a1) = (stand_ins(lab)?, lab.pod("a1")?);
        for (address, port, other) in [(NODE_A, NODE_PORT, NODE_PORT + 1), (BALANCED, 80, 81)] {
            goes_to(client, "tcp", at(address, port), &["a2"], &nodes)?;
            goes_to(client, "tcp", at(address, other), &["a2"], &nodes)?;
            goes_to(client, "udp", at(address, port), &["b1"], &nodes)?;
            if has_sctp {
                goes_to(client, "sctp", at(address, port), &["c1"], &nodes)?;
            }
        }
        for (protocol, port, backend) in [("tcp", 80, "a2"), ("tcp", 81, "a2"), ("udp", 80, "b1")] {
            goes_to(&a1.namespace, protocol, at(VIP, port), &[backend], &[a1.address()])?;
        }
        Ok(())
    });
}

/// A service goes from type to type, from port to port and from policy to policy; its affinity is switched on and off.
#[test]
fn change_of_type_and_ports_and_affinity_switched_on_a_node_port() {
    let plan = plan(Forwarder::Shunt, Policy::Cluster);
    let service = plan.services[0].clone();
    exposed(plan, |lab, client| {
        let nodes = stand_ins(lab)?;
        let tell = |service: Service| {
            let cluster = Cluster { services: vec![service], ..Cluster::default() };
            lab.node("node-a")?.shunt()?.apply(&cluster, &[])
        };
        let typed = |service_type, node_port, policy| {
            let mut service = service.clone();
            service.ports.iter_mut().for_each(|port| port.node_port = node_port);
            service.exposure = Some(Exposure { service_type, ..Exposure::balanced(policy) });
            service
        };
        goes_to(client, "tcp", at(NODE_A, NODE_PORT), &ALL, &nodes)?;
        goes_to(client, "tcp", at(BALANCED, 80), &ALL, &nodes)?;

        // Another node port, and no addresses.
        tell(typed("NodePort", Some(NODE_PORT + 5), Policy::Cluster))?;
        goes_to(client, "tcp", at(NODE_A, NODE_PORT + 5), &ALL, &nodes)?;
        fails(client, "tcp", at(NODE_A, NODE_PORT), REFUSED)?;
        fails(client, "tcp", at(BALANCED, 80), "")?;

        tell(typed("NodePort", Some(NODE_PORT), Policy::Local))?;
        goes_to(client, "tcp", at(NODE_A, NODE_PORT), &["a2"], &[CLIENT])?;

        tell(typed("ClusterIP", None, Policy::Cluster))?;
        fails(client, "tcp", at(NODE_A, NODE_PORT), REFUSED)?;
        goes_to(&lab.pod("a1")?.namespace, "tcp", at(VIP, 80), &ALL, &[lab.pod("a1")?.address()])?;

        tell(Service { session_affinity: Some("ClientIP"), ..typed("NodePort", Some(NODE_PORT), Policy::Cluster) })?;
        let answers = checks::ask(client, "tcp", at(NODE_A, NODE_PORT), 24)?;
        assert_eq!((answers.by_server.len(), answers.failed()), (1, 0), "a client stays: {answers:?}");
        tell(typed("NodePort", Some(NODE_PORT), Policy::Cluster))?;
        goes_to(client, "tcp", at(NODE_A, NODE_PORT), &ALL, &nodes)
    });
}

/// What terminates is not offered to load balancers, and serves what comes all the same, whatever the policy.
#[test]
fn health_check_node_port_with_only_terminating_endpoints_and_fallback_for_both_policies() {
    const HEALTH: u16 = 32_070;
    let mut plan = plan(Forwarder::Shunt, Policy::Local);
    plan.services[0].exposure.as_mut().expect("it has one").health_check_node_port = Some(HEALTH);
    let service = plan.services[0].clone();
    exposed(plan, |lab, client| {
        let node = lab.node("node-a")?.shunt()?;
        let tell = |service: Service| node.apply(&Cluster { services: vec![service], ..Cluster::default() }, &[]);
        let asked = || client.run(&format!("curl --silent --max-time 5 -w %{{http_code}} http://{NODE_A}:{HEALTH}/"));
        let told = |endpoints: u32, code: u32| {
            format!(
                "{{\"localEndpoints\":{endpoints},\"service\":{{\"name\":\"everywhere\",\"namespace\":\"default\"}}}}{code}"
            )
        };
        assert_eq!(asked()?, told(1, 200));

        let terminating = service.endpoints.iter().map(|endpoint| Endpoint::terminating(endpoint.address)).collect();
        let terminating = Service { endpoints: terminating, ..service.clone() };
        tell(terminating.clone())?;
        assert_eq!(asked()?, told(0, 503));
        goes_to(client, "tcp", at(NODE_A, NODE_PORT), &["a2"], &[CLIENT])?;
        let mut cluster = terminating;
        cluster.exposure = Some(Exposure { load_balancer_ips: vec![BALANCED], ..Exposure::balanced(Policy::Cluster) });
        tell(cluster)?;
        goes_to(client, "tcp", at(NODE_A, NODE_PORT), &ALL, &stand_ins(lab)?)?;
        assert!(asked().is_err(), "with policy Cluster nobody is asked");

        tell(service)?;
        assert_eq!(asked()?, told(1, 200));
        Ok(())
    });
}

/// A service with direct server return, whose one endpoint changes.
struct Direct(Service);

impl Direct {
    /// That of a plan, which asks for it from now on.
    fn of(plan: &mut Plan) -> Direct {
        plan.services[0].exposure.as_mut().expect("it has one").direct_server_return = true;
        Direct(plan.services[0].clone())
    }

    /// From now on this pod is its endpoint.
    fn tell(&self, lab: &Lab, pod: &str) -> Result<()> {
        let endpoints = vec![Endpoint::ready(lab.pod(pod)?.address())];
        let cluster = Cluster { services: vec![Service { endpoints, ..self.0.clone() }], ..Cluster::default() };
        lab.daemons().try_for_each(|(_, shunt)| shunt.apply(&cluster, &[]).map(drop))
    }

    /// A pod that is its endpoint sees the client as one of `seen_as`, and the client has its answers from this node, with
    /// the addresses that it asked.
    fn is_answered(
        &self,
        lab: &Lab,
        client: &Namespace,
        pod: &str,
        seen_as: &[Ipv4Addr],
        answers_from: &str,
    ) -> Result<()> {
        self.tell(lab, pod)?;
        let capture = Capture::start(client, "eth0", "tcp or udp", lab.folder())?;
        for (address, port) in FRONTENDS {
            goes_to(client, "tcp", at(address, port), &[pod], seen_as)?;
            goes_to(client, "udp", at(address, port), &[pod], seen_as)?;
        }
        checks::echo(client, at(BALANCED, 80), 1_000_000)?.must_hold("a transfer");
        let answers = format!("ip.dst == {CLIENT}");
        let mut rows = capture.finish()?.rows(&answers, &["eth.src", "ip.src"])?;
        // The ports of some datagrams are a tunnel's to tshark, which finds addresses in what they carry: only the first are.
        rows.iter_mut().flatten().for_each(|field| field.truncate(field.find(',').unwrap_or(field.len())));
        rows.sort();
        rows.dedup();
        let node = lab.node(answers_from)?.namespace.mac("eth0")?.to_string();
        let mut expected = FRONTENDS.map(|(address, _)| vec![node.clone(), address.to_string()]);
        expected.sort();
        assert_eq!(rows, expected, "who answers for {pod}, and as whom");
        Ok(())
    }
}

/// The client's packets for the service are explained: they go to node-b as they are.
fn explains_relay(shunt: &ShuntNode) -> Result<()> {
    let explained = shunt.ctl(&["explain", &CLIENT.to_string(), &format!("{BALANCED}:80")])?;
    assert!(explained.contains("is relayed there as it is") && explained.contains("node-b"), "{explained}");
    Ok(())
}

/// The line "DSR for NodePort and LoadBalancer traffic, over VXLAN too": the endpoint's node answers with the VIP as its
/// source, and the server sees the client's address. Where that cannot be, the source is replaced.
#[test]
fn dsr_for_node_port_and_load_balancer_traffic_over_vxlan() {
    let mut plan = plan(Forwarder::Shunt, Policy::Cluster);
    let service = Direct::of(&mut plan);
    exposed(plan, |lab, client| {
        service.is_answered(lab, client, "b1", &[CLIENT], "node-b")?;
        service.is_answered(lab, client, "a2", &[CLIENT], "node-a")?;
        // Node-c is the kernel's.
        service.is_answered(lab, client, "c1", &stand_ins(lab)?, "node-a")?;

        service.tell(lab, "b1")?;
        let a = lab.node("node-a")?.shunt()?;
        explains_relay(a)?;
        let told = a.ctl(&["service", "get", "default/everywhere"])?;
        assert!(told.contains("1 of 1, direct or masqueraded"), "{told}");
        assert!(a.ctl(&["list", "vteps"])?.contains("DIRECT RETURN"));

        // A client that has gone when the answer comes: the server hears that its datagram was refused.
        let b1 = lab.pod("b1")?;
        let capture = Capture::start(&b1.namespace, "eth0", "icmp", lab.folder())?;
        let send = format!("echo late > /dev/udp/{BALANCED}/80");
        command::run(client.bounded("bash").args(["-c", &send]))?;
        let rows = capture.finish()?.rows("icmp.type == 3 && icmp.code == 3", &["ip.src", "ip.dst"])?;
        let (client_to_b1, quoted) = (format!("{CLIENT},{}", b1.address()), format!("{},{CLIENT}", b1.address()));
        assert_eq!(rows, [[client_to_b1, quoted]], "outer, quoted");

        // Node-b's daemon, and then node-a's, restart in the middle of a connection, and forget its flows. (At the node's own
        // address its kernel would answer meanwhile.)
        for (node, address, port) in [("node-b", NODE_A, NODE_PORT), ("node-a", BALANCED, 80)] {
            let held = change::hold(lab, client, at(address, port), Duration::from_secs(3))?;
            change::restart_under(lab, node, End::Kill, held)?.must_hold(node);
        }
        goes_to(client, "tcp", at(BALANCED, 80), &["b1"], &[CLIENT])?;
        let flows = lab.node("node-a")?.shunt()?.ctl(&["flow", "list"])?;
        assert!(flows.contains("relayed-"), "{flows}");
        Ok(())
    });
}

/// The same line where pods of other nodes are reached by native routes: what is relayed goes by VXLAN, and nothing else does.
#[test]
fn dsr_for_node_port_and_load_balancer_traffic_beside_native_routes() {
    let mut plan = Plan { config: Some(direct_routing), ..plan(Forwarder::Shunt, Policy::Cluster) };
    let service = Direct::of(&mut plan);
    exposed(plan, |lab, client| {
        let encapsulated = Capture::start(&lab.underlay, "node-b", "udp port 8472", lab.folder())?;
        checks::all_reach(lab, &[("a1", "b1"), ("b1", "a1")])?;
        service.is_answered(lab, client, "a2", &[CLIENT], "node-a")?;
        assert_eq!(encapsulated.finish()?.count("udp")?, 0, "pods' packets and answers go as they are");
        let encapsulated = Capture::start(&lab.underlay, "node-b", "udp port 8472", lab.folder())?;
        service.is_answered(lab, client, "b1", &[CLIENT], "node-b")?;
        let recording = encapsulated.finish()?;
        let relayed = recording.count(&format!("udp.dstport == 8472 && ip.src == {CLIENT}"))?;
        assert!(
            relayed > 0 && relayed == recording.count("udp.dstport == 8472")?,
            "the client's packets, and no other"
        );
        explains_relay(lab.node("node-a")?.shunt()?)
    });
}

/// Without an overlay, a pod of another node is reached and answers as it is.
#[test]
fn node_ports_over_native_routes() {
    let mut plan = Plan::flat(Forwarder::Shunt);
    let backends = [plan.nodes[0].pod(2).address, plan.nodes[1].pod(1).address];
    let mut service = Service::simple("native", VIP, Protocol::Tcp, 80, TCP_PORT, backends);
    service.ports[0].node_port = Some(NODE_PORT);
    service.exposure = Some(Exposure { service_type: "NodePort", ..Exposure::balanced(Policy::Cluster) });
    plan.services = vec![service];
    exposed(plan, |lab, client| {
        let (nodes, a1) = (stand_ins(lab)?, lab.pod("a1")?);
        goes_to(client, "tcp", at(NODE_A, NODE_PORT), &["a2", "b1"], &nodes)?;
        checks::echo(client, at(NODE_A, NODE_PORT), 1_000_000)?.must_hold("a transfer");
        goes_to(&a1.namespace, "tcp", at(NODE_A, NODE_PORT), &["a2", "b1"], &nodes)?;
        goes_to(&a1.namespace, "tcp", at(VIP, 80), &["a2", "b1"], &[a1.address()])
    });
}
