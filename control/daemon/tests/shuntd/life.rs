//! The real shuntd on real interfaces, from its start to each of its ends. Needs root.

use std::{
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use shunt_control_api::v1::{self, ApplyRequest, switch_client::SwitchClient};
use shunt_control_lab::{
    command::{Background, output, text},
    netns::{End, Namespace, connect},
};
use tonic::{Request, transport::Channel};

use crate::support::NODE;

const PATIENCE: Duration = Duration::from_secs(15);

/// A node with an uplink, a pod, and a directory for its files.
struct Node {
    namespace: Namespace,
    pod: Namespace,
    dir: tempfile::TempDir,
    _peer: Namespace,
}

impl Node {
    fn new() -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let create = |what: &str| Namespace::create(&format!("life-{}-{number}-{what}", process::id())).unwrap();
        let (namespace, pod, peer) = (create("node"), create("pod"), create("peer"));
        let cable = |a: &Namespace, interface: &str, b: &Namespace, mtu| {
            connect(End { namespace: a, interface }, End { namespace: b, interface: "eth0" }, 1, mtu).unwrap();
        };
        cable(&namespace, "eth0", &peer, 1500);
        cable(&namespace, "va1", &pod, 1450);
        namespace.ip("addr add 192.168.50.1/24 dev eth0").unwrap();
        peer.ip("addr add 192.168.50.2/24 dev eth0").unwrap();
        pod.ip("addr add 10.244.1.10/32 dev eth0").unwrap();
        pod.ip("route add 169.254.1.1 dev eth0 scope link").unwrap();
        pod.ip("route add default via 169.254.1.1 dev eth0").unwrap();
        let node = Node { namespace, pod, dir: tempfile::tempdir().unwrap(), _peer: peer };
        node.configure(&format!("{NODE}[vxlan]\n[workers]\ncores = [0]\nframes = 8192\n[conntrack]\nflows = 1024\n"));
        node
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn configure(&self, head: &str) {
        let dir = self.path().display();
        let tail = format!("\n[api]\nsocket = \"{dir}/shuntd.sock\"\n[state]\ndir = \"{dir}/state\"\n");
        std::fs::write(self.path().join("shuntd.toml"), format!("{head}{tail}")).unwrap();
    }

    fn start(&self) -> Background {
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_shuntd"));
        command.arg("--config").arg(self.path().join("shuntd.toml"));
        Background::start(&mut command, &self.path().join("log")).unwrap()
    }

    /// Starts it and waits until it answers.
    async fn up(&self) -> (Background, SwitchClient<Channel>) {
        let mut daemon = self.start();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let socket = format!("unix://{}", self.path().join("shuntd.sock").display());
            match SwitchClient::connect(socket).await {
                Ok(client) => return (daemon, client),
                Err(e) => assert!(tokio::time::Instant::now() < deadline, "{e}: {}", daemon.log()),
            }
            assert!(daemon.ended().is_none(), "{}", daemon.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it says and how it ends when it cannot run.
    fn refused(&self) -> String {
        let mut command = self.namespace.bounded(env!("CARGO_BIN_EXE_shuntd"));
        let out = output(command.arg("--config").arg(self.path().join("shuntd.toml"))).unwrap();
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        text(&out.stderr)
    }

    fn port(&self) -> ApplyRequest {
        let (name, interface, address) = ("default/a1".into(), "va1".into(), "10.244.1.10".into());
        let mac = self.pod.mac("eth0").unwrap().to_string();
        ApplyRequest {
            ports: vec![v1::Port { name, interface, address, mac, ..Default::default() }],
            ..Default::default()
        }
    }

    /// Three answers in a row from the pod to the node.
    fn node_reaches_pod(&self) {
        self.namespace.run("ping -c 3 -i 0.1 -W 2 10.244.1.10").unwrap();
    }
}

async fn status(client: &mut SwitchClient<Channel>) -> v1::GetStatusResponse {
    client.get_status(Request::new(v1::GetStatusRequest {})).await.unwrap().into_inner()
}

#[tokio::test]
async fn told_to_stop_it_leaves_the_node_as_it_was() {
    let node = Node::new();
    let before = (node.namespace.ip("-o link show").unwrap(), node.namespace.ip("route show").unwrap());
    for signal in ["TERM", "INT"] {
        let (mut daemon, mut client) = node.up().await;
        let answer = client.apply(node.port()).await.unwrap().into_inner();
        assert_eq!(answer.warnings, Vec::<String>::new());
        assert!(node.namespace.ip("link show").unwrap().contains("shunt0"));
        node.node_reaches_pod();
        // Somebody who watches does not hold it up.
        let _watch = client.watch(v1::WatchRequest::default()).await.unwrap();
        daemon.signal(signal).unwrap();
        let ended = daemon.wait(PATIENCE).unwrap();
        assert!(ended.success(), "{ended}: {}", daemon.log());
        assert!(!node.path().join("shuntd.sock").exists());
        let after = (node.namespace.ip("-o link show").unwrap(), node.namespace.ip("route show").unwrap());
        assert_eq!(after, before);
    }
}

#[tokio::test]
async fn killed_it_comes_back_with_its_state() {
    let node = Node::new();
    let (mut daemon, mut client) = node.up().await;
    client.apply(node.port()).await.unwrap();
    node.node_reaches_pod();
    let vtep = status(&mut client).await.local_vtep;
    daemon.signal("KILL").unwrap();
    daemon.wait(PATIENCE).unwrap();

    let (_daemon, mut client) = node.up().await;
    let status = status(&mut client).await;
    assert_eq!((status.version, &status.local_vtep), (1, &vtep));
    assert_eq!(status.ports.iter().filter(|port| port.attached.is_some()).count(), 3, "{status:?}");
    node.node_reaches_pod();
}

#[tokio::test]
async fn ports_come_and_go_with_their_interfaces() {
    let node = Node::new();
    let (_daemon, mut client) = node.up().await;
    client.apply(node.port()).await.unwrap();
    node.node_reaches_pod();

    // The pod's sandbox is made anew: another veth of the same name, with other addresses.
    node.namespace.ip("link del va1").unwrap();
    let ends = (End { namespace: &node.namespace, interface: "va1" }, End { namespace: &node.pod, interface: "eth0" });
    connect(ends.0, ends.1, 1, 1450).unwrap();
    node.pod.ip("addr add 10.244.1.10/32 dev eth0").unwrap();
    node.pod.ip("route add 169.254.1.1 dev eth0 scope link").unwrap();
    node.pod.ip("route add default via 169.254.1.1 dev eth0").unwrap();
    client.apply(node.port()).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while node.namespace.run("ping -c 1 -W 1 10.244.1.10").is_err() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", status(&mut client).await);
    }

    let gone = v1::Key { kind: v1::Kind::Port.into(), name: "default/a1".into() };
    client.apply(ApplyRequest { deletes: vec![gone], ..Default::default() }).await.unwrap();
    assert!(node.namespace.run("ping -c 1 -W 1 10.244.1.10").is_err());
    let counters = client.get_counters(v1::GetCountersRequest {}).await.unwrap().into_inner();
    assert_eq!(counters.imbalances, Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_run_says_why_and_leaves_nothing_behind() {
    let node = Node::new();
    let (_daemon, _client) = node.up().await;
    let second = node.refused();
    assert!(second.contains("another shuntd is running"), "{second}");
    drop(_daemon);

    node.namespace.ip("link del shunt0").unwrap();
    let links = node.namespace.ip("-o link show").unwrap();
    std::fs::write(node.path().join("state/desired-state"), "damaged").unwrap();
    let damaged = node.refused();
    assert!(damaged.contains("desired-state is damaged"), "{damaged}");
    assert_eq!(node.namespace.ip("-o link show").unwrap(), links);
    std::fs::remove_file(node.path().join("state/desired-state")).unwrap();

    node.namespace.ip("link set eth0 name eth9").unwrap();
    let uplink = node.refused();
    assert!(uplink.contains("the uplink eth0 does not exist"), "{uplink}");
    std::fs::write(node.path().join("shuntd.toml"), "[nod]\n").unwrap();
    let key = node.refused();
    assert!(key.contains("`nod`"), "{key}");
}
