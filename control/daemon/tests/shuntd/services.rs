//! Services as callers of the API tell them and see them: frontends, and health checks over real HTTP.

use std::net::{Ipv4Addr, TcpListener};

use shunt_control_api::v1::{self, ApplyRequest, ListServiceStatusRequest};
use shunt_dataplane::net::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{TestDaemon, key, service, slice};

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// The service `name` behind a load balancer, with the external policy `Local`.
fn balanced(name: &str, n: u8, health_check: u16) -> v1::Service {
    let mut service = service(name, n);
    service.ports[0].node_port = 30_000 + u32::from(n);
    v1::Service {
        r#type: v1::ServiceType::LoadBalancer.into(),
        load_balancer_ips: vec![format!("203.0.113.{n}")],
        external_traffic_policy: v1::TrafficPolicy::Local.into(),
        health_check_node_port: health_check.into(),
        ..service
    }
}

/// Its endpoints: one on this node with these conditions, one elsewhere.
fn endpoints(service: &str, here: v1::EndpointConditions) -> v1::EndpointSlice {
    let mut slice = slice(service, "all", 10);
    slice.endpoints[0].node = "node-a".into();
    slice.endpoints[0].conditions = Some(here);
    slice.endpoints.push(v1::Endpoint { address: "10.244.2.10".into(), node: "node-b".into(), ..Default::default() });
    slice
}

fn ready(ready: bool) -> v1::EndpointConditions {
    v1::EndpointConditions { ready: Some(ready), ..Default::default() }
}

fn terminating() -> v1::EndpointConditions {
    v1::EndpointConditions { ready: Some(false), serving: Some(true), terminating: Some(true) }
}

/// The status and the body; `None` if nobody listens.
async fn ask(port: u16) -> Option<(u16, serde_json::Value)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, serde_json::from_str(body).unwrap()))
}

fn told(name: &str, endpoints: u32) -> serde_json::Value {
    serde_json::json!({ "service": { "namespace": "default", "name": name }, "localEndpoints": endpoints })
}

#[tokio::test]
async fn frontends_are_compiled_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let services = vec![v1::Service {
        load_balancer_source_ranges: vec!["192.0.2.0/24".into()],
        external_ips: vec!["198.51.100.7".into()],
        ..balanced("web", 10, 0)
    }];
    let endpoint_slices = vec![endpoints("web", ready(true))];
    daemon.apply(ApplyRequest { services, endpoint_slices, ..Default::default() }).await.unwrap();
    let published = daemon.engine.published().ipv4.services;
    let node = Ipv4Addr::new(192, 168, 50, 1);
    for (vip, port) in [
        (Ipv4Addr::new(10, 96, 0, 10), 80),
        (node, 30_010),
        (Ipv4Addr::new(203, 0, 113, 10), 80),
        (Ipv4Addr::new(198, 51, 100, 7), 80),
    ] {
        assert!(published.get((vip, port, Protocol::Tcp)).is_some(), "{vip}:{port}");
    }
    let request = ListServiceStatusRequest { name: "default/web".into(), ..Default::default() };
    let status = daemon.client.list_service_status(request).await.unwrap().into_inner();
    let port = &status.services[0].ports[0];
    let told: Vec<_> = port.frontends.iter().map(|f| (f.kind(), f.address.as_str(), f.source_ranges.len())).collect();
    use v1::FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    let expected = [
        (ClusterIp, "10.96.0.10:80", 0),
        (NodePort, "192.168.50.1:30010", 0),
        (LoadBalancer, "203.0.113.10:80", 1),
        (ExternalIp, "198.51.100.7:80", 0),
    ];
    assert_eq!(told, expected);
    let rule = |rule: Option<v1::RuleStatus>| rule.map(|rule| (rule.chosen, rule.masquerade)).unwrap();
    let balancer = port.frontends[2].clone();
    assert_eq!(
        [balancer.from_pods, balancer.from_node, balancer.from_outside].map(rule),
        [(2, false), (2, true), (1, false)]
    );
    let chosen: Vec<_> = port.endpoints.iter().map(|e| (e.chosen, e.chosen_outside)).collect();
    assert_eq!(chosen, [(true, true), (true, false)]);
    assert_eq!(port.endpoints[1].reason_outside, "It is on another node, and the policy is Local.");

    // The node gets another address.
    let other = Ipv4Addr::new(192, 168, 50, 77);
    daemon.kernel.change(|view| view.underlay = Some(other));
    daemon.controller.kernel_changed();
    daemon.settle().await;
    let published = daemon.engine.published().ipv4.services;
    assert!(published.get((node, 30_010, Protocol::Tcp)).is_none());
    assert!(published.get((other, 30_010, Protocol::Tcp)).is_some());
    let status = daemon.client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.node_port_addresses, ["192.168.50.77"]);

    // And the service goes from type to type.
    let services = vec![service("web", 10)];
    daemon.apply(ApplyRequest { services, ..Default::default() }).await.unwrap();
    assert_eq!(daemon.engine.published().ipv4.services.len(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn health_check_node_ports_follow_the_endpoints() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let port = free_port();
    let services = vec![balanced("web", 10, port)];
    let answer = daemon.apply(ApplyRequest { services, ..Default::default() }).await.unwrap();
    assert_eq!(answer.warnings, [""; 0]);
    assert_eq!(ask(port).await, Some((503, told("web", 0))));
    // Two slices with one address, and only terminating endpoints.
    let second = v1::EndpointSlice { name: "more".into(), ..endpoints("web", ready(true)) };
    for (endpoint_slices, status, count) in [
        (vec![endpoints("web", ready(true))], 200, 1),
        (vec![second], 200, 1),
        (vec![v1::EndpointSlice { name: "more".into(), endpoints: Vec::new(), ..slice("web", "more", 10) }], 200, 1),
        (vec![endpoints("web", terminating())], 503, 0),
        (vec![endpoints("web", ready(false))], 503, 0),
        (vec![endpoints("web", ready(true))], 200, 1),
    ] {
        daemon.apply(ApplyRequest { endpoint_slices, ..Default::default() }).await.unwrap();
        assert_eq!(ask(port).await, Some((status, told("web", count))));
    }

    // The port goes over to another service in one request, and the first one has another.
    let second = free_port();
    let services = vec![balanced("web", 10, second), balanced("api", 11, port)];
    let answer = daemon.apply(ApplyRequest { services, ..Default::default() }).await.unwrap();
    assert_eq!(answer.warnings, [""; 0]);
    assert_eq!(ask(port).await, Some((503, told("api", 0))));
    assert_eq!(ask(second).await, Some((200, told("web", 1))));

    // After a restart the same.
    daemon.stop().await;
    let mut daemon = TestDaemon::start(dir.path()).await;
    assert_eq!(ask(second).await, Some((200, told("web", 1))));

    // What nobody wants is closed, and free when the answer is here.
    let deletes = vec![key(v1::Kind::Service, "default/api")];
    let services = vec![balanced("web", 10, 0)];
    daemon.apply(ApplyRequest { services, deletes, ..Default::default() }).await.unwrap();
    for port in [port, second] {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_health_check_port_in_use_is_a_warning_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let request = ApplyRequest { services: vec![balanced("web", 10, port)], ..Default::default() };
    let answer = daemon.apply(request.clone()).await.unwrap();
    let why = format!("nobody answers at port {port}: another process has it; it is tried again");
    assert_eq!(answer.warnings, [format!("services[0].health_check_node_port: {why}")]);
    let status = daemon.client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.problems, [format!("service default/web: {why}")]);
    let named = ListServiceStatusRequest { name: "default/web".into(), ..Default::default() };
    let told_of = daemon.client.list_service_status(named).await.unwrap().into_inner();
    assert_eq!(told_of.services[0].health_check.as_ref().unwrap().problem, why);

    // Asked for again, it is tried at once; and by itself after some time.
    drop(taken);
    assert_eq!(daemon.apply(request).await.unwrap().warnings, [""; 0]);
    assert_eq!(ask(port).await, Some((503, told("web", 0))));
    let status = daemon.client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.problems, [""; 0]);
    daemon.stop().await;
}
