//! Watches over a real unix socket.

use std::time::Duration;

use shunt_control_api::v1::{self, ApplyRequest, WatchRequest, WatchResponse};
use tokio::time::timeout;
use tonic::{Code, Streaming};

use crate::support::{TestDaemon, key, service, vtep};

async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    timeout(Duration::from_secs(5), stream.message()).await.expect("in time").unwrap().expect("not the end")
}

async fn watch(daemon: &mut TestDaemon, after_version: Option<u64>) -> Streaming<WatchResponse> {
    daemon.client.watch(WatchRequest { after_version }).await.unwrap().into_inner()
}

fn vteps(ns: impl IntoIterator<Item = u8>) -> ApplyRequest {
    ApplyRequest { vteps: ns.into_iter().map(vtep).collect(), ..Default::default() }
}

#[tokio::test]
async fn the_state_comes_first_and_then_each_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let mut empty = watch(&mut daemon, None).await;
    let first = next(&mut empty).await;
    assert_eq!((first.version, first.initial, first.more, first.upserts.len()), (0, true, false, 0));

    daemon.apply(vteps([2, 3])).await.unwrap();
    let change = next(&mut empty).await;
    assert_eq!((change.version, change.initial, change.upserts.len()), (1, false, 2));

    let delete = ApplyRequest { deletes: vec![key(v1::Kind::Vtep, "node-2")], ..vteps([4]) };
    daemon.apply(delete).await.unwrap();
    let change = next(&mut empty).await;
    assert_eq!((change.version, change.upserts.len()), (2, 1));
    assert_eq!(change.deletes, [key(v1::Kind::Vtep, "node-2")]);

    let late = next(&mut watch(&mut daemon, None).await).await;
    assert_eq!((late.version, late.initial, late.upserts.len()), (2, true, 2));
    drop(empty);
    daemon.stop().await;
}

#[tokio::test]
async fn a_watch_resumes_or_is_told_to_start_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    for n in 2..5 {
        daemon.apply(vteps([n])).await.unwrap();
    }
    let mut resumed = watch(&mut daemon, Some(1)).await;
    assert_eq!([next(&mut resumed).await.version, next(&mut resumed).await.version], [2, 3]);
    drop(resumed);
    let ahead = daemon.client.watch(WatchRequest { after_version: Some(9) }).await.unwrap_err();
    assert_eq!(ahead.code(), Code::OutOfRange);
    daemon.stop().await;

    // Another daemon on the same state knows the latest version and nothing before it.
    let mut daemon = TestDaemon::start(dir.path()).await;
    let old = daemon.client.watch(WatchRequest { after_version: Some(1) }).await.unwrap_err();
    assert_eq!(old.code(), Code::OutOfRange);
    assert!(old.message().starts_with("after_version: "), "{}", old.message());
    let mut latest = watch(&mut daemon, Some(3)).await;
    daemon.apply(vteps([5])).await.unwrap();
    assert_eq!(next(&mut latest).await.version, 4);
    drop(latest);
    daemon.stop().await;
}

#[tokio::test]
async fn large_states_come_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let services = (0..600_u32).map(|n| v1::Service {
        cluster_ip: format!("10.96.{}.{}", 1 + n / 256, n % 256),
        ..service(&format!("s{n}"), 0)
    });
    daemon.apply(ApplyRequest { services: services.collect(), ..Default::default() }).await.unwrap();
    let mut stream = watch(&mut daemon, None).await;
    let mut parts = vec![next(&mut stream).await];
    while parts.last().unwrap().more {
        parts.push(next(&mut stream).await);
    }
    assert!(parts.len() > 1);
    assert!(parts.iter().all(|part| part.initial && part.version == 1));
    assert_eq!(parts.iter().map(|part| part.upserts.len()).sum::<usize>(), 600);
    drop(stream);
    daemon.stop().await;
}

#[tokio::test]
async fn watches_end_with_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let mut stream = watch(&mut daemon, None).await;
    next(&mut stream).await;
    timeout(Duration::from_secs(5), daemon.stop()).await.expect("does not wait for those who watch");
    assert_eq!(stream.message().await.unwrap(), None);
}
