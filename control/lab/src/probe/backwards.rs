//! Datagrams whose fragments are sent last one first, and echoed in the same way by the lab's server: as over links that
//! reorder.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::vxlan::{IPPROTO_RAW, TTL, UDP, UdpChecksum, udp};

/// Begins each such datagram: the server answers it in the same order.
pub const MARK: &[u8] = b"backwards";

/// Bytes of the datagram in each fragment but the last.
const PIECE: usize = 1200;

/// How long an echo may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What became of the datagrams.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BackwardsReport {
    /// Sent.
    pub sent: u32,
    /// Came back as they were.
    pub echoed: u32,
    /// The longest time that took, in milliseconds.
    pub longest_ms: f64,
}

impl BackwardsReport {
    /// True if each came back, and in less time than fragments wait anywhere.
    pub fn is_prompt(&self) -> bool {
        self.echoed == self.sent && self.longest_ms < 500.0
    }
}

/// A raw socket to send them by.
///
/// # Errors
/// Without the privilege.
pub fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
}

/// Sends one datagram; `id` tells it from others of the same two addresses.
///
/// # Errors
/// When the kernel refuses.
pub fn send(socket: &Socket, from: SocketAddrV4, to: SocketAddrV4, id: u16, payload: &[u8]) -> io::Result<()> {
    let datagram = udp(from, to, payload, UdpChecksum::Right);
    let pieces = datagram.chunks(PIECE).enumerate();
    let last = pieces.len() - 1;
    for (at, piece) in pieces.rev() {
        let more = if at < last { 0x2000 } else { 0 };
        let fragment = u16::try_from(at * PIECE / 8).expect("a datagram's offset") | more;
        // The kernel fills in the length and the checksum.
        let mut packet = vec![0x45, 0, 0, 0];
        packet.extend([id.to_be_bytes(), fragment.to_be_bytes()].concat());
        packet.extend([TTL, UDP, 0, 0]);
        packet.extend([from.ip().octets(), to.ip().octets()].concat());
        packet.extend(piece);
        socket.send_to(&packet, &to.into())?;
    }
    Ok(())
}

/// Sends `count` datagrams of `size` bytes to an echo server, one after the other.
///
/// # Errors
/// When a socket breaks.
pub fn exchange(to: SocketAddrV4, count: u32, size: usize) -> io::Result<BackwardsReport> {
    let raw = socket()?;
    let mut report = BackwardsReport { sent: count, ..BackwardsReport::default() };
    for number in 0..count {
        let asks = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        asks.connect(to)?;
        asks.set_read_timeout(Some(PATIENCE))?;
        let SocketAddr::V4(from) = asks.local_addr()? else { unreachable!("bound to IPv4") };
        let pattern = (0..size.saturating_sub(MARK.len())).map(|at| (at * 31 % 251) as u8);
        let payload: Vec<u8> = MARK.iter().copied().chain(pattern).collect();
        let start = Instant::now();
        // Of no two datagrams alike, though several tests' go between the same addresses within the time that a number is known.
        let id =
            to.port().wrapping_mul(64).wrapping_add((size / 1000 % 4 * 16) as u16).wrapping_add(number as u16 % 16);
        send(&raw, from, to, id, &payload)?;
        let mut came = vec![0; size + 1];
        if let Ok(length) = asks.recv(&mut came)
            && came[..length] == payload
        {
            report.echoed += 1;
            report.longest_ms = report.longest_ms.max(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(report)
}
