//! A path with known faults: two packet sockets and a thread that forwards between them, and keeps account.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, ppoll},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt, socket,
        sockopt,
    },
    sys::time::TimeSpec,
    unistd::gettid,
};

/// linux/if_packet.h
const PACKET_OUTGOING: u8 = 4;

/// How long to wait for a packet before looking whether to stop.
const IDLE: Duration = Duration::from_millis(10);

/// What goes wrong on the path; 0: never.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// One packet in so many is dropped.
    pub drop: u64,
    /// One in so many is sent twice.
    pub duplicate: u64,
    /// One in so many is sent after the packet behind it.
    pub swap: u64,
    /// So long a packet is kept.
    pub delay: Duration,
}

/// What the path did.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub taken: u64,
    pub dropped: u64,
    pub duplicated: u64,
    pub swapped: u64,
    /// How long packets were really kept, in ns.
    pub kept: Vec<u64>,
}

/// The running path, one way or both.
pub struct Path {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Account>>,
}

impl Path {
    /// Forwards what arrives at `from` out of `to`.
    pub fn one_way(from: &str, to: &str, faults: Faults) -> Path {
        Path::start(&[(from, to)], faults)
    }

    /// Forwards both ways.
    pub fn both_ways(a: &str, b: &str, faults: Faults) -> Path {
        Path::start(&[(a, b), (b, a)], faults)
    }

    fn start(directions: &[(&str, &str)], faults: Faults) -> Path {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = directions.iter().map(|(from, to)| {
            let (from, to, stop) = (packet_socket(from), packet_socket(to), stop.clone());
            thread::spawn(move || {
                // Before everything else on this machine: what it keeps account of must be all that happens.
                crate::net::run(&format!("chrt --fifo --pid 50 {}", gettid()));
                forward(&from, &to, faults, &stop)
            })
        });
        Path { threads: threads.collect(), stop }
    }

    /// Stops, and tells what the first direction did.
    pub fn finish(self) -> Account {
        self.stop.store(true, Relaxed);
        let mut accounts: Vec<_> = self.threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        accounts.swap_remove(0)
    }
}

fn packet_socket(interface: &str) -> OwnedFd {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
        .expect("a packet socket");
    let address = getifaddrs()
        .expect("interfaces")
        .filter(|i| i.interface_name == interface)
        .find_map(|i| i.address.and_then(|a| a.as_link_addr().copied()))
        .unwrap_or_else(|| panic!("no interface {interface}"));
    setsockopt(&fd, sockopt::RcvBufForce, &(256 << 20)).expect("a large receive buffer");
    bind(fd.as_raw_fd(), &address).expect("bind to the interface");
    fd
}

fn forward(from: &OwnedFd, to: &OwnedFd, faults: Faults, stop: &AtomicBool) -> Account {
    let mut account = Account::default();
    let mut kept: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; 65536];
    let is = |every: u64, count: u64| every > 0 && count.is_multiple_of(every);
    while !stop.load(Relaxed) {
        while let Ok((n, sender)) = recvfrom::<LinkAddr>(from.as_raw_fd(), &mut buffer) {
            // A packet socket also sees what leaves.
            if sender.is_some_and(|sender| sender.pkttype() == PACKET_OUTGOING) {
                continue;
            }
            kept.push_back((Instant::now(), buffer[..n].to_vec()));
            account.taken += 1;
            let count = account.taken;
            if is(faults.drop, count) {
                kept.pop_back();
                account.dropped += 1;
            } else if is(faults.duplicate, count) {
                kept.extend(kept.back().cloned());
                account.duplicated += 1;
            } else if is(faults.swap, count) && kept.len() >= 2 {
                let last = kept.len() - 1;
                let (earlier, later) = (kept[last - 1].0, kept[last].0);
                kept.swap(last - 1, last);
                (kept[last - 1].0, kept[last].0) = (earlier, later);
                account.swapped += 1;
            }
        }
        while kept.front().is_some_and(|(since, _)| since.elapsed() >= faults.delay) {
            let (since, packet) = kept.pop_front().expect("there is one");
            transmit(to, &packet);
            account.kept.push(since.elapsed().as_nanos() as u64);
        }
        let mut waiting = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        let patience = kept.front().map_or(IDLE, |(since, _)| faults.delay.saturating_sub(since.elapsed()).min(IDLE));
        ppoll(&mut waiting, Some(TimeSpec::from_duration(patience)), None).expect("poll");
    }
    account
}

fn transmit(to: &OwnedFd, packet: &[u8]) {
    loop {
        match send(to.as_raw_fd(), packet, MsgFlags::empty()) {
            Ok(_) => return,
            Err(Errno::ENOBUFS | Errno::EAGAIN) => thread::yield_now(),
            Err(error) => panic!("send: {error}"),
        }
    }
}
