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
        forward::{Forward, Inner, fate, unsent, wrap},
        fragments::Fragmented,
        ipv6::nat,
    },
    verdict::{Answer, DropReason, Verdict},
    wire::{ethernet, ipv6, put16, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;

impl Forward for u128 {
    #[inline]
    fn send(
        frame: &mut Frame,
        meta: &Meta<u128>,
        next_hop: &NextHop,
        ip_id: &mut u16,
        env: &Env<impl Recorder>,
    ) -> Result<(), Verdict> {
        let is_later_fragment = meta.has(Meta::FRAGMENT) && Self::piece(&frame.bytes()[IP..]).offset != 0;
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

    /// Only its sender may cut it (RFC 8200, section 5).
    fn too_long(_: &[u8], _: u16) -> Verdict {
        Verdict::Owed(Answer::PacketTooBig)
    }
}
