//! Finds the headers of IPv6 packets, checks them, and takes out the five-tuple.

use crate::{
    flow::FiveTuple,
    io::Frame,
    packet::{Batch, Meta},
    pipeline::Env,
    record::{Recorder, Step},
    snapshot::{PortEntry, Snapshot},
    spec::PortRole,
    stages::{
        fragments::{Fragmented, Piece},
        ipv6::local,
        parse::finish_checksum,
        track,
    },
    verdict::{DropReason, Verdict},
    wire::{be16, checksum, ethernet, icmpv6, ipv4, ipv6, sctp, tcp, udp},
};

const IP: usize = ethernet::HEADER_LEN;

/// Parses every packet, and asks for the buckets of the flows. Outer headers are gone already.
///
/// Returns the flags of all packets together.
#[inline(never)]
pub fn run(batch: &mut Batch<u128>, env: &Env<impl Recorder>) -> u8 {
    let tracking = track::is_needed::<u128>(env);
    let mut flags = 0;
    track::asking(&mut batch.frames, &mut batch.metas, tracking, env, |frame, meta| {
        let port = env.snapshot.port(meta.in_port);
        match take(frame, meta, port, env.snapshot, env.recorder) {
            Ok(()) if tracking => track::hash(meta, env.conntrack),
            Ok(()) => {}
            Err(verdict) => meta.decide(verdict),
        }
        flags |= meta.flags;
    });
    flags
}

/// Checks a packet and takes out what its headers say, or says what becomes of it otherwise.
fn take(
    frame: &mut Frame,
    meta: &mut Meta<u128>,
    port: &PortEntry,
    snapshot: &Snapshot,
    recorder: impl Recorder,
) -> Result<(), Verdict> {
    let packet = parse(frame.bytes()).map_err(Verdict::Drop)?;
    let FiveTuple { src, dst, .. } = packet.tuple;
    // Ethernet pads short packets; the padding is not forwarded.
    frame.keep(0, packet.end);
    if port.guard.is_some_and(|guard| ethernet::source_number(frame.bytes()) != guard.mac) {
        return Err(Verdict::Drop(DropReason::SpoofedMac));
    }
    if packet.is_of_the_link {
        return Err(local::discovery(frame, meta, port, snapshot));
    }
    let station = match snapshot.overlay.filter(|_| meta.has(Meta::DECAPSULATED)) {
        Some(overlay) => overlay.mac,
        None => port.mac,
    };
    if ethernet::destination(frame.bytes()) != station.to_number() {
        return Err(Verdict::Drop(DropReason::NotOurMac));
    }
    // The underlay is of IPv4, and what is for a link's own addresses is not for another link.
    if port.role == Some(PortRole::Uplink) && !meta.has(Meta::DECAPSULATED) {
        return Err(Verdict::Drop(DropReason::NotVxlan));
    }
    if ipv6::is_link_local(dst) && meta.has(Meta::DECAPSULATED) {
        return Err(Verdict::Drop(DropReason::SwitchAddress));
    }
    // What is from a link-local address stays on the link (RFC 4291, section 2.5.6): it may ask us, and nobody else.
    let asks_us = ipv6::is_link_local(src) && dst == snapshot.ipv6.gateway && !meta.has(Meta::DECAPSULATED);
    if port.guard.is_some_and(|guard| src != guard.ipv6 && !asks_us) {
        return Err(Verdict::Drop(DropReason::SpoofedAddress));
    }
    if ipv6::is_martian(src) || ipv6::is_link_local(src) && !asks_us {
        return Err(Verdict::Drop(DropReason::MartianSource));
    }
    meta.key = packet.tuple.to_words();
    meta.ip_header_len = packet.header_len;
    meta.tcp_flags = packet.tcp_flags;
    meta.flags |= packet.flags;
    recorder.note(|| Step::Headers {
        tuple: packet.tuple.told(),
        tcp_flags: meta.tcp_flags,
        fragment: meta.has(Meta::FRAGMENT),
    });
    if packet.looks_unfinished && port.unfinished_checksums {
        finish_checksum(frame, packet.tuple.protocol, packet.header_len);
    }
    Ok(())
}

impl Fragmented for u128 {
    fn piece(packet: &[u8]) -> Piece {
        let fragment = ipv6::transport(packet).and_then(|transport| transport.fragment);
        let fragment = fragment.expect("parsing has found its header");
        Piece { id: fragment.id, offset: fragment.offset, is_last: !fragment.more }
    }
}

/// What the headers say.
struct Packet {
    tuple: FiveTuple<u128>,
    tcp_flags: u8,
    /// [`Meta::FRAGMENT`], [`Meta::ICMP_ERROR`] or 0.
    flags: u8,
    /// Bytes before the transport header.
    header_len: u8,
    /// Where it ends in the frame.
    end: usize,
    /// Its TCP, UDP or SCTP checksum may have been left to hardware.
    looks_unfinished: bool,
    /// A message of neighbour discovery or multicast listener discovery, which nobody sends on.
    is_of_the_link: bool,
}

/// Checks the headers of a packet and takes out what is in them. Inlined, so that it need not be put into memory.
#[inline(always)]
fn parse(bytes: &[u8]) -> Result<Packet, DropReason> {
    let packet = &bytes[IP..];
    if packet.len() < ipv6::HEADER_LEN {
        return Err(DropReason::Truncated);
    }
    let transport = ipv6::transport(packet).ok_or(DropReason::BadIpHeader)?;
    let len = ipv6::total_len(packet);
    let header_len = u8::try_from(transport.offset).map_err(|_| DropReason::BadIpHeader)?;
    let l4 = packet.get(transport.offset..len).ok_or(DropReason::BadIpHeader)?;
    let (src, dst, protocol) = (ipv6::src(packet), ipv6::dst(packet), transport.protocol);
    let (mut ports, mut tcp_flags, mut flags) = ([0; 2], 0, 0);
    let (mut looks_unfinished, mut is_of_the_link) = (false, false);
    let pseudo = || checksum::pseudo_header_v6(src, dst, protocol, l4.len() as u32);
    let two = |l4: &[u8]| [be16(l4, 0), be16(l4, 2)];
    if !transport.is_whole() {
        flags = Meta::FRAGMENT;
    } else if protocol == ipv4::UDP {
        let l4 = l4.first_chunk::<{ udp::HEADER_LEN }>().ok_or(DropReason::BadL4Header)?;
        ports = two(l4);
        looks_unfinished = be16(l4, udp::CHECKSUM) == checksum::fold(pseudo());
    } else if protocol == ipv4::TCP {
        let l4 = l4.first_chunk::<{ tcp::HEADER_LEN }>().ok_or(DropReason::BadL4Header)?;
        (ports, tcp_flags) = (two(l4), l4[tcp::FLAGS]);
        looks_unfinished = be16(l4, tcp::CHECKSUM) == checksum::fold(pseudo());
    } else if protocol == ipv6::ICMPV6 {
        let header = l4.first_chunk().ok_or(DropReason::BadL4Header)?;
        let echo = icmpv6::echo_ports(header);
        ports = [(echo >> 16) as u16, echo as u16];
        flags = if icmpv6::follows_a_flow(header[0]) { Meta::ICMP_ERROR } else { 0 };
        is_of_the_link = icmpv6::is_of_the_link(header[0]);
    } else if protocol == ipv4::SCTP {
        let header = l4.first_chunk().ok_or(DropReason::BadL4Header)?;
        (ports, tcp_flags) = (two(header), sctp::flags(l4));
        looks_unfinished = sctp::is_unfinished(header);
    }
    let [src_port, dst_port] = ports;
    let tuple = FiveTuple { src, dst, src_port, dst_port, protocol };
    Ok(Packet { tuple, tcp_flags, flags, header_len, end: IP + len, looks_unfinished, is_of_the_link })
}
