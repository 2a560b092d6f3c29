//! Looks at a packet that a contender sent, before its rate is measured: forwarding the wrong thing fast counts nothing.

use std::{
    net::Ipv4Addr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, socket},
};
use shunt_dataplane::wire::{ethernet, ipv4, udp, vxlan};

use super::{
    cases::Case,
    cluster::{NODE, REMOTE, REMOTE_POD_CIDR, TARGET_PORT, VXLAN_PORT},
    traffic::{Pace, Source},
};
use crate::Error;

/// How long a contender may take until it forwards: an agent that was just started learns its neighbours.
const PATIENCE: Duration = Duration::from_secs(10);
/// A try: how long packets are sent, how many in a second, and how long the answer may take.
const SEND: Duration = Duration::from_millis(10);
const RATE: f64 = 5_000.0;
const ANSWER: Duration = Duration::from_millis(200);
/// Bytes of the frame check sequence, which sizes of frames count and a veth does not carry.
const FCS: usize = 4;

/// What the contender makes of the source's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Sends it back with its Ethernet addresses swapped.
    Swap,
    /// Translates the ClusterIP and encapsulates it for the remote node.
    TranslateAndEncapsulate,
}

impl Work {
    /// Bytes that it puts in front of a packet.
    pub fn overhead(self) -> usize {
        match self {
            Work::Swap => 0,
            Work::TranslateAndEncapsulate => vxlan::OVERHEAD,
        }
    }
}

/// Sends some packets until one arrives at `sink`, and checks that one.
pub fn check(work: Work, case: Case, source: &mut Source) -> Result<(), Error> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)?;
    let address = getifaddrs()?
        .filter(|interface| interface.interface_name == "sink")
        .find_map(|interface| interface.address.and_then(|a| a.as_link_addr().copied()))
        .ok_or("no interface sink")?;
    bind(fd.as_raw_fd(), &address)?;
    let start = Instant::now();
    let mut buffer = [0; 2048];
    while start.elapsed() < PATIENCE {
        source.send(Pace::PerSecond(RATE), SEND)?;
        let tried = Instant::now();
        while tried.elapsed() < ANSWER {
            match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // What else is said on the link (ARP, neighbour discovery) is not from the source.
                Ok(n) if is_udp(&buffer[..n]) => return matches(work, case, &buffer[..n]),
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(format!("nothing arrived at the sink in {} s", PATIENCE.as_secs()).into())
}

fn is_udp(packet: &[u8]) -> bool {
    packet.get(12..14) == Some(&ethernet::IPV4.to_be_bytes()) && packet.get(23) == Some(&ipv4::UDP)
}

fn matches(work: Work, case: Case, packet: &[u8]) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::from(format!("{what}: {packet:02x?}")));
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let len = packet.len() - work.overhead().min(packet.len());
    if !case.frames.mix().iter().any(|(size, _)| *size as usize == len + FCS) {
        return wrong("not as long as what was sent and its new headers");
    }
    if work == Work::Swap {
        return Ok(());
    }
    if (address(26), address(30), port(36)) != (NODE, REMOTE, VXLAN_PORT) {
        return wrong("the outer packet is not VXLAN from us to the remote node");
    }
    let inner = &packet[vxlan::OVERHEAD + ethernet::HEADER_LEN..];
    let endpoints: Ipv4Net = REMOTE_POD_CIDR.parse()?;
    if !endpoints.contains(&Ipv4Addr::from(ipv4::dst(inner))) || port(vxlan::OVERHEAD + 36) != TARGET_PORT {
        return wrong("the inner packet is not for an endpoint");
    }
    if !ipv4::checksum_holds(inner.first_chunk().ok_or("an inner packet without a header")?) {
        return wrong("the inner header's checksum is wrong");
    }
    if !udp::checksum_holds(&inner[ipv4::HEADER_LEN..], ipv4::src(inner), ipv4::dst(inner)) {
        return wrong("the inner UDP checksum is wrong");
    }
    Ok(())
}
