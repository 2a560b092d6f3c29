//! Finds the headers, checks them, and takes out the five-tuple.

use crate::{
    flow::FiveTuple,
    io::Frame,
    packet::{Batch, Meta},
    pipeline::Env,
    record::{Recorder, Step},
    snapshot::{Family, PortEntry, Snapshot},
    spec::PortRole,
    stages::{
        decap, local, track,
        usual::{self, Arrival},
    },
    verdict::{DropReason, Verdict},
    wire::{be16, be32, be64, checksum, ethernet, icmpv4, ipv4, put16, sctp, tcp, udp},
};

const IP: usize = ethernet::HEADER_LEN;

/// Beside the flags of packets: some packet is of IPv6.
pub const IPV6: u16 = 1 << 8;

/// Decapsulates what comes over the overlay, parses every packet, and asks for the buckets of the flows.
///
/// Returns the flags of all packets together that are not [as usual](usual), and [`IPV6`], by which the pipeline knows whether
/// there is anything unusual among them.
pub fn run(batch: &mut Batch, env: &Env<impl Recorder>) -> u16 {
    let mut flags = 0;
    for (in_port, frames, metas) in batch.by_port() {
        let port = *env.snapshot.port(in_port);
        let overlay = env.snapshot.overlay.filter(|_| port.role == Some(PortRole::Uplink));
        let takes_native = env.snapshot.ipv4.masquerade.is_some();
        let arrival = Arrival { port, overlay, takes_native, vteps: &env.snapshot.vteps };
        flags |= match (overlay.is_some(), port.guard.is_some()) {
            (false, false) => arrive::<false, false>(frames, metas, &arrival, env),
            (false, true) => arrive::<false, true>(frames, metas, &arrival, env),
            (true, false) => arrive::<true, false>(frames, metas, &arrival, env),
            (true, true) => arrive::<true, true>(frames, metas, &arrival, env),
        };
    }
    flags
}

/// Parses what came in on one port. Not inlined, as no stage is: each then has the registers to itself.
#[inline(never)]
fn arrive<const OVERLAY: bool, const GUARD: bool>(
    frames: &mut [Frame],
    metas: &mut [Meta],
    arrival: &Arrival,
    env: &Env<impl Recorder>,
) -> u16 {
    let overlay = arrival.overlay.unwrap_or_default();
    let tracking = track::is_needed::<u32>(env);
    let mut flags = 0;
    track::asking(frames, metas, tracking, env, |frame, meta| {
        if usual::take::<OVERLAY, GUARD>(frame, meta, arrival, &overlay, env.recorder) {
            if tracking {
                track::hash(meta, env.conntrack);
            }
        } else {
            flags |= take(frame, meta, arrival, tracking, env);
        }
    });
    flags
}

/// Takes a packet of any kind, or decides what becomes of it otherwise. Returns its flags.
#[cold]
fn take(frame: &mut Frame, meta: &mut Meta, arrival: &Arrival, tracking: bool, env: &Env<impl Recorder>) -> u16 {
    let is_bare_ipv6 = frame.bytes().get(ethernet::TYPE..IP) == Some(&ethernet::IPV6.to_be_bytes());
    let parsed = match is_bare_ipv6 {
        true => Err(DropReason::UnknownEtherType),
        false => decap_and_parse(frame, meta, arrival, env.snapshot, env.recorder),
    };
    let taken = match parsed {
        Err(DropReason::UnknownEtherType) => Err(not_ipv4(frame, meta, &arrival.port, env.snapshot)),
        Err(DropReason::NotOurMac) => for_a_neighbour(frame, meta, arrival, env).map_err(Verdict::Drop),
        taken => taken.map_err(Verdict::Drop),
    };
    match taken {
        Ok(()) if tracking => track::hash(meta, env.conntrack),
        Ok(()) => {}
        Err(verdict) => meta.decide(verdict),
    }
    let of_ipv6 = if meta.verdict() == Verdict::Ipv6 { IPV6 } else { 0 };
    u16::from(meta.flags) | of_ipv6
}

/// A pod that was behind a bridge still knows its neighbours there by their own addresses: what it sends them is parsed as
/// if it were sent to us.
fn for_a_neighbour(
    frame: &mut Frame,
    meta: &mut Meta,
    arrival: &Arrival,
    env: &Env<impl Recorder>,
) -> Result<(), DropReason> {
    let is_to_one_station = frame.bytes()[0] & 1 == 0;
    if !is_to_one_station || env.snapshot.ipv4.on_link.is_none() || arrival.port.role != Some(PortRole::Pod) {
        return Err(DropReason::NotOurMac);
    }
    frame.bytes_mut()[..6].copy_from_slice(&arrival.port.mac.0);
    decap_and_parse(frame, meta, arrival, env.snapshot, env.recorder)
}

/// Checks a packet of any kind and takes out what its headers say.
pub(super) fn decap_and_parse(
    frame: &mut Frame,
    meta: &mut Meta,
    arrival: &Arrival,
    snapshot: &Snapshot,
    recorder: impl Recorder,
) -> Result<(), DropReason> {
    let port = &arrival.port;
    let (mut station, mut native_on) = (port.mac.to_number(), None);
    if let Some(overlay) = &arrival.overlay {
        if decap::strip(frame, meta, port, overlay, arrival.vteps, recorder)? {
            station = overlay.mac.to_number();
        } else {
            native_on = Some(overlay.local).filter(|_| !arrival.takes_native);
        }
    }
    let packet = parse(frame.bytes(), station, port)?;
    // Ethernet pads short packets; the padding is not forwarded.
    frame.keep(0, packet.end);
    if packet.unfinished {
        finish_checksum(frame, packet.protocol, packet.header_len);
    }
    meta.key = [packet.addresses, u64::from(packet.ports) << 32 | u64::from(packet.protocol)];
    meta.ip_header_len = packet.header_len;
    meta.tcp_flags = packet.tcp_flags;
    meta.flags |= packet.flags;
    recorder.note(|| Step::Headers {
        tuple: FiveTuple::<u32>::from_words(meta.key).told(),
        tcp_flags: meta.tcp_flags,
        fragment: meta.has(Meta::FRAGMENT),
    });
    if let Some(guard) = &port.guard {
        if meta.src() != guard.address {
            return Err(DropReason::SpoofedAddress);
        }
        if is_for_a_vtep(frame, meta, snapshot) {
            return Err(DropReason::VtepOnly);
        }
    }
    if native_on == Some(meta.dst()) { Err(DropReason::NotVxlan) } else { Ok(()) }
}

/// Whether a pod tries to be a VTEP. What it sends could leave with its node's address as the source (masqueraded, by us or
/// by the node's kernel), and then its inner frame would be taken for another pod's. Without its first fragment a
/// datagram is never put together.
fn is_for_a_vtep(frame: &Frame, meta: &Meta, snapshot: &Snapshot) -> bool {
    let ip = &frame.bytes()[IP..];
    let is_first = be16(ip, ipv4::FRAGMENT) & ipv4::OFFSET == 0;
    let l4 = &ip[usize::from(meta.ip_header_len)..];
    is_first
        && l4.len() >= udp::HEADER_LEN
        && u32::is_vtep(snapshot, meta.dst(), be16(l4, udp::DST_PORT), meta.protocol())
}

fn not_ipv4(frame: &mut Frame, meta: &Meta, port: &PortEntry, snapshot: &Snapshot) -> Verdict {
    match ethernet::ethertype(frame.bytes()) {
        ethernet::ARP if !meta.has(Meta::DECAPSULATED) => local::arp(frame, meta.in_port, port, snapshot),
        ethernet::IPV6 if snapshot.has_ipv6 => Verdict::Ipv6,
        _ => Verdict::Drop(DropReason::UnknownEtherType),
    }
}

/// What the headers say.
struct Packet {
    addresses: u64,
    ports: u32,
    protocol: u8,
    tcp_flags: u8,
    /// [`Meta::FRAGMENT`], [`Meta::ICMP_ERROR`] or 0.
    flags: u8,
    header_len: u8,
    /// Where it ends in the frame.
    end: usize,
    /// Its TCP, UDP or SCTP checksum is to be computed.
    unfinished: bool,
}

/// Checks the headers of a packet for `station` and takes out what is in them.
fn parse(bytes: &[u8], station: u64, port: &PortEntry) -> Result<Packet, DropReason> {
    let head = bytes.first_chunk::<{ IP + ipv4::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
    if ethernet::ethertype(head) != ethernet::IPV4 {
        return Err(DropReason::UnknownEtherType);
    }
    if ethernet::destination(head) != station {
        return Err(DropReason::NotOurMac);
    }
    if port.guard.is_some_and(|guard| ethernet::source_number(head) != guard.mac) {
        return Err(DropReason::SpoofedMac);
    }
    let header_len = sound_header(&bytes[IP..])?;
    let ip = &bytes[IP..][..header_len];
    let end = IP + usize::from(ipv4::total_len(ip));
    let l4 = bytes.get(IP + header_len..end).ok_or(DropReason::BadIpHeader)?;
    let (addresses, protocol) = (be64(ip, ipv4::SRC), ip[ipv4::PROTOCOL]);
    if is_martian(ipv4::src(ip)) {
        return Err(DropReason::MartianSource);
    }
    let (mut ports, mut tcp_flags, mut flags, mut unfinished) = (0, 0, 0, false);
    let pseudo = || checksum::pseudo_header((addresses >> 32) as u32, addresses as u32, protocol, l4.len() as u16);
    if be16(ip, ipv4::FRAGMENT) & ipv4::FRAGMENTED != 0 {
        flags = Meta::FRAGMENT;
    } else if protocol == ipv4::UDP {
        let l4 = l4.first_chunk::<{ udp::HEADER_LEN }>().ok_or(DropReason::BadL4Header)?;
        ports = be32(l4, 0);
        unfinished = be16(l4, udp::CHECKSUM) == checksum::fold(pseudo());
    } else if protocol == ipv4::TCP {
        let l4 = l4.first_chunk::<{ tcp::HEADER_LEN }>().ok_or(DropReason::BadL4Header)?;
        (ports, tcp_flags) = (be32(l4, 0), l4[tcp::FLAGS]);
        unfinished = be16(l4, tcp::CHECKSUM) == checksum::fold(pseudo());
    } else if protocol == ipv4::ICMP {
        let header = l4.first_chunk().ok_or(DropReason::BadL4Header)?;
        ports = icmpv4::echo_ports(header);
        flags = if icmpv4::follows_a_flow(header[0]) { Meta::ICMP_ERROR } else { 0 };
    } else if protocol == ipv4::SCTP {
        let header = l4.first_chunk().ok_or(DropReason::BadL4Header)?;
        (ports, tcp_flags) = (be32(header, 0), sctp::flags(l4));
        unfinished = sctp::is_unfinished(header);
    }
    unfinished &= port.unfinished_checksums;
    Ok(Packet { addresses, ports, protocol, tcp_flags, flags, header_len: header_len as u8, end, unfinished })
}

/// The length of an IPv4 header, if it is sound.
pub(super) fn sound_header(packet: &[u8]) -> Result<usize, DropReason> {
    let header_len = ipv4::header_len(packet);
    if packet[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN {
        return Err(DropReason::BadIpHeader);
    }
    let header = packet.get(..header_len).ok_or(DropReason::BadIpHeader)?;
    if checksum::sum(header) == 0xffff { Ok(header_len) } else { Err(DropReason::BadIpChecksum) }
}

/// Whether no packet may have this source (RFC 1122, section 3.2.1.3): 0/8, 127/8, multicast and above.
#[inline(always)]
pub(super) fn is_martian(src: u32) -> bool {
    let first = (src >> 24) as u8;
    first.wrapping_sub(1) >= 223 || first == 127
}

/// A device without a wire may pass on packets whose sender left the checksum to hardware: the field then holds the
/// pseudo header's sum (Linux: `CHECKSUM_PARTIAL`), or that of SCTP zero. Such a checksum is computed here; a finished one that looks the
/// same by chance comes out unchanged.
#[inline(never)]
pub(super) fn finish_checksum(frame: &mut Frame, protocol: u8, header_len: u8) {
    let l4 = &mut frame.bytes_mut()[IP + usize::from(header_len)..];
    let Some(field) = checksum::field(protocol) else { return sctp::finish(l4) };
    // The pseudo header's sum, which the field holds now, is part of what is to be summed.
    let sum = checksum::finish(checksum::sum(l4).into());
    put16(l4, field, checksum::as_sent(sum, protocol));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn martians() {
        let is_martian = |address: &str| is_martian(address.parse::<Ipv4Addr>().unwrap().into());
        for address in ["0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
            assert!(is_martian(address), "{address}");
        }
        for address in ["1.0.0.0", "10.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.255"] {
            assert!(!is_martian(address), "{address}");
        }
    }
}
