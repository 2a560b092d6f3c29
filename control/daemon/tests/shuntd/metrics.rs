//! The metrics endpoint over real HTTP.

use std::net::SocketAddr;

use shunt_control_api::v1::ApplyRequest;
use shunt_control_daemon::metrics::Metrics;
use shunt_dataplane::{
    spec::PortId,
    switch::PortReport,
    verdict::{Answer, DropReason},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{TestDaemon, port};

async fn request(address: SocketAddr, line: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn counters_are_there_to_be_scraped() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start(dir.path()).await;
    let late = port("default/late", "late0", 20);
    daemon.apply(ApplyRequest { ports: vec![port("default/a", "va1", 10), late], ..Default::default() }).await.unwrap();
    daemon.engine.set_reports(vec![PortReport {
        id: PortId(2),
        rx_packets: 11,
        forwarded: 5,
        tx_packets: 6,
        answers: vec![(Answer::Arp, 1)],
        drops: vec![(DropReason::NoRoute, 4), (DropReason::TooBig, 0)],
        ..PortReport::default()
    }]);
    let metrics = Metrics::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = metrics.address().unwrap();
    let serving = tokio::spawn(metrics.serve(daemon.controller.clone(), std::future::pending()));

    let answer = request(address, "GET /metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    for line in [
        "shunt_port_received_packets_total{port=\"default/a\",interface=\"va1\"} 11",
        "shunt_port_dropped_packets_total{port=\"default/a\",interface=\"va1\",reason=\"no_route\"} 4",
        "shunt_port_dropped_packets_total{port=\"default/a\",interface=\"va1\",reason=\"too_big\"} 0",
        "shunt_port_answered_packets_total{port=\"default/a\",interface=\"va1\",answer=\"arp_reply\"} 1",
        "shunt_worker_frames{core=\"0\",own_port_id=\"\",place=\"free\"} 8000",
        "shunt_flow_capacity 1048576",
        "shunt_state_version 1",
        "shunt_ports_pending 1",
        "shunt_imbalances 1",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in {body}");
    }
    // Every sample belongs to a family that was announced.
    for sample in body.lines().filter(|line| !line.starts_with('#')) {
        let name = sample.split(['{', ' ']).next().unwrap();
        assert!(body.contains(&format!("# TYPE {name} ")), "{sample}");
    }
    assert!(request(address, "GET /").await.starts_with("HTTP/1.1 404 "));
    assert!(request(address, "POST /metrics").await.starts_with("HTTP/1.1 405 "));
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    daemon.stop().await;
}
