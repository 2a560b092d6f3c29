//! The last stage: checks what only the next hop tells, rewrites, and puts the new headers on.

use std::hint::cold_path;

use crate::{
    flow::FiveTuple,
    io::Frame,
    next_hop::{HEADER_LEN, Kind, NextHop, OUTER_IP, OUTER_UDP},
    packet::{Batch, Meta},
    pipeline::Env,
    record::{Recorder, Step},
    stages::{
        fragments,
        local::{self, Speak},
        nat, oversize, relay,
        route::Routes,
    },
    verdict::{Answer, DropReason, Verdict},
    wire::{ethernet, ipv4, put16, udp, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;

/// A family whose packets are sent on.
pub trait Forward: Speak {
    /// Sends a packet to its next hop, or says what becomes of it otherwise.
    fn send(
        frame: &mut Frame,
        meta: &Meta<Self>,
        next_hop: &NextHop,
        ip_id: &mut u16,
        env: &Env<impl Recorder>,
    ) -> Result<(), Verdict>;

    /// What becomes of a packet that is longer than `mtu`.
    fn too_long(packet: &[u8], mtu: u16) -> Verdict;
}

/// Routes every pending packet and sends it on its way, or finds that its sender is owed an answer, or that it has to be cut.
#[inline(never)]
pub fn run<N: Forward>(batch: &mut Batch<N>, ip_id: &mut u16, env: &Env<impl Recorder>) {
    let mut id = *ip_id;
    let mut owes = false;
    let routes = Routes::of(env.snapshot);
    for (frame, meta) in batch.packets() {
        if meta.is_pending() {
            let next_hop = routes.next_hop(meta, env);
            let verdict = match N::send(frame, meta, next_hop, &mut id, env) {
                Ok(()) => next_hop.sent,
                Err(fate) => {
                    cold_path();
                    owes |= matches!(fate, Verdict::Owed(_) | Verdict::Oversized);
                    fate.into()
                }
            };
            meta.decide(verdict);
        }
    }
    *ip_id = id;
    batch.owes |= owes;
}

impl Forward for u32 {
    #[inline(always)]
    fn send(
        frame: &mut Frame,
        meta: &Meta,
        next_hop: &NextHop,
        ip_id: &mut u16,
        env: &Env<impl Recorder>,
    ) -> Result<(), Verdict> {
        let Some((head, rest)) = frame.bytes_mut().split_first_chunk_mut::<{ IP + ipv4::HEADER_LEN }>() else {
            return Err(fate(Verdict::Drop(DropReason::Truncated)));
        };
        let (ethernet, ip) = ethernet::split(head);
        let inner = Inner { ecn: ip[ipv4::TOS] & ipv4::ECN_CE, total_len: ipv4::total_len(ip) };
        // To what sends nothing, nothing may go: its MTU is 0.
        if inner.total_len > next_hop.mtu {
            return Err(unsent(frame, meta, next_hop, env));
        }
        if ip[ipv4::TTL] <= 1 {
            return Err(fate(Verdict::Owed(Answer::TimeExceeded)));
        }
        ipv4::decrement_ttl(ip);
        // Where the endpoint's node answers directly, it translates.
        if meta.has(Meta::TRANSLATE) && next_hop.kind != Kind::Relay {
            let options = usize::from(meta.ip_header_len) - ipv4::HEADER_LEN;
            let translate = if meta.has(Meta::FRAGMENT) { fragments::translate } else { nat::translate };
            translate(ip, &mut rest[options..], meta);
            env.recorder.note(|| Step::Rewritten { to: FiveTuple::<u32>::from_words(meta.other).reversed().told() });
        }
        if next_hop.kind == Kind::Plain {
            ethernet.copy_from_slice(&next_hop.header[vxlan::OVERHEAD..]);
            return Ok(());
        }
        let hash = if meta.has(Meta::HASHED) { meta.hash } else { env.conntrack.hash(meta.key) };
        wrap(frame, next_hop, inner, hash, ip_id, env)?;
        if next_hop.kind == Kind::Relay {
            cold_path();
            relay::name(frame, vxlan::OVERHEAD, (meta.other[0] >> 32) as u32);
        }
        Ok(())
    }

    fn too_long(packet: &[u8], mtu: u16) -> Verdict {
        oversize::verdict(packet, mtu)
    }
}

/// Puts a packet into a VXLAN packet for its next hop; `hash` is its flow's.
#[inline(always)]
pub(super) fn wrap(
    frame: &mut Frame,
    next_hop: &NextHop,
    inner: Inner,
    hash: u64,
    ip_id: &mut u16,
    env: &Env<impl Recorder>,
) -> Result<(), Verdict> {
    *ip_id = ip_id.wrapping_add(1);
    if !encapsulate(frame, next_hop, inner, hash, *ip_id) {
        return Err(fate(Verdict::Drop(DropReason::NoHeadroom)));
    }
    env.recorder.note(|| Step::Encapsulated { vtep: next_hop.vtep().unwrap_or(0), port: entropy(hash) });
    Ok(())
}

/// Replaces the Ethernet header by the outer headers and a new inner one. False if the frame has no room in front.
#[inline(always)]
fn encapsulate(frame: &mut Frame, next_hop: &NextHop, inner: Inner, hash: u64, id: u16) -> bool {
    let Some(header) = frame.replace_head::<HEADER_LEN>(IP) else { return false };
    let total_len = inner.total_len + vxlan::OVERHEAD as u16;
    *header = next_hop.header;
    header[OUTER_IP + ipv4::TOS] = inner.ecn;
    put16(header, OUTER_IP + ipv4::TOTAL_LEN, total_len);
    put16(header, OUTER_IP + ipv4::ID, id);
    put16(header, OUTER_IP + ipv4::CHECKSUM, next_hop.outer_checksum(inner.ecn, total_len, id));
    put16(header, OUTER_UDP, entropy(hash));
    put16(header, OUTER_UDP + udp::LEN, total_len - ipv4::HEADER_LEN as u16);
    true
}

/// What the outer header has to know of the inner one.
#[derive(Clone, Copy)]
pub(super) struct Inner {
    /// RFC 6040, section 4.1, normal mode: the outer header carries the inner one's ECN field.
    pub(super) ecn: u8,
    pub(super) total_len: u16,
}

/// RFC 7348, section 5: a source port from the dynamic range, the same for all packets of a flow.
#[inline(always)]
fn entropy(hash: u64) -> u16 {
    0xc000 | (hash >> 17) as u16 & 0x3fff
}

/// Keeps what seldom happens out of the way of what mostly does.
#[cold]
#[inline(never)]
pub(super) fn fate(verdict: Verdict) -> Verdict {
    verdict
}

/// What becomes of a packet that is too long for its next hop, or has none.
#[cold]
pub(super) fn unsent<N: Forward>(
    frame: &mut Frame,
    meta: &Meta<N>,
    next_hop: &NextHop,
    env: &Env<impl Recorder>,
) -> Verdict {
    let services = &env.snapshot.of::<N>().services;
    match next_hop.kind {
        Kind::Plain | Kind::Overlay | Kind::Relay => N::too_long(&frame.bytes()[IP..], next_hop.mtu),
        Kind::Local if local::echo(frame, meta) => Verdict::Owed(Answer::Echo),
        Kind::Local => Verdict::Drop(DropReason::SwitchAddress),
        Kind::Unreachable if N::is_group(meta.dst()) => Verdict::Drop(DropReason::ForwardedBroadcast),
        Kind::Unreachable => Verdict::Owed(Answer::NetUnreachable),
        // As kube-proxy has it: refused if the address is a service's, or the sender would wait in vain.
        Kind::ServiceRange if services.has_vip(meta.dst()) => Verdict::Owed(Answer::PortUnreachable),
        Kind::ServiceRange => Verdict::Drop(DropReason::NoService),
        Kind::Unresolved => Verdict::Drop(DropReason::Unresolved),
    }
}
