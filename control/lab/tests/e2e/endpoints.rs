//! Which endpoints a service's new flows go to, by its policies and by what is said of the endpoints: real sockets, the
//! kernel's nftables as the oracle. Every test carries the name of the line that it shows.

use std::net::{Ipv4Addr, SocketAddrV4};

use shunt_control_lab::{
    checks,
    cluster::{Cluster, Endpoint, Policy, Service},
    error::Result,
    for_both_forwarders,
    plan::{Forwarder, Plan, TCP_PORT},
    topology::Lab,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

for_both_forwarders!(
    internal_traffic_policy_local_takes_the_node_s_own,
    internal_traffic_policy_local_drops_when_none_local,
    internal_traffic_policy_local_rejects_when_none_anywhere,
    selection_falls_back_to_serving_and_terminating_endpoints,
    traffic_distribution_prefers_the_same_node,
    allocated_cluster_ip_wrong_port_rejects_and_an_unallocated_address_drops,
);

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 70);

/// A lab whose nodes know a service at [`VIP`] with these endpoints.
fn plan(forwarder: Forwarder, policy: Policy, endpoints: impl Fn(&Plan) -> Vec<Endpoint>) -> Plan {
    let mut plan = Plan::three_nodes(forwarder);
    let endpoints = endpoints(&plan);
    let service = Service::simple("chosen", VIP, Protocol::Tcp, 80, TCP_PORT, []);
    plan.services.push(Service { internal_traffic_policy: policy, endpoints, ..service });
    plan
}

/// Pods a2, b1 and c1: one on each node.
fn pods(plan: &Plan) -> [Ipv4Addr; 3] {
    [plan.nodes[0].pod(2).address, plan.nodes[1].pod(1).address, plan.nodes[2].pod(1).address]
}

fn all_ready(plan: &Plan) -> Vec<Endpoint> {
    pods(plan).map(Endpoint::ready).into()
}

/// New flows of a station go to these, each as often as the others.
fn goes_to(lab: &Lab, from: &str, backends: &[&str]) -> Result<()> {
    let station = lab.station(from)?.0;
    checks::spread(station, "tcp", SocketAddrV4::new(VIP, 80), 40 * backends.len() as u32, backends)?.must_hold(from);
    Ok(())
}

/// Every new flow of a station fails for this reason.
fn fails(lab: &Lab, from: &str, to: SocketAddrV4, reason: &str) -> Result<()> {
    let answers = checks::ask(lab.station(from)?.0, "tcp", to, 2)?;
    assert_eq!((answers.by_server.len(), answers.failed()), (0, 2), "{from}: {answers:?}");
    assert!(answers.failures.keys().all(|text| text.contains(reason)), "{from}: {answers:?}");
    Ok(())
}

const REFUSED: &str = "refused";
const SILENCE: &str = "timed out";

fn internal_traffic_policy_local_takes_the_node_s_own(forwarder: Forwarder) {
    trial(plan(forwarder, Policy::Local, all_ready), |lab| {
        // From a pod and from the host network.
        for (from, backend) in [("a1", "a2"), ("node-a", "a2"), ("b2", "b1"), ("node-b", "b1")] {
            goes_to(lab, from, &[backend])?;
        }
        Ok(())
    });
}

fn internal_traffic_policy_local_drops_when_none_local(forwarder: Forwarder) {
    let on_c = |plan: &Plan| vec![Endpoint::ready(pods(plan)[2])];
    trial(plan(forwarder, Policy::Local, on_c), |lab| {
        for from in ["a1", "node-a"] {
            fails(lab, from, SocketAddrV4::new(VIP, 80), SILENCE)?;
        }
        if forwarder == Forwarder::Shunt {
            assert!(lab.node("node-a")?.shunt()?.dropped("no_local_backend")? > 0);
        }
        Ok(())
    });
}

fn internal_traffic_policy_local_rejects_when_none_anywhere(forwarder: Forwarder) {
    let unready = |plan: &Plan| vec![Endpoint { ready: Some(false), ..Endpoint::ready(pods(plan)[0]) }];
    trial(plan(forwarder, Policy::Local, unready), |lab| {
        ["a1", "node-a"].into_iter().try_for_each(|from| fails(lab, from, SocketAddrV4::new(VIP, 80), REFUSED))
    });
}

fn selection_falls_back_to_serving_and_terminating_endpoints(forwarder: Forwarder) {
    let leaving = |plan: &Plan| {
        let [a2, b1, c1] = pods(plan);
        vec![
            Endpoint::terminating(a2),
            Endpoint { ready: Some(false), ..Endpoint::ready(b1) },
            Endpoint::terminating(c1),
        ]
    };
    trial(plan(forwarder, Policy::Cluster, leaving), |lab| {
        ["a1", "b2"].into_iter().try_for_each(|from| goes_to(lab, from, &["a2", "c1"]))?;
        if forwarder == Forwarder::Shunt {
            // One becomes ready: it alone takes new flows.
            let mut service = lab.plan.services.last().expect("just made").clone();
            service.endpoints[1].ready = None;
            let cluster = Cluster { services: vec![service], ..Cluster::default() };
            lab.node("node-a")?.shunt()?.apply(&cluster, &[])?;
            goes_to(lab, "a1", &["b1"])?;
        }
        Ok(())
    });
}

fn traffic_distribution_prefers_the_same_node(forwarder: Forwarder) {
    let hinted = |plan: &Plan| {
        let hint = |(address, node): (Ipv4Addr, &str)| Endpoint {
            for_nodes: vec![node.to_owned()],
            ..Endpoint::ready(address)
        };
        pods(plan).into_iter().zip(["node-a", "node-a", "node-c"]).map(hint).collect()
    };
    trial(plan(forwarder, Policy::Cluster, hinted), |lab| {
        goes_to(lab, "a1", &["a2", "b1"])?;
        // Nobody hints node-b.
        goes_to(lab, "b2", &["a2", "b1", "c1"])
    });
}

fn allocated_cluster_ip_wrong_port_rejects_and_an_unallocated_address_drops(forwarder: Forwarder) {
    trial(plan(forwarder, Policy::Cluster, all_ready), |lab| {
        for from in ["a1", "node-a"] {
            fails(lab, from, SocketAddrV4::new(VIP, 81), REFUSED)?;
            fails(lab, from, SocketAddrV4::new([10, 96, 0, 71].into(), 80), SILENCE)?;
        }
        if forwarder == Forwarder::Shunt {
            assert!(lab.node("node-a")?.shunt()?.dropped("no_service")? > 0);
        }
        Ok(())
    });
}
