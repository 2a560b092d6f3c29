use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use shunt_control_api::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, Endpoints, Exposure, Port, PublishedPort, Resource,
    ServicePort, ServiceType, TrafficPolicy,
};
use shunt_dataplane::{
    net::Protocol,
    spec::{Otherwise, Scheduler},
};

use super::*;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const HERE: Place = Place { node: "node-a", zone: "", addresses: &[NODE], underlay: Some(NODE), isolated: false };

fn service(name: u8, vip: u8, ports: &[(&str, u16)], policy: TrafficPolicy) -> Service {
    let port =
        |&(name, port): &(&str, u16)| ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: None };
    Service {
        namespace: "default".into(),
        name: format!("s{name}"),
        cluster_ip: Some(Ipv4Addr::new(10, 96, 0, vip)),
        ipv6_cluster_ip: None,
        ports: ports.iter().map(port).collect(),
        internal_traffic_policy: policy,
        affinity: None,
        scheduler: Scheduler::default(),
        exposure: None,
    }
}

fn slice(service: u8, name: u8, ports: &[(&str, u16)], endpoints: &[(u8, &str)]) -> EndpointSlice {
    let endpoint = |&(n, node): &(u8, &str)| Endpoint {
        address: Ipv4Addr::new(10, 244, 0, n),
        conditions: EndpointConditions::default(),
        node: node.into(),
        zone: "".into(),
        hints: None,
        weight: 1,
    };
    EndpointSlice {
        namespace: "default".into(),
        service: format!("s{service}"),
        name: format!("e{name}"),
        ports: ports.iter().map(|&(name, port)| EndpointPort { name: name.into(), port }).collect(),
        endpoints: Endpoints::Ipv4(endpoints.iter().map(endpoint).collect()),
    }
}

/// A slice of the same pods' IPv6 addresses.
fn ipv6_slice(service: u8, name: u8, ports: &[(&str, u16)], endpoints: &[(u8, &str)]) -> EndpointSlice {
    let ipv4 = slice(service, name, ports, endpoints);
    let endpoint = |endpoint: &Endpoint| Endpoint {
        address: ipv6(0xff00 + u16::from(endpoint.address.octets()[3])),
        conditions: endpoint.conditions,
        node: endpoint.node.clone(),
        zone: endpoint.zone.clone(),
        hints: endpoint.hints.clone(),
        weight: endpoint.weight,
    };
    let endpoints = Endpoints::Ipv6(Ipv4Addr::endpoints(&ipv4).iter().map(endpoint).collect());
    EndpointSlice { name: format!("six{name}"), endpoints, ..ipv4 }
}

/// Below 0xff00 ClusterIPs, then pods.
fn ipv6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, n)
}

/// The next version, with and without some resources, and the way there.
fn next(state: &State, upserts: Vec<Resource>, deletes: Vec<Key>) -> (State, Change) {
    let mut state = state.clone();
    state.version += 1;
    let mut change = Change { version: state.version, ..Change::default() };
    for key in deletes {
        if state.resources.remove(&key).is_some() {
            change.deletes.push(key);
        }
    }
    for resource in upserts.into_iter().map(Arc::new) {
        state.resources.insert(resource.key(), resource.clone());
        change.upserts.push(resource);
    }
    (state, change)
}

fn whole(state: &State) -> Services {
    compile_all(state, HERE)
}

/// Address, port and the last bytes of the endpoints.
fn listed(services: &Services) -> BTreeMap<(Ipv4Addr, u16), Vec<u8>> {
    let endpoints = |s: &ServiceSpec| s.from_pods.endpoints.iter().map(|e| e.backend.address.octets()[3]).collect();
    services.ipv4.iter().map(|service| ((service.vip, service.port), endpoints(service))).collect()
}

#[test]
fn each_port_has_the_endpoints_of_its_name() {
    let (state, _) = next(
        &State::default(),
        vec![
            Resource::Service(service(1, 10, &[("http", 80), ("dns", 53)], TrafficPolicy::Cluster)),
            Resource::EndpointSlice(slice(1, 1, &[("http", 8080), ("dns", 5353)], &[(1, "node-a")])),
            Resource::EndpointSlice(slice(1, 2, &[("http", 9090)], &[(2, "node-b")])),
            // Another service whose name begins alike.
            Resource::EndpointSlice(slice(11, 1, &[("http", 80)], &[(3, "node-b")])),
        ],
        vec![],
    );
    let vip = Ipv4Addr::new(10, 96, 0, 10);
    assert_eq!(listed(&whole(&state)), [((vip, 80), vec![1, 2]), ((vip, 53), vec![1])].into());
}

#[test]
fn the_internal_traffic_policy_holds_for_everybody() {
    let (state, _) = next(
        &State::default(),
        vec![
            Resource::Service(service(1, 10, &[("", 80)], TrafficPolicy::Local)),
            Resource::EndpointSlice(slice(1, 1, &[("", 80)], &[(2, "node-b")])),
        ],
        vec![],
    );
    let services = whole(&state);
    let rules = services.ipv4.iter().next().unwrap().rules();
    assert!(rules.iter().all(|rule| rule.endpoints.is_empty() && rule.otherwise == Otherwise::Drop));
    assert!(Arc::ptr_eq(&rules[0].endpoints, &rules[2].endpoints), "one list, and so one table, for all");
}

#[test]
fn every_port_of_a_service_remembers_its_own_clients() {
    let timeout = Duration::from_secs(600);
    let sticky = Service {
        affinity: Some(timeout),
        scheduler: Scheduler::RoundRobin,
        ipv6_cluster_ip: Some(ipv6(10)),
        ..service(1, 10, &[("http", 80), ("dns", 53)], TrafficPolicy::Cluster)
    };
    let (state, _) = next(&State::default(), vec![Resource::Service(sticky)], vec![]);
    let services = whole(&state);
    let affinities: Vec<_> = services.ipv4.iter().map(|service| service.affinity.unwrap()).collect();
    assert!(affinities.iter().all(|affinity| affinity.timeout == timeout));
    assert_ne!(affinities[0].group, affinities[1].group);
    // A client of one family is none of the other's, whatever number its address comes to.
    assert_eq!(services.ipv6.len(), 2);
    assert!(services.ipv6.iter().all(|service| !affinities.contains(&service.affinity.unwrap())));
    assert!(services.ipv4.iter().all(|service| service.scheduler == Scheduler::RoundRobin));
}

/// The line "Dual stack. One ClusterIP per family; families never cross" of what a kube-proxy replacement must do.
#[test]
fn dual_stack_one_cluster_ip_per_family_and_families_never_cross() {
    let dual = |policy| Service { ipv6_cluster_ip: Some(ipv6(10)), ..service(1, 10, &[("", 80)], policy) };
    let [ipv4, ipv6_slices] = [
        slice(1, 1, &[("", 8080)], &[(1, "node-a"), (2, "node-b")]),
        ipv6_slice(1, 1, &[("", 8080)], &[(3, "node-b")]),
    ]
    .map(Resource::EndpointSlice);
    let compiled = |service: Service, slices: &[&Resource]| {
        let mut all = vec![Resource::Service(service)];
        all.extend(slices.iter().copied().cloned());
        whole(&next(&State::default(), all, vec![]).0)
    };
    let told = |services: &Services| {
        let ipv4 = services.ipv4.iter().map(|s| (rules(s), s.from_pods.otherwise)).collect::<Vec<_>>();
        let last = |s: &ServiceSpec<Ipv6Addr>| {
            let [pods, node, outside] = [&s.from_pods, &s.from_node, &s.from_outside].map(|rule| {
                (rule.endpoints.iter().map(|e| e.backend.address.octets()[15]).collect::<Vec<_>>(), rule.masquerade)
            });
            ([pods, node, outside], s.from_pods.otherwise)
        };
        (ipv4, services.ipv6.iter().map(last).collect::<Vec<_>>())
    };
    let rule = |endpoints: &[u8]| [false, true, true].map(|masquerade| (endpoints.to_vec(), masquerade));
    use Otherwise::{Drop, Refuse};
    use TrafficPolicy::{Cluster, Local};

    let both = compiled(dual(Cluster), &[&ipv4, &ipv6_slices]);
    assert_eq!(told(&both), (vec![(rule(&[1, 2]), Drop)], vec![(rule(&[3]), Drop)]));
    let key = |services: &Services| services.ipv6.iter().map(|s| (s.vip, s.port)).collect::<Vec<_>>();
    assert_eq!(key(&both), [(ipv6(10), 80)]);
    // What one family has is no reason to drop, or not to refuse, what is for the other.
    let without_ipv6 = compiled(dual(Cluster), &[&ipv4]);
    assert_eq!(told(&without_ipv6), (vec![(rule(&[1, 2]), Drop)], vec![(rule(&[]), Refuse)]));
    let without_ipv4 = compiled(dual(Cluster), &[&ipv6_slices]);
    assert_eq!(told(&without_ipv4), (vec![(rule(&[]), Refuse)], vec![(rule(&[3]), Drop)]));
    // The policy Local: an IPv4 endpoint here is none for IPv6.
    let local = compiled(dual(Local), &[&ipv4, &ipv6_slices]);
    assert_eq!(told(&local), (vec![(rule(&[1]), Drop)], vec![(rule(&[]), Drop)]));
    // A service of one family has nothing in the other.
    let only_ipv6 = compiled(Service { cluster_ip: None, ..dual(Cluster) }, &[&ipv4, &ipv6_slices]);
    assert_eq!(told(&only_ipv6), (vec![], vec![(rule(&[3]), Drop)]));
    let only_ipv4 = compiled(Service { ipv6_cluster_ip: None, ..dual(Cluster) }, &[&ipv4, &ipv6_slices]);
    assert_eq!(told(&only_ipv4), (vec![(rule(&[1, 2]), Drop)], vec![]));
    // What is had outside is of IPv4, and leads there.
    let outside = compiled(exposed(dual(Cluster), Cluster), &[&ipv4, &ipv6_slices]);
    assert_eq!((outside.ipv4.len(), key(&outside)), (4, vec![(ipv6(10), 80)]));
}

/// Terminating endpoints where no ready one is left, and hints, each family by itself.
#[test]
fn dual_stack_readiness_and_hints_are_decided_per_family() {
    let dual = Service { ipv6_cluster_ip: Some(ipv6(10)), ..service(1, 10, &[("", 80)], TrafficPolicy::Cluster) };
    let ipv4 = slice(1, 1, &[("", 8080)], &[(1, "node-a"), (2, "node-b")]);
    let mut leaving = ipv6_slice(1, 1, &[("", 8080)], &[(1, "node-a"), (2, "node-b")]);
    let Endpoints::Ipv6(endpoints) = &mut leaving.endpoints else { panic!() };
    let terminating = EndpointConditions { ready: Some(false), serving: Some(true), terminating: Some(true) };
    endpoints[0].conditions = terminating;
    endpoints[1].conditions = EndpointConditions { ready: Some(false), ..Default::default() };
    let resources = |slice: &EndpointSlice| {
        vec![
            Resource::Service(dual.clone()),
            Resource::EndpointSlice(ipv4.clone()),
            Resource::EndpointSlice(slice.clone()),
        ]
    };
    let chosen = |slice: &EndpointSlice| {
        let services = whole(&next(&State::default(), resources(slice), vec![]).0);
        let ipv6 = services.ipv6.iter().flat_map(|s| s.from_pods.endpoints.to_vec());
        (
            listed(&services).into_values().flatten().collect::<Vec<_>>(),
            ipv6.map(|e| e.backend.address.octets()[15]).collect::<Vec<_>>(),
        )
    };
    assert_eq!(chosen(&leaving), (vec![1, 2], vec![1]), "no ready one is left of IPv6");
    let mut hinted = ipv6_slice(1, 1, &[("", 8080)], &[(1, "node-a"), (2, "node-b")]);
    let Endpoints::Ipv6(endpoints) = &mut hinted.endpoints else { panic!() };
    for endpoint in endpoints {
        let for_nodes = vec![endpoint.node.to_string()];
        endpoint.hints = Some(Box::new(EndpointHints { for_nodes, for_zones: vec![] }));
    }
    assert_eq!(chosen(&hinted), (vec![1, 2], vec![1]), "IPv4 has no hints");
}

#[test]
fn slices_may_come_before_their_service_and_go_before_it() {
    let slice = Resource::EndpointSlice(slice(1, 1, &[("", 80)], &[(1, "")]));
    let key = slice.key();
    let service = Resource::Service(service(1, 10, &[("", 80)], TrafficPolicy::Cluster));
    let (one, change) = next(&State::default(), vec![slice], vec![]);
    let services = step(&Services::default(), &State::default(), &one, &change, HERE);
    assert_eq!(services, Services::default());
    let (two, change) = next(&one, vec![service], vec![]);
    let services = step(&services, &one, &two, &change, HERE);
    let vip = Ipv4Addr::new(10, 96, 0, 10);
    assert_eq!(listed(&services), [((vip, 80), vec![1])].into());
    let (three, change) = next(&two, vec![], vec![key]);
    assert_eq!(listed(&step(&services, &two, &three, &change, HERE)), [((vip, 80), vec![])].into());
}

#[test]
fn an_address_moves_from_service_to_service() {
    let vip = |n| Resource::Service(service(n, 10 + n, &[("", 80)], TrafficPolicy::Cluster));
    let (one, _) = next(&State::default(), vec![vip(1), vip(2)], vec![]);
    let swapped = [(1, 12), (2, 11)]
        .map(|(name, address)| Resource::Service(service(name, address, &[("", 80)], TrafficPolicy::Cluster)));
    let (two, change) = next(&one, swapped.into(), vec![]);
    assert_eq!(step(&whole(&one), &one, &two, &change, HERE), whole(&two));
}

const LB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// The same service, had everywhere: node port, load balancer address, external IP.
fn exposed(service: Service, traffic_policy: TrafficPolicy) -> Service {
    let n = service.cluster_ip.unwrap().octets()[3];
    let number = 30_000 + u16::from(n);
    let ports = service.ports.into_iter().zip(number..);
    let ports = ports.map(|(port, number)| ServicePort { node_port: Some(number), ..port }).collect();
    let of = |address: Ipv4Addr| Ipv4Addr::from(u32::from(address) + u32::from(n));
    let exposure = Exposure {
        service_type: ServiceType::LoadBalancer,
        external_ips: vec![of(EXTERNAL), of(LB)],
        load_balancer_ips: vec![of(LB)],
        source_ranges: ["192.0.2.0/24".parse().unwrap()].into(),
        traffic_policy,
        health_check_node_port: None,
        direct_server_return: false,
    };
    Service { ports, exposure: Some(exposure.into()), ..service }
}

/// Of each rule (pods, node, outside): the last bytes of the endpoints, and whether it masquerades.
fn rules(service: &ServiceSpec) -> [(Vec<u8>, bool); 3] {
    [&service.from_pods, &service.from_node, &service.from_outside]
        .map(|rule| (rule.endpoints.iter().map(|e| e.backend.address.octets()[3]).collect(), rule.masquerade))
}

/// The service specs of a service with an endpoint here (1) and one elsewhere (2), by VIP.
fn specs_of(service: Service) -> BTreeMap<(Ipv4Addr, u16), ServiceSpec> {
    let both = slice(1, 1, &[("", 8080)], &[(1, "node-a"), (2, "node-b")]);
    let (state, _) = next(&State::default(), vec![Resource::Service(service), Resource::EndpointSlice(both)], vec![]);
    whole(&state).ipv4.iter().map(|spec| ((spec.vip, spec.port), spec.clone())).collect()
}

#[test]
fn external_traffic_policy_cluster_masquerades_on_every_frontend() {
    let specs = specs_of(exposed(service(1, 0, &[("", 80)], TrafficPolicy::Local), TrafficPolicy::Cluster));
    let vip = Ipv4Addr::new(10, 96, 0, 0);
    assert_eq!(specs.len(), 4, "one address is given twice: {:?}", specs.keys());
    assert_eq!(
        rules(&specs[&(vip, 80)]),
        [false, true, true].map(|masquerade| (vec![1], masquerade)),
        "the internal policy"
    );
    for key in [(NODE, 30_000), (LB, 80), (EXTERNAL, 80)] {
        assert_eq!(rules(&specs[&key]), [true; 3].map(|masquerade| (vec![1, 2], masquerade)), "{key:?}");
    }
}

#[test]
fn external_traffic_policy_local_keeps_the_source_and_lets_pods_and_nodes_reach_all() {
    let specs = specs_of(exposed(service(1, 0, &[("", 80)], TrafficPolicy::Cluster), TrafficPolicy::Local));
    for key in [(NODE, 30_000), (LB, 80), (EXTERNAL, 80)] {
        let expected = [(vec![1, 2], false), (vec![1, 2], true), (vec![1], false)];
        assert_eq!(rules(&specs[&key]), expected, "{key:?}");
        assert_eq!(specs[&key].from_outside.otherwise, Otherwise::Drop);
    }
    let vip = Ipv4Addr::new(10, 96, 0, 0);
    assert_eq!(rules(&specs[&(vip, 80)]), [false, true, true].map(|masquerade| (vec![1, 2], masquerade)));
}

#[test]
fn source_ranges_hold_at_load_balancer_addresses_only() {
    let specs = specs_of(exposed(service(1, 0, &[("", 80)], TrafficPolicy::Cluster), TrafficPolicy::Cluster));
    let limited: Vec<_> = specs.iter().filter(|(_, spec)| !spec.sources.is_empty()).map(|(key, _)| *key).collect();
    assert_eq!(limited, [(LB, 80)], "though the address is an external IP, too");
}

#[test]
fn node_ports_are_had_at_each_address_of_the_node() {
    let exposed = exposed(service(1, 0, &[("", 80)], TrafficPolicy::Cluster), TrafficPolicy::Cluster);
    let (state, _) = next(&State::default(), vec![Resource::Service(exposed)], vec![]);
    let second = Ipv4Addr::new(10, 9, 0, 1);
    let vips = |addresses: &[Ipv4Addr]| -> Vec<Ipv4Addr> {
        let set = compile_all(&state, Place { addresses, ..HERE });
        set.ipv4.iter().filter(|spec| spec.port == 30_000).map(|spec| spec.vip).collect()
    };
    assert!(vips(&[]).is_empty());
    let mut both = vips(&[NODE, second]);
    both.sort();
    assert_eq!(both, [second, NODE]);
}

/// Endpoints that flows relayed to us have, by the last number of their addresses, and whether the source is replaced.
type Relayed = Option<(Vec<u8>, bool)>;

/// The same with direct server return, for who is on a node with `place`.
fn relayed(endpoints: &[(u8, &str)], place: Place) -> BTreeMap<(Ipv4Addr, u16), Relayed> {
    let mut service = exposed(service(1, 0, &[("", 80)], TrafficPolicy::Cluster), TrafficPolicy::Cluster);
    service.exposure.as_mut().unwrap().direct_server_return = true;
    let slice = slice(1, 1, &[("", 8080)], endpoints);
    let (state, _) = next(&State::default(), vec![Resource::Service(service), Resource::EndpointSlice(slice)], vec![]);
    let rule = |spec: &ServiceSpec| {
        let last = |rule: &Rule| rule.endpoints.iter().map(|e| e.backend.address.octets()[3]).collect();
        assert!(place.isolated || spec.from_outside.masquerade, "that is what others get");
        spec.relayed.as_ref().map(|rule| (last(rule), rule.masquerade))
    };
    compile_all(&state, place).ipv4.iter().map(|spec| ((spec.vip, spec.port), rule(spec))).collect()
}

#[test]
fn dsr_is_for_frontends_that_other_nodes_know_and_gives_what_is_relayed_to_endpoints_here() {
    let both = [(1, "node-a"), (2, "node-b")];
    let (vip, second) = (Ipv4Addr::new(10, 96, 0, 0), Ipv4Addr::new(10, 9, 0, 1));
    let here = Some((vec![1], false));
    let place = Place { addresses: &[NODE, second], ..HERE };
    let expected = [
        ((vip, 80), None),
        ((NODE, 30_000), here.clone()),
        ((second, 30_000), None),
        ((LB, 80), here.clone()),
        ((EXTERNAL, 80), here),
    ];
    assert_eq!(relayed(&both, place), expected.into());
    let none_here = relayed(&both[1..], HERE);
    assert_eq!(none_here[&(LB, 80)], Some((vec![2], true)), "those elsewhere, by way of us");
    let isolated = relayed(&both[..0], Place { isolated: true, ..HERE });
    assert!(isolated.values().all(Option::is_none));
}

fn any_resource() -> impl Strategy<Value = Resource> {
    let ports = prop::sample::subsequence(vec![("a", 80), ("b", 81), ("c", 82)], 1..3);
    let node = prop_oneof![Just("node-a"), Just("node-b")];
    let policy = prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    let endpoints = prop::collection::vec((0..9u8, node), 0..4);
    prop_oneof![
        // Every service has an address of its own: that two do not share one is checked before.
        (0..4u8, 0..2u8, ports.clone(), policy.clone(), prop::option::of(policy), 0..4u16).prop_map(
            |(name, vip, ports, policy, outside, six)| {
                let mut plain = service(name, 10 * name + 3 * vip, &ports, policy);
                plain.ipv6_cluster_ip = (six > 0).then(|| ipv6(10 * u16::from(name) + six));
                if six == 3 {
                    plain.cluster_ip = None;
                    return Resource::Service(plain);
                }
                Resource::Service(match outside {
                    Some(outside) => exposed(plain, outside),
                    None => plain,
                })
            }
        ),
        (0..4u8, 0..3u8, ports, endpoints, any::<bool>()).prop_map(|(s, name, ports, endpoints, six)| {
            let of_family = if six { ipv6_slice } else { slice };
            Resource::EndpointSlice(of_family(s, name, &ports, &endpoints))
        }),
    ]
}

proptest! {
    #[test]
    fn step_by_step_is_the_same_as_all_at_once(
        steps in prop::collection::vec(
            (prop::collection::vec(any_resource(), 0..4), prop::collection::vec(any_resource(), 0..3)),
            1..8,
        ),
    ) {
        let (mut state, mut services) = (State::default(), Services::default());
        for (upserts, deletes) in steps {
            let (to, change) = next(&state, upserts, deletes.iter().map(Resource::key).collect());
            prop_assert_eq!(&update(&services, &state, &to, &change, HERE), &whole(&to));
            services = step(&services, &state, &to, &change, HERE);
            state = to;
            prop_assert_eq!(&services, &whole(&state));
        }
    }
}

/// A pod with published TCP ports.
fn pod(n: u8, published: &[(u16, Option<Ipv4Addr>)]) -> Resource {
    let published_port = |&(port, address): &(u16, Option<Ipv4Addr>)| PublishedPort {
        protocol: Protocol::Tcp,
        port,
        container_port: 80,
        address,
    };
    Resource::Port(Port {
        name: format!("default/p{n}"),
        interface: format!("v{n}"),
        address: Ipv4Addr::new(10, 244, 1, n),
        ipv6: None,
        mac: Default::default(),
        published: published.iter().map(published_port).collect(),
        bandwidth: Default::default(),
    })
}

#[test]
fn a_published_port_leads_to_its_pod_from_everywhere_and_keeps_the_source() {
    let other = Ipv4Addr::new(192, 168, 51, 1);
    let (first, change) = next(&State::default(), vec![pod(10, &[(8080, None), (8080, Some(other))])], vec![]);
    let services = step(&Services::default(), &State::default(), &first, &change, HERE);
    assert_eq!(services, whole(&first));
    assert_eq!(listed(&services), [((NODE, 8080), vec![10]), ((other, 8080), vec![10])].into());
    let service = services.ipv4.get((NODE, 8080, Protocol::Tcp)).unwrap();
    assert!(service.rules().iter().all(|rule| !rule.masquerade && rule.endpoints.len() == 1), "{service:?}");
    let isolated = compile_all(&first, Place { isolated: true, ..HERE });
    let service = isolated.ipv4.get((NODE, 8080, Protocol::Tcp)).unwrap();
    assert_eq!((service.from_pods.endpoints.len(), service.from_outside.otherwise), (1, Otherwise::Drop));
    assert!(service.from_outside.endpoints.is_empty());

    // It goes over to another pod, and then nobody has it.
    let (second, change) = next(&first, vec![pod(11, &[(8080, None)]), pod(10, &[(8081, None)])], vec![]);
    let services = step(&services, &first, &second, &change, HERE);
    assert_eq!(services, whole(&second));
    assert_eq!(listed(&services), [((NODE, 8080), vec![11]), ((NODE, 8081), vec![10])].into());
    let gone = ["default/p10", "default/p11"].map(|name| Key::new(Kind::Port, name));
    let (third, change) = next(&second, vec![], gone.into());
    assert_eq!(step(&services, &second, &third, &change, HERE), Services::default());
}
