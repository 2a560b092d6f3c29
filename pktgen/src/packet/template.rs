//! A stream's packet of one size: everything that does not change from packet to packet.

use shunt_dataplane::{
    net::MacAddr,
    wire::{checksum, ethernet, icmpv4, ipv4, put16, put32, tcp, udp, vxlan},
};

use super::{headers_len, signature};
use crate::{
    profile::{Protocol, Stream},
    rate::FCS,
};

/// A window size for TCP segments that belong to no connection.
const WINDOW: u16 = 0xffff;

/// The Ethernet addresses packets go between where their stream names none.
#[derive(Clone, Copy, Debug)]
pub struct Stations {
    /// Of the sender.
    pub from: MacAddr,
    /// Of the first hop.
    pub to: MacAddr,
}

/// A frame without what varies: addresses, ports, checksums and the signature are zero.
#[derive(Clone, Debug)]
pub struct Template {
    /// The frame, without FCS.
    pub bytes: Vec<u8>,
    /// Where the (inner) IPv4 header starts.
    pub ip: usize,
    /// Where the (inner) transport header starts.
    pub transport: usize,
    /// Where the checksum of the transport is.
    pub transport_checksum: usize,
    /// Where the two ports, or an echo's identifier and sequence number, are.
    pub ports: usize,
    /// Where the signature is.
    pub payload: usize,
    /// What the IPv4 header and the transport with its pseudo header sum up to without a flow, folded.
    pub sums: (u16, u16),
    /// What the packet carries.
    pub protocol: Protocol,
}

/// What a flow puts into a template's gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flow {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl Template {
    /// Builds the packet of `stream` that is `size` bytes long, FCS included and outer headers not.
    pub fn new(stream: &Stream, size: usize, stations: Stations) -> Template {
        let outer = stream.overhead();
        let mut bytes = vec![0; outer + size - FCS];
        let named = (stream.ethernet.0.unwrap_or(stations.from), stream.ethernet.1.unwrap_or(stations.to));
        let inner = stream.vxlan.map_or(named, |vxlan| vxlan.ethernet);
        let ip = outer + ethernet::HEADER_LEN;
        let transport = ip + ipv4::HEADER_LEN;
        let tos = stream.dscp << 2;
        let protocol = match stream.protocol {
            Protocol::Udp => ipv4::UDP,
            Protocol::Tcp => ipv4::TCP,
            Protocol::Icmp => ipv4::ICMP,
        };
        ethernet::emit(&mut bytes[outer..], inner.1, inner.0, ethernet::IPV4);
        let total_len = (bytes.len() - ip) as u16;
        let header = ipv4::Header { tos, total_len, id: 0, flags: ipv4::DF, ttl: stream.ttl, protocol, src: 0, dst: 0 };
        header.emit(&mut bytes[ip..]);
        let (ports, transport_checksum) = match stream.protocol {
            Protocol::Udp => {
                let len = (bytes.len() - transport) as u16;
                udp::emit(&mut bytes[transport..], 0, 0, len);
                (transport, transport + udp::CHECKSUM)
            }
            Protocol::Tcp => {
                bytes[transport + 12] = (tcp::HEADER_LEN as u8 / 4) << 4;
                bytes[transport + tcp::FLAGS] = tcp::ACK;
                put16(&mut bytes, transport + 14, WINDOW);
                (transport, transport + tcp::CHECKSUM)
            }
            Protocol::Icmp => {
                bytes[transport] = icmpv4::ECHO_REQUEST;
                (transport + 4, transport + icmpv4::CHECKSUM)
            }
        };
        if let Some(vxlan) = stream.vxlan {
            ethernet::emit(&mut bytes, named.1, named.0, ethernet::IPV4);
            let header = ipv4::Header {
                tos,
                total_len: (bytes.len() - ethernet::HEADER_LEN) as u16,
                id: 0,
                flags: ipv4::DF,
                ttl: 64,
                protocol: ipv4::UDP,
                src: vxlan.from.into(),
                dst: vxlan.to.into(),
            };
            let (ip, udp) = (ethernet::HEADER_LEN, ethernet::HEADER_LEN + ipv4::HEADER_LEN);
            header.emit(&mut bytes[ip..]);
            let len = (bytes.len() - udp) as u16;
            udp::emit(&mut bytes[udp..], 0, vxlan.port, len);
            vxlan::emit(&mut bytes[udp + udp::HEADER_LEN..], vxlan.vni);
        }
        let payload = outer + headers_len(stream.protocol);
        debug_assert!(payload + signature::LEN <= bytes.len());
        let sums = (0, 0);
        let mut template =
            Template { bytes, ip, transport, transport_checksum, ports, payload, sums, protocol: stream.protocol };
        template.sums = template.sums();
        template
    }

    fn sums(&self) -> (u16, u16) {
        // What is written in place of the checksums later is zero now, but for the IPv4 header's.
        let ip = u64::from(checksum::sum(&self.bytes[self.ip..self.ip + ipv4::CHECKSUM]));
        let segment = &self.bytes[self.transport..];
        let number = self.bytes[self.ip + ipv4::PROTOCOL];
        let pseudo = match self.protocol {
            Protocol::Icmp => 0,
            Protocol::Udp | Protocol::Tcp => checksum::pseudo_header(0, 0, number, segment.len() as u16),
        };
        (checksum::fold(ip), checksum::fold(pseudo + u64::from(checksum::sum(segment))))
    }

    /// Where the outer source port is, which varies with the flow (RFC 7348, section 5); `None` without outer headers.
    pub fn entropy(&self) -> Option<usize> {
        (self.ip != ethernet::HEADER_LEN).then_some(ethernet::HEADER_LEN + ipv4::HEADER_LEN)
    }

    /// The IPv4 header's checksum and the transport's, for a flow. The signature's balance leaves the latter alone.
    pub fn checksums(&self, flow: Flow) -> (u16, u16) {
        let addresses = u64::from(flow.src) + u64::from(flow.dst);
        let ports = u64::from(flow.src_port) + u64::from(flow.dst_port);
        let ip = u64::from(self.sums.0) + addresses;
        let pseudo = if self.protocol == Protocol::Icmp { 0 } else { addresses };
        let transport = u64::from(self.sums.1) + ports + pseudo;
        let transport = match checksum::finish(transport) {
            // RFC 768: a checksum of zero is sent as all ones; zero says that there is none.
            0 if self.protocol == Protocol::Udp => 0xffff,
            sum => sum,
        };
        (checksum::finish(ip), transport)
    }

    /// Writes a whole packet of a flow, all but the signature.
    pub fn write(&self, frame: &mut [u8], flow: Flow, (ip, transport): (u16, u16), entropy: u16) {
        frame.copy_from_slice(&self.bytes);
        put32(frame, self.ip + ipv4::SRC, flow.src);
        put32(frame, self.ip + ipv4::DST, flow.dst);
        put16(frame, self.ip + ipv4::CHECKSUM, ip);
        put16(frame, self.ports, flow.src_port);
        put16(frame, self.ports + 2, flow.dst_port);
        put16(frame, self.transport_checksum, transport);
        if let Some(at) = self.entropy() {
            put16(frame, at, entropy);
        }
    }
}
