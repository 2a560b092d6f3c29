//! The packet that a question is about: where it comes in, and its bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::made::Made;
use crate::{
    flow::FiveTuple,
    io::MAX_FRAME_LEN,
    net::{Address, MacAddr},
    next_hop::Kind,
    snapshot::{Overlay, Snapshot},
    spec::{PortId, PortRole},
    wire::{checksum, ethernet, icmpv4, ipv4, put16, sctp, tcp, udp, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;

/// The station that sends the packet: none of ours.
const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);

/// A packet that somebody might send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Who sends it to whom. An ICMP echo has its identifier as the port of the one who asks, and the number of the
    /// request's type, 8 or in ICMPv6 128, as the other one's.
    pub tuple: FiveTuple<IpAddr>,
    /// Flags of its TCP header; of SCTP, those that say what its chunk does.
    pub tcp_flags: u8,
    /// Where it comes in; `None`: where packets of this source are expected.
    pub arrival: Option<Arrival>,
    /// Bytes from its IP header on; `None`: as few as there can be.
    pub length: Option<u16>,
    /// It must not be fragmented. IPv6 packets are by nobody but their sender, whatever is said here.
    pub dont_fragment: bool,
    /// Its time to live, or hop limit.
    pub ttl: u8,
}

/// Where a packet comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// On this port,
    pub port: PortId,
    /// in a VXLAN packet from this address (host order), or natively.
    pub vtep: Option<u32>,
}

/// There can be no such packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says it")]
pub enum QuestionError {
    #[error("port {0} is not attached")]
    NoSuchPort(PortId),
    #[error("packets from {0} would come in over the uplink, and there is none")]
    NoUplink(Ipv4Addr),
    #[error("packets from {0} would come from the node itself, and there is no host port")]
    NoHostPort(Ipv4Addr),
    #[error("the way to {0} is not resolved, so there is no saying how packets from there come in")]
    NoWay(IpAddr),
    #[error(
        "no packets come to the switch from {0}: those of IPv6 are from a pod here, from the node's own address, or over the overlay from \
         behind a VTEP with an IPv6 prefix"
    )]
    NeitherPodNorVtep(Ipv6Addr),
    #[error("{0} and {1} are of two families; a packet has addresses of one")]
    TwoFamilies(IpAddr, IpAddr),
    #[error("port {0} is no uplink: nothing comes in over the overlay there")]
    NotOverlay(PortId),
    #[error("{0} bytes are too few for its headers; {1} are the least")]
    TooShort(u16, u16),
    #[error("{0} bytes fit no frame; {1} are the most on that way")]
    TooLong(u16, u16),
}

impl Question {
    /// A packet as somebody sends it who has not been heard before: a SYN, of SCTP an INIT, as short as there can be.
    pub fn of(tuple: FiveTuple<IpAddr>) -> Question {
        let tcp_flags = if matches!(tuple.protocol, ipv4::TCP | ipv4::SCTP) { tcp::SYN } else { 0 };
        Question { tuple, tcp_flags, arrival: None, length: None, dont_fragment: true, ttl: ipv4::DEFAULT_TTL }
    }

    /// Where the packet comes in.
    ///
    /// # Errors
    /// If that cannot be.
    pub(super) fn arrival(&self, snapshot: &Snapshot) -> Result<Arrival, QuestionError> {
        let Some(arrival) = self.arrival else {
            return match self.tuple.src {
                IpAddr::V4(src) => expected(src.number(), snapshot),
                IpAddr::V6(src) => expected(src.number(), snapshot),
            };
        };
        match snapshot.port(arrival.port).role {
            None => Err(QuestionError::NoSuchPort(arrival.port)),
            Some(role) if arrival.vtep.is_some() && (role != PortRole::Uplink || snapshot.overlay.is_none()) => {
                Err(QuestionError::NotOverlay(arrival.port))
            }
            Some(_) => Ok(arrival),
        }
    }

    /// Whether it is to a pod or into a service range.
    pub(crate) fn is_into_cluster(&self, snapshot: &Snapshot) -> bool {
        match self.tuple.dst {
            IpAddr::V4(dst) => snapshot.is_of_cluster(dst.number()),
            IpAddr::V6(dst) => snapshot.is_of_cluster(dst.number()),
        }
    }

    /// The packet's bytes, from the Ethernet header on.
    ///
    /// # Errors
    /// If its addresses are of two families, or its length cannot be.
    pub(super) fn packet(&self, arrival: &Arrival, snapshot: &Snapshot) -> Result<Vec<u8>, QuestionError> {
        match (self.tuple.src, self.tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.received(src.number(), dst.number(), arrival, snapshot),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.received(src.number(), dst.number(), arrival, snapshot),
            (src, dst) => Err(QuestionError::TwoFamilies(src, dst)),
        }
    }

    fn received<N: Made>(
        &self,
        src: N,
        dst: N,
        arrival: &Arrival,
        snapshot: &Snapshot,
    ) -> Result<Vec<u8>, QuestionError> {
        let FiveTuple { src_port, dst_port, protocol, .. } = self.tuple;
        let tuple = FiveTuple { src, dst, src_port, dst_port, protocol };
        let overlay = snapshot.overlay.filter(|_| arrival.vtep.is_some());
        let outer = if overlay.is_some() { vxlan::OVERHEAD } else { 0 };
        let (least, most) = ((N::HEADER_LEN + l4_len::<N>(protocol)) as u16, (MAX_FRAME_LEN - IP - outer) as u16);
        let length = self.length.unwrap_or(least);
        if length < least {
            return Err(QuestionError::TooShort(length, least));
        }
        if length > most {
            return Err(QuestionError::TooLong(length, most));
        }
        let port = snapshot.port(arrival.port);
        let station = overlay.map_or(port.mac, |overlay| overlay.mac);
        let sender = port.guard.map_or(SENDER, |guard| guard.station());
        let mut frame = vec![0; IP + usize::from(length)];
        ethernet::emit(&mut frame, station, sender, N::ETHERTYPE);
        N::emit(self, &tuple, length, &mut frame[IP..]);
        self.emit_l4(&tuple, &mut frame[IP + N::HEADER_LEN..]);
        Ok(match overlay.zip(arrival.vtep) {
            Some((overlay, vtep)) => encapsulated(&frame, vtep, &overlay, port.mac),
            None => frame,
        })
    }

    /// What the receiver of `came`, this packet as it leaves the switch, sends back from there.
    pub(super) fn answer(&self, came: FiveTuple<IpAddr>, from: Arrival) -> Question {
        let tcp_flags = match self.tcp_flags & (tcp::SYN | tcp::ACK) {
            _ if !matches!(came.protocol, ipv4::TCP | ipv4::SCTP) => 0,
            tcp::SYN => tcp::SYN | tcp::ACK,
            _ => tcp::ACK,
        };
        Question {
            tuple: came.reversed(),
            tcp_flags,
            arrival: Some(from),
            length: None,
            ttl: ipv4::DEFAULT_TTL,
            ..*self
        }
    }

    /// Writes the transport header, and the checksum over it and all that follows.
    fn emit_l4<N: Made>(&self, tuple: &FiveTuple<N>, l4: &mut [u8]) {
        let FiveTuple { src_port, dst_port, protocol, .. } = *tuple;
        let l4_len = l4.len() as u16;
        let field = match protocol {
            ipv4::TCP => {
                tcp::emit(l4, src_port, dst_port, self.tcp_flags);
                tcp::CHECKSUM
            }
            ipv4::UDP => {
                udp::emit(l4, src_port, dst_port, l4_len);
                udp::CHECKSUM
            }
            ipv4::SCTP => return sctp::emit(l4, src_port, dst_port, self.tcp_flags),
            // An echo is the same in both ICMPs, but for its type.
            protocol if protocol == N::ICMP => {
                let is_request = dst_port == N::ECHO_REQUEST;
                l4[0] = if is_request { N::ECHO_REQUEST as u8 } else { N::ECHO_REPLY };
                put16(l4, icmpv4::ECHO_ID, if is_request { src_port } else { dst_port });
                icmpv4::CHECKSUM
            }
            _ => return,
        };
        let sum = checksum::finish(N::pseudo_header(tuple, l4_len) + u64::from(checksum::sum(l4)));
        put16(l4, field, checksum::as_sent(sum, protocol));
    }
}

/// Bytes of the transport header, and of the chunk that SCTP cannot be without.
fn l4_len<N: Made>(protocol: u8) -> usize {
    match protocol {
        ipv4::TCP => tcp::HEADER_LEN,
        ipv4::UDP => udp::HEADER_LEN,
        ipv4::SCTP => sctp::LEAST_LEN,
        protocol if protocol == N::ICMP => icmpv4::HEADER_LEN,
        _ => 0,
    }
}

/// Where packets from `src` are expected: where packets to it go.
fn expected<N: Made>(src: N, snapshot: &Snapshot) -> Result<Arrival, QuestionError> {
    let next_hop = snapshot.next_hop(snapshot.route(src));
    match (next_hop.kind, snapshot.port(next_hop.port).role) {
        (Kind::Overlay | Kind::Relay, _) => Ok(Arrival { port: next_hop.port, vtep: next_hop.vtep() }),
        (Kind::Plain, Some(PortRole::Pod | PortRole::Uplink)) => Ok(Arrival { port: next_hop.port, vtep: None }),
        (Kind::Unresolved, _) => Err(QuestionError::NoWay(src.address().into())),
        _ => src.arrival_from_elsewhere(snapshot),
    }
}

/// The outer headers of the VTEP `from` around a frame.
fn encapsulated(inner: &[u8], from: u32, overlay: &Overlay, station: MacAddr) -> Vec<u8> {
    let mut packet = vec![0; vxlan::OVERHEAD];
    packet.extend_from_slice(inner);
    let total_len = (packet.len() - IP) as u16;
    ethernet::emit(&mut packet, station, SENDER, ethernet::IPV4);
    ipv4::Header {
        tos: 0,
        total_len,
        id: 0,
        flags: 0,
        ttl: ipv4::DEFAULT_TTL,
        protocol: ipv4::UDP,
        src: from,
        dst: overlay.local,
    }
    .emit(&mut packet[IP..]);
    // The engine does not look at the sender's port; RFC 7348 asks for a dynamic one.
    let l4 = &mut packet[IP + ipv4::HEADER_LEN..];
    udp::emit(l4, 0xc000, overlay.udp_port, total_len - ipv4::HEADER_LEN as u16);
    vxlan::emit(&mut l4[udp::HEADER_LEN..], overlay.vni);
    packet
}
