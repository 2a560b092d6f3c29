//! IPv6 beside IPv4: pods reach one another, services have a ClusterIP of each family, and the path's MTU is found. Outside,
//! between the nodes, all of it is in IPv4.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use shunt_control_lab::{
    Result,
    capture::Capture,
    checks,
    cluster::{Cluster, EndpointPort, Service, ServicePort},
    for_both_forwarders,
    plan::{
        Forwarder, IPV6_DNS, IPV6_GATEWAY, IPV6_WEB, NodePlan, POD_MTU, Plan, TCP_PORT, UDP_PORT, UNDERLAY_MTU,
        ipv6_cluster_ip,
    },
    shunt_node::ShuntNode,
    tools,
    topology::{Lab, Node, Pod},
    trial::trial,
};
use shunt_dataplane::net::Protocol;

for_both_forwarders!(
    pods_reach_one_another_over_ipv6,
    one_clusterip_per_family_and_families_never_cross,
    what_is_too_big_is_answered_with_the_right_mtu,
);

/// On one node, across Shunt nodes, to the kernel's node and from it.
const PAIRS: [(&str, &str); 5] = [("a1", "a2"), ("a1", "b1"), ("b1", "a1"), ("a1", "c1"), ("c1", "a1")];

/// Of the services `web` and `dns`.
const BACKENDS: [&str; 3] = ["a2", "b1", "c1"];

/// Bytes of a transfer that fills windows.
const BULK: u64 = 4_000_000;

/// The node's own address on the overlay.
fn overlay(node: &NodePlan) -> Ipv6Addr {
    node.ipv6_pod_cidr().expect("the plan has both families").addr()
}

fn pods_reach_one_another_over_ipv6(forwarder: Forwarder) {
    trial(Plan::dual_stack(forwarder), |lab| {
        // What arrives at c1 has come through node-c's kernel, which merges segments and leaves their checksum unfinished.
        lab.node("node-c")?.namespace.run("ethtool -K flannel.1 gro off")?;
        for (from, to) in PAIRS {
            let (from, to) = (lab.pod(from)?, lab.pod(to)?);
            let capture = Capture::start(&to.namespace, "eth0", "ip6", lab.folder())?;
            checks::reach(&from.namespace, to.ipv6()?)?.must_hold(&format!("{} -> {}", from.plan.name, to.plan.name));
            checks::echo(&from.namespace, (to.ipv6()?, TCP_PORT), BULK)?.must_hold("a bulk of bytes");
            let recording = capture.finish()?;
            // Between its own devices the kernel hands on unfinished checksums and merged segments; Shunt never may.
            if forwarder == Forwarder::Shunt {
                let arrived = recording.must_be_well_formed(&format!("ipv6.src == {}", from.ipv6()?))?;
                assert!(arrived > 1000, "{arrived} packets");
            }
            let fragmented = checks::stream(&from.namespace, (to.ipv6()?, UDP_PORT), 100, 50, 5000)?;
            assert!(fragmented.is_complete(), "in fragments: {fragmented:?}");
        }
        checks::all_reach(lab, &[("a1", "a2"), ("a1", "b1"), ("c1", "a1")])?;
        the_switch_answers(lab)?;
        nodes_reach_pods_and_services(lab)?;
        new_flows_go_where_they_are_meant_to(lab)
    });
}

/// As the pods' gateway, and at the nodes' own addresses; and it tells of packets whose hops have run out.
fn the_switch_answers(lab: &Lab) -> Result<()> {
    let (a1, b1) = (lab.pod("a1")?, lab.pod("b1")?);
    let own = overlay(&lab.node("node-a")?.plan);
    for (address, options) in [(own, ""), (IPV6_GATEWAY, "-I eth0"), (overlay(&lab.node("node-b")?.plan), "")] {
        let ping = tools::ping(&a1.namespace, &format!("-c 3 -i 0.05 {options}"), address)?;
        assert!(ping.is_complete(), "{address}: {}", ping.text);
    }
    for (hops, who) in [(1, own), (2, overlay(&lab.node("node-b")?.plan))] {
        let ping = tools::ping(&a1.namespace, &format!("-c 1 -t {hops}"), b1.ipv6()?)?;
        assert_eq!(ping.received, 0, "{}", ping.text);
        assert!(ping.text.contains(&format!("From {who} icmp_seq=1 Time exceeded: Hop limit")), "{}", ping.text);
    }
    let ping = tools::ping(&a1.namespace, "-c 1 -t 3", b1.ipv6()?)?;
    assert!(ping.is_complete() && ping.text.contains("ttl=62"), "{}", ping.text);
    Ok(())
}

/// Their own processes, from the node's address on the overlay.
fn nodes_reach_pods_and_services(lab: &Lab) -> Result<()> {
    for name in ["node-a", "node-c"] {
        let node = lab.node(name)?;
        for pod in ["a1", "b1", "c1"] {
            checks::reach(&node.namespace, lab.pod(pod)?.ipv6()?)?.must_hold(&format!("{name} -> {pod}"));
        }
        checks::spread(&node.namespace, "tcp", (IPV6_WEB, 80), 100, &BACKENDS)?.must_hold(&format!("{name} -> web"));
        checks::spread(&node.namespace, "udp", (IPV6_DNS, 53), 100, &BACKENDS)?.must_hold(&format!("{name} -> dns"));
    }
    Ok(())
}

/// Services of the same endpoints in both families; the daemons choose by each scheduler, and keep to it with affinity.
fn new_flows_go_where_they_are_meant_to(lab: &Lab) -> Result<()> {
    for from in ["a1", "b2", "c1"] {
        let from = &lab.pod(from)?.namespace;
        checks::spread(from, "tcp", (IPV6_WEB, 80), 150, &BACKENDS)?.must_hold("TCP");
        checks::spread(from, "udp", (IPV6_DNS, 53), 150, &BACKENDS)?.must_hold("UDP");
    }
    let web = &lab.plan.services[0];
    let choices: [(&str, Option<&str>, &[u32]); 4] = [
        ("least-connections", None, &[20, 20, 20]),
        ("source-hash", None, &[60]),
        ("maglev", Some("ClientIP"), &[60]),
        ("round-robin", None, &[20, 20, 20]),
    ];
    for (scheduler, session_affinity, shares) in choices {
        let service = Service { scheduler: Some(scheduler), session_affinity, ..web.clone() };
        let cluster = Cluster { services: vec![service], ..Cluster::default() };
        for (node, shunt) in lab.daemons() {
            shunt.apply(&cluster, &[])?;
            let answers = checks::ask(&node.pods[0].namespace, "tcp", (IPV6_WEB, 80), 60)?;
            let seen: Vec<_> = answers.by_server.values().copied().collect();
            assert_eq!((seen.as_slice(), answers.failed()), (shares, 0), "{scheduler}: {answers:?}");
        }
    }
    lab.daemons().try_for_each(|(node, shunt)| the_next_one_goes_as_explained(lab, node, shunt))
}

/// Whose turn it is for a new connection to `web`.
fn the_next_one_goes_as_explained(lab: &Lab, node: &Node, shunt: &ShuntNode) -> Result<()> {
    let from = &node.pods[0];
    let (source, vip) = (from.ipv6()?.to_string(), format!("[{IPV6_WEB}]:80"));
    let mut endpoints = BTreeSet::new();
    for _ in BACKENDS {
        let told = shunt.ctl_json(&["explain", &source, &vip])?["packet"].take();
        let fact = |name: &str| {
            let steps = told["steps"].as_array().into_iter().flatten();
            steps.filter_map(|step| step["facts"][name].as_str()).next().unwrap_or_default().to_owned()
        };
        let in_by = format!("default/{}", from.plan.name);
        assert_eq!((&told["port"], fact("service").as_str()), (&in_by.into(), "default/web"), "{told:#}");
        let answers = checks::ask(&from.namespace, "tcp", (IPV6_WEB, 80), 1)?;
        let server = answers.by_server.keys().next().expect("somebody answers");
        assert_eq!(fact("endpoint"), format!("[{}]:{TCP_PORT}", lab.pod(server)?.ipv6()?), "{told:#}");
        endpoints.insert(fact("endpoint"));
    }
    assert_eq!(endpoints.len(), BACKENDS.len(), "it was another one's turn each time");
    Ok(())
}

/// A service over TCP, port 80, and UDP, port 53, at 10.96.0.`number` and fd00:10:96::`number`.
fn service(name: &str, number: u8, ipv4: &[Ipv4Addr], ipv6: &[Ipv6Addr]) -> Service {
    let vip = Ipv4Addr::new(10, 96, 0, number);
    let mut service = Service::simple(name, vip, Protocol::Tcp, 80, TCP_PORT, ipv4.iter().copied());
    let name = || "datagrams".to_owned();
    service.ports.push(ServicePort { name: name(), protocol: Protocol::Udp, port: 53, node_port: None });
    service.targets.push(EndpointPort { name: name(), port: UDP_PORT });
    service.over_ipv6(ipv6_cluster_ip(number.into()), ipv6.iter().copied())
}

/// New flows to the service's address reach each of `ends` and nobody else; if that is nobody, the client is told, and does not
/// wait in vain. Returns who the servers saw as their client.
fn leads_to(from: &Pod, vip: IpAddr, ends: &[&str]) -> Result<BTreeSet<IpAddr>> {
    let mut seen_as = BTreeSet::new();
    for (protocol, port) in [("tcp", 80), ("udp", 53)] {
        // The kernel tells no client of more than six refusals in quick succession.
        let count = if ends.is_empty() { 1 } else { 40 };
        let answers = checks::ask(&from.namespace, protocol, (vip, port), count)?;
        let context = format!("{} -> {vip} over {protocol}: {answers:?}", from.plan.name);
        let servers: Vec<_> = answers.by_server.keys().map(String::as_str).collect();
        assert_eq!(servers, ends, "{context}");
        assert_eq!(answers.failed(), if ends.is_empty() { count } else { 0 }, "{context}");
        assert!(answers.failures.keys().all(|reason| reason.contains("refused")), "{context}");
        seen_as.extend(answers.seen_as);
    }
    Ok(seen_as)
}

/// A service whose endpoints of the two families are different servers: clients of each family reach its own. Where a family
/// has no endpoints its clients are refused at once, whoever serves the other one. Endpoints see the clients' addresses, but
/// for those that reach themselves.
fn one_clusterip_per_family_and_families_never_cross(forwarder: Forwarder) {
    // Two workers: a flow's directions may be different ones'.
    let mut plan = Plan { workers: 2, ..Plan::dual_stack(forwarder) };
    plan.nodes[0].pods = 3;
    let pod = |node: usize, number| plan.nodes[node].pod(number);
    let ipv4 = [pod(0, 2).address, pod(1, 1).address];
    let [a1, a3, c1] = [pod(0, 1), pod(0, 3), pod(2, 1)].map(|pod| pod.ipv6.expect("the plan has both families"));
    let ipv6 = [a3, c1];
    let single = Service { cluster_ip: None, ..service("single", 64, &ipv4, &ipv6) };
    plan.services.extend([
        service("both", 60, &ipv4, &ipv6),
        service("ipv4-alone", 61, &ipv4, &[]),
        service("ipv6-alone", 62, &[], &ipv6),
        service("itself", 63, &[], &[a1]),
        single,
    ]);
    let vips = |number: u8| (IpAddr::from([10, 96, 0, number]), IpAddr::from(ipv6_cluster_ip(number.into())));
    trial(plan, |lab| {
        for from in ["a1", "b2"] {
            let from = lab.pod(from)?;
            for (number, ipv4, ipv6) in
                [(60, &["a2", "b1"][..], &["a3", "c1"][..]), (61, &["a2", "b1"], &[]), (62, &[], &["a3", "c1"])]
            {
                leads_to(from, vips(number).0, ipv4)?;
                leads_to(from, vips(number).1, ipv6)?;
            }
            let seen_as = leads_to(from, vips(64).1, &["a3", "c1"])?;
            assert_eq!(seen_as, [from.ipv6()?.into()].into(), "the client's own address");
        }
        let (a1, itself) = (lab.pod("a1")?, vips(63).1);
        let seen_as = leads_to(a1, itself, &["a1"])?;
        assert_eq!(seen_as, [overlay(&lab.node("node-a")?.plan).into()].into(), "masqueraded by the node");
        checks::echo(&a1.namespace, (itself, 80), BULK)?.must_hold("a transfer to itself");
        checks::echo(&lab.pod("b2")?.namespace, (vips(62).1, 80), BULK)?.must_hold("a transfer through a service");
        Ok(())
    });
}

/// Pods that believe in the underlay's MTU learn from ICMPv6 what the overlay carries: IPv6 is cut by nobody on the way.
fn what_is_too_big_is_answered_with_the_right_mtu(forwarder: Forwarder) {
    // The kernel's node leaves checksums unfinished, inside and outside: those of its IPv6 packets have to be finished here.
    let plan = Plan { pod_mtu: UNDERLAY_MTU, kernel_unfinished_checksums: true, ..Plan::dual_stack(forwarder) };
    trial(plan, |lab| {
        for (from, to) in PAIRS {
            let (from, to) = (lab.pod(from)?, lab.pod(to)?);
            // 48 bytes are headers.
            let ping = tools::ping(&from.namespace, "-c 1 -M do -s 1452", to.ipv6()?)?;
            let learnt = || from.namespace.ip(&format!("-6 route get {}", to.ipv6()?));
            if from.plan.name[..1] == to.plan.name[..1] {
                assert!(ping.is_complete() && !learnt()?.contains("mtu"), "nothing is added: {}", ping.text);
                continue;
            }
            assert_eq!(ping.received, 0, "{}", ping.text);
            assert!(ping.text.contains(&format!("Packet too big: mtu={POD_MTU}")), "{}", ping.text);
            assert!(learnt()?.contains(&format!("mtu {POD_MTU}")), "{}", learnt()?);
            let fits = tools::ping(&from.namespace, "-c 3 -i 0.05 -M do -s 1402", to.ipv6()?)?;
            assert!(fits.is_complete(), "{}", fits.text);
        }
        // Both ends know it now, and cut what is longer.
        for (from, to) in PAIRS {
            let to = lab.pod(to)?.ipv6()?;
            let stream = checks::stream(&lab.pod(from)?.namespace, (to, UDP_PORT), 250, 50, 1452)?;
            assert!(stream.is_complete(), "{from} -> {to}: {stream:?}");
        }
        // TCP in both directions depends on these messages, through a service as well: its segments are of 1440 bytes at first.
        for pod in lab.nodes.iter().flat_map(|node| &node.pods) {
            pod.namespace.ip("-6 route flush cache")?;
        }
        for (from, to) in PAIRS {
            let to = lab.pod(to)?.ipv6()?;
            checks::echo(&lab.pod(from)?.namespace, (to, TCP_PORT), 1_000_000)?
                .must_hold("TCP with path MTU discovery");
        }
        for from in ["a1", "b2"] {
            checks::spread(&lab.pod(from)?.namespace, "tcp", (IPV6_WEB, 80), 60, &BACKENDS)?.must_hold("TCP");
        }
        Ok(())
    });
}
