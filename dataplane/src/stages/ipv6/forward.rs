//! Sends IPv6 packets on their way: as `stages/forward.rs`, over its next hops.

use std::hint::cold_path;

use crate::{
    flow::FiveTuple,
    io::Frame,
    next_hop::{Kind, NextHop},
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step},
    stages::{
        forward::{Inner, fate, wrap},
        ipv6::{local, nat, parse},
    },
    verdict::{Answer, DropReason, Verdict},
    wire::{ethernet, ipv6, put16, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;

/// Sends a packet to its next hop, or says what becomes of it otherwise.
#[inline]
pub fn send(
    frame: &mut Frame,
    meta: &Meta<u128>,
    next_hop: &NextHop,
    ip_id: &mut u16,
    env: &Env<impl Recorder>,
) -> Result<(), Verdict> {
    let is_later_fragment = meta.has(Meta::FRAGMENT) && parse::piece(&frame.bytes()[IP..]).offset != 0;
    let Some((head, rest)) = frame.bytes_mut().split_first_chunk_mut::<{ IP + ipv6::HEADER_LEN }>() else {
        return Err(fate(Verdict::Drop(DropReason::Truncated)));
    };
    let (ethernet, ip) = head.split_first_chunk_mut::<IP>().expect("it is longer");
    let ip: &mut [u8; ipv6::HEADER_LEN] = ip.try_into().expect("the rest is a header");
    let len = ipv6::total_len(ip);
    // To what sends nothing, nothing may go: its MTU is 0.
    if len > usize::from(next_hop.mtu) {
        cold_path();
        return Err(unsent(frame, meta, next_hop, env));
    }
    if ip[ipv6::HOP_LIMIT] <= 1 {
        return Err(fate(Verdict::Owed(Answer::TimeExceeded)));
    }
    ip[ipv6::HOP_LIMIT] -= 1;
    let inner = Inner { ecn: ipv6::traffic_class(ip) & ipv6::ECN_CE, total_len: len as u16 };
    if meta.has(Meta::TRANSLATE) {
        let extensions = usize::from(meta.ip_header_len) - ipv6::HEADER_LEN;
        if is_later_fragment {
            nat::translate_portless(ip, meta);
        } else {
            nat::translate(ip, &mut rest[extensions..], meta);
        }
        env.recorder.note(|| Step::Rewritten { to: FiveTuple::<u128>::from_words(meta.other).reversed().told() });
    }
    if next_hop.kind == Kind::Plain {
        ethernet.copy_from_slice(&next_hop.header[vxlan::OVERHEAD..]);
        put16(ethernet, ethernet::TYPE, ethernet::IPV6);
        return Ok(());
    }
    let hash = if meta.has(Meta::HASHED) { meta.hash } else { env.conntrack.hash(meta.key) };
    wrap(frame, next_hop, inner, hash, ip_id, env)?;
    put16(frame.bytes_mut(), vxlan::OVERHEAD + ethernet::TYPE, ethernet::IPV6);
    Ok(())
}

/// What becomes of a packet that is too long for its next hop, which only its sender may cut (RFC 8200, section 5), or has none.
#[cold]
fn unsent(frame: &mut Frame, meta: &Meta<u128>, next_hop: &NextHop, env: &Env<impl Recorder>) -> Verdict {
    match next_hop.kind {
        Kind::Plain | Kind::Overlay | Kind::Relay => Verdict::Owed(Answer::PacketTooBig),
        Kind::Local if local::echo(frame, meta) => Verdict::Owed(Answer::Echo),
        Kind::Local => Verdict::Drop(DropReason::SwitchAddress),
        Kind::Unreachable if ipv6::is_multicast(meta.dst()) => Verdict::Drop(DropReason::ForwardedBroadcast),
        Kind::Unreachable => Verdict::Owed(Answer::NetUnreachable),
        // As of IPv4.
        Kind::ServiceRange if env.snapshot.ipv6.services.has_vip(meta.dst()) => Verdict::Owed(Answer::PortUnreachable),
        Kind::ServiceRange => Verdict::Drop(DropReason::NoService),
        Kind::Unresolved => Verdict::Drop(DropReason::Unresolved),
    }
}
