//! A network namespace per test, veth pairs in it, and a packet socket to stand at the far end.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
    },
    unistd::Uid,
};

/// Moves the calling thread into a new, empty network namespace, which goes away with the thread. Threads and commands
/// started from it are in the same one.
pub fn new_namespace() {
    assert!(Uid::effective().is_root(), "these tests make network namespaces and AF_XDP sockets: run them as root");
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
    run("ip link set lo up");
}

/// Runs a command that must succeed.
pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("cannot run '{command}': {e}"));
    assert!(output.status.success(), "'{command}' failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// A veth pair `a` and `b` with `queues` queues on each end, both up.
pub fn veth(a: &str, b: &str, queues: u32) {
    let queues = format!("numtxqueues {queues} numrxqueues {queues}");
    run(&format!("ip link add {a} {queues} type veth peer name {b} {queues}"));
    for end in [a, b] {
        run(&format!("ip link set dev {end} addrgenmode none"));
        run(&format!("ip link set dev {end} up"));
    }
}

/// A packet socket on one interface.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn on(interface: &str) -> Wire {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
            .expect("a packet socket");
        let address = getifaddrs()
            .expect("interfaces")
            .filter(|i| i.interface_name == interface)
            .find_map(|i| i.address.and_then(|a| a.as_link_addr().copied()))
            .unwrap_or_else(|| panic!("no interface {interface}"));
        setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20)).expect("a large receive buffer");
        bind(fd.as_raw_fd(), &address).expect("bind to the interface");
        Wire(fd)
    }

    pub fn send(&self, packet: &[u8]) {
        loop {
            match send(self.0.as_raw_fd(), packet, MsgFlags::empty()) {
                Ok(n) => return assert_eq!(n, packet.len()),
                Err(Errno::ENOBUFS | Errno::EAGAIN) => std::thread::yield_now(),
                Err(e) => panic!("send: {e}"),
            }
        }
    }

    /// The next packet, or `None` if there is none within `patience`.
    pub fn recv(&self, patience: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + patience;
        let mut buffer = vec![0; 65536];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(n) => {
                    buffer.truncate(n);
                    return Some(buffer);
                }
                Err(Errno::EAGAIN) => {}
                Err(e) => panic!("recv: {e}"),
            }
            let left = until.checked_duration_since(Instant::now())?;
            let timeout = PollTimeout::try_from(left).expect("short");
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout).expect("poll");
        }
    }
}

/// A frame of `len` bytes of a protocol no stack answers (EtherType 88b5, for local experiments), each byte of it told by
/// `seed`.
pub fn experimental(len: usize, seed: u32) -> Vec<u8> {
    let mut packet: Vec<u8> =
        (0..len as u32).map(|i| (i.wrapping_mul(31) ^ seed.wrapping_mul(2654435761) >> 8) as u8).collect();
    packet[..6].fill(0xff);
    packet[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    packet[12..14].copy_from_slice(&[0x88, 0xb5]);
    packet
}

/// An IPv4 frame with `options` (a multiple of 4 bytes) and a fragment field as given, carrying `payload`.
pub fn ipv4(to: Ipv4Addr, protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = experimental(14, 0);
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    let header = 20 + options.len();
    packet.extend([0x40 | (header / 4) as u8, 0]);
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend([192, 168, 50, 9]);
    packet.extend(to.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// A UDP header for `port` and some payload.
pub fn udp(port: u16) -> Vec<u8> {
    let mut datagram = vec![0x30, 0x39];
    datagram.extend(port.to_be_bytes());
    datagram.extend([0, 40, 0, 0]);
    datagram.extend([0x5a; 32]);
    datagram
}
