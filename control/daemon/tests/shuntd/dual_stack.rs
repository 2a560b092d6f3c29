//! Dual stack by the API: what is told of both families, what the engine gets of it, and what is said of it.

use std::net::{Ipv4Addr, Ipv6Addr};

use shunt_control_api::v1::{self, ApplyRequest, ListServiceStatusRequest};
use shunt_dataplane::{
    net::Protocol,
    spec::{RouteSpec, Via},
    switch::FlowRecord,
};
use tonic::Code;

use crate::support::{TestDaemon, key, port, service, slice, vtep};

fn ipv6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A slice of `service` with these IPv6 endpoints.
fn ipv6_slice(service: &str, name: &str, addresses: &[&str]) -> v1::EndpointSlice {
    let endpoint = |address: &&str| v1::Endpoint { address: (*address).into(), ..Default::default() };
    v1::EndpointSlice { endpoints: addresses.iter().map(endpoint).collect(), ..slice(service, name, 0) }
}

fn whole() -> ApplyRequest {
    let address = |n: &str| format!("fd00:10:244:{n}");
    ApplyRequest {
        vteps: vec![v1::Vtep { ipv6_pod_cidr: address("2::/64"), ..vtep(2) }, vtep(3)],
        ports: vec![v1::Port { ipv6_address: address("1::10"), ..port("default/a", "va1", 10) }],
        services: vec![v1::Service { ipv6_cluster_ip: "fd00:10:96::10".into(), ..service("web", 10) }],
        endpoint_slices: vec![
            slice("web", "web-4", 10),
            ipv6_slice("web", "web-6", &["fd00:10:244:1::10", "fd00:10:244:2::10"]),
        ],
        ..Default::default()
    }
}

/// The addresses of the endpoints of a service at its IPv4 and its IPv6 ClusterIP.
fn endpoints(daemon: &TestDaemon) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let spec = daemon.engine.published();
    let ipv4 = spec.ipv4.services.get((Ipv4Addr::new(10, 96, 0, 10), 80, Protocol::Tcp));
    let ipv6 = spec.ipv6.services.get((ipv6("fd00:10:96::10"), 80, Protocol::Tcp));
    let ipv4 = ipv4.map(|service| service.from_pods.endpoints.iter().map(|e| e.backend.address).collect());
    let ipv6 = ipv6.map(|service| service.from_pods.endpoints.iter().map(|e| e.backend.address).collect());
    (ipv4.unwrap_or_default(), ipv6.unwrap_or_default())
}

#[tokio::test]
async fn both_families_are_told_kept_and_compiled() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(whole()).await.unwrap();
    let pods = (vec![Ipv4Addr::new(10, 244, 1, 10)], ["fd00:10:244:1::10", "fd00:10:244:2::10"].map(ipv6).to_vec());
    assert_eq!(endpoints(&daemon), pods);
    let spec = daemon.engine.published();
    let to_node =
        RouteSpec { prefix: "fd00:10:244:2::/64".parse().unwrap(), via: Via::Vtep(Ipv4Addr::new(192, 168, 50, 2)) };
    assert!(spec.ipv6.routes.contains(&to_node), "{:?}", spec.ipv6.routes);
    assert_eq!(spec.ipv6.routes.len(), 5, "both prefixes, the node itself, node-2 and the pod");

    let get = v1::GetRequest { key: Some(key(v1::Kind::EndpointSlice, "default/web/web-6")) };
    let told = daemon.client.get(get).await.unwrap().into_inner().resource.unwrap().kind;
    assert_eq!(told, Some(v1::resource::Kind::EndpointSlice(whole().endpoint_slices[1].clone())));
    let status = daemon.client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        [status.ipv6_pod_cidr, status.ipv6_overlay_address],
        ["fd00:10:244:1::/64".to_owned(), "fd00:10:244:1::".to_owned()]
    );

    // It survives a restart, and then only services change.
    daemon.stop().await;
    let mut daemon = TestDaemon::start(dir.path()).await;
    assert_eq!(endpoints(&daemon), pods);
    let fewer = vec![ipv6_slice("web", "web-6", &["fd00:10:244:2::10"])];
    daemon.apply(ApplyRequest { endpoint_slices: fewer, ..Default::default() }).await.unwrap();
    assert_eq!(endpoints(&daemon), (pods.0.clone(), vec![ipv6("fd00:10:244:2::10")]));
    let only_ipv4 = vec![service("web", 10)];
    daemon.apply(ApplyRequest { services: only_ipv4, ..Default::default() }).await.unwrap();
    assert_eq!(endpoints(&daemon), (pods.0, vec![]));
    assert!(daemon.engine.published().ipv6.services.is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn a_service_is_told_with_the_endpoints_of_each_family() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(whole()).await.unwrap();
    let request = ListServiceStatusRequest { name: "default/web".into(), ..Default::default() };
    let status = daemon.client.list_service_status(request).await.unwrap().into_inner();
    let port = &status.services[0].ports[0];
    let frontends: Vec<_> = port
        .frontends
        .iter()
        .map(|frontend| {
            (frontend.kind(), frontend.address.as_str(), frontend.from_pods.unwrap().chosen, frontend.known)
        })
        .collect();
    let kind = v1::FrontendKind::ClusterIp;
    assert_eq!(frontends, [(kind, "10.96.0.10:80", 1, 1), (kind, "[fd00:10:96::10]:80", 2, 2)]);
    let endpoints: Vec<_> = port.endpoints.iter().map(|endpoint| endpoint.endpoint.as_str()).collect();
    assert_eq!(endpoints, ["10.244.1.10:8080", "[fd00:10:244:1::10]:8080", "[fd00:10:244:2::10]:8080"]);
    assert_eq!(port.known, 3);
    daemon.stop().await;
}

#[tokio::test]
async fn a_mixture_of_families_is_refused_and_names_the_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let mixed = vec![ipv6_slice("web", "web-6", &["fd00:10:244:1::10", "10.244.2.10"])];
    let refused = daemon.apply(ApplyRequest { endpoint_slices: mixed, ..whole() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let start = "endpoint_slices[0].endpoints[1].address: 10.244.2.10 is an IPv4 address";
    assert!(refused.message().starts_with(start), "{}", refused.message());
    assert_eq!(daemon.controller.feed().state().version, 0);
    daemon.stop().await;
}

#[tokio::test]
async fn flows_of_ipv6_are_listed_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let flow = |client: &str, vip: &str, backend: &str| FlowRecord {
        protocol: Protocol::Tcp,
        client: client.parse().unwrap(),
        vip: vip.parse().unwrap(),
        backend: backend.parse().unwrap(),
        state: "established",
        idle: std::time::Duration::ZERO,
        generation: 3,
    };
    daemon.engine.set_flows(vec![
        flow("10.244.1.10:40000", "10.96.0.10:80", "10.244.2.10:8080"),
        flow("[fd00:10:244:1::10]:40000", "[fd00:10:96::10]:80", "[fd00:10:244:2::10]:8080"),
    ]);
    let vip = "fd00:10:96:0:0:0:0:10".into();
    let filter = Some(v1::FlowFilter { vip, vip_port: 80, ..Default::default() });
    let listed = v1::ListFlowsRequest { filter, ..Default::default() };
    let flows = daemon.client.list_flows(listed).await.unwrap().into_inner().flows;
    let told: Vec<_> = flows.iter().map(|flow| [&*flow.client, &flow.vip, &flow.backend]).collect();
    assert_eq!(told, [["[fd00:10:244:1::10]:40000", "[fd00:10:96::10]:80", "[fd00:10:244:2::10]:8080"]]);
    let bad = v1::ListFlowsRequest {
        filter: Some(v1::FlowFilter { client: "ff02::1".into(), ..Default::default() }),
        ..Default::default()
    };
    let refused = daemon.client.list_flows(bad).await.unwrap_err();
    assert!(refused.message().starts_with("filter.client: ff02::1 cannot be a station's"), "{}", refused.message());
    daemon.stop().await;
}
