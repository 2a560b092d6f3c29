//! The last stage: checks what only the next hop tells, rewrites, and puts the new headers on.

use crate::{
    io::Frame,
    next_hop::{Kind, NextHop, OUTER_IP, OUTER_UDP},
    packet::{Batch, Meta},
    pipeline::Env,
    stages::{fragments, local, nat, service::Errors},
    verdict::{Answer, DropReason, Verdict},
    wire::{be16, checksum, ethernet, ipv4, put16, udp, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;
const TRANSLATED_FRAGMENT: u8 = Meta::TRANSLATE | Meta::FRAGMENT;

/// Sends every pending packet on its way. What needs an ICMP error is noted in `errors` and stays pending.
#[inline(never)]
pub fn run(batch: &mut Batch, errors: &mut Errors, ip_id: &mut u16, env: &Env) {
    for (at, (frame, meta)) in batch.frames.iter_mut().zip(&mut batch.metas).enumerate() {
        if !meta.is_pending() {
            continue;
        }
        let next_hop = env.snapshot.next_hop(meta.next_hop);
        match forward(frame, meta, next_hop, ip_id, env) {
            Ok(verdict) => meta.decide(verdict),
            Err(answer) => errors.push((at as u16, answer)),
        }
    }
}

#[inline(always)]
fn forward(frame: &mut Frame, meta: &Meta, next_hop: &NextHop, ip_id: &mut u16, env: &Env) -> Result<Verdict, Answer> {
    if !matches!(next_hop.kind, Kind::Plain | Kind::Overlay) {
        return not_forwarded(frame, meta, next_hop.kind);
    }
    let Some(packet) = frame.bytes_mut().get_mut(IP..) else { return Ok(Verdict::Drop(DropReason::Truncated)) };
    let ip: &mut [u8; ipv4::HEADER_LEN] = match packet.first_chunk_mut() {
        Some(ip) => ip,
        None => return Ok(Verdict::Drop(DropReason::Truncated)),
    };
    let (len, tos) = (ipv4::total_len(ip), ip[ipv4::TOS]);
    if len > next_hop.mtu {
        return Err(Answer::FragmentationNeeded);
    }
    // Its own packets a switch does not count down.
    let mut change = 0;
    if meta.answer.is_none() {
        if ip[ipv4::TTL] <= 1 {
            return Err(Answer::TimeExceeded);
        }
        ip[ipv4::TTL] -= 1;
        change = checksum::delta(0x0100, 0);
    }
    change += match meta.flags & (Meta::TRANSLATE | Meta::FRAGMENT) {
        Meta::TRANSLATE => nat::translate(packet, meta),
        TRANSLATED_FRAGMENT => fragments::translate(packet, meta),
        _ => 0,
    };
    let sum = be16(packet, ipv4::CHECKSUM);
    put16(packet, ipv4::CHECKSUM, checksum::update(sum, change));

    if next_hop.kind == Kind::Overlay {
        let hash = if meta.has(Meta::HASHED) { meta.hash } else { env.conntrack.hash(meta.key) };
        *ip_id = ip_id.wrapping_add(1);
        if !encapsulate(frame, next_hop, hash, *ip_id, len, tos) {
            return Ok(Verdict::Drop(DropReason::NoHeadroom));
        }
    } else {
        frame.bytes_mut()[..IP].copy_from_slice(&next_hop.header[vxlan::OVERHEAD..]);
    }
    Ok(match meta.answer {
        None => Verdict::Tx(next_hop.port),
        Some(answer) => Verdict::Answer(answer, next_hop.port),
    })
}

/// Replaces the Ethernet header by the outer headers and a new inner one. False if the frame has no room in front.
#[inline(always)]
fn encapsulate(frame: &mut Frame, next_hop: &NextHop, hash: u64, id: u16, inner_len: u16, inner_tos: u8) -> bool {
    if !frame.reframe(IP, next_hop.header.len()) {
        return false;
    }
    let Some(header) = frame.bytes_mut().first_chunk_mut::<{ crate::next_hop::HEADER_LEN }>() else { return false };
    *header = next_hop.header;
    // RFC 6040, section 4.1, normal mode: the outer header carries the inner one's ECN field.
    let ecn = inner_tos & ipv4::ECN_CE;
    let total_len = inner_len + vxlan::OVERHEAD as u16;
    header[OUTER_IP + ipv4::TOS] = ecn;
    put16(header, OUTER_IP + ipv4::TOTAL_LEN, total_len);
    put16(header, OUTER_IP + ipv4::ID, id);
    put16(header, OUTER_IP + ipv4::CHECKSUM, next_hop.outer_checksum(ecn, total_len, id));
    // RFC 7348, section 5: a source port from the dynamic range, the same for all packets of a flow.
    put16(header, OUTER_UDP, 0xc000 | (hash >> 17) as u16 & 0x3fff);
    put16(header, OUTER_UDP + udp::LEN, total_len - ipv4::HEADER_LEN as u16);
    true
}

#[cold]
fn not_forwarded(frame: &mut Frame, meta: &Meta, kind: Kind) -> Result<Verdict, Answer> {
    Ok(match kind {
        Kind::Local => match local::echo(frame, meta) {
            true => return Err(Answer::Echo),
            false => Verdict::Drop(DropReason::SwitchAddress),
        },
        Kind::Unreachable if meta.dst() >= 0xe000_0000 => Verdict::Drop(DropReason::ForwardedBroadcast),
        Kind::Unreachable => return Err(Answer::NetUnreachable),
        Kind::ServiceRange => Verdict::Drop(DropReason::NoService),
        Kind::Unresolved => Verdict::Drop(DropReason::Unresolved),
        Kind::Plain | Kind::Overlay => unreachable!("forwarded"),
    })
}
