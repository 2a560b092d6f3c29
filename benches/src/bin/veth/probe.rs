//! Looks at a packet that a contender sent, before its rate is measured: forwarding the wrong thing fast counts nothing.

use std::{
    net::Ipv4Addr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, socket},
};

use crate::{BACKENDS, Error, NODE, REMOTE, TARGET_PORT, source::PACKET_LEN};

/// What the contender makes of the source's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Sends it back with its Ethernet addresses swapped.
    Swap,
    /// Translates the ClusterIP and encapsulates it for the remote node.
    TranslateAndEncapsulate,
}

/// Runs `send` and checks the first packet that arrives at `sink`.
pub fn check<T>(work: Work, send: impl FnOnce() -> Result<T, Error>) -> Result<(), Error> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)?;
    let address = getifaddrs()?
        .filter(|interface| interface.interface_name == "sink")
        .find_map(|interface| interface.address.and_then(|a| a.as_link_addr().copied()))
        .ok_or("no interface sink")?;
    bind(fd.as_raw_fd(), &address)?;
    let _sending = send()?;
    let until = Instant::now() + Duration::from_secs(2);
    let mut buffer = [0; 2048];
    while Instant::now() < until {
        match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(n) => return matches(work, &buffer[..n]).map_err(Error::from),
            Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    }
    Err("nothing arrived at the sink".into())
}

fn matches(work: Work, packet: &[u8]) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {packet:02x?}"));
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    match work {
        Work::Swap if packet.len() != PACKET_LEN => wrong("not the packet that was sent"),
        Work::Swap => Ok(()),
        Work::TranslateAndEncapsulate => {
            let inner = 50;
            if packet.len() != PACKET_LEN + inner {
                return wrong("not one VXLAN header longer than what was sent");
            }
            if (address(26), address(30), port(36)) != (NODE, REMOTE, 8472) {
                return wrong("the outer packet is not VXLAN from us to the remote node");
            }
            if !BACKENDS.contains(&address(inner + 30)) || port(inner + 36) != TARGET_PORT {
                return wrong("the inner packet is not for a backend");
            }
            Ok(())
        }
    }
}
