//! Finds the headers, checks them, and takes out the five-tuple.

use crate::{
    io::Frame,
    net::MacAddr,
    packet::{Batch, Meta},
    snapshot::{PortEntry, Snapshot},
    spec::PortRole,
    stages::{decap, local},
    verdict::{DropReason, Verdict},
    wire::{be16, be32, checksum, ethernet, icmpv4, ipv4, put16, tcp, udp},
};

const IP: usize = ethernet::HEADER_LEN;

/// Decapsulates what comes over the overlay and parses every packet.
///
/// Returns the flags of all packets together, by which the pipeline knows whether there is anything unusual among them.
/// Not inlined, as no stage is: each then has the registers to itself.
#[inline(never)]
pub fn run(batch: &mut Batch, snapshot: &Snapshot) -> u8 {
    let mut flags = 0;
    for (frame, meta) in batch.frames.iter_mut().zip(&mut batch.metas) {
        let port = snapshot.port(meta.in_port);
        if let Err(reason) = decap_and_parse(frame, meta, port, snapshot) {
            meta.decide(match reason {
                DropReason::UnknownEtherType => not_ipv4(frame, meta, port, snapshot),
                reason => Verdict::Drop(reason),
            });
        }
        flags |= meta.flags;
    }
    flags
}

#[inline(always)]
fn decap_and_parse(
    frame: &mut Frame,
    meta: &mut Meta,
    port: &PortEntry,
    snapshot: &Snapshot,
) -> Result<(), DropReason> {
    let mut station = port.mac;
    if port.role == Some(PortRole::Uplink) {
        decap::strip(frame, meta, port, snapshot)?;
        match &snapshot.overlay {
            Some(overlay) if meta.has(Meta::DECAPSULATED) => station = overlay.mac,
            Some(overlay) => {
                parse(frame, meta, station, port.unfinished_checksums)?;
                // To our VTEP, and yet no VXLAN: an answer to a masqueraded flow, or nothing that we take.
                let is_stray = meta.dst() == overlay.local && snapshot.masquerade.is_none();
                return if is_stray { Err(DropReason::NotVxlan) } else { Ok(()) };
            }
            None => {}
        }
    }
    parse(frame, meta, station, port.unfinished_checksums)
}

#[cold]
fn not_ipv4(frame: &mut Frame, meta: &Meta, port: &PortEntry, snapshot: &Snapshot) -> Verdict {
    if ethernet::ethertype(frame.bytes()) == ethernet::ARP && !meta.has(Meta::DECAPSULATED) {
        local::arp(frame, meta.in_port, port, snapshot.gateway)
    } else {
        Verdict::Drop(DropReason::UnknownEtherType)
    }
}

#[inline(always)]
fn parse(frame: &mut Frame, meta: &mut Meta, station: MacAddr, unfinished: bool) -> Result<(), DropReason> {
    let bytes = frame.bytes();
    let head = bytes.first_chunk::<{ IP + ipv4::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
    if ethernet::ethertype(head) != ethernet::IPV4 {
        return Err(DropReason::UnknownEtherType);
    }
    if head[..6] != station.0 {
        return Err(DropReason::NotOurMac);
    }
    let ip = head.last_chunk::<{ ipv4::HEADER_LEN }>().expect("the header is the head's end");
    let header_len = if ip[0] == 0x45 {
        if !ipv4::checksum_holds(ip) {
            return Err(DropReason::BadIpChecksum);
        }
        ipv4::HEADER_LEN
    } else {
        header_with_options(&bytes[IP..])?
    };
    let end = IP + usize::from(ipv4::total_len(ip));
    let l4_at = IP + header_len;
    if end < l4_at || end > bytes.len() {
        return Err(DropReason::BadIpHeader);
    }
    let (src, dst, protocol) = (ipv4::src(ip), ipv4::dst(ip), ip[ipv4::PROTOCOL]);
    if is_martian(src) {
        return Err(DropReason::MartianSource);
    }
    let (mut ports, mut echo) = (0, 0);
    if be16(ip, ipv4::FRAGMENT) & ipv4::FRAGMENTED != 0 {
        meta.flags |= Meta::FRAGMENT;
    } else if protocol == ipv4::UDP {
        let l4 = bytes[l4_at..end].first_chunk::<{ udp::HEADER_LEN }>().ok_or(DropReason::BadL4Header)?;
        ports = be32(l4, 0);
    } else if protocol == ipv4::TCP {
        let l4 = bytes[l4_at..end].first_chunk::<{ tcp::HEADER_LEN }>().ok_or(DropReason::BadL4Header)?;
        ports = be32(l4, 0);
        meta.tcp_flags = l4[tcp::FLAGS];
    } else if protocol == ipv4::ICMP {
        let l4 = bytes[l4_at..end].first_chunk::<{ icmpv4::HEADER_LEN }>().ok_or(DropReason::BadL4Header)?;
        if icmpv4::follows_a_flow(l4[0]) {
            meta.flags |= Meta::ICMP_ERROR;
        }
        echo = icmpv4::echo_ports(l4);
    }
    meta.ip_header_len = header_len as u8;
    meta.key = [u64::from(src) << 32 | u64::from(dst), u64::from(ports | echo) << 32 | u64::from(protocol)];
    // Ethernet pads short packets; the padding is not forwarded.
    frame.set_len(end);
    if unfinished && ports != 0 {
        finish_checksum(frame, meta);
    }
    Ok(())
}

/// Header length of a header that is not the usual 20 bytes of version 4.
#[cold]
pub(super) fn header_with_options(packet: &[u8]) -> Result<usize, DropReason> {
    let header_len = ipv4::header_len(packet);
    if packet[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN {
        return Err(DropReason::BadIpHeader);
    }
    let header = packet.get(..header_len).ok_or(DropReason::BadIpHeader)?;
    if checksum::sum(header) == 0xffff { Ok(header_len) } else { Err(DropReason::BadIpChecksum) }
}

/// Sources no packet may have (RFC 1122, section 3.2.1.3): 0/8, 127/8, multicast and above.
#[inline(always)]
fn is_martian(src: u32) -> bool {
    src.wrapping_sub(0x0100_0000) >= 0xdf00_0000 || src >> 24 == 127
}

/// A device without a wire may pass on packets whose sender left the checksum to hardware: the field then holds the
/// pseudo header's sum (Linux: `CHECKSUM_PARTIAL`). Such a checksum is computed here; a finished one that looks the
/// same by chance comes out unchanged.
#[inline(always)]
fn finish_checksum(frame: &mut Frame, meta: &Meta) {
    let l4 = IP + usize::from(meta.ip_header_len);
    let at = l4 + if meta.protocol() == ipv4::TCP { tcp::CHECKSUM } else { udp::CHECKSUM };
    let bytes = frame.bytes_mut();
    let len = bytes.len() - l4;
    let pseudo =
        checksum::fold_narrow(checksum::pseudo_header(meta.src(), meta.dst(), meta.protocol(), len as u16) as u32);
    if be16(bytes, at) == pseudo {
        compute_checksum(bytes, l4, at, pseudo, meta.protocol());
    }
}

#[inline(never)]
fn compute_checksum(bytes: &mut [u8], l4: usize, at: usize, pseudo: u16, protocol: u8) {
    put16(bytes, at, 0);
    let sum = checksum::finish(u64::from(pseudo) + u64::from(checksum::sum(&bytes[l4..])));
    // A UDP checksum of zero would mean that there is none (RFC 768).
    put16(bytes, at, if sum == 0 && protocol == ipv4::UDP { 0xffff } else { sum });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn martians() {
        for address in ["0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
            assert!(is_martian(address.parse::<Ipv4Addr>().unwrap().into()), "{address}");
        }
        for address in ["1.0.0.0", "10.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.255"] {
            assert!(!is_martian(address.parse::<Ipv4Addr>().unwrap().into()), "{address}");
        }
    }
}
