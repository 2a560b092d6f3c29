//! What is sent through both, and what becomes of it.

use std::net::Ipv4Addr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use shunt_dataplane::net::Protocol;

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A pod of the node.
    Pod,
    /// A pod of another node.
    RemotePod,
    /// The node's own stack.
    Node,
    /// Anywhere else.
    Outside,
}

/// The links of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Pods,
    Uplink,
}

/// The first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Its payload, and what its source port is made of.
    pub id: u16,
    pub from: From,
    pub protocol: Protocol,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub dport: u16,
}

/// As it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub link: Link,
    pub src: Ipv4Addr,
    pub dst: (Ipv4Addr, u16),
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Sent(Sent),
    /// Port unreachable.
    Refused,
    /// The node's own stack got it as it was.
    ToNode,
    Lost,
}

impl Fate {
    /// Its kind, in a word or two.
    pub fn kind(&self, packet: &Packet) -> &'static str {
        match self {
            Fate::Sent(sent) if sent.src != packet.src => "masqueraded",
            Fate::Sent(sent) if sent.dst.0 != packet.dst => "translated",
            Fate::Sent(_) => "forwarded",
            Fate::Refused => "refused",
            Fate::ToNode => "to the node",
            Fate::Lost => "lost",
        }
    }
}

/// Begins the payload.
const MAGIC: &[u8; 6] = b"oracle";

impl Packet {
    /// Different for every packet of a run.
    pub fn sport(&self) -> u16 {
        20_000 + self.id
    }

    /// The frame to the station `to`.
    pub fn frame(&self, to: [u8; 6]) -> Vec<u8> {
        let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], to).ipv4(self.src.octets(), self.dst.octets(), 64);
        let payload = [&MAGIC[..], &self.id.to_be_bytes()].concat();
        let mut bytes = Vec::new();
        let written = match self.protocol {
            Protocol::Udp => start.udp(self.sport(), self.dport).write(&mut bytes, &payload),
            Protocol::Tcp => start.tcp(self.sport(), self.dport, 1, 1000).syn().write(&mut bytes, &payload),
            Protocol::Sctp => unreachable!("no case has it: the kernel may lack its translation"),
        };
        written.expect("memory takes all");
        bytes
    }
}

/// Which packet a frame on `link` is, or is about, and what that says of its fate; `None` for others.
pub fn read(link: Link, frame: &[u8]) -> Option<(u16, Fate)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let NetSlice::Ipv4(ip) = sliced.net? else { return None };
    let (dport, payload) = match sliced.transport? {
        TransportSlice::Udp(udp) => (udp.destination_port(), udp.payload().to_vec()),
        TransportSlice::Tcp(tcp) => (tcp.destination_port(), tcp.payload().to_vec()),
        TransportSlice::Icmpv4(icmp) => return about(icmp.slice()),
        _ => return None,
    };
    let id = payload.strip_prefix(MAGIC)?.first_chunk()?;
    let dst = (ip.header().destination_addr(), dport);
    Some((u16::from_be_bytes(*id), Fate::Sent(Sent { link, src: ip.header().source_addr(), dst })))
}

/// Which packet an ICMP message is about. What reaches the kernel's own stack is refused in another way than what a service
/// refuses.
pub fn about(icmp: &[u8]) -> Option<(u16, Fate)> {
    const UNREACHABLE: u8 = 3;
    const PORT: u8 = 3;
    const HOST_PROHIBITED: u8 = 10;
    let fate = match icmp {
        [UNREACHABLE, PORT, ..] => Fate::Refused,
        [UNREACHABLE, HOST_PROHIBITED, ..] => Fate::ToNode,
        _ => return None,
    };
    // Eight bytes of ICMP, twenty of the quoted packet's header, and its source port.
    let sport = u16::from_be_bytes(*icmp.get(28..)?.first_chunk()?);
    Some((sport.checked_sub(20_000)?, fate))
}
