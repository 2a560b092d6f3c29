//! Looks at a received frame: is it a test packet, and did it come through whole?

use shunt_dataplane::wire::{be16, checksum, ethernet, ipv4, tcp, udp, vxlan};

use super::Signature;

/// UDP ports behind which a VXLAN header is looked for: flannel's and IANA's (RFC 7348).
const VXLAN_PORTS: [u16; 2] = [8472, 4789];

/// A test packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it says of itself.
    pub signature: Signature,
    /// Whether its checksums hold, of the innermost headers.
    pub intact: bool,
}

/// Looks at a frame, behind outer VXLAN headers if it has them. `None`: not a test packet.
#[inline]
pub fn inspect(frame: &[u8]) -> Option<Seen> {
    let packet = ip(frame)?;
    match vxlan_payload(packet) {
        Some(inner) => look(ip(inner)?),
        None => look(packet),
    }
}

/// The IPv4 packet in a frame, cut to its length.
#[inline]
fn ip(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(ethernet::HEADER_LEN..)?;
    if ethernet::ethertype(frame) != ethernet::IPV4 || packet.len() < ipv4::HEADER_LEN || packet[0] != 0x45 {
        return None;
    }
    packet.get(..usize::from(ipv4::total_len(packet)))
}

#[inline]
fn vxlan_payload(packet: &[u8]) -> Option<&[u8]> {
    let datagram = packet.get(ipv4::HEADER_LEN..)?;
    if packet[ipv4::PROTOCOL] != ipv4::UDP || datagram.len() < udp::HEADER_LEN + vxlan::HEADER_LEN {
        return None;
    }
    let header = &datagram[udp::HEADER_LEN..];
    let is_vxlan = VXLAN_PORTS.contains(&be16(datagram, udp::DST_PORT)) && vxlan::vni(header).is_some();
    is_vxlan.then(|| &header[vxlan::HEADER_LEN..])
}

#[inline]
fn look(packet: &[u8]) -> Option<Seen> {
    let protocol = packet[ipv4::PROTOCOL];
    let header = match protocol {
        ipv4::UDP | ipv4::ICMP => udp::HEADER_LEN,
        ipv4::TCP => tcp::HEADER_LEN,
        _ => return None,
    };
    let segment = packet.get(ipv4::HEADER_LEN..)?;
    let signature = Signature::read(segment.get(header..)?)?;
    let (src, dst) = (ipv4::src(packet), ipv4::dst(packet));
    let transport = match protocol {
        ipv4::UDP => udp::checksum_holds(segment, src, dst),
        ipv4::ICMP => checksum::sum(segment) == 0xffff,
        _ => {
            let pseudo = checksum::pseudo_header(src, dst, protocol, segment.len() as u16);
            checksum::fold(pseudo + u64::from(checksum::sum(segment))) == 0xffff
        }
    };
    let intact = transport && packet.first_chunk().is_some_and(ipv4::checksum_holds);
    Some(Seen { signature, intact })
}
