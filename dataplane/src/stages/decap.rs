//! Takes the outer headers off what other VTEPs sent us (RFC 7348), after checking them.

use crate::{
    io::Frame,
    packet::{Batch, Meta},
    snapshot::{Overlay, Snapshot},
    spec::PortRole,
    tables::VtepTable,
    verdict::{DropReason, Verdict},
    wire::{be16, checksum, ethernet, ipv4, udp, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;

/// Strips VXLAN from the packets that came in on an uplink. Native packets are left as they are.
#[inline]
pub fn run(batch: &mut Batch, snapshot: &Snapshot) {
    let Some(overlay) = &snapshot.overlay else { return };
    for (frame, meta) in batch.frames.iter_mut().zip(&mut batch.metas) {
        let port = snapshot.port(meta.in_port);
        if port.role != Some(PortRole::Uplink) || !is_vxlan(frame.bytes(), overlay) {
            continue;
        }
        if frame.bytes()[..6] != port.mac.0 {
            meta.verdict = Verdict::Drop(DropReason::NotOurMac);
            continue;
        }
        match strip(frame, overlay, &snapshot.vteps) {
            Ok(()) => meta.flags |= Meta::DECAPSULATED,
            Err(reason) => meta.verdict = Verdict::Drop(reason),
        }
    }
}

/// True for IPv4 UDP to our VTEP's address and port; fragments have no port.
#[inline(always)]
fn is_vxlan(bytes: &[u8], overlay: &Overlay) -> bool {
    let Some(head) = bytes.first_chunk::<{ IP + ipv4::HEADER_LEN + udp::HEADER_LEN }>() else { return false };
    ethernet::ethertype(head) == ethernet::IPV4
        && ipv4::dst(&head[IP..]) == overlay.local
        && head[IP + ipv4::PROTOCOL] == ipv4::UDP
        && be16(head, IP + ipv4::FRAGMENT) & ipv4::FRAGMENTED == 0
        && bytes.get(IP + ipv4::header_len(&head[IP..])..).is_some_and(|datagram| {
            datagram.len() >= udp::HEADER_LEN && be16(datagram, udp::DST_PORT) == overlay.udp_port
        })
}

#[inline(always)]
fn strip(frame: &mut Frame, overlay: &Overlay, vteps: &VtepTable) -> Result<(), DropReason> {
    let bytes = frame.bytes();
    let ip = bytes[IP..].first_chunk::<{ ipv4::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
    let header_len = ipv4::header_len(ip);
    let total_len = usize::from(ipv4::total_len(ip));
    if ip[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN || total_len < header_len + udp::HEADER_LEN {
        return Err(DropReason::BadIpHeader);
    }
    let packet = bytes.get(IP..IP + total_len).ok_or(DropReason::BadIpHeader)?;
    let sound = if header_len == ipv4::HEADER_LEN {
        ipv4::checksum_holds(ip)
    } else {
        checksum::sum(&packet[..header_len]) == 0xffff
    };
    if !sound {
        return Err(DropReason::BadIpChecksum);
    }
    let datagram = &packet[header_len..];
    let strip = IP + header_len + udp::HEADER_LEN + vxlan::HEADER_LEN;
    let datagram_len = usize::from(be16(datagram, udp::LEN));
    if datagram_len > datagram.len() || datagram_len < udp::HEADER_LEN + vxlan::HEADER_LEN {
        return Err(DropReason::BadVxlan);
    }
    let (src, outer_ecn) = (ipv4::src(ip), ip[ipv4::TOS] & ipv4::ECN_CE);
    if !udp::checksum_holds(&datagram[..datagram_len], src, overlay.local) {
        return Err(DropReason::BadOuterChecksum);
    }
    let vni = vxlan::vni(&datagram[udp::HEADER_LEN..]).ok_or(DropReason::BadVxlan)?;
    if vni != overlay.vni {
        return Err(DropReason::UnknownVni);
    }
    if vteps.lookup(src).is_none() {
        return Err(DropReason::UnknownVtep);
    }
    if !frame.set_len(IP + header_len + datagram_len) || !frame.reframe(strip, 0) {
        return Err(DropReason::BadVxlan);
    }
    if outer_ecn != 0 { carry_ecn(frame, outer_ecn) } else { Ok(()) }
}

/// Carries a congestion mark from the outer header into the inner one (RFC 6040, section 4.2, figure 4).
fn carry_ecn(frame: &mut Frame, outer: u8) -> Result<(), DropReason> {
    let bytes = frame.bytes_mut();
    if bytes.len() < IP + ipv4::HEADER_LEN || ethernet::ethertype(bytes) != ethernet::IPV4 {
        return Ok(()); // parsing will say what is wrong with it
    }
    let tos = bytes[IP + ipv4::TOS];
    let ecn = decapsulated_ecn(tos & ipv4::ECN_CE, outer).ok_or(DropReason::EcnLost)?;
    if ecn != tos & ipv4::ECN_CE {
        ipv4::set_tos(&mut bytes[IP..], tos & !ipv4::ECN_CE | ecn);
    }
    Ok(())
}

/// RFC 6040, figure 4: the outgoing ECN field; `None`: drop.
fn decapsulated_ecn(inner: u8, outer: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0b00;
    const ECT_1: u8 = 0b01;
    const ECT_0: u8 = 0b10;
    match (inner, outer) {
        (NOT_ECT, ipv4::ECN_CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, ipv4::ECN_CE) => Some(ipv4::ECN_CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6040_figure_4() {
        const CE: u8 = 0b11;
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let figure = [
            (0b00, [Some(0b00), Some(0b00), Some(0b00), None]),
            (0b10, [Some(0b10), Some(0b10), Some(0b01), Some(CE)]),
            (0b01, [Some(0b01), Some(0b01), Some(0b01), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [0b00, 0b10, 0b01, CE].into_iter().zip(row) {
                assert_eq!(decapsulated_ecn(inner, outer), expected, "inner {inner:02b}, outer {outer:02b}");
            }
        }
    }
}
