//! Crafted VXLAN packets, sent through a raw socket: what a well-behaved peer would not send.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use serde::{Deserialize, Serialize};
use shunt_dataplane::net::MacAddr;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{binaries, command::run, error::Result, netns::Namespace};

pub(super) const IPPROTO_RAW: i32 = 255;
pub(super) const UDP: u8 = 17;
pub(super) const TTL: u8 = 64;

/// The outer UDP checksum of a crafted packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum UdpChecksum {
    /// None, as RFC 7348 asks for.
    Zero,
    /// Present and right.
    Right,
    /// Present and wrong.
    Wrong,
}

/// One VXLAN packet around a UDP datagram.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Crafted {
    /// Underlay source.
    pub from: Ipv4Addr,
    /// Underlay destination and VXLAN port.
    pub to: SocketAddrV4,
    /// Outer type of service: DSCP and ECN.
    pub tos: u8,
    /// The VXLAN flags byte; 0x08 says that the VNI is valid (RFC 7348 section 5).
    pub flags: u8,
    /// Network identifier.
    pub vni: u32,
    /// Outer UDP checksum.
    pub checksum: UdpChecksum,
    /// Inner Ethernet source.
    pub inner_source_mac: String,
    /// Inner Ethernet destination.
    pub inner_target_mac: String,
    /// Inner source.
    pub inner_from: SocketAddrV4,
    /// Inner destination.
    pub inner_to: SocketAddrV4,
    /// Inner type of service: DSCP and ECN.
    pub inner_tos: u8,
    /// Inner time to live.
    pub inner_ttl: u8,
    /// UDP payload.
    pub payload: String,
    /// How often it is sent.
    pub count: u32,
}

/// Sends the packet as often as it says.
///
/// # Errors
/// When the MAC addresses cannot be read or the kernel refuses the packet.
pub fn send(crafted: &Crafted) -> io::Result<()> {
    let packet = crafted.packet()?;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
    for _ in 0..crafted.count {
        socket.send_to(&packet, &crafted.to.into())?;
    }
    Ok(())
}

impl Crafted {
    /// Sends it from `namespace`.
    pub fn send_from(&self, namespace: &Namespace) -> Result<()> {
        let packet = serde_json::to_string(self).expect("a crafted packet has only numbers and text");
        let mut command = namespace.bounded(binaries::find("shunt-lab")?);
        run(command.args(["probe", "vxlan", &packet])).map(drop)
    }

    /// The whole packet from the outer IPv4 header on.
    fn packet(&self) -> io::Result<Vec<u8>> {
        let mut frame = mac(&self.inner_target_mac)?.0.to_vec();
        frame.extend(mac(&self.inner_source_mac)?.0);
        frame.extend([0x08, 0x00]);
        let (from, to) = (*self.inner_from.ip(), *self.inner_to.ip());
        let datagram = udp(self.inner_from, self.inner_to, self.payload.as_bytes(), UdpChecksum::Right);
        frame.extend(ipv4(from, to, self.inner_tos, self.inner_ttl, &datagram));

        let mut payload = vec![self.flags, 0, 0, 0];
        payload.extend((self.vni << 8).to_be_bytes());
        payload.extend(frame);
        let source = SocketAddrV4::new(self.from, 50_000);
        let outer = udp(source, self.to, &payload, self.checksum);
        Ok(ipv4(self.from, *self.to.ip(), self.tos, TTL, &outer))
    }
}

fn mac(text: &str) -> io::Result<MacAddr> {
    text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{text}: {error}")))
}

pub(super) fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8], checksum: UdpChecksum) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a crafted packet fits a datagram");
    let mut datagram = Vec::with_capacity(length.into());
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let mut pseudo = [from.ip().octets(), to.ip().octets()].concat();
    pseudo.extend([0, UDP]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&datagram);
    let right = internet_checksum(&pseudo);
    let sent = match checksum {
        UdpChecksum::Zero => 0,
        UdpChecksum::Right => right,
        UdpChecksum::Wrong => right ^ 0x0101,
    };
    datagram[6..8].copy_from_slice(&sent.to_be_bytes());
    datagram
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, tos: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a crafted packet fits an IPv4 packet");
    let mut packet = vec![0x45, tos];
    packet.extend(length.to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0x00, ttl, UDP, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let checksum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// RFC 1071, in its plainest form: the lab is the oracle, and shares no code with what it tests.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_example_in_rfc_1071() {
        assert_eq!(internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
