//! `Explain` over the API: the real stages tell, and names are put to what they say.

use shunt_control_api::v1::{self, ApplyRequest, ExplainRequest, ExplainedPacket, Fate};
use tonic::Code;

use crate::support::{TestDaemon, port, service, slice, vtep};

fn cluster() -> ApplyRequest {
    let remote = v1::EndpointSlice {
        endpoints: vec![v1::Endpoint { address: "10.244.2.10".into(), node: "node-2".into(), ..Default::default() }],
        ..slice("far", "far-1", 0)
    };
    ApplyRequest {
        vteps: vec![vtep(2)],
        ports: vec![port("default/a", "va1", 10), port("default/b", "va2", 11)],
        services: vec![service("web", 10), service("far", 11), service("none", 12)],
        endpoint_slices: vec![slice("web", "web-1", 11), remote],
        ..Default::default()
    }
}

fn syn(source: &str, destination: &str) -> ExplainRequest {
    ExplainRequest {
        source: source.into(),
        destination: destination.into(),
        protocol: 6,
        source_port: 1000,
        destination_port: 80,
        ..Default::default()
    }
}

/// The fact of a stage.
fn fact<'a>(packet: &'a ExplainedPacket, stage: &str, name: &str) -> Option<&'a str> {
    let step = packet.steps.iter().find(|step| step.stage == stage && step.facts.contains_key(name))?;
    Some(&step.facts[name])
}

async fn start(dir: &tempfile::TempDir) -> TestDaemon {
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(cluster()).await.unwrap();
    daemon
}

#[tokio::test]
async fn a_new_flow_to_a_service_is_told_with_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(&dir).await;
    let told = daemon.client.explain(syn("10.244.1.10", "10.96.0.11")).await.unwrap().into_inner();
    assert_eq!(told.generation, daemon.engine.generation());
    let (packet, answer) = (told.packet.unwrap(), told.answer.unwrap());
    assert_eq!((packet.port.as_str(), packet.vtep.as_str(), packet.tcp_flags.as_str()), ("default/a", "", "SYN"));
    for (stage, name, expected) in [
        ("parse", "source", "10.244.1.10:1000"),
        ("service", "service", "default/far"),
        ("service", "port", "http"),
        ("service", "frontend_kind", "cluster_ip"),
        ("service", "origin", "pod"),
        ("service", "scheduler", "maglev"),
        ("select", "endpoint", "10.244.2.10:8080"),
        ("select", "by", "flow_hash"),
        ("select", "place", "node node-2"),
        ("service", "backend", "10.244.2.10:8080"),
        ("route", "prefix", "10.244.2.0/24"),
        ("route", "vtep", "192.168.50.2"),
        ("route", "port", "uplink"),
        ("nat", "destination", "10.244.2.10:8080"),
        ("encap", "vtep", "192.168.50.2"),
    ] {
        assert_eq!(fact(&packet, stage, name), Some(expected), "{stage}.{name}: {:?}", packet.steps);
    }
    let sentences: Vec<_> = packet.steps.iter().map(|step| step.sentence.as_str()).collect();
    assert!(
        sentences.contains(
            &"It is for default/far, port http at 10.96.0.11:80, its ClusterIP, and from a pod; there is one endpoint for \
              that."
        ),
        "{sentences:#?}"
    );
    assert_eq!(
        (packet.fate(), packet.out_port.as_str(), packet.sent_destination.as_str()),
        (Fate::Forwarded, "uplink", "10.244.2.10:8080")
    );

    assert_eq!((answer.port.as_str(), answer.vtep.as_str()), ("uplink", "192.168.50.2"));
    assert_eq!(fact(&answer, "track", "direction"), Some("reply"));
    assert_eq!(fact(&answer, "track", "state_after"), Some("answered"));
    assert_eq!((answer.fate(), answer.sent_source.as_str()), (Fate::Forwarded, "10.96.0.11:80"));
    daemon.stop().await;
}

/// What there is of IPv6 beside [`cluster`].
fn of_ipv6() -> ApplyRequest {
    let pod = |n: &str| format!("fd00:10:244:{n}");
    let service = |name, n: u8| v1::Service { ipv6_cluster_ip: format!("fd00:10:96::{n}"), ..service(name, n) };
    let slice = |service, address: &str, node: &str| {
        let endpoint = v1::Endpoint { address: pod(address), node: node.into(), ..Default::default() };
        v1::EndpointSlice { endpoints: vec![endpoint], ..slice(service, &format!("{service}-6"), 0) }
    };
    ApplyRequest {
        vteps: vec![v1::Vtep { ipv6_pod_cidr: pod("2::/64"), ..vtep(2) }],
        ports: vec![
            v1::Port { ipv6_address: pod("1::10"), ..port("default/a", "va1", 10) },
            v1::Port { ipv6_address: pod("1::11"), ..port("default/b", "va2", 11) },
        ],
        services: vec![service("web", 10), service("far", 11), service("none", 12)],
        endpoint_slices: vec![slice("web", "1::11", "node-1"), slice("far", "2::10", "node-2")],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_new_flow_of_ipv6_is_told_with_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(&dir).await;
    daemon.apply(of_ipv6()).await.unwrap();
    let told = daemon.client.explain(syn("fd00:10:244:1::10", "fd00:10:96::11")).await.unwrap().into_inner();
    let (packet, answer) = (told.packet.unwrap(), told.answer.unwrap());
    assert_eq!((packet.port.as_str(), packet.source.as_str()), ("default/a", "[fd00:10:244:1::10]:1000"));
    for (stage, name, expected) in [
        ("parse", "destination", "[fd00:10:96::11]:80"),
        ("service", "service", "default/far"),
        ("service", "frontend", "[fd00:10:96::11]:80/tcp"),
        ("service", "frontend_kind", "cluster_ip"),
        ("select", "endpoint", "[fd00:10:244:2::10]:8080"),
        ("select", "place", "node node-2"),
        ("route", "prefix", "fd00:10:244:2::/64"),
        ("route", "vtep", "192.168.50.2"),
        ("nat", "destination", "[fd00:10:244:2::10]:8080"),
        ("encap", "vtep", "192.168.50.2"),
    ] {
        assert_eq!(fact(&packet, stage, name), Some(expected), "{stage}.{name}: {:?}", packet.steps);
    }
    assert_eq!((packet.fate(), packet.sent_destination.as_str()), (Fate::Forwarded, "[fd00:10:244:2::10]:8080"));
    assert_eq!((answer.port.as_str(), answer.vtep.as_str()), ("uplink", "192.168.50.2"));
    assert_eq!((answer.fate(), answer.sent_source.as_str()), (Fate::Forwarded, "[fd00:10:96::11]:80"));

    let here = daemon.client.explain(syn("fd00:10:244:2::10", "fd00:10:96::10")).await.unwrap().into_inner();
    let packet = here.packet.unwrap();
    let facts = [("service", "service"), ("select", "place")].map(|(stage, name)| fact(&packet, stage, name));
    assert_eq!((facts, packet.out_port.as_str()), ([Some("default/web"), Some("default/b")], "default/b"));
    let ping = |destination: &str| ExplainRequest {
        protocol: 58,
        source_port: 7,
        destination_port: 0,
        ..syn("fd00:10:244:1::10", destination)
    };
    for (request, fate, reason) in [
        (syn("fd00:10:244:1::10", "fd00:10:96::12"), Fate::Answered, "port_unreachable"),
        (ping("fd00:10:244:1::"), Fate::ToHost, ""),
        (ping("fd00:10:244:1::77"), Fate::Answered, "net_unreachable"),
        (ping("fd00:10:244:1::11"), Fate::Forwarded, ""),
    ] {
        let packet = daemon.client.explain(request.clone()).await.unwrap().into_inner().packet.unwrap();
        assert_eq!((packet.fate(), packet.reason.as_str()), (fate, reason), "{request:?}");
        assert_eq!(packet.protocol, if request.protocol == 6 { "tcp" } else { "icmpv6" });
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_node_port_and_a_load_balancers_address_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(&dir).await;
    let mut balanced = v1::Service {
        r#type: v1::ServiceType::LoadBalancer.into(),
        load_balancer_ips: vec!["198.51.100.7".into()],
        load_balancer_source_ranges: vec!["203.0.113.0/24".into()],
        ..service("web", 10)
    };
    balanced.ports[0].node_port = 30_080;
    daemon.apply(ApplyRequest { services: vec![balanced], ..Default::default() }).await.unwrap();
    for (source, destination, port, kind, range, fate) in [
        ("203.0.113.9", "198.51.100.7", 80, "load_balancer", Some("203.0.113.0/24"), Fate::Forwarded),
        ("192.0.2.1", "198.51.100.7", 80, "load_balancer", Some("none"), Fate::Dropped),
        ("192.0.2.1", "192.168.50.1", 30_080, "node_port", None, Fate::Forwarded),
    ] {
        let request = ExplainRequest { destination_port: port, ..syn(source, destination) };
        let packet = daemon.client.explain(request).await.unwrap().into_inner().packet.unwrap();
        assert_eq!((packet.port.as_str(), packet.fate()), ("uplink", fate));
        let facts =
            ["service", "frontend_kind", "source_range", "masquerade"].map(|name| fact(&packet, "service", name));
        assert_eq!(facts, [Some("default/web"), Some(kind), range, Some("true")]);
        assert_eq!(fact(&packet, "masquerade", "source").is_some(), fate == Fate::Forwarded);
    }
    daemon.stop().await;
}

#[tokio::test]
async fn every_fate_has_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(&dir).await;
    let pod = "10.244.1.10";
    for (request, fate, reason, out) in [
        (syn(pod, "10.244.1.11"), Fate::Forwarded, "", "default/b"),
        (syn(pod, "192.0.2.1"), Fate::ToHost, "", "host"),
        (syn(pod, "10.96.0.12"), Fate::Answered, "port_unreachable", "default/a"),
        (syn(pod, "10.96.0.99"), Fate::Dropped, "no_service", ""),
        (syn(pod, "10.244.1.77"), Fate::Answered, "net_unreachable", "default/a"),
        (ExplainRequest { tcp_flags: Some(4), ..syn(pod, "10.96.0.10") }, Fate::Dropped, "out_of_state", ""),
        (ExplainRequest { vtep: "192.168.50.9".into(), ..syn("10.244.2.10", pod) }, Fate::Dropped, "unknown_vtep", ""),
    ] {
        let told = daemon.client.explain(request.clone()).await.unwrap().into_inner();
        let packet = told.packet.unwrap();
        assert_eq!(
            (packet.fate(), packet.reason.as_str(), packet.out_port.as_str()),
            (fate, reason, out),
            "{request:?}"
        );
        assert!(packet.sentence.ends_with('.'), "{}", packet.sentence);
        assert_eq!(told.answer.is_some(), matches!(fate, Fate::Forwarded | Fate::ToHost));
    }
    let ping = ExplainRequest { protocol: 1, source_port: 7, destination_port: 0, ..syn(pod, "169.254.1.1") };
    let packet = daemon.client.explain(ping).await.unwrap().into_inner().packet.unwrap();
    assert_eq!((packet.fate(), packet.reason.as_str()), (Fate::Answered, "echo_reply"));
    daemon.stop().await;
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(&dir).await;
    daemon.apply(of_ipv6()).await.unwrap();
    let good = || syn("10.244.1.10", "10.96.0.10");
    let of_ipv6 = || syn("fd00:10:244:1::10", "fd00:10:96::10");
    let ping = |request| ExplainRequest { source_port: 0, destination_port: 0, ..request };
    for (request, message) in [
        (ExplainRequest { source: "10.244".into(), ..good() }, "source: \"10.244\" is not an IPv4 address"),
        (ExplainRequest { destination: String::new(), ..good() }, "destination: is missing"),
        (ExplainRequest { protocol: 0, ..good() }, "protocol: is missing"),
        (ExplainRequest { protocol: 256, ..good() }, "protocol: 256 is above 255"),
        (ExplainRequest { protocol: 47, ..good() }, "source_port: 1000 is a port, and the protocol has none"),
        (ExplainRequest { source_port: 0, ..good() }, "source_port: 0 is not a port"),
        (ExplainRequest { destination_port: 70_000, ..good() }, "destination_port: 70000 is not a port"),
        (ExplainRequest { tcp_flags: Some(2), protocol: 17, ..good() }, "tcp_flags: are of TCP and SCTP"),
        (ExplainRequest { port: "default/x".into(), ..good() }, "port: \"default/x\" is not attached"),
        (
            ExplainRequest { port: "default/a".into(), vtep: "192.168.50.2".into(), ..good() },
            "vtep: default/a is no uplink",
        ),
        (ExplainRequest { vtep: "node-2".into(), ..good() }, "vtep: \"node-2\" is not an IPv4 address"),
        (ExplainRequest { ttl: Some(256), ..good() }, "ttl: 256 is above 255"),
        (ExplainRequest { length: Some(39), ..good() }, "length: 39 bytes are too few"),
        (ExplainRequest { length: Some(9000), ..good() }, "length: 9000 bytes fit no frame"),
        (ExplainRequest { protocol: 58, ..ping(good()) }, "protocol: 58 is ICMPv6, and the source is of IPv4"),
        (ExplainRequest { protocol: 1, ..ping(of_ipv6()) }, "protocol: 1 is ICMP of IPv4, and the source is of IPv6"),
        (ExplainRequest { dont_fragment: Some(false), ..of_ipv6() }, "dont_fragment: is false, and IPv6"),
        (ExplainRequest { length: Some(59), ..of_ipv6() }, "length: 59 bytes are too few for its headers; 60"),
        (
            ExplainRequest { destination: "10.96.0.10".into(), ..of_ipv6() },
            "destination: 10.96.0.10 is of IPv4, and the source of IPv6; give both of one family",
        ),
        (
            ExplainRequest { destination: "fd00:10:96::10".into(), ..good() },
            "destination: fd00:10:96::10 is of IPv6, and the source of IPv4; give both of one family",
        ),
        (
            ExplainRequest { source: "2001:db8::1".into(), ..of_ipv6() },
            "port: is missing, and no packets come to the switch from 2001:db8::1",
        ),
    ] {
        let status = daemon.client.explain(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(message), "{:?} should begin with {message:?}", status.message());
    }
    daemon.stop().await;
}
