//! The last stage: checks what only the next hop tells, rewrites, and puts the new headers on.

use std::hint::cold_path;

use crate::{
    flow::FiveTuple,
    io::Frame,
    next_hop::{HEADER_LEN, Kind, NextHop, OUTER_IP, OUTER_UDP},
    packet::{Batch, Meta},
    pipeline::Env,
    record::{Recorder, Step},
    stages::{fragments, local, nat, oversize, relay, route},
    verdict::{Answer, DropReason, PackedVerdict, Verdict},
    wire::{ethernet, ipv4, put16, udp, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;

/// Routes every pending packet and sends it on its way, or finds that its sender is owed an answer, or that it has to be cut.
#[inline(never)]
pub fn run(batch: &mut Batch, ip_id: &mut u16, env: &Env<impl Recorder>) {
    let mut id = *ip_id;
    let mut owes = false;
    for (frame, meta) in batch.packets() {
        if meta.is_pending() {
            let next_hop = route::next_hop(meta, env);
            let verdict = forward(frame, meta, next_hop, &mut id, env);
            meta.decide(verdict);
            if verdict.is_unfinished() {
                cold_path();
                owes = true;
            }
        }
    }
    *ip_id = id;
    batch.owes |= owes;
}

#[inline(always)]
fn forward(
    frame: &mut Frame,
    meta: &mut Meta,
    next_hop: &NextHop,
    ip_id: &mut u16,
    env: &Env<impl Recorder>,
) -> PackedVerdict {
    match next_hop.kind {
        Kind::Plain | Kind::Overlay => send(frame, meta, next_hop, ip_id, env),
        Kind::Relay => relay(frame, meta, next_hop, ip_id, env),
        kind => not_forwarded(frame, meta, kind, env).into(),
    }
}

/// Sends a packet on as it is, with the name of the endpoint that its flow has.
#[inline(never)]
fn relay(
    frame: &mut Frame,
    meta: &mut Meta,
    next_hop: &NextHop,
    ip_id: &mut u16,
    env: &Env<impl Recorder>,
) -> PackedVerdict {
    let endpoint = (meta.other[0] >> 32) as u32;
    meta.flags &= !Meta::TRANSLATE;
    let verdict = send(frame, meta, next_hop, ip_id, env);
    if matches!(verdict.into(), Verdict::Tx(_)) {
        relay::name(frame, vxlan::OVERHEAD, endpoint);
    }
    verdict
}

#[inline(always)]
fn send(
    frame: &mut Frame,
    meta: &Meta,
    next_hop: &NextHop,
    ip_id: &mut u16,
    env: &Env<impl Recorder>,
) -> PackedVerdict {
    let Some((head, rest)) = frame.bytes_mut().split_first_chunk_mut::<{ IP + ipv4::HEADER_LEN }>() else {
        return Verdict::Drop(DropReason::Truncated).into();
    };
    let (ethernet, ip) = ethernet::split(head);
    if ipv4::total_len(ip) > next_hop.mtu {
        return oversize::verdict(ip, next_hop.mtu).into();
    }
    // Its own packets a switch does not count down.
    if meta.answer.is_none() {
        if ip[ipv4::TTL] <= 1 {
            return Verdict::Owed(Answer::TimeExceeded).into();
        }
        ipv4::decrement_ttl(ip);
    }
    if meta.has(Meta::TRANSLATE) {
        let options = usize::from(meta.ip_header_len) - ipv4::HEADER_LEN;
        let translate = if meta.has(Meta::FRAGMENT) { fragments::translate } else { nat::translate };
        translate(ip, &mut rest[options..], meta);
        env.recorder.note(|| Step::Rewritten { to: FiveTuple::from_words(meta.other).reversed() });
    }
    match next_hop.kind {
        Kind::Overlay | Kind::Relay => {
            let hash = if meta.has(Meta::HASHED) { meta.hash } else { env.conntrack.hash(meta.key) };
            *ip_id = ip_id.wrapping_add(1);
            if !encapsulate(frame, next_hop, hash, *ip_id) {
                return Verdict::Drop(DropReason::NoHeadroom).into();
            }
            env.recorder.note(|| Step::Encapsulated { vtep: next_hop.vtep().unwrap_or(0), port: entropy(hash) });
        }
        _ => ethernet.copy_from_slice(&next_hop.header[vxlan::OVERHEAD..]),
    }
    match meta.answer {
        None => Verdict::Tx(next_hop.port).into(),
        Some(answer) => Verdict::Answer(answer, next_hop.port).into(),
    }
}

/// Replaces the Ethernet header by the outer headers and a new inner one. False if the frame has no room in front.
#[inline(always)]
fn encapsulate(frame: &mut Frame, next_hop: &NextHop, hash: u64, id: u16) -> bool {
    if !frame.reframe(IP, HEADER_LEN) {
        return false;
    }
    let Some(head) = frame.bytes_mut().first_chunk_mut::<{ HEADER_LEN + ipv4::HEADER_LEN }>() else { return false };
    let (header, inner) = head.split_at_mut(HEADER_LEN);
    // RFC 6040, section 4.1, normal mode: the outer header carries the inner one's ECN field.
    let ecn = inner[ipv4::TOS] & ipv4::ECN_CE;
    let total_len = ipv4::total_len(inner) + vxlan::OVERHEAD as u16;
    header.copy_from_slice(&next_hop.header);
    header[OUTER_IP + ipv4::TOS] = ecn;
    put16(header, OUTER_IP + ipv4::TOTAL_LEN, total_len);
    put16(header, OUTER_IP + ipv4::ID, id);
    put16(header, OUTER_IP + ipv4::CHECKSUM, next_hop.outer_checksum(ecn, total_len, id));
    put16(header, OUTER_UDP, entropy(hash));
    put16(header, OUTER_UDP + udp::LEN, total_len - ipv4::HEADER_LEN as u16);
    true
}

/// RFC 7348, section 5: a source port from the dynamic range, the same for all packets of a flow.
#[inline(always)]
fn entropy(hash: u64) -> u16 {
    0xc000 | (hash >> 17) as u16 & 0x3fff
}

#[cold]
fn not_forwarded(frame: &mut Frame, meta: &Meta, kind: Kind, env: &Env<impl Recorder>) -> Verdict {
    match kind {
        Kind::Local if local::echo(frame, meta) => Verdict::Owed(Answer::Echo),
        Kind::Local => Verdict::Drop(DropReason::SwitchAddress),
        Kind::Unreachable if meta.dst() >= 0xe000_0000 => Verdict::Drop(DropReason::ForwardedBroadcast),
        Kind::Unreachable => Verdict::Owed(Answer::NetUnreachable),
        // As kube-proxy has it: refused if the address is a service's, or the sender would wait in vain.
        Kind::ServiceRange if env.snapshot.services.has_vip(meta.dst()) => Verdict::Owed(Answer::PortUnreachable),
        Kind::ServiceRange => Verdict::Drop(DropReason::NoService),
        Kind::Unresolved => Verdict::Drop(DropReason::Unresolved),
        Kind::Plain | Kind::Overlay | Kind::Relay => unreachable!("forwarded"),
    }
}
