//! One test for each line of what a kube-proxy replacement must do, and a comparison with a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use proptest::prelude::*;
use shunt_control_api::{EndpointConditions, EndpointPort, Endpoints};

use super::*;

const HERE: Place = Place { node: "node-a", zone: "zone-1", addresses: &[], underlay: None, isolated: false };

const READY: EndpointConditions = EndpointConditions { ready: None, serving: None, terminating: None };
const UNREADY: EndpointConditions = EndpointConditions { ready: Some(false), ..READY };
const LEAVING: EndpointConditions =
    EndpointConditions { ready: Some(false), serving: Some(true), terminating: Some(true) };

fn endpoint(n: u8, node: &str, conditions: EndpointConditions) -> Endpoint {
    let address = Ipv4Addr::new(10, 244, 0, n);
    Endpoint { address, conditions, node: node.into(), zone: "".into(), hints: None, weight: 1 }
}

fn hinted(n: u8, nodes: &[&str], zones: &[&str]) -> Endpoint {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let hints = EndpointHints { for_nodes: names(nodes), for_zones: names(zones) };
    Endpoint { hints: Some(Box::new(hints)), ..endpoint(n, "node-x", READY) }
}

fn slice(ports: &[(&str, u16)], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = |&(name, port): &(&str, u16)| EndpointPort { name: name.to_owned(), port };
    EndpointSlice {
        namespace: "default".into(),
        service: "web".into(),
        name: "web-1".into(),
        ports: ports.iter().map(port).collect(),
        endpoints: Endpoints::Ipv4(endpoints),
    }
}

/// The last byte and the port of every endpoint of a rule, and what happens if there is none.
fn outcome(rule: &Rule) -> (Vec<(u8, u16)>, Otherwise) {
    let endpoint = |e: &spec::Endpoint| (e.backend.address.octets()[3], e.backend.port);
    (rule.endpoints.iter().map(endpoint).collect(), rule.otherwise)
}

/// What node-a chooses, by the last byte, of endpoints in one slice, under a policy.
fn chosen(policy: TrafficPolicy, endpoints: Vec<Endpoint>) -> Vec<u8> {
    let slice = slice(&[("", 80)], endpoints);
    outcome(&Selection::<Ipv4Addr>::new(&[&slice], "", HERE).rule(policy)).0.into_iter().map(|(n, _)| n).collect()
}

fn otherwise(policy: TrafficPolicy, endpoints: Vec<Endpoint>) -> Otherwise {
    let slice = slice(&[("", 80)], endpoints);
    let rule = Selection::<Ipv4Addr>::new(&[&slice], "", HERE).rule(policy);
    assert!(rule.endpoints.is_empty());
    rule.otherwise
}

use TrafficPolicy::{Cluster, Local};

#[test]
fn ports_match_by_name_and_numbers_differ_per_slice() {
    let one = slice(&[("http", 8080), ("dns", 53)], vec![endpoint(1, "", READY)]);
    let two = slice(&[("http", 9090)], vec![endpoint(2, "", READY)]);
    let of = |port| outcome(&Selection::<Ipv4Addr>::new(&[&one, &two], port, HERE).rule(Cluster)).0;
    assert_eq!(of("http"), [(1, 8080), (2, 9090)]);
    assert_eq!(of("dns"), [(1, 53)]);
    assert_eq!(of("https"), []);
}

#[test]
fn slices_are_merged_and_de_duplicated() {
    let one = slice(&[("", 80)], vec![endpoint(1, "", UNREADY), endpoint(2, "", READY)]);
    let two = slice(&[("", 80)], vec![endpoint(2, "", READY), endpoint(1, "", READY), endpoint(3, "", READY)]);
    let other_port = slice(&[("", 81)], vec![endpoint(1, "", READY)]);
    let all = outcome(&Selection::<Ipv4Addr>::new(&[&one, &two, &other_port], "", HERE).rule(Cluster)).0;
    assert_eq!(all, [(1, 80), (1, 81), (2, 80), (3, 80)], "the slice that calls 1 ready counts");
}

#[test]
fn selection_takes_ready_endpoints() {
    let endpoints = || vec![endpoint(1, "", READY), endpoint(2, "", UNREADY), endpoint(3, "", LEAVING)];
    assert_eq!(chosen(Cluster, endpoints()), [1]);
}

#[test]
fn selection_falls_back_to_serving_and_terminating_endpoints() {
    let dead = EndpointConditions { ready: Some(false), serving: Some(false), terminating: Some(true) };
    assert_eq!(chosen(Cluster, vec![endpoint(1, "", LEAVING), endpoint(2, "", UNREADY), endpoint(3, "", dead)]), [1]);
}

#[test]
fn established_flows_stay_at_endpoints_that_serve_still() {
    let leaving = |endpoints| {
        let slice = slice(&[("", 80)], endpoints);
        Selection::<Ipv4Addr>::new(&[&slice], "", HERE)
            .leaving()
            .iter()
            .map(|b| b.address.octets()[3])
            .collect::<Vec<_>>()
    };
    let drains = || vec![endpoint(4, "", LEAVING), endpoint(1, "", READY), endpoint(2, "", UNREADY)];
    assert_eq!(leaving(drains()), [4], "it terminates, and what is not ready does not serve");
    assert_eq!(leaving(vec![endpoint(4, "", LEAVING)]), [0u8; 0], "chosen, for there is no other");
    let hinted = |n, node: &str| Endpoint {
        hints: Some(EndpointHints { for_nodes: vec![node.into()], ..EndpointHints::default() }.into()),
        ..endpoint(n, "", READY)
    };
    assert_eq!(leaving(vec![hinted(1, "node-a"), hinted(2, "node-b")]), [2]);
}

#[test]
fn selection_is_decided_separately_for_the_cluster_and_the_node() {
    // A ready one elsewhere, one that leaves here: the cluster has the one, the node still the other.
    let endpoints = || vec![endpoint(1, "node-a", LEAVING), endpoint(2, "node-b", READY)];
    assert_eq!(chosen(Cluster, endpoints()), [2]);
    assert_eq!(chosen(Local, endpoints()), [1]);
    let both = || vec![endpoint(1, "node-a", LEAVING), endpoint(2, "node-a", READY), endpoint(3, "node-b", READY)];
    assert_eq!(chosen(Local, both()), [2]);
}

#[test]
fn internal_traffic_policy_local_takes_the_node_s_own() {
    assert_eq!(chosen(Local, vec![endpoint(1, "node-a", READY), endpoint(2, "node-b", READY)]), [1]);
}

#[test]
fn internal_traffic_policy_local_drops_when_none_local() {
    assert_eq!(otherwise(Local, vec![endpoint(2, "node-b", READY)]), Otherwise::Drop);
    assert_eq!(otherwise(Local, vec![endpoint(2, "node-b", LEAVING)]), Otherwise::Drop);
    assert_eq!(otherwise(Local, vec![endpoint(2, "", READY)]), Otherwise::Drop, "nobody knows where it is");
}

#[test]
fn internal_traffic_policy_local_rejects_when_none_anywhere() {
    assert_eq!(otherwise(Local, vec![]), Otherwise::Refuse);
    assert_eq!(
        otherwise(Local, vec![endpoint(1, "node-a", UNREADY), endpoint(2, "node-b", UNREADY)]),
        Otherwise::Refuse
    );
}

#[test]
fn no_endpoints_reject() {
    assert_eq!(otherwise(Cluster, vec![]), Otherwise::Refuse);
    assert_eq!(otherwise(Cluster, vec![endpoint(1, "node-a", UNREADY)]), Otherwise::Refuse);
}

#[test]
fn traffic_distribution_prefers_the_same_node() {
    let endpoints = vec![
        hinted(1, &["node-a"], &["zone-1"]),
        hinted(2, &["node-b", "node-a"], &[]),
        hinted(3, &["node-b"], &["zone-1"]),
    ];
    assert_eq!(chosen(Cluster, endpoints), [1, 2]);
}

#[test]
fn traffic_distribution_prefers_the_same_zone_else() {
    let nobody_hints_node_a = vec![hinted(1, &["node-b"], &["zone-1"]), hinted(2, &["node-b"], &["zone-2"])];
    assert_eq!(chosen(Cluster, nobody_hints_node_a), [1]);
    let not_all_hint_nodes = vec![hinted(1, &["node-a"], &["zone-2"]), hinted(2, &[], &["zone-1"])];
    assert_eq!(chosen(Cluster, not_all_hint_nodes), [2]);
}

#[test]
fn traffic_distribution_goes_to_all_else() {
    assert_eq!(chosen(Cluster, vec![hinted(1, &[], &["zone-2"]), hinted(2, &[], &["zone-3"])]), [1, 2], "none for us");
    assert_eq!(chosen(Cluster, vec![hinted(1, &[], &["zone-1"]), endpoint(2, "", READY)]), [1, 2], "not all hint");
    let slice = slice(&[("", 80)], vec![hinted(1, &[], &[""]), hinted(2, &[], &["zone-1"])]);
    let nowhere = Place { zone: "", ..HERE };
    assert_eq!(
        outcome(&Selection::<Ipv4Addr>::new(&[&slice], "", nowhere).rule(Cluster)).0.len(),
        2,
        "our zone is not known"
    );
}

#[test]
fn hints_of_endpoints_that_are_not_ready_do_not_count() {
    let unready = Endpoint { conditions: UNREADY, ..hinted(3, &[], &[]) };
    assert_eq!(chosen(Cluster, vec![hinted(1, &["node-a"], &[]), hinted(2, &["node-b"], &[]), unready]), [1]);
    let leaving = |n, node| Endpoint { conditions: LEAVING, ..hinted(n, &[node], &[]) };
    assert_eq!(chosen(Cluster, vec![leaving(1, "node-a"), leaving(2, "node-b")]), [1, 2], "the last ones: all of them");
}

#[test]
fn policy_local_does_not_ask_for_hints() {
    let here = Endpoint { node: "node-a".into(), ..hinted(1, &["node-b"], &[]) };
    assert_eq!(chosen(Local, vec![here, hinted(2, &["node-a"], &[])]), [1]);
}

#[test]
fn every_candidate_has_its_reason() {
    let slice = slice(
        &[("", 80)],
        vec![
            endpoint(1, "node-a", READY),
            endpoint(2, "node-b", READY),
            endpoint(3, "node-a", UNREADY),
            endpoint(4, "node-a", LEAVING),
            hinted(5, &["node-b"], &[]),
        ],
    );
    let selection = Selection::<Ipv4Addr>::new(&[&slice], "", HERE);
    let standings = |policy| selection.candidates.iter().map(|c| selection.standing(c, policy)).collect::<Vec<_>>();
    use Standing::{Chosen, ChosenWhileTerminating, Elsewhere, HintedElsewhere, NotReady, Terminating};
    assert_eq!(standings(Cluster), [Chosen, Chosen, NotReady, Terminating, Chosen]);
    assert_eq!(standings(Local), [Chosen, Elsewhere, NotReady, Terminating, Elsewhere]);

    let hints = self::slice(&[("", 80)], vec![hinted(1, &["node-a"], &[]), hinted(2, &["node-b"], &[])]);
    let selection = Selection::<Ipv4Addr>::new(&[&hints], "", HERE);
    assert_eq!(selection.standing(&selection.candidates[1], Cluster), HintedElsewhere);
    let last = self::slice(&[("", 80)], vec![endpoint(1, "node-a", LEAVING)]);
    let selection = Selection::<Ipv4Addr>::new(&[&last], "", HERE);
    assert_eq!(selection.standing(&selection.candidates[0], Cluster), ChosenWhileTerminating);
}

/// The same said plainly: what remains, step by step.
fn model(slices: &[EndpointSlice], policy: TrafficPolicy) -> (BTreeSet<u8>, Otherwise) {
    let class = |e: &Endpoint| match (e.conditions.ready, e.conditions.serving, e.conditions.terminating) {
        (None | Some(true), ..) => 0,
        (Some(false), Some(true), Some(true)) => 1,
        _ => 2,
    };
    let mut known = BTreeMap::<u8, &Endpoint>::new();
    for endpoint in slices.iter().flat_map(Ipv4Addr::endpoints) {
        let n = endpoint.address.octets()[3];
        if known.get(&n).is_none_or(|other| class(endpoint) < class(other)) {
            known.insert(n, endpoint);
        }
    }
    let usable = known.values().any(|e| class(e) < 2);
    if policy == Local {
        known.retain(|_, e| &*e.node == HERE.node);
    }
    let best = known.values().map(|e| class(e)).min().unwrap_or(2);
    known.retain(|_, e| class(e) == best && best < 2);
    if policy == Cluster && best == 0 {
        for (own, names) in [(HERE.node, nodes as fn(&Endpoint) -> &[String]), (HERE.zone, zones)] {
            let all_hint = known.values().all(|e| !names(e).is_empty());
            let ours: BTreeSet<u8> =
                known.iter().filter(|(_, e)| names(e).iter().any(|name| name == own)).map(|(&n, _)| n).collect();
            if all_hint && !ours.is_empty() {
                known.retain(|n, _| ours.contains(n));
                break;
            }
        }
    }
    (known.into_keys().collect(), if usable { Otherwise::Drop } else { Otherwise::Refuse })
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let flag = || prop::option::of(any::<bool>());
    let name = |letter: &'static str| (0..3u8).prop_map(move |n| format!("{letter}-{}", ["a", "b", "1"][n as usize]));
    let hints = (prop::collection::vec(name("node"), 0..3), prop::collection::vec(name("zone"), 0..3));
    // Mostly with hints, or few sets of endpoints would all have one.
    let hints = prop::option::weighted(0.9, hints);
    (0..6u8, name("node"), flag(), flag(), flag(), hints).prop_map(|(n, node, ready, serving, terminating, hints)| {
        Endpoint {
            hints: hints.map(|(for_nodes, for_zones)| Box::new(EndpointHints { for_nodes, for_zones })),
            ..endpoint(n, &node, EndpointConditions { ready, serving, terminating })
        }
    })
}

proptest! {
    #[test]
    fn agrees_with_a_model(
        slices in prop::collection::vec(prop::collection::vec(any_endpoint(), 0..5), 0..3),
        policy in prop_oneof![Just(Cluster), Just(Local)],
    ) {
        let slices: Vec<_> = slices.into_iter().map(|endpoints| slice(&[("", 80)], endpoints)).collect();
        let rule = Selection::<Ipv4Addr>::new(&slices.iter().collect::<Vec<_>>(), "", HERE).rule(policy);
        let (endpoints, otherwise) = outcome(&rule);
        let got: BTreeSet<u8> = endpoints.iter().map(|&(n, _)| n).collect();
        prop_assert_eq!(got.len(), endpoints.len());
        prop_assert_eq!((got, otherwise), model(&slices, policy));
    }
}
