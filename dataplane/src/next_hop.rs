//! Where packets go: the header to put in front of them, and the port.

use crate::{
    net::MacAddr,
    spec::{PortId, PortSpec, VtepSpec, VxlanSpec},
    verdict::{PackedVerdict, Verdict},
    wire::{be16, bytes_at, checksum, ethernet, ipv4, udp, vxlan},
};

/// Bytes of the longest header: outer Ethernet, IPv4, UDP, VXLAN, inner Ethernet. One cache line, exactly.
pub const HEADER_LEN: usize = vxlan::OVERHEAD + ethernet::HEADER_LEN;

/// Where the outer IPv4 header starts in an overlay header.
pub const OUTER_IP: usize = ethernet::HEADER_LEN;
/// Where the outer UDP header starts.
pub const OUTER_UDP: usize = OUTER_IP + ipv4::HEADER_LEN;

/// What is done with packets that go there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A new Ethernet header.
    Plain,
    /// Outer headers and a new inner Ethernet header.
    Overlay,
    /// As `Overlay`, untranslated and with the endpoint's name: for what its node answers directly.
    Relay,
    /// For the switch itself.
    Local,
    /// Nobody: ICMP network unreachable.
    Unreachable,
    /// A service range: no service has the address.
    ServiceRange,
    /// The next hop's MAC address is not known yet.
    Unresolved,
}

/// One next hop: the header in the first cache line, the rest in the second.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct NextHop {
    /// The header to copy; a plain one is in its last 14 bytes.
    pub header: [u8; HEADER_LEN],
    /// Sum of the outer IPv4 header's words, with length, identification and ECN zero.
    pub outer_sum: u32,
    /// Longest IP packet that may go there, in bytes, before encapsulation; 0 if none may.
    pub mtu: u16,
    /// The port to send on.
    pub port: PortId,
    /// What to do.
    pub kind: Kind,
    /// The fate of a packet that was sent there.
    pub sent: PackedVerdict,
    /// The same with [`Kind::Relay`], if there is one, as an index.
    pub relay: Option<u32>,
}

impl NextHop {
    /// A next hop that sends nothing.
    pub fn inert(kind: Kind) -> NextHop {
        NextHop::towards(PortId(u16::MAX), 0, kind)
    }

    fn towards(port: PortId, mtu: u16, kind: Kind) -> NextHop {
        let sent = Verdict::Tx(port).into();
        NextHop { header: [0; HEADER_LEN], outer_sum: 0, mtu, port, kind, sent, relay: None }
    }

    /// The station `mac` behind `port`.
    pub fn plain(port: &PortSpec, mac: MacAddr) -> NextHop {
        let mut next_hop = NextHop::towards(port.id, port.mtu, Kind::Plain);
        ethernet::emit(&mut next_hop.header[vxlan::OVERHEAD..], mac, port.mac, ethernet::IPV4);
        next_hop
    }

    /// The VTEP `vtep`, whose underlay next hop is `mac`, over `uplink`.
    ///
    /// The outer header is the one flannel's kernel device sends: TTL 64, DF clear, DSCP 0 (the pipe model of
    /// RFC 2983: the inner DSCP is not shown to the underlay), UDP checksum 0.
    pub fn overlay(uplink: &PortSpec, vxlan: &VxlanSpec, vtep: &VtepSpec, mac: MacAddr) -> NextHop {
        let mtu = uplink.mtu.saturating_sub(vxlan::OVERHEAD as u16);
        let mut next_hop = NextHop::towards(uplink.id, mtu, Kind::Overlay);
        let header = &mut next_hop.header;
        ethernet::emit(header, mac, uplink.mac, ethernet::IPV4);
        ipv4::Header {
            tos: 0,
            total_len: 0,
            id: 0,
            flags: 0,
            ttl: ipv4::DEFAULT_TTL,
            protocol: ipv4::UDP,
            src: vxlan.local.into(),
            dst: vtep.address.into(),
        }
        .emit(&mut header[OUTER_IP..]);
        next_hop.outer_sum = u32::from(!be16(header, OUTER_IP + ipv4::CHECKSUM));
        udp::emit(&mut header[OUTER_UDP..], 0, vxlan.udp_port, 0);
        vxlan::emit(&mut header[OUTER_UDP + udp::HEADER_LEN..], vxlan.vni);
        ethernet::emit(&mut header[vxlan::OVERHEAD..], vtep.mac, vxlan.mac, ethernet::IPV4);
        next_hop
    }

    /// The station on the port's link that gets what goes there; zero if nothing is sent.
    pub fn station(&self) -> MacAddr {
        let header = if self.is_vtep() { &self.header[..] } else { &self.header[vxlan::OVERHEAD..] };
        MacAddr(bytes_at(header, 0))
    }

    /// The VTEP that it is, if it is one, in host order.
    pub fn vtep(&self) -> Option<u32> {
        self.is_vtep().then(|| ipv4::dst(&self.header[OUTER_IP..]))
    }

    fn is_vtep(&self) -> bool {
        matches!(self.kind, Kind::Overlay | Kind::Relay)
    }

    /// The outer IPv4 header's checksum, for what differs from packet to packet.
    #[inline(always)]
    pub fn outer_checksum(&self, ecn: u8, total_len: u16, id: u16) -> u16 {
        !checksum::fold_narrow(self.outer_sum + u32::from(ecn) + u32::from(total_len) + u32::from(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_hop_is_two_cache_lines() {
        assert_eq!((HEADER_LEN, size_of::<NextHop>()), (64, 128));
    }
}
