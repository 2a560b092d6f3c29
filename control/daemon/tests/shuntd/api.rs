//! The API over a real unix socket.

use std::{os::unix::fs::PermissionsExt, sync::atomic::Ordering::SeqCst};

use shunt_control_api::v1::{self, ApplyRequest, switch_client::SwitchClient};
use shunt_control_daemon::api::server::{ServeError, Socket};
use tonic::Code;

use crate::support::{TestDaemon, config, key, port, service, slice, vtep};

fn whole() -> ApplyRequest {
    ApplyRequest {
        vteps: vec![vtep(2), vtep(3)],
        ports: vec![port("default/a", "va1", 10)],
        routes: vec![v1::Route { prefix: "10.245.0.0/24".into(), via: "192.168.50.7".into() }],
        services: vec![service("web", 10)],
        endpoint_slices: vec![slice("web", "web-1", 10)],
        ..Default::default()
    }
}

#[tokio::test]
async fn apply_is_adopted_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let before = daemon.engine.generation();
    let answer = daemon.apply(whole()).await.unwrap();
    assert_eq!((answer.version, answer.created, answer.warnings.len()), (1, 6, 0));
    assert!(answer.generation > before);
    assert_eq!(answer.generation, daemon.engine.generation());
    let spec = daemon.engine.published();
    assert_eq!((spec.ports.len(), spec.vteps.len(), spec.ipv4.services.len()), (3, 2, 1));
    daemon.stop().await;
}

#[tokio::test]
async fn apply_is_idempotent() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let first = daemon.apply(whole()).await.unwrap();
    let again = daemon.apply(ApplyRequest { replace: true, ..whole() }).await.unwrap();
    assert_eq!((again.version, again.generation), (first.version, first.generation));
    assert_eq!((again.unchanged, again.created, again.updated, again.deleted), (6, 0, 0, 0));
    daemon.stop().await;
}

#[tokio::test]
async fn one_wrong_field_and_nothing_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(whole()).await.unwrap();
    let before = daemon.engine.generation();
    let mut bad = service("api", 11);
    bad.ports[0].port = 0;
    let request = ApplyRequest { vteps: vec![vtep(4)], services: vec![service("ok", 12), bad], ..Default::default() };
    let status = daemon.apply(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "services[1].ports[0].port: 0 is not a port; use 1 to 65535");

    let conflict = ApplyRequest { vteps: vec![vtep(4)], services: vec![service("other", 10)], ..Default::default() };
    let status = daemon.apply(conflict).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("services[0].ports[0].port: 10.96.0.10:80/tcp is service default/web's"));

    assert_eq!(daemon.controller.feed().state().version, 1);
    assert_eq!(daemon.engine.generation(), before);
    daemon.stop().await;
}

#[tokio::test]
async fn what_the_switch_refuses_leaves_the_former_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(whole()).await.unwrap();
    let (spec, interfaces) = (daemon.engine.published(), daemon.engine.interfaces());
    daemon.engine.refuse.store(1, SeqCst);
    let request = ApplyRequest { ports: vec![port("default/b", "va2", 11)], ..Default::default() };
    let status = daemon.apply(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("no room"), "{}", status.message());
    assert_eq!((daemon.engine.published(), daemon.engine.interfaces()), (spec, interfaces));
    assert_eq!(daemon.controller.feed().state().version, 1);
    assert_eq!(daemon.apply(request).await.unwrap().version, 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_state_that_cannot_be_written_is_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    // A directory in the file's place: neither writing beside it nor renaming over it can work.
    std::fs::create_dir_all(dir.path().join("state/desired-state/x")).unwrap();
    let before = daemon.engine.published();
    let status = daemon.apply(whole()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("desired-state"), "{}", status.message());
    assert_eq!(daemon.engine.published(), before, "taken back");
    assert_eq!(daemon.engine.interfaces().len(), 2);
    std::fs::remove_dir_all(dir.path().join("state/desired-state")).unwrap();
    assert_eq!(daemon.apply(whole()).await.unwrap().version, 1);
    daemon.stop().await;
}

/// Changes of services alone take a way of their own through the controller.
#[tokio::test]
async fn services_alone_are_applied_refused_and_written_like_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(whole()).await.unwrap();
    let endpoints = |daemon: &TestDaemon| {
        let spec = daemon.engine.published();
        (spec.vteps.len(), spec.ipv4.services.iter().map(|s| s.from_pods.endpoints.len()).collect::<Vec<_>>())
    };
    assert_eq!(endpoints(&daemon), (2, vec![1]));
    let more = || ApplyRequest { endpoint_slices: vec![slice("web", "web-2", 11)], ..Default::default() };
    daemon.engine.refuse.store(1, SeqCst);
    assert_eq!(daemon.apply(more()).await.unwrap_err().code(), Code::Internal);
    assert_eq!((endpoints(&daemon), daemon.controller.feed().state().version), ((2, vec![1]), 1));

    let answer = daemon.apply(more()).await.unwrap();
    assert_eq!((answer.version, answer.generation), (2, daemon.engine.generation()));
    assert_eq!(endpoints(&daemon), (2, vec![2]));
    assert_eq!(daemon.controller.observed().generation, answer.generation);

    // A slice of a service that is not there: kept, and nothing to publish.
    let early = ApplyRequest { endpoint_slices: vec![slice("later", "later-1", 12)], ..Default::default() };
    let answer = daemon.apply(early).await.unwrap();
    assert_eq!((answer.version, answer.generation), (3, daemon.engine.generation()));
    daemon.apply(ApplyRequest { services: vec![service("later", 11)], ..Default::default() }).await.unwrap();
    assert_eq!(endpoints(&daemon).1.iter().sum::<usize>(), 3);
    let published = daemon.engine.published().ipv4.services;
    daemon.stop().await;

    let daemon = TestDaemon::start(dir.path()).await;
    assert_eq!((daemon.controller.feed().state().version, daemon.engine.published().ipv4.services), (4, published));
    daemon.stop().await;
}

#[tokio::test]
async fn versions_guard_against_lost_updates() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let at = |version, n| ApplyRequest { vteps: vec![vtep(n)], expected_version: Some(version), ..Default::default() };
    assert_eq!(daemon.apply(at(0, 2)).await.unwrap().version, 1);
    let status = daemon.apply(at(0, 3)).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("version 1, not 0"), "{}", status.message());
    assert_eq!(daemon.apply(at(1, 3)).await.unwrap().version, 2);
    daemon.stop().await;
}

#[tokio::test]
async fn the_state_survives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(whole()).await.unwrap();
    let spec = daemon.engine.published();
    daemon.stop().await;

    let daemon = TestDaemon::start(dir.path()).await;
    assert_eq!(daemon.controller.feed().state().version, 1);
    let again = daemon.engine.published();
    assert_eq!((again.ipv4.routes.len(), again.ipv4.services), (spec.ipv4.routes.len(), spec.ipv4.services));
    daemon.stop().await;
}

#[tokio::test]
async fn get_and_list_read_what_apply_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(whole()).await.unwrap();
    let get = |name: &str| v1::GetRequest { key: Some(key(v1::Kind::Service, name)) };
    let got = daemon.client.get(get("default/web")).await.unwrap().into_inner();
    assert_eq!(got.resource.unwrap().kind, Some(v1::resource::Kind::Service(service("web", 10))));
    let missing = daemon.client.get(get("default/none")).await.unwrap_err();
    assert_eq!((missing.code(), missing.message().contains("service default/none")), (Code::NotFound, true));
    let bad = daemon.client.get(v1::GetRequest { key: Some(key(v1::Kind::Route, "x")) }).await.unwrap_err();
    assert!(bad.message().starts_with("key.name: "), "{}", bad.message());

    let list = |kind: v1::Kind, after: &str, limit| v1::ListRequest { kind: kind.into(), limit, after: after.into() };
    let first = daemon.client.list(list(v1::Kind::Vtep, "", 1)).await.unwrap().into_inner();
    assert_eq!((first.resources.len(), first.next.as_str()), (1, "node-2"));
    let rest = daemon.client.list(list(v1::Kind::Vtep, &first.next, 1)).await.unwrap().into_inner();
    assert_eq!((rest.resources[0].kind.clone(), rest.next.as_str()), (Some(v1::resource::Kind::Vtep(vtep(3))), ""));
    let routes = daemon.client.list(list(v1::Kind::Route, "", 0)).await.unwrap().into_inner();
    assert_eq!((routes.resources.len(), routes.version), (1, 1));
    assert_eq!(daemon.client.list(list(v1::Kind::Unspecified, "", 0)).await.unwrap_err().code(), Code::InvalidArgument);
    daemon.stop().await;
}

#[tokio::test]
async fn flows_are_filtered_where_they_are() {
    use shunt_dataplane::{net::Protocol, switch::FlowRecord};
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let flow = |client: u8, protocol| FlowRecord {
        protocol,
        client: format!("10.244.1.{client}:40000").parse().unwrap(),
        vip: "10.96.0.10:80".parse().unwrap(),
        backend: "10.244.2.10:8080".parse().unwrap(),
        state: "established",
        idle: std::time::Duration::from_millis(1500),
        generation: 3,
    };
    daemon.engine.set_flows(vec![flow(10, Protocol::Tcp), flow(11, Protocol::Tcp), flow(10, Protocol::Udp)]);
    let list = async |daemon: &mut TestDaemon, request| daemon.client.list_flows(request).await.map(|a| a.into_inner());
    let all = list(&mut daemon, v1::ListFlowsRequest::default()).await.unwrap();
    assert_eq!((all.flows.len(), all.more), (3, false));
    let wanted = |filter| v1::ListFlowsRequest { filter: Some(filter), ..Default::default() };
    let from = v1::FlowFilter { client: "10.244.1.10".into(), ..Default::default() };
    let one = v1::FlowFilter { protocol: v1::Protocol::Tcp.into(), ..from.clone() };
    let one = list(&mut daemon, wanted(one)).await.unwrap();
    assert_eq!((one.flows.len(), one.flows[0].client.as_str(), one.flows[0].idle_ms), (1, "10.244.1.10:40000", 1500));
    let some = list(&mut daemon, v1::ListFlowsRequest { limit: 2, ..Default::default() }).await.unwrap();
    assert_eq!((some.flows.len(), some.more), (2, true));
    for (filter, count) in [
        (v1::FlowFilter { vip_port: 80, ..Default::default() }, 3),
        (v1::FlowFilter { backend_port: 80, ..Default::default() }, 0),
        (v1::FlowFilter { state: "established".into(), ..Default::default() }, 3),
        (v1::FlowFilter { state: "opening".into(), ..Default::default() }, 0),
    ] {
        assert_eq!(list(&mut daemon, wanted(filter.clone())).await.unwrap().flows.len(), count, "{filter:?}");
    }
    for (bad, field) in [
        (v1::FlowFilter { vip: "web".into(), ..Default::default() }, "filter.vip: "),
        (v1::FlowFilter { vip_port: 70_000, ..Default::default() }, "filter.vip_port: "),
        (v1::FlowFilter { state: "half".into(), ..Default::default() }, "filter.state: "),
    ] {
        let refused = list(&mut daemon, wanted(bad)).await.unwrap_err();
        assert!(refused.message().starts_with(field), "{}", refused.message());
    }

    // Flushing: not without saying what, and what was said is gone.
    let flush =
        async |daemon: &mut TestDaemon, request| daemon.client.flush_flows(request).await.map(|a| a.into_inner());
    let nothing = flush(&mut daemon, v1::FlushFlowsRequest::default()).await.unwrap_err();
    assert!(nothing.message().starts_with("filter: "), "{}", nothing.message());
    let both = v1::FlushFlowsRequest { filter: Some(from.clone()), all: true };
    assert!(flush(&mut daemon, both).await.unwrap_err().message().starts_with("all: "));
    let some = v1::FlushFlowsRequest { filter: Some(from), all: false };
    assert_eq!(flush(&mut daemon, some).await.unwrap().flushed, 2);
    assert_eq!(flush(&mut daemon, v1::FlushFlowsRequest { filter: None, all: true }).await.unwrap().flushed, 1);
    assert_eq!(list(&mut daemon, v1::ListFlowsRequest::default()).await.unwrap().flows.len(), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    let dir = tempfile::tempdir().unwrap();
    let daemon = TestDaemon::start(dir.path()).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("unix://{}", config(dir.path()).socket.display()));
    let mut health = HealthClient::new(channel.unwrap().connect().await.unwrap());
    let check = HealthCheckRequest { service: "shunt.v1.Switch".into() };
    let answer = health.check(check).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    drop(health);

    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let channel = tonic::transport::Endpoint::from_shared(format!("unix://{}", config(dir.path()).socket.display()));
    let mut reflection = ServerReflectionClient::new(channel.unwrap().connect().await.unwrap());
    let ask = MessageRequest::ListServices(String::new());
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"shunt.v1.Switch") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    drop((answers, reflection));
    daemon.stop().await;
}

#[tokio::test]
async fn the_socket_is_its_owners_and_only_one_daemons() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path()).socket;
    let daemon = TestDaemon::start(dir.path()).await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o755));
    assert!(matches!(Socket::bind(&path), Err(ServeError::Busy(_))));
    daemon.stop().await;
    assert!(!path.exists(), "removed at the end");

    // One on which nobody answers, as after a crash, is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let daemon = TestDaemon::start(dir.path()).await;
    SwitchClient::connect(format!("unix://{}", path.display())).await.unwrap();
    daemon.stop().await;

    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(Socket::bind(&path), Err(ServeError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}
