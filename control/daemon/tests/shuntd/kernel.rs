//! The kernel mirror and the host port against real kernels, in network namespaces of their own. Needs root.

use std::{
    collections::BTreeSet,
    fs::File,
    future::Future,
    net::Ipv4Addr,
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use shunt_control_daemon::kernel::{
    Kernel, KernelView, Mirror,
    host_port::{HostPort, HostPortError, Reach},
};
use shunt_control_lab::netns::{End, Namespace, connect};
use shunt_dataplane::net::MacAddr;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);

fn namespace(what: &str) -> Namespace {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Namespace::create(&format!("control-{}-{}-{what}", process::id(), NEXT.fetch_add(1, Relaxed))).unwrap()
}

/// Two nodes and the wire between them: ours with 192.168.50.1, and 192.168.50.2.
fn two_nodes() -> (Namespace, Namespace) {
    let (ours, peer) = (namespace("ours"), namespace("peer"));
    let (a, b) = (End { namespace: &ours, interface: "eth0" }, End { namespace: &peer, interface: "eth0" });
    connect(a, b, 1, 1500).unwrap();
    ours.ip("addr add 192.168.50.1/24 dev eth0").unwrap();
    peer.ip("addr add 192.168.50.2/24 dev eth0").unwrap();
    (ours, peer)
}

/// Runs `test` on a thread in the namespace; threads and sockets that it makes are there, too.
fn inside<F: Future<Output = ()>>(namespace: &Namespace, test: impl FnOnce() -> F + Send) {
    let file = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Follows stations as the controller does: from a thread that may block.
async fn follow(mirror: &Mirror, stations: impl IntoIterator<Item = Ipv4Addr>) -> Arc<KernelView> {
    let (mirror, stations) = (mirror.clone(), stations.into_iter().collect::<BTreeSet<_>>());
    tokio::task::spawn_blocking(move || mirror.follow(stations)).await.unwrap()
}

async fn until(mirror: &Mirror, what: &str, is_true: impl Fn(&KernelView) -> bool) -> Arc<KernelView> {
    let mut views = mirror.subscribe();
    match timeout(PATIENCE, views.wait_for(|view| is_true(view))).await {
        Ok(view) => view.unwrap().clone(),
        Err(_) => panic!("not in time: {what}; the view is {:?}", mirror.view()),
    }
}

fn mac_of(view: &KernelView, station: Ipv4Addr) -> Option<MacAddr> {
    view.next_hops.get(&station).and_then(|hop| hop.mac)
}

#[test]
fn a_station_is_resolved_managed_and_left_alone_at_the_end() {
    let (ours, peer) = two_nodes();
    inside(&ours, || async {
        let (mirror, task) = Mirror::start("eth0".into()).await.unwrap();
        let view = mirror.view();
        assert_eq!(view.underlay, Some(Ipv4Addr::new(192, 168, 50, 1)));
        let uplink = &view.links["eth0"];
        assert_eq!((uplink.mac, uplink.mtu, uplink.unfinished_checksums), (ours.mac("eth0").ok(), 1500, true));

        let view = follow(&mirror, [PEER]).await;
        assert_eq!(view.next_hops[&PEER].station, Some(PEER));
        let expected = peer.mac("eth0").ok();
        // Nobody but the kernel has sent anything to it.
        until(&mirror, "resolved", |view| mac_of(view, PEER) == expected).await;
        assert!(ours.ip("neigh show dev eth0").unwrap().contains("managed"));

        mirror.stop();
        timeout(PATIENCE, task).await.unwrap().unwrap();
        let after = ours.ip("neigh show dev eth0").unwrap();
        assert!(after.contains("192.168.50.2") && !after.contains("managed"), "{after}");
    });
}

#[test]
fn a_station_that_changes_its_mac_is_followed() {
    let (ours, peer) = two_nodes();
    inside(&ours, || async {
        let (mirror, _task) = Mirror::start("eth0".into()).await.unwrap();
        follow(&mirror, [PEER]).await;
        until(&mirror, "resolved", |view| mac_of(view, PEER).is_some()).await;
        // Another machine takes the address over and says so, the wire staying up.
        let moved = MacAddr([2, 0, 0, 0, 0, 0x77]);
        ours.ip(&format!("neigh replace 192.168.50.2 lladdr {moved} nud reachable dev eth0")).unwrap();
        until(&mirror, "followed", |view| mac_of(view, PEER) == Some(moved)).await;
    });
    drop(peer);
}

#[test]
fn a_station_that_was_unplugged_is_found_again() {
    let (ours, peer) = two_nodes();
    inside(&ours, || async {
        let (mirror, _task) = Mirror::start("eth0".into()).await.unwrap();
        follow(&mirror, [PEER]).await;
        until(&mirror, "resolved", |view| mac_of(view, PEER).is_some()).await;
        // Losing the carrier, the kernel forgets its neighbours, the managed ones among them.
        let moved = MacAddr([2, 0, 0, 0, 0, 0x78]);
        peer.ip("link set eth0 down").unwrap();
        until(&mirror, "forgotten", |view| mac_of(view, PEER).is_none()).await;
        peer.ip(&format!("link set eth0 address {moved}")).unwrap();
        peer.ip("link set eth0 up").unwrap();
        until(&mirror, "found again", |view| mac_of(view, PEER) == Some(moved)).await;
        assert!(ours.ip("neigh show dev eth0").unwrap().contains("managed"));
    });
}

#[test]
fn routes_are_followed() {
    let (ours, peer) = two_nodes();
    let far = Ipv4Addr::new(172, 16, 9, 9);
    inside(&ours, || async {
        let (mirror, _task) = Mirror::start("eth0".into()).await.unwrap();
        let view = follow(&mirror, [far]).await;
        assert_eq!((view.next_hops[&far].station, mac_of(&view, far)), (None, None), "no route yet");
        ours.ip("route add 172.16.0.0/16 via 192.168.50.2").unwrap();
        let router = peer.mac("eth0").ok();
        let view = until(&mirror, "routed", |view| mac_of(view, far) == router).await;
        assert_eq!(view.next_hops[&far].station, Some(PEER));
        ours.ip("route replace 172.16.0.0/16 via 192.168.50.3").unwrap();
        until(&mirror, "rerouted", |view| view.next_hops[&far].station == Some(Ipv4Addr::new(192, 168, 50, 3))).await;
        // Away from the uplink: nothing that the switch could use.
        ours.ip("link add other type bridge").unwrap();
        ours.ip("link set other up").unwrap();
        ours.ip("route replace 172.16.0.0/16 dev other").unwrap();
        until(&mirror, "elsewhere", |view| view.next_hops[&far].station.is_none()).await;
    });
}

#[test]
fn links_and_addresses_are_followed() {
    let (ours, _peer) = two_nodes();
    inside(&ours, || async {
        let (mirror, _task) = Mirror::start("eth0".into()).await.unwrap();
        ours.ip("link add va1 type veth peer name pod").unwrap();
        let first = until(&mirror, "a link", |view| view.links.contains_key("va1")).await.links["va1"].index;
        ours.ip("link del va1").unwrap();
        until(&mirror, "no link", |view| !view.links.contains_key("va1")).await;
        ours.ip("link add va1 type veth peer name pod").unwrap();
        let again = until(&mirror, "another link", |view| view.links.contains_key("va1")).await;
        assert_ne!(again.links["va1"].index, first);
        ours.ip("link set eth0 mtu 1400").unwrap();
        until(&mirror, "an MTU", |view| view.links["eth0"].mtu == 1400).await;
        ours.ip("addr del 192.168.50.1/24 dev eth0").unwrap();
        until(&mirror, "no address", |view| view.underlay.is_none()).await;
        ours.ip("addr add 192.168.50.9/24 dev eth0").unwrap();
        until(&mirror, "an address", |view| view.underlay == Some(Ipv4Addr::new(192, 168, 50, 9))).await;
    });
}

#[test]
fn what_was_made_before_asking_is_there() {
    let (ours, _peer) = two_nodes();
    inside(&ours, || async {
        let (mirror, _task) = Mirror::start("eth0".into()).await.unwrap();
        for n in 0..20 {
            ours.ip(&format!("link add v{n} type veth peer name p{n}")).unwrap();
            let view = follow(&mirror, []).await;
            assert!(view.links.contains_key(&format!("v{n}")), "v{n}");
        }
        ours.ip("route add 172.16.0.0/16 via 192.168.50.2").unwrap();
        let far = Ipv4Addr::new(172, 16, 9, 9);
        assert_eq!(follow(&mirror, [far]).await.next_hops[&far].station, Some(PEER));
        ours.ip("addr del 192.168.50.1/24 dev eth0").unwrap();
        assert_eq!(follow(&mirror, []).await.underlay, None);
    });
}

#[test]
fn a_neighbour_set_by_hand_stays_as_it_was_set() {
    let (ours, _peer) = two_nodes();
    ours.ip("neigh add 192.168.50.2 lladdr 02:00:00:00:00:42 nud permanent dev eth0").unwrap();
    inside(&ours, || async {
        let (mirror, _task) = Mirror::start("eth0".into()).await.unwrap();
        let view = follow(&mirror, [PEER]).await;
        assert_eq!(mac_of(&view, PEER), Some(MacAddr([2, 0, 0, 0, 0, 0x42])));
        let entry = ours.ip("neigh show dev eth0").unwrap();
        assert!(entry.contains("PERMANENT") && !entry.contains("managed"), "{entry}");
    });
}

fn host_port() -> HostPort {
    HostPort {
        interface: "shunt0".into(),
        peer: "shunt0p".into(),
        queues: 2,
        mtu: 1500,
        path_mtu: 1450,
        reach: vec![
            Reach {
                address: [10, 244, 1, 0].into(),
                destinations: vec!["10.244.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()],
                gateway: [169, 254, 1, 1].into(),
            },
            Reach {
                address: "fd00:10:244:1::".parse().unwrap(),
                destinations: vec!["fd00:10:244::/48".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()],
                gateway: "fe80::1".parse().unwrap(),
            },
        ],
    }
}

#[test]
fn the_host_port_is_made_and_removed() {
    let node = namespace("host");
    inside(&node, || async {
        host_port().create().await.unwrap();
        let links = node.ip("-d link show").unwrap();
        assert_eq!(links.matches("numtxqueues 2 numrxqueues 2").count(), 2, "{links}");
        assert_eq!(links.matches("mtu 1500").count(), 2, "{links}");
        assert!(node.ip("-4 addr show dev shunt0").unwrap().contains("inet 10.244.1.0/32"));
        let routes = node.ip("route show").unwrap();
        for destination in ["10.244.0.0/16", "10.96.0.0/16"] {
            let route = routes.lines().find(|line| line.starts_with(destination)).unwrap();
            assert!(route.contains("via 169.254.1.1 dev shunt0") && route.contains("src 10.244.1.0"), "{route}");
            assert!(route.contains("mtu 1450"), "{route}");
        }
        let gateway = node.ip("neigh show dev shunt0").unwrap();
        let peer = node.mac("shunt0p").unwrap();
        assert!(gateway.contains(&format!("169.254.1.1 lladdr {peer} PERMANENT")), "{gateway}");
        let settings = "sysctl -n net.ipv4.conf.shunt0.rp_filter net.ipv4.conf.shunt0.accept_local";
        assert_eq!(node.run(settings).unwrap(), "2\n1\n");
        // There is time for one to be made up.
        thread::sleep(Duration::from_millis(200));
        let addresses = node.ip("-6 -o addr show").unwrap();
        assert_eq!(addresses.matches("shunt0").count(), 1, "{addresses}");
        assert!(addresses.contains("inet6 fd00:10:244:1::/128") && !addresses.contains("tentative"), "{addresses}");
        let routes = node.ip("-6 route show").unwrap();
        for destination in ["fd00:10:244::/48", "fd00:10:96::/112"] {
            let route = routes.lines().find(|line| line.starts_with(destination)).unwrap();
            assert!(route.contains("via fe80::1 dev shunt0") && route.contains("src fd00:10:244:1::"), "{route}");
            assert!(route.contains("mtu 1450"), "{route}");
        }
        assert!(gateway.contains(&format!("fe80::1 lladdr {peer} PERMANENT")), "{gateway}");

        host_port().remove().await.unwrap();
        assert!(!node.ip("link show").unwrap().contains("shunt0"));
        assert_eq!(node.ip("route show").unwrap(), "");
        host_port().remove().await.unwrap();
    });
}

#[test]
fn a_host_port_that_was_left_over_is_taken_over() {
    let node = namespace("host");
    inside(&node, || async {
        host_port().create().await.unwrap();
        let before = node.ip("-o link show shunt0").unwrap();
        node.ip("route del 10.96.0.0/16").unwrap();
        node.ip("link set shunt0 down").unwrap();
        host_port().create().await.unwrap();
        let number = |line: &str| line.split(':').next().map(str::to_owned);
        assert_eq!(number(&node.ip("-o link show shunt0").unwrap()), number(&before), "the same interface");
        assert!(node.ip("route show").unwrap().contains("10.96.0.0/16"), "completed");

        // With another number of workers the old pair is of no use.
        HostPort { queues: 1, ..host_port() }.create().await.unwrap();
        assert_ne!(number(&node.ip("-o link show shunt0").unwrap()), number(&before));
    });
}

#[test]
fn an_interface_that_is_not_ours_is_left_alone() {
    let node = namespace("host");
    node.ip("link add shunt0 type bridge").unwrap();
    inside(&node, || async {
        let error = host_port().create().await.unwrap_err();
        assert!(matches!(&error, HostPortError::Foreign(name) if name == "shunt0"), "{error}");
        assert!(node.ip("-d link show shunt0").unwrap().contains("bridge"));
    });
}
