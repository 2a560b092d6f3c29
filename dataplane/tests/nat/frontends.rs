//! NodePorts, load balancer addresses and external IPs: what comes natively over the uplink.

use std::{net::Ipv4Addr, time::Duration};

use shunt_dataplane::{
    net::Protocol,
    spec::{Affinity, Otherwise, Rule, Scheduler, ServiceSpec},
    verdict::DropReason,
};

use crate::world::*;

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn nodeport(from_outside: Rule, all: &[End]) -> ServiceSpec {
    let service = service(Protocol::Tcp, all);
    ServiceSpec { vip: NODE, port: 30_080, from_outside, ..service }
}

fn syn(client: End, frontend: End) -> Packet {
    (Kind::Tcp("S"), client, frontend)
}

#[test]
fn external_traffic_policy_cluster_masquerades_to_pods_here_and_on_other_nodes() {
    for backend in [(B, 8080), (REMOTE[0], 8080)] {
        let mut world = World::new(&spec(vec![nodeport(rule(&[backend], true), &[backend])]));
        let asked = syn((OUTSIDE, 1000), (NODE, 30_080));
        let (port, came) = world.pass(UPLINK, asked);
        assert_eq!((port == POD_B, came.2), (backend.0 == B, backend));
        assert_eq!(came.1.0, OVERLAY, "over the overlay and to pods");
        assert!(MASQUERADE.contains(&came.1.1));
        world.answer((port, came), (UPLINK, asked));
    }
}

#[test]
fn external_traffic_policy_local_keeps_the_source_and_drops_when_none_local() {
    let mut world = World::new(&spec(vec![nodeport(rule(&[(B, 8080)], false), &[(B, 8080), (REMOTE[0], 8080)])]));
    let asked = syn((OUTSIDE, 1000), (NODE, 30_080));
    let came = world.pass(UPLINK, asked);
    assert_eq!(came, (POD_B, syn((OUTSIDE, 1000), (B, 8080))));
    world.answer(came, (UPLINK, asked));

    let none = Rule { otherwise: Otherwise::Drop, ..Rule::default() };
    world.switch.publish(&spec(vec![nodeport(none, &[(REMOTE[0], 8080)])])).unwrap();
    assert_eq!(world.send(UPLINK, syn((OUTSIDE, 2000), (NODE, 30_080))), None);
    assert_eq!(world.drops(DropReason::NoLocalBackend), 1);
    let from_a_pod = world.pass(POD_A, syn((A, 1000), (NODE, 30_080)));
    assert_eq!(from_a_pod, (UPLINK, syn((A, 1000), (REMOTE[0], 8080))), "pods reach all endpoints");
    let established = (Kind::Tcp("A"), asked.1, asked.2);
    assert_eq!(world.pass(UPLINK, established).1.2, (B, 8080), "who is connected stays so");
}

#[test]
fn an_external_ip_is_a_frontend_of_its_own() {
    let external = ServiceSpec { vip: EXTERNAL, port: 443, ..nodeport(rule(&[(A, 1)], false), &[]) };
    let mut world = World::new(&spec(vec![external, nodeport(rule(&[(B, 2)], false), &[])]));
    assert_eq!(world.pass(UPLINK, syn((OUTSIDE, 1000), (EXTERNAL, 443))).1.2, (A, 1));
    assert_eq!(world.pass(UPLINK, syn((OUTSIDE, 1000), (NODE, 30_080))).1.2, (B, 2));
}

#[test]
fn what_the_classifier_took_and_nobody_knows_goes_to_the_kernel() {
    let mut world = World::new(&spec(vec![]));
    let stray = (Kind::Tcp("A"), (OUTSIDE, 443), (NODE, 61_000));
    assert_eq!(world.pass(UPLINK, stray), (HOST, stray), "which answers with a reset");
}

/// An endpoint that is a process of a node: the kernel there answers whoever asks, and not always by way of the switch.
#[test]
fn host_network_endpoints_answer_by_the_switch() {
    let on = |node: Ipv4Addr| service(Protocol::Tcp, &[(node, 6443)]);
    let spec_of = |node| spec(vec![nodeport(rule(&[(node, 6443)], false), &[(node, 6443)]), on(node)]);

    // On this node. A pod's source is kept: the kernel answers it through the switch.
    let mut world = World::new(&spec_of(NODE));
    let from_a_pod = syn((A, 1000), (VIP, 80));
    let came = world.pass(POD_A, from_a_pod);
    assert_eq!(came, (HOST, syn((A, 1000), (NODE, 6443))));
    world.answer(came, (POD_A, from_a_pod));
    // The node itself and who is outside: the gateway stands in, which the kernel can only answer through the switch.
    for (port, asked) in [(HOST, syn((OVERLAY, 1000), (VIP, 80))), (UPLINK, syn((OUTSIDE, 1000), (NODE, 30_080)))] {
        let came = world.pass(port, asked);
        assert_eq!((came.0, came.1.1.0, came.1.2), (HOST, GATEWAY, (NODE, 6443)), "{asked:?}");
        world.answer(came, (port, asked));
    }

    // On the other node: the kernel leads there. A pod is known there by its address, the node by that on the underlay.
    let mut world = World::new(&spec_of(OTHER_NODE));
    assert_eq!(world.pass(POD_A, from_a_pod), (HOST, syn((A, 1000), (OTHER_NODE, 6443))));
    let from_the_node = syn((OVERLAY, 1000), (VIP, 80));
    let came = world.pass(HOST, from_the_node);
    assert_eq!((came.0, came.1.1.0, came.1.2), (HOST, NODE, (OTHER_NODE, 6443)));
    // Its answer comes natively.
    world.answer((UPLINK, came.1), (HOST, from_the_node));

    // Where pods are not known outside of the cluster, one is masqueraded on its way to another node.
    let mut island = spec_of(OTHER_NODE);
    island.ipv4.masquerade.as_mut().unwrap().egress = Some(Vec::new());
    let mut world = World::new(&island);
    let came = world.pass(POD_A, from_a_pod);
    assert_eq!((came.0, came.1.1.0, came.1.2), (HOST, NODE, (OTHER_NODE, 6443)));
    world.answer((UPLINK, came.1), (POD_A, from_a_pod));
}

/// The same where programs lead what the node's processes answer to the switch: who is outside is known to them.
#[test]
fn external_traffic_policy_local_keeps_the_source_where_answers_are_led() {
    let at = |endpoint| nodeport(rule(&[endpoint], false), &[endpoint]);
    let balanced = ServiceSpec { vip: EXTERNAL, port: 443, ..at((NODE, 6443)) };
    let replaced = ServiceSpec { port: 30_081, ..nodeport(rule(&[(NODE, 6443)], true), &[]) };
    let on_overlay = ServiceSpec { port: 30_082, ..at((OVERLAY, 6443)) };
    let mut led = spec(vec![at((NODE, 6443)), balanced, replaced, on_overlay, service(Protocol::Tcp, &[(NODE, 6443)])]);
    led.ipv4.masquerade.as_mut().unwrap().answers_led = true;
    let mut world = World::new(&led);

    let asked = syn((OUTSIDE, 1000), (NODE, 30_080));
    let came = world.pass(UPLINK, asked);
    assert_eq!(came, (HOST, syn((OUTSIDE, 1000), (NODE, 6443))));
    world.answer(came, (UPLINK, asked));
    // From the same port by another frontend: the answers could not be told apart.
    let same = syn((OUTSIDE, 1000), (EXTERNAL, 443));
    let came = world.pass(UPLINK, same);
    assert_eq!((came.0, came.1.1.0, came.1.2), (HOST, GATEWAY, (NODE, 6443)));
    world.answer(came, (UPLINK, same));
    // The policy asks for it; another of the node's addresses, whose answers nobody leads; the node itself, and who says so.
    for (port, client, to, endpoint) in [
        (UPLINK, OUTSIDE, (NODE, 30_081), (NODE, 6443)),
        (UPLINK, OUTSIDE, (NODE, 30_082), (OVERLAY, 6443)),
        (HOST, OVERLAY, (VIP, 80), (NODE, 6443)),
        (HOST, Ipv4Addr::new(172, 17, 0, 2), (VIP, 80), (NODE, 6443)),
        (UPLINK, NODE, (EXTERNAL, 443), (NODE, 6443)),
    ] {
        let asked = syn((client, 2000), to);
        let came = world.pass(port, asked);
        assert_eq!((came.0, came.1.1.0, came.1.2), (HOST, GATEWAY, endpoint), "{asked:?}");
    }
}

/// From the node's own stack, with its address on the overlay and with another one: the first is like a pod's.
#[test]
fn a_node_s_address_outside_the_pod_range_is_masqueraded_to_a_cluster_ip() {
    let from_node = rule(&[(REMOTE[0], 8080)], true);
    let cluster_ip = ServiceSpec { from_node, ..service(Protocol::Tcp, &[(REMOTE[0], 8080)]) };
    let mut world = World::new(&spec(vec![cluster_ip]));
    let kept = syn((OVERLAY, 1000), (VIP, 80));
    assert_eq!(world.pass(HOST, kept).1.1, (OVERLAY, 1000));
    let other = syn((NODE, 1000), (VIP, 80));
    let came = world.pass(HOST, other);
    assert_eq!(came.1.1.0, OVERLAY);
    assert!(MASQUERADE.contains(&came.1.1.1));
    world.answer(came, (HOST, other));
}

#[test]
fn affinity_with_timeout_and_switching_on_a_cluster_ip_and_a_node_port() {
    const SECOND: u64 = 1_000_000_000;
    let backends = [(A, 8080), (B, 8080), (REMOTE[0], 8080)];
    let with = |timeout: Option<u64>| {
        let affinity = timeout.map(|seconds| Affinity { timeout: Duration::from_secs(seconds), group: 1 });
        let cluster_ip =
            ServiceSpec { affinity, scheduler: Scheduler::RoundRobin, ..service(Protocol::Tcp, &backends) };
        let node_port =
            ServiceSpec { vip: NODE, port: 30_080, from_outside: rule(&backends, true), ..cluster_ip.clone() };
        spec(vec![cluster_ip, node_port])
    };
    for (entry, client, frontend) in [(HOST, OVERLAY, (VIP, 80)), (UPLINK, OUTSIDE, (NODE, 30_080))] {
        let mut world = World::new(&with(Some(60)));
        let mut ports = 1000..;
        let mut chosen = |world: &mut World, seconds: u64| {
            world.now += seconds * SECOND;
            world.pass(entry, syn((client, ports.next().expect("endless")), frontend)).1.2
        };
        let first = chosen(&mut world, 0);
        assert!((0..5).all(|_| chosen(&mut world, 50) == first), "each new flow begins the time anew");
        assert_ne!(chosen(&mut world, 61), first, "in turns, it is another's");
        world.switch.publish(&with(None)).unwrap();
        let turns: Vec<_> = (0..3).map(|_| chosen(&mut world, 0)).collect();
        assert!(backends.iter().all(|backend| turns.contains(backend)), "{turns:?}");
        world.switch.publish(&with(Some(5))).unwrap();
        let first = chosen(&mut world, 10);
        assert!((0..5).all(|_| chosen(&mut world, 4) == first));
    }
}
