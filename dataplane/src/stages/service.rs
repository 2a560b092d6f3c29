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

/// New flows: the packet's index in the batch, and the hash of the reply key.
pub type Opening = Vec<(u16, u64)>;

/// Translates the first packet of every flow to a service. In two passes, so that the cache misses of a batch overlap:
/// first all choose a backend and ask for the bucket of the answers, then all are put into the table.
#[inline(never)]
pub fn run(batch: &mut Batch, opening: &mut Opening, env: &Env) {
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
        match choose(meta, service, env) {
            Ok(reply_hash) => opening.push((at as u16, reply_hash)),
            Err(verdict) => {
                batch.owes |= matches!(verdict, Verdict::Owed(_));
                meta.decide(verdict);
            }
        }
    }
    for (at, reply_hash) in opening.drain(..) {
        let meta = &mut batch.metas[usize::from(at)];
        if let Err(reason) = open(meta, reply_hash, env) {
            meta.decide(Verdict::Drop(reason));
        }
    }
}

/// Chooses a backend and notes the reply key. Returns its hash.
#[inline]
fn choose(meta: &mut Meta, service: ServiceIndex, env: &Env) -> Result<u64, Verdict> {
    let backend = env.snapshot.services.select(service, meta.hash).ok_or(Verdict::Owed(Answer::PortUnreachable))?;
    let forward = FiveTuple::from_words(meta.key);
    let translated = FiveTuple { dst: backend.address.into(), dst_port: backend.port, ..forward };
    if translated.dst == forward.src {
        return Err(Verdict::Drop(DropReason::Hairpin));
    }
    meta.other = translated.reversed().to_words();
    let reply_hash = env.conntrack.hash(meta.other);
    env.conntrack.prefetch_bucket(reply_hash);
    Ok(reply_hash)
}

/// Puts the flow into the table, or follows it if it was put there meanwhile.
#[inline]
fn open(meta: &mut Meta, reply_hash: u64, env: &Env) -> Result<(), DropReason> {
    let (generation, now) = (env.snapshot.generation, env.now.seconds());
    let state = FlowState::first(meta.protocol(), meta.tcp_flags);
    let keys = [(meta.key, meta.hash), (meta.other, reply_hash)];
    let next_hops = [(meta.other[0] >> 32) as u32, meta.src()].map(|address| env.snapshot.fib.lookup(address));
    for _ in 0..TRIES {
        match env.conntrack.insert(keys, next_hops, generation, state, now) {
            Ok(()) => {
                env.counters.flows_opened.add(1);
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
