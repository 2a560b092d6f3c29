//! Processes of the node itself as endpoints of services with the external policy `Local`: they see who asks, and their answers
//! find back, with kube-proxy's nftables rules as the oracle.

use std::{net::Ipv4Addr, time::Duration};

use shunt_control_lab::{
    change::{self, End},
    checks,
    cluster::{Endpoint, Exposure, Policy, Service},
    error::Result,
    for_both_forwarders,
    netns::{self, Namespace, connect},
    plan::{Forwarder, NodePlan, Plan, TCP_PORT, UDP_PORT},
    probe::hold::HoldReport,
    topology::{Lab, Node},
    wait,
};
use shunt_dataplane::net::Protocol;

use crate::frontends::{
    BALANCED, CLIENT, FRONTENDS, NODE_A, NODE_PORT, REFUSED, ROUTER, VIP, at, exposed, fails, goes_to, service,
};

for_both_forwarders!(
    external_traffic_policy_local_keeps_the_source_towards_processes_of_the_node,
    fragments_refusals_and_path_mtu_of_answers,
);

/// What the servers for datagrams have beside.
const OTHER_TCP_PORT: u16 = TCP_PORT + 1;
/// Of the narrow link, in bytes.
const NARROW_MTU: u16 = 1300;
/// A client behind it.
const FAR: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 9);

/// One endpoint on each node, which is a process of the node; with the external policy `Local`.
fn plan(forwarder: Forwarder) -> Plan {
    let mut plan = Plan::three_nodes(forwarder);
    let processes: Vec<_> = plan.nodes.iter().map(NodePlan::underlay).collect();
    let endpoints = processes.iter().copied().map(Endpoint::ready).collect();
    plan.services = vec![Service { endpoints, ..service(&plan, Policy::Local) }];
    // The kernel may lack its translation.
    if forwarder == Forwarder::Shunt {
        let mut messages = Service::simple("messages", VIP, Protocol::Sctp, 80, TCP_PORT, processes);
        messages.ports[0].node_port = Some(NODE_PORT);
        messages.exposure = Some(Exposure { load_balancer_ips: vec![BALANCED], ..Exposure::balanced(Policy::Local) });
        plan.services.push(messages);
    }
    plan
}

/// [`exposed`] with servers for datagrams on the nodes' underlay.
fn run(plan: Plan, body: impl FnOnce(&mut Lab, &Namespace) -> Result<()>) {
    exposed(plan, |lab, client| {
        let serve = |node: &Node| {
            let (name, at) = (node.plan.name(), at(node.plan.underlay(), UDP_PORT).into());
            lab.serve_at(&node.namespace, &name, OTHER_TCP_PORT, &[at])
        };
        let _servers = lab.nodes.iter().map(serve).collect::<Result<Vec<_>>>()?;
        body(lab, client)
    });
}

/// From the same ports to two frontends, whose answers would be the same: one of them gives way. And connections past the
/// switch, beside those through it.
fn external_traffic_policy_local_keeps_the_source_towards_processes_of_the_node(forwarder: Forwarder) {
    run(plan(forwarder), |lab, client| {
        let names = ["node-a", "node-b", "node-c"];
        let (a1, other) = (lab.pod("a1")?, lab.node("node-c")?);
        for (address, port) in FRONTENDS {
            for protocol in ["tcp", "udp"] {
                goes_to(client, protocol, at(address, port), &["node-a"], &[CLIENT])?;
            }
            goes_to(&a1.namespace, "tcp", at(address, port), &names, &[a1.address(), NODE_A])?;
        }
        if forwarder == Forwarder::Shunt {
            goes_to(client, "sctp", at(NODE_A, NODE_PORT), &["node-a"], &[CLIENT])?;
            goes_to(client, "sctp", at(BALANCED, 80), &["node-a"], &[CLIENT])?;
        }
        goes_to(&other.namespace, "tcp", at(NODE_A, NODE_PORT), &["node-a"], &[other.plan.underlay()])?;
        goes_to(client, "tcp", at(NODE_A, TCP_PORT), &["node-a"], &[CLIENT])?;
        if let Ok(shunt) = lab.node("node-a")?.shunt() {
            let flows = shunt.ctl_json(&["flow", "list", "--protocol", "tcp"])?;
            let flows = flows["flows"].as_array().cloned().unwrap_or_default();
            let ours = flows.iter().find(|flow| {
                flow["vip"] == at(NODE_A, NODE_PORT).to_string()
                    && flow["client"].as_str().is_some_and(|client| client.starts_with(&format!("{CLIENT}:")))
            });
            let known = ours.and_then(|flow| flow["client"].as_str()).expect("a flow of the client's").to_owned();
            for (to, told) in [(known, "it is led to the host port"), (at(CLIENT, 1).to_string(), "past the switch")] {
                let explained = shunt.ctl(&["explain", &at(NODE_A, TCP_PORT).to_string(), &to])?;
                assert!(explained.contains(told), "{to}: {explained}");
            }
        }
        for (address, port) in FRONTENDS {
            checks::echo(client, at(address, port), 3_000_000)?.must_hold("a transfer");
        }
        Ok(())
    });
}

/// A link on the way to a client is narrower than both ends believe.
fn far_client(lab: &Lab) -> Result<Namespace> {
    let client = Namespace::create(&format!("{}-far", lab.underlay.name()))?;
    let ends = [(&client, "eth0"), (&lab.underlay, "far")];
    let [here, there] = ends.map(|(namespace, interface)| netns::End { namespace, interface });
    connect(here, there, 1, NARROW_MTU)?;
    lab.underlay.sysctl("net.ipv4.ip_forward", "1")?;
    lab.underlay.ip(&format!("addr add {ROUTER}/24 dev br0"))?;
    lab.underlay.ip("addr add 172.20.0.1/24 dev far")?;
    client.ip(&format!("addr add {FAR}/24 dev eth0"))?;
    client.ip("route add default via 172.20.0.1 advmss 1460")?;
    Ok(client)
}

fn fragments_refusals_and_path_mtu_of_answers(forwarder: Forwarder) {
    let mut plan = plan(forwarder);
    let silent = |protocol, name, vip: [u8; 4], target| {
        let mut service = Service::simple(name, vip.into(), protocol, 81, target, []);
        service.endpoints = plan.services[0].endpoints.clone();
        service.ports[0].node_port = Some(NODE_PORT + 1);
        service.exposure = Some(Exposure { service_type: "NodePort", ..Exposure::balanced(Policy::Local) });
        service
    };
    let nobody = [
        silent(Protocol::Tcp, "nobody", [10, 96, 0, 81], TCP_PORT + 2),
        silent(Protocol::Udp, "nobody-either", [10, 96, 0, 82], UDP_PORT + 1),
    ];
    plan.services.extend(nobody);
    run(plan, |lab, client| {
        for (address, port) in FRONTENDS {
            for size in [1400, 1473, 5000, 9000] {
                let stream = checks::stream(client, at(address, port), 100, 10, size)?;
                assert!(stream.is_complete(), "{size} bytes to {address}: {stream:?}");
            }
        }
        let backwards = checks::backwards(client, at(NODE_A, NODE_PORT), 20, 4000)?;
        assert!(backwards.is_prompt(), "{backwards:?}");

        ["tcp", "udp"].into_iter().try_for_each(|name| fails(client, name, at(NODE_A, NODE_PORT + 1), REFUSED))?;

        let far = far_client(lab)?;
        checks::echo(&far, at(NODE_A, NODE_PORT), 1_000_000)?.must_hold("a transfer over a narrow link");
        let learnt = lab.node("node-a")?.namespace.run(&format!("ip route get {FAR}"))?;
        assert!(learnt.contains(&format!("mtu {NARROW_MTU}")), "the process's kernel knows the path: {learnt}");
        goes_to(&far, "udp", at(NODE_A, NODE_PORT), &["node-a"], &[FAR])
    });
}

/// DSR asks for no more than that the endpoint is here: the policy Cluster replaces the sources of all others.
#[test]
fn dsr_for_processes_of_the_node() {
    let mut plan = plan(Forwarder::Shunt);
    plan.services.truncate(1);
    let exposure = Exposure { direct_server_return: true, ..Exposure::balanced(Policy::Cluster) };
    plan.services[0].exposure = Some(exposure);
    run(plan, |lab, client| {
        let (a, to) = (&lab.node("node-a")?.plan, at(NODE_A, NODE_PORT));
        goes_to(client, "tcp", to, &["node-a", "node-b", "node-c"], &[CLIENT, a.underlay(), a.overlay()])?;
        let answers = checks::ask(client, "udp", to, 72)?;
        assert!(answers.failed() == 0 && answers.seen_as.contains(&CLIENT.into()), "{answers:?}");
        Ok(())
    });
}

/// The daemon ends in order, is killed, and loses its host port: who is silent meanwhile goes on as before, and so does who is
/// in the middle of talking, though the process sends its answer again while nobody translates it. Who is new sees no difference.
#[test]
fn clients_of_the_node_s_processes_outlive_a_restart() {
    run(plan(Forwarder::Shunt), |lab, client| {
        let to = at(BALANCED, 80);
        let silent = change::hold_slowly(lab, client, to, Duration::from_secs(11), Duration::from_secs(3))?;
        for end in [End::Stop, End::Kill] {
            let talking = change::hold(lab, client, to, Duration::from_secs(3))?;
            change::restart_under(lab, "node-a", end, talking)?.must_hold("a connection");
            goes_to(client, "tcp", to, &["node-a"], &[CLIENT])?;
        }
        lab.node("node-a")?.namespace.ip("link del shunt0")?;
        wait::until("the host port to be back", Duration::from_secs(10), || {
            let answers = checks::ask(client, "tcp", to, 1).map_err(|error| error.to_string())?;
            if answers.failed() == 0 { Ok(()) } else { Err(answers.table()) }
        })?;
        goes_to(client, "udp", to, &["node-a"], &[CLIENT])?;
        let report: HoldReport = silent.finish(Duration::from_secs(60))?;
        assert!(report.messages >= 3, "{report:?}");
        Ok(())
    });
}
