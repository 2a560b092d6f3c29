//! NodePorts with real sockets: a client on the underlay, a pod, and between them the switch and the node's own kernel.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::unistd::gettid;
use shunt_dataplane::{
    explain::{Fate, Question},
    flow::FiveTuple,
    net::{MacAddr, Protocol},
    spec::{
        Backend, FamilySpec, ForwardingSpec, MasqueradeSpec, PortId, PortRole, PortSpec, RouteSpec, Rule, ServiceSpec,
        Via,
    },
    switch::{AttachSpec, Switch, SwitchConfig},
    verdict::Verdict,
    xsk::{MemoryChoice, UplinkFilter, XdpMode},
};

use crate::net::{new_namespace, run};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 9);
const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 10]);
const UPLINK: PortId = PortId(0);
const POD_PORT: PortId = PortId(1);
const BYTES: usize = 1_000_000;

/// A thread in a namespace of its own, at the far end of a veth whose near end is `near` here. It gives its end the
/// address `mac`, runs `setup`, says that it is ready, and then does what `task` says.
fn station<T: Send + 'static>(
    near: &str,
    mac: MacAddr,
    setup: &'static [&'static str],
    task: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let ((says, heard), (tells, told)) = (mpsc::channel(), mpsc::channel());
    let thread = thread::spawn(move || {
        new_namespace();
        says.send(gettid()).expect("the test waits");
        told.recv().expect("the test has moved the link");
        setup.iter().for_each(|command| run(command));
        says.send(gettid()).expect("the test waits");
        task()
    });
    run(&format!("ip link add {near} type veth peer name end address {mac}"));
    run(&format!("ip link set {near} up"));
    run(&format!("ip link set end netns {}", heard.recv().expect("the thread runs")));
    tells.send(()).expect("the thread waits");
    heard.recv().expect("the thread has set itself up");
    thread
}

/// Tells each client how it looks from here, and echoes what it sends.
fn serve(listener: TcpListener, clients: usize) {
    for _ in 0..clients {
        let (mut stream, client) = listener.accept().expect("a client");
        stream.write_all(format!("{client}\n").as_bytes()).expect("it reads");
        thread::spawn(move || {
            let mut reader = stream.try_clone().expect("a descriptor");
            std::io::copy(&mut reader, &mut stream)
        });
    }
}

/// Connects to a port of the node, sends and gets back a lot. Returns its own address and the one the server saw.
fn ask(port: u16) -> (SocketAddr, SocketAddr) {
    let to = SocketAddrV4::new(NODE, port).into();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("the node answers");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" {
        stream.read_exact(&mut byte).expect("the server speaks first");
        seen.push(byte[0]);
    }
    let sent: Vec<u8> = (0..BYTES).map(|n| ((n * 31) >> 3) as u8).collect();
    let (mut writer, bytes) = (stream.try_clone().expect("a descriptor"), sent.clone());
    let writing = thread::spawn(move || writer.write_all(&bytes));
    let mut echoed = vec![0; BYTES];
    stream.read_exact(&mut echoed).expect("all comes back");
    assert!(echoed == sent, "and unchanged");
    writing.join().expect("it wrote").expect("all of it");
    let seen = String::from_utf8(seen).expect("text");
    (stream.local_addr().expect("connected"), seen.trim().parse().expect("an address"))
}

fn spec(macs: [MacAddr; 2]) -> ForwardingSpec {
    let port = |id, role, mac| PortSpec { id, role, mac, mtu: 1500, unfinished_checksums: true, station: None };
    let endpoints = [Backend { address: POD, port: 8080 }.into()];
    let nodeport = |port, masquerade| ServiceSpec {
        from_outside: Rule { endpoints: endpoints.into(), masquerade, ..Rule::default() },
        ..ServiceSpec::simple(NODE, port, Protocol::Tcp, endpoints.into())
    };
    ForwardingSpec {
        ports: vec![port(UPLINK, PortRole::Uplink, macs[0]), port(POD_PORT, PortRole::Pod, macs[1])],
        ipv4: FamilySpec {
            routes: vec![
                RouteSpec { prefix: POD.into(), via: Via::Port { port: POD_PORT, mac: POD_MAC } },
                RouteSpec { prefix: CLIENT.into(), via: Via::Gateway { port: UPLINK, mac: Some(CLIENT_MAC) } },
            ],
            services: [
                nodeport(30_080, true),
                nodeport(30_081, false),
                ServiceSpec { protocol: Protocol::Udp, ..nodeport(30_082, true) },
            ]
            .into(),
            gateway: Some([169, 254, 1, 1].into()),
            router: Some(OVERLAY),
            masquerade: Some(MasqueradeSpec {
                overlay: OVERLAY,
                underlay: NODE,
                ports: 61_000..=65_535,
                egress: Some(vec![]),
                answers_led: false,
            }),
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            ..FamilySpec::default()
        },
        ..ForwardingSpec::default()
    }
}

/// A switch between `up0` and `pod0`.
fn switch() -> Switch {
    let config = SwitchConfig { cores: vec![0], frames_per_worker: 4096, flow_capacity: 1024, hash_seed: 1 };
    let switch = Switch::start(config).unwrap();
    let macs = [(UPLINK, "up0", PortRole::Uplink), (POD_PORT, "pod0", PortRole::Pod)].map(|(id, interface, role)| {
        let (interface, classify) = (interface.to_owned(), UplinkFilter::default());
        let memory = MemoryChoice::Shared;
        switch
            .attach(AttachSpec { id, interface, role, memory, xdp_mode: XdpMode::Auto, classify, kernel_end: None })
            .unwrap()
            .mac
    });
    switch.publish(&spec(macs)).unwrap();
    switch
}

/// What is said to become of a connection from the client.
fn fate(switch: &Switch, port: u16) -> Fate {
    let tuple = FiveTuple { src: CLIENT.into(), dst: NODE.into(), src_port: 1, dst_port: port, protocol: 6 };
    switch.explain(Question::of(tuple)).unwrap().packet.fate
}

#[test]
fn nodeports_and_the_nodes_own_sockets_side_by_side() {
    new_namespace();
    let (done, wait) = mpsc::channel::<()>();
    let pod = station(
        "pod0",
        POD_MAC,
        &[
            "ip link set end up",
            "ip addr add 10.244.1.10/32 dev end",
            "ip route add default via 169.254.1.1 dev end onlink",
        ],
        move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).expect("a free port");
            thread::spawn(move || serve(listener, 2));
            let _ = wait.recv();
        },
    );
    let (start, ready) = mpsc::channel::<()>();
    let client =
        station("up0", CLIENT_MAC, &["ip link set end up", "ip addr add 192.168.50.9/24 dev end"], move || {
            ready.recv().expect("the switch runs");
            [30_080, 30_081, 2222].map(ask)
        });
    run("ip addr add 192.168.50.1/24 dev up0");
    let own = TcpListener::bind((NODE, 2222)).expect("a free port");
    thread::spawn(move || serve(own, 1));

    let switch = switch();
    assert_eq!(fate(&switch, 30_080), Fate::Decided(Verdict::Tx(POD_PORT)));
    assert_eq!(fate(&switch, 2222), Fate::Kernel, "the classifier leaves it there");
    assert_eq!(switch.report().flows_in_use, 0);
    start.send(()).unwrap();
    let [masqueraded, kept, own] = client.join().expect("the client was served");

    let SocketAddr::V4(seen) = masqueraded.1 else { panic!("IPv4") };
    assert_eq!(*seen.ip(), OVERLAY, "externalTrafficPolicy Cluster");
    assert!(seen.port() >= 61_000);
    assert_eq!(kept.0, kept.1, "externalTrafficPolicy Local");
    assert_eq!(own.0, own.1, "the node's own socket");
    assert_eq!(switch.flows(10, &mut |_| true).len(), 2, "of which the switch saw nothing");
    done.send(()).unwrap();
    pod.join().expect("the pod ends");
    switch.shutdown().unwrap();
}

/// Sends a datagram of three fragments until it comes back.
fn exchange(socket: &UdpSocket, to: SocketAddrV4) {
    let sent: Vec<u8> = (0..4000u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let mut came = vec![0; 8000];
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    for _ in 0..25 {
        socket.send_to(&sent, to).expect("there is a route");
        if let Ok((len, from)) = socket.recv_from(&mut came)
            && from == to.into()
        {
            assert!(came[..len] == sent, "{len} of {} bytes came back, or others", sent.len());
            return;
        }
    }
    panic!("nothing came back from {to}");
}

/// Sends back what comes. Returns from where it came.
fn bounce(socket: &UdpSocket) -> SocketAddr {
    let mut came = vec![0; 8000];
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let (len, from) = socket.recv_from(&mut came).expect("a datagram comes");
    socket.send_to(&came[..len], from).expect("there is a route");
    from
}

/// To a node port and back, and out of the cluster and back: none but the first fragment says for whom they are.
#[test]
fn datagrams_in_fragments_are_translated_whole() {
    new_namespace();
    let pod = station(
        "pod0",
        POD_MAC,
        &[
            "ip link set end up mtu 1400",
            "ip addr add 10.244.1.10/32 dev end",
            "ip route add default via 169.254.1.1 dev end onlink",
        ],
        || {
            let socket = UdpSocket::bind((POD, 8080)).expect("a free port");
            let client = bounce(&socket);
            exchange(&socket, SocketAddrV4::new(CLIENT, 5001));
            client
        },
    );
    let (start, ready) = mpsc::channel::<()>();
    let client = station(
        "up0",
        CLIENT_MAC,
        &["ip link set end up mtu 1400", "ip addr add 192.168.50.9/24 dev end"],
        move || {
            ready.recv().expect("the switch runs");
            let [asks, answers] = [5000, 5001].map(|port| UdpSocket::bind((CLIENT, port)).expect("a free port"));
            exchange(&asks, SocketAddrV4::new(NODE, 30_082));
            bounce(&answers)
        },
    );
    run("ip addr add 192.168.50.1/24 dev up0");
    let switch = switch();
    start.send(()).unwrap();
    let [came_to_pod, came_to_client] = [pod, client].map(|station| station.join().expect("all came back"));
    assert_eq!(came_to_pod.ip(), OVERLAY);
    assert_eq!(came_to_client.ip(), NODE);
    assert!(came_to_pod.port() >= 61_000 && came_to_client.port() >= 61_000);
    switch.shutdown().unwrap();
}
