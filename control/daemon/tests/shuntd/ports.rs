//! Ports come and go: by request, and as their interfaces do.

use std::{sync::Arc, time::Duration};

use shunt_control_api::v1::{self, ApplyRequest};
use shunt_control_daemon::controller::StartError;
use shunt_dataplane::spec::PortRole;

use crate::support::{MemoryEngine, TestDaemon, kernel, key, port, start_controller, vtep};

fn ports(ports: Vec<v1::Port>) -> ApplyRequest {
    ApplyRequest { ports, ..Default::default() }
}

async fn port_status(daemon: &mut TestDaemon, name: &str) -> v1::PortStatus {
    let status = daemon.client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    status.ports.into_iter().find(|port| port.name == name).unwrap()
}

#[tokio::test]
async fn the_uplink_and_the_host_port_are_there_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let uplink = daemon.engine.port("eth0").unwrap();
    assert_eq!(uplink.role, PortRole::Uplink);
    assert_eq!(uplink.classify.vxlan, Some(("192.168.50.1".parse().unwrap(), 8472)));
    assert_eq!(uplink.classify.native, ["10.244.1.0/24".parse().unwrap()]);
    assert_eq!(daemon.engine.port("shunt0p").unwrap().role, PortRole::Host);
    let status = daemon.client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.node.as_str(), status.overlay_address.as_str()), ("node-a", "10.244.1.0"));
    assert_eq!(status.local_vtep.unwrap().address, "192.168.50.1");
    daemon.stop().await;
}

#[tokio::test]
async fn without_an_uplink_the_daemon_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = kernel();
    kernel.remove_link("eth0");
    let error = start_controller(dir.path(), Arc::new(MemoryEngine::default()), kernel).err().unwrap();
    assert!(matches!(&error, StartError::Port(why) if why.contains("eth0")), "{error}");
}

#[tokio::test]
async fn a_port_whose_interface_is_missing_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let answer = daemon.apply(ports(vec![port("default/late", "late0", 20)])).await.unwrap();
    assert_eq!((answer.created, answer.warnings.len()), (1, 1));
    assert!(answer.warnings[0].starts_with("ports[0].interface: interface late0 does not exist"));
    assert!(port_status(&mut daemon, "default/late").await.pending.contains("late0"));

    daemon.kernel.add_link("late0");
    daemon.controller.kernel_changed();
    daemon.settle().await;
    assert!(port_status(&mut daemon, "default/late").await.attached.is_some());
    let spec = daemon.engine.published();
    assert!(spec.ipv4.routes.iter().any(|route| route.prefix == "10.244.1.20/32".parse().unwrap()));
    daemon.stop().await;
}

#[tokio::test]
async fn a_port_that_cannot_be_attached_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.engine.set_busy("va1", true);
    let answer = daemon.apply(ports(vec![port("default/a", "va1", 10)])).await.unwrap();
    assert!(answer.warnings[0].contains("va1 is busy"), "{:?}", answer.warnings);
    daemon.engine.set_busy("va1", false);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while daemon.engine.port("va1").is_none() {
        assert!(tokio::time::Instant::now() < deadline, "not tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_veth_that_is_made_anew_is_attached_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(ports(vec![port("default/a", "va1", 10)])).await.unwrap();
    let generation = daemon.engine.generation();
    // The engine refuses an interface that it still has: this passes only if the old one was let go first.
    daemon.kernel.remove_link("va1");
    daemon.kernel.add_link("va1");
    daemon.controller.kernel_changed();
    daemon.settle().await;
    assert!(daemon.engine.port("va1").is_some());
    assert_eq!(daemon.engine.published().ports.len(), 3);
    assert!(daemon.engine.generation() >= generation + 2, "without it, then with it");
    daemon.stop().await;
}

#[tokio::test]
async fn a_veth_that_goes_takes_its_route_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(ports(vec![port("default/a", "va1", 10)])).await.unwrap();
    daemon.kernel.remove_link("va1");
    daemon.controller.kernel_changed();
    daemon.settle().await;
    assert_eq!(daemon.engine.interfaces(), ["eth0", "shunt0p"]);
    assert!(port_status(&mut daemon, "default/a").await.pending.contains("va1"));
    daemon.stop().await;
}

#[tokio::test]
async fn numbers_are_dense_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(ports(vec![port("default/a", "va1", 10)])).await.unwrap();
    let first = daemon.engine.port("va1").unwrap().id;
    assert_eq!(first.0, 2);
    daemon.apply(ApplyRequest { deletes: vec![key(v1::Kind::Port, "default/a")], ..Default::default() }).await.unwrap();
    assert!(daemon.engine.port("va1").is_none());
    daemon.apply(ports(vec![port("default/b", "va2", 11)])).await.unwrap();
    assert_eq!(daemon.engine.port("va2").unwrap().id, first);
    daemon.stop().await;
}

#[tokio::test]
async fn an_interface_may_go_from_one_pod_to_the_next_in_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(ports(vec![port("default/a", "va1", 10)])).await.unwrap();
    let swap =
        ApplyRequest { deletes: vec![key(v1::Kind::Port, "default/a")], ..ports(vec![port("default/b", "va1", 11)]) };
    let answer = daemon.apply(swap).await.unwrap();
    assert_eq!((answer.created, answer.deleted, answer.warnings.len()), (1, 1, 0));
    daemon.stop().await;
}

#[tokio::test]
async fn an_uplink_with_another_address_is_classified_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(ApplyRequest { vteps: vec![vtep(2)], ..Default::default() }).await.unwrap();
    daemon.kernel.change(|view| view.underlay = Some("192.168.50.99".parse().unwrap()));
    daemon.controller.kernel_changed();
    daemon.settle().await;
    let classify = daemon.engine.port("eth0").unwrap().classify;
    assert_eq!(classify.vxlan.unwrap().0.to_string(), "192.168.50.99");
    assert_eq!(daemon.engine.published().vxlan.unwrap().local.to_string(), "192.168.50.99");
    daemon.stop().await;
}

#[tokio::test]
async fn a_next_hop_that_moves_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(ApplyRequest { vteps: vec![vtep(2)], ..Default::default() }).await.unwrap();
    let moved = shunt_dataplane::net::MacAddr([2, 0, 0, 0, 7, 7]);
    daemon.kernel.change(|view| view.next_hops.values_mut().for_each(|hop| hop.mac = Some(moved)));
    daemon.controller.kernel_changed();
    daemon.settle().await;
    assert_eq!(daemon.engine.published().vteps[0].next_hop, Some(moved));
    daemon.stop().await;
}

#[tokio::test]
async fn at_the_end_the_switch_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    daemon.apply(ports(vec![port("default/a", "va1", 10)])).await.unwrap();
    let engine = daemon.engine.clone();
    daemon.stop().await;
    assert_eq!(engine.interfaces(), Vec::<String>::new());
    assert_eq!(engine.published(), Default::default());
}
