//! The kernel's node: a namespace with kube-proxy's rules, and a wire at each of its links.

use std::{
    collections::HashMap,
    fs::File,
    net::SocketAddrV4,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recv, send, sendto, setsockopt,
        socket, sockopt,
    },
};
use shunt_control_lab::{
    cluster::Service,
    kube_proxy::{Place, translate},
    netns::{End, Namespace, connect},
};
use shunt_dataplane::net::Protocol;

use super::{
    NODE, OVERLAY,
    cases::PODS,
    packet::{Fate, From, Link, Packet, about, read},
};

/// How long the last packet may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Packets that show that those before have met their fate; their numbers are beyond all others.
const LAST: [u16; 3] = [40_000, 40_001, 40_002];

pub struct Kernel {
    node: Namespace,
    _far: Namespace,
    wires: [(Link, Wire, [u8; 6]); 2],
    /// From where the node itself sends, and learns that it was refused.
    own: OwnedFd,
    errors: OwnedFd,
}

impl Kernel {
    pub fn new() -> Kernel {
        let name = |what| format!("shuntlab-{}-oracle-{what}", process::id());
        let (node, far) = (Namespace::create(&name("node")).unwrap(), Namespace::create(&name("far")).unwrap());
        for link in ["pods", "uplink"] {
            connect(End { namespace: &node, interface: link }, End { namespace: &far, interface: link }, 1, 1500)
                .unwrap();
        }
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.icmp_ratemask", "0"),
            ("net.ipv4.icmp_msgs_per_sec", "1000000"),
            ("net.ipv4.icmp_msgs_burst", "1000000"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.pods.send_redirects", "0"),
            ("net.ipv4.conf.uplink.send_redirects", "0"),
        ] {
            node.sysctl(key, value).unwrap();
        }
        node.ip(&format!("addr add {OVERLAY}/32 dev pods")).unwrap();
        node.ip(&format!("addr add {NODE}/24 dev uplink")).unwrap();
        node.ip("route add 10.244.1.0/24 dev pods").unwrap();
        node.ip("route add default via 192.168.50.254").unwrap();
        let beside = ["192.168.50.254".parse().unwrap(), "192.168.50.2".parse().unwrap()];
        for (link, addresses) in [("pods", &PODS[..]), ("uplink", &beside)] {
            for address in addresses {
                node.ip(&format!("neigh add {address} lladdr 02:00:00:00:00:09 dev {link} nud permanent")).unwrap();
            }
        }
        // What gets to the node itself is told apart from what a service refuses.
        node.run("nft add table ip own").unwrap();
        node.run("nft add chain ip own input { type filter hook input priority 100 ; }").unwrap();
        node.run("nft add rule ip own input meta l4proto icmp accept").unwrap();
        node.run("nft add rule ip own input reject with icmp type host-prohibited").unwrap();

        let wires = [(Link::Pods, "pods"), (Link::Uplink, "uplink")]
            .map(|(link, name)| (link, inside(&far, || Wire::on(name)), node.mac(name).unwrap().0));
        let raw = |protocol| {
            let flags = SockFlag::SOCK_NONBLOCK;
            inside(&node, || socket(AddressFamily::Inet, SockType::Raw, flags, protocol).expect("a raw socket"))
        };
        let (own, errors) = (raw(SockProtocol::Raw), raw(SockProtocol::Icmp));
        Kernel { node, _far: far, wires, own, errors }
    }

    /// What becomes of packets, by their numbers.
    pub fn fates(&mut self, place: &Place, services: &[Service], packets: &[Packet]) -> HashMap<u16, Fate> {
        translate(&self.node, place, services).unwrap();
        let last = |(at, from): (usize, From)| Packet {
            id: LAST[at],
            from,
            protocol: Protocol::Udp,
            src: [[10, 244, 1, 10], [192, 0, 2, 9], NODE.octets()][at].into(),
            dst: if from == From::Outside { PODS[0] } else { [198, 18, 9, 9].into() },
            dport: 9,
        };
        let last: Vec<_> = [From::Pod, From::Outside, From::Node].into_iter().enumerate().map(last).collect();
        packets.iter().chain(&last).for_each(|packet| self.send(packet));
        let mut fates: HashMap<u16, Fate> = packets.iter().map(|packet| (packet.id, Fate::Lost)).collect();
        let until = Instant::now() + PATIENCE;
        let mut waiting = LAST.len();
        // A little longer than until the last ones are here: each processor has a queue of its own.
        while waiting > 0 || self.wait(Duration::from_millis(5)) {
            assert!(Instant::now() < until, "the last packets do not come");
            for (id, fate) in self.received() {
                if LAST.contains(&id) {
                    waiting -= 1;
                } else if let Some(known) = fates.insert(id, fate) {
                    assert_eq!(known, Fate::Lost, "packet {id} has two fates, and one is {fate:?}");
                }
            }
        }
        fates
    }

    /// What is there by now.
    fn received(&self) -> Vec<(u16, Fate)> {
        const IP: usize = 20;
        let mut fates = Vec::new();
        for (link, wire, _) in &self.wires {
            fates.extend(std::iter::from_fn(|| wire.recv()).filter_map(|frame| read(*link, &frame)));
        }
        let errors = std::iter::from_fn(|| receive(&self.errors));
        fates.extend(errors.filter_map(|message| about(message.get(IP..)?)));
        fates
    }

    fn send(&self, packet: &Packet) {
        let wire = match packet.from {
            From::Pod => &self.wires[0],
            From::RemotePod | From::Outside => &self.wires[1],
            From::Node => {
                // The header is in it; the address says which way.
                let (frame, to) = (packet.frame([0; 6]), SockaddrIn::from(SocketAddrV4::new(packet.dst, 0)));
                match sendto(self.own.as_raw_fd(), &frame[14..], &to, MsgFlags::empty()) {
                    // A rule that drops or refuses says so.
                    Ok(_) | Err(Errno::EPERM | Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => return,
                    Err(e) => panic!("{packet:?}: {e}"),
                }
            }
        };
        wire.1.send(&packet.frame(wire.2));
    }

    fn wait(&self, patience: Duration) -> bool {
        let mut polled =
            [&self.wires[0], &self.wires[1]].map(|(_, wire, _)| PollFd::new(wire.0.as_fd(), PollFlags::POLLIN));
        poll(&mut polled, PollTimeout::try_from(patience).expect("short")).expect("poll") > 0
    }
}

/// Does something with the thread in a namespace: sockets made there stay there.
fn inside<T>(namespace: &Namespace, make: impl FnOnce() -> T) -> T {
    let here = File::open("/proc/thread-self/ns/net").unwrap();
    let there = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    setns(there, CloneFlags::CLONE_NEWNET).unwrap();
    let made = make();
    setns(here, CloneFlags::CLONE_NEWNET).unwrap();
    made
}

/// A packet socket on one interface.
struct Wire(OwnedFd);

impl Wire {
    fn on(interface: &str) -> Wire {
        let flags = SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("a packet socket");
        let mut interfaces = getifaddrs().expect("interfaces").filter(|found| found.interface_name == interface);
        let address = interfaces.find_map(|found| found.address?.as_link_addr().copied()).expect("it is there");
        setsockopt(&fd, sockopt::RcvBufForce, &(16 << 20)).expect("a large receive buffer");
        bind(fd.as_raw_fd(), &address).expect("bind to the interface");
        Wire(fd)
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(send(self.0.as_raw_fd(), frame, MsgFlags::empty()), Ok(frame.len()));
    }

    fn recv(&self) -> Option<Vec<u8>> {
        receive(&self.0)
    }
}

/// What a socket has received, if there is something.
fn receive(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 2048];
    match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(length) => {
            buffer.truncate(length);
            Some(buffer)
        }
        Err(Errno::EAGAIN) => None,
        Err(e) => panic!("recv: {e}"),
    }
}
