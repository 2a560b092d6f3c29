//! Drops what is beyond the bandwidth limits of pods' ports. Only called where some port has one.

use crate::{
    packet::Batch,
    pipeline::Env,
    record::{Recorder, Step},
    spec::Rate,
    tables::limits::{Limit, Limits},
    verdict::{DropReason, Verdict},
};

/// What a port's station sends, right after parsing: before it can open flows.
#[inline(never)]
pub fn egress<R: Recorder>(batch: &mut Batch, limits: &Limits, env: &Env<R>) {
    for (in_port, frames, metas) in batch.by_port() {
        let Some(limit) = &limits.port(in_port).egress else { continue };
        for (frame, meta) in
            frames.iter().zip(metas).filter(|(_, meta)| matches!(meta.verdict(), Verdict::Pending | Verdict::Ipv6))
        {
            if !admits(limit, frame.len(), env, Step::EgressLimit) {
                meta.decide(Verdict::Drop(DropReason::EgressLimit));
            }
        }
    }
}

/// What is to be sent to a port's station, as it will be sent. The switch's own messages are no traffic of anybody's.
#[inline(never)]
pub fn ingress<R: Recorder>(batch: &mut Batch, limits: &Limits, env: &Env<R>) {
    for (frame, meta) in batch.packets() {
        let Verdict::Tx(port) = meta.verdict() else { continue };
        let Some(limit) = &limits.port(port).ingress else { continue };
        if !admits(limit, frame.len(), env, Step::IngressLimit) {
            env.counters.port(port).tx_limited.add(1);
            meta.decide(Verdict::Drop(DropReason::IngressLimit));
        }
    }
}

/// What is only thought of takes nothing.
#[inline]
fn admits<R: Recorder>(limit: &Limit, bytes: usize, env: &Env<R>, step: impl FnOnce(Rate) -> Step) -> bool {
    env.recorder.note(|| step(limit.rate));
    !R::LIVE || limit.admits(bytes, env.now)
}
