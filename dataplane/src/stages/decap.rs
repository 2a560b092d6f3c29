//! Takes the outer headers off what other VTEPs sent us (RFC 7348), after checking them.

use crate::{
    io::Frame,
    packet::Meta,
    record::{Recorder, Step},
    snapshot::{Overlay, PortEntry},
    stages::parse::sound_header,
    tables::VtepTable,
    verdict::DropReason,
    wire::{be16, checksum, ethernet, ipv4, ipv6, udp, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;

/// Strips VXLAN from a packet that came in on an uplink. False if it is a native packet: it is left as it is.
pub fn strip(
    frame: &mut Frame,
    meta: &mut Meta,
    port: &PortEntry,
    overlay: &Overlay,
    vteps: &VtepTable,
    recorder: impl Recorder,
) -> Result<bool, DropReason> {
    let bytes = frame.bytes();
    let Some(head) = bytes.first_chunk::<{ vxlan::OVERHEAD }>() else { return Ok(false) };
    let ip = &head[IP..];
    if ipv4::dst(ip) != overlay.local
        || ethernet::ethertype(head) != ethernet::IPV4
        || ip[ipv4::PROTOCOL] != ipv4::UDP
        || be16(ip, ipv4::FRAGMENT) & ipv4::FRAGMENTED != 0
    {
        return Ok(false);
    }
    let udp_at = IP + sound_header(&bytes[IP..])?;
    let start = udp_at + udp::HEADER_LEN + vxlan::HEADER_LEN;
    let headers = bytes.get(udp_at..start).ok_or(DropReason::BadVxlan)?;
    if be16(headers, udp::DST_PORT) != overlay.udp_port {
        return Ok(false);
    }
    if ethernet::destination(head) != port.mac.to_number() {
        return Err(DropReason::NotOurMac);
    }
    let (ip_end, end) = (IP + usize::from(ipv4::total_len(ip)), udp_at + usize::from(be16(headers, udp::LEN)));
    if ip_end > bytes.len() || end > ip_end || end < start {
        return Err(DropReason::BadVxlan);
    }
    let src = ipv4::src(ip);
    if be16(headers, udp::CHECKSUM) != 0 {
        check_outer(&bytes[udp_at..end], src, overlay.local, port.unfinished_checksums)?;
    }
    let vni = vxlan::vni(&headers[udp::HEADER_LEN..]).ok_or(DropReason::BadVxlan)?;
    recorder.note(|| Step::Outer { vtep: src, vni });
    if vni != overlay.vni {
        return Err(DropReason::UnknownVni);
    }
    if !vteps.contains(src) {
        return Err(DropReason::UnknownVtep);
    }
    let outer_ecn = ip[ipv4::TOS] & ipv4::ECN_CE;
    frame.keep(start, end);
    meta.flags |= Meta::DECAPSULATED;
    if outer_ecn != 0 {
        carry_ecn(frame, outer_ecn)?;
    }
    Ok(true)
}

/// Checks the outer UDP checksum of a sender that computes one.
fn check_outer(datagram: &[u8], src: u32, dst: u32, unfinished_checksums: bool) -> Result<(), DropReason> {
    let holds = udp::checksum_holds(datagram, src, dst)
        || unfinished_checksums
            && (udp::checksum_is_unfinished(datagram, src, dst) || holds_once_inner_is_finished(datagram, src, dst));
    if holds { Ok(()) } else { Err(DropReason::BadOuterChecksum) }
}

/// True if the outer checksum is right for the packet that this one becomes when its inner checksum is finished: a
/// Linux sender computes the outer sum ahead of the inner one ("local checksum offload"). What the inner transport
/// header and payload will sum to is known from its unfinished field, so they need not be read.
fn holds_once_inner_is_finished(datagram: &[u8], src: u32, dst: u32) -> bool {
    let frame = udp::HEADER_LEN + vxlan::HEADER_LEN;
    let inner = frame + ethernet::HEADER_LEN;
    let Some(ip) = datagram.get(inner..).filter(|ip| ip.len() >= ipv4::HEADER_LEN) else { return false };
    let is_ipv6 = ethernet::ethertype(&datagram[frame..]) == ethernet::IPV6;
    let transport = if is_ipv6 { ipv6::transport(ip) } else { None };
    let (header_len, protocol, total_len) = match transport {
        Some(transport) => (transport.offset, transport.protocol, ipv6::total_len(ip)),
        None if is_ipv6 => return false,
        None => (ipv4::header_len(ip), ip[ipv4::PROTOCOL], usize::from(ipv4::total_len(ip))),
    };
    let Some(field) = checksum::field(protocol) else { return false };
    let l4_len = total_len.saturating_sub(header_len);
    if header_len < ipv4::HEADER_LEN || l4_len < field + 2 || ip.len() < header_len + field + 2 {
        return false;
    }
    let unfinished = be16(ip, header_len + field);
    let pseudo = match is_ipv6 {
        true => checksum::pseudo_header_v6(ipv6::src(ip), ipv6::dst(ip), protocol, l4_len as u32),
        false => checksum::pseudo_header(ipv4::src(ip), ipv4::dst(ip), protocol, l4_len as u16),
    };
    let outer = checksum::pseudo_header(src, dst, ipv4::UDP, datagram.len() as u16);
    let before = u64::from(checksum::sum(&datagram[..inner + header_len]));
    unfinished == checksum::fold(pseudo) && checksum::fold(outer + before + u64::from(!unfinished)) == 0xffff
}

/// Carries a congestion mark from the outer header into the inner one (RFC 6040, section 4.2, figure 4).
fn carry_ecn(frame: &mut Frame, outer: u8) -> Result<(), DropReason> {
    let bytes = frame.bytes_mut();
    if bytes.len() < IP + ipv4::HEADER_LEN {
        return Ok(()); // parsing will say what is wrong with it
    }
    let (tos, set): (u8, fn(&mut [u8], u8)) = match ethernet::ethertype(bytes) {
        ethernet::IPV4 => (bytes[IP + ipv4::TOS], ipv4::set_tos),
        ethernet::IPV6 => (ipv6::traffic_class(&bytes[IP..]), ipv6::set_traffic_class),
        _ => return Ok(()),
    };
    let ecn = decapsulated_ecn(tos & ipv4::ECN_CE, outer).ok_or(DropReason::EcnLost)?;
    if ecn != tos & ipv4::ECN_CE {
        set(&mut bytes[IP..], tos & !ipv4::ECN_CE | ecn);
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
    use crate::wire::put16;

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

    #[test]
    fn an_outer_checksum_made_ahead_of_the_inner_one_is_taken() {
        const OUTER: (u32, u32) = (0xc0a8_3203, 0xc0a8_3201);
        const INNER: (u32, u32) = (0x0af4_030a, 0x0af4_010a);
        let mut inner = vec![0; ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN];
        inner.extend(b"payload");
        let l4_at = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
        let l4_len = (inner.len() - l4_at) as u16;
        let (src, dst) = INNER;
        let total_len = l4_len + ipv4::HEADER_LEN as u16;
        ipv4::Header { tos: 0, total_len, id: 1, flags: 0, ttl: 64, protocol: ipv4::UDP, src, dst }
            .emit(&mut inner[ethernet::HEADER_LEN..]);
        udp::emit(&mut inner[l4_at..], 1000, 2000, l4_len);
        let pseudo = checksum::pseudo_header(src, dst, ipv4::UDP, l4_len);
        let right = checksum::finish(pseudo + u64::from(checksum::sum(&inner[l4_at..])));

        // The outer checksum is of the packet as it will be; the inner field holds the pseudo header's sum still.
        let mut datagram = vec![0; udp::HEADER_LEN + vxlan::HEADER_LEN];
        datagram.extend(&inner);
        let (field, len) = (datagram.len() - usize::from(l4_len) + udp::CHECKSUM, datagram.len() as u16);
        udp::emit(&mut datagram, 50_000, 8472, len);
        put16(&mut datagram, field, right);
        let (src, dst) = OUTER;
        let outer = checksum::pseudo_header(src, dst, ipv4::UDP, len) + u64::from(checksum::sum(&datagram));
        put16(&mut datagram, udp::CHECKSUM, checksum::finish(outer));
        assert!(udp::checksum_holds(&datagram, src, dst));
        put16(&mut datagram, field, checksum::fold(pseudo));
        assert!(!udp::checksum_holds(&datagram, src, dst));
        assert!(holds_once_inner_is_finished(&datagram, src, dst));

        // Damage before the inner transport header shows, and so does a datagram that ends too early.
        for at in [1, 9, 20, 35] {
            let mut damaged = datagram.clone();
            damaged[at] ^= 0x40;
            assert!(!holds_once_inner_is_finished(&damaged, src, dst), "byte {at}");
        }
        for len in 0..field + 2 {
            assert!(!holds_once_inner_is_finished(&datagram[..len], src, dst), "{len} bytes");
        }
    }
}
