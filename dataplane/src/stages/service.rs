//! Chooses a backend for new flows to a service, and tracks them.

use crate::{
    flow::FiveTuple,
    packet::{Batch, Meta},
    pipeline::Env,
    stages::track,
    tables::{
        ServiceIndex,
        conntrack::{FlowState, InsertError},
    },
    verdict::{Answer, DropReason, Verdict},
};

/// How often an insert that met another worker's is tried again before the packet is dropped. The other worker needs
/// some tens of nanoseconds.
const TRIES: u32 = 64;

/// What to answer a packet with, by its index in the batch.
pub type Errors = Vec<(u16, Answer)>;

/// Translates the first packet of every flow to a service.
#[inline]
pub fn run(batch: &mut Batch, errors: &mut Errors, env: &Env) {
    if env.snapshot.services.is_empty() {
        return;
    }
    for (at, meta) in batch.metas.iter_mut().enumerate() {
        if !meta.is_pending() || meta.flags & (Meta::ROUTED | Meta::HASHED) != Meta::HASHED {
            continue;
        }
        let Some(service) = env.snapshot.services.lookup(meta.dst(), meta.dst_port(), meta.protocol()) else {
            continue;
        };
        if let Err(reason) = open(meta, service, env) {
            meta.verdict = Verdict::Drop(reason);
            if reason == DropReason::NoBackend {
                errors.push((at as u16, Answer::PortUnreachable));
            }
        }
    }
}

fn open(meta: &mut Meta, service: ServiceIndex, env: &Env) -> Result<(), DropReason> {
    let state = FlowState::first(meta.protocol(), meta.tcp_flags);
    for _ in 0..TRIES {
        let backend = env.snapshot.services.select(service, meta.hash).ok_or(DropReason::NoBackend)?;
        let forward = FiveTuple::from_words(meta.key);
        let translated = FiveTuple { dst: backend.address.into(), dst_port: backend.port, ..forward };
        if translated.dst == forward.src {
            return Err(DropReason::Hairpin);
        }
        let reply = translated.reversed().to_words();
        let next_hops = [env.snapshot.fib.lookup(translated.dst), env.snapshot.fib.lookup(forward.src)];
        let (generation, now) = (env.snapshot.generation, env.now.seconds());
        match env.conntrack.insert([meta.key, reply], next_hops, generation, state, now) {
            Ok(()) => {
                env.counters.flows_opened.add(1);
                meta.other = reply;
                meta.next_hop = next_hops[0];
                meta.flags |= Meta::TRANSLATE | Meta::ROUTED;
                return Ok(());
            }
            // Another packet of this batch, or another worker, has opened the flow since it was looked up.
            Err(InsertError::Exists) => {
                if let Some(hit) = env.conntrack.find(meta.key, meta.hash) {
                    track::apply(meta, &hit, env);
                    if meta.has(Meta::ROUTED) {
                        return Ok(());
                    }
                }
                std::hint::spin_loop();
            }
            Err(InsertError::ReplyInUse) => return Err(DropReason::ReplyInUse),
            Err(InsertError::Full) => return Err(DropReason::ConntrackFull),
        }
    }
    Err(DropReason::ConntrackContended)
}
