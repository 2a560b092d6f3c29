//! Looks packets up in the connection table: a hit carries the whole decision.

use crate::{
    flow::{FiveTuple, FlowKey},
    io::Frame,
    packet::{BATCH, Batch, Meta},
    pipeline::Env,
    record::{Known, Recorder, Step},
    snapshot::{Family, UNRESOLVED},
    spec::Backend,
    tables::{
        Conntrack,
        conntrack::{Below, Direction, Hit, Slot},
    },
    verdict::{DropReason, Verdict},
    wire::{ipv4, tcp},
};

/// The slots of a batch's packets, between probing and reading.
pub type Slots = [Option<Slot>; BATCH];

/// Whether packets have to be looked up at all.
#[inline]
pub fn is_needed<N: Family>(env: &Env<impl Recorder>) -> bool {
    env.snapshot.of::<N>().tracks || env.conntrack.in_use() != 0
}

/// Packets whose buckets are asked for at once. A prefetch does not retire before its page is found, and so nothing behind it
/// does: with the parsing of a packet between one and the next, a big table's pages would be looked for one after the other. With
/// more packets at once, they would wait for a small table's lines instead (`docs/decisions/0003-one-connection-table.md`).
pub const ASKED_AT_ONCE: usize = 16;

/// Has every packet taken in hand, and asks for the buckets of those that are [hashed](hash) then (and for some bucket, where one
/// is not: that costs less than to find out), if flows are looked up at all: if `tracking`.
#[inline(always)]
pub fn asking<N: Family>(
    frames: &mut [Frame],
    metas: &mut [Meta<N>],
    tracking: bool,
    env: &Env<impl Recorder>,
    mut take: impl FnMut(&mut Frame, &mut Meta<N>),
) {
    let at_once = if tracking { ASKED_AT_ONCE } else { BATCH };
    for (frames, metas) in frames.chunks_mut(at_once).zip(metas.chunks_mut(at_once)) {
        frames.iter_mut().zip(&mut *metas).for_each(|(frame, meta)| take(frame, meta));
        if tracking {
            metas.iter().for_each(|meta| env.conntrack.prefetch_bucket(meta.hash));
        }
    }
}

/// Hashes a packet's tuple, if it is of a protocol that has ports, or an echo.
#[inline(always)]
pub fn hash<N: Family>(meta: &mut Meta<N>, conntrack: &Conntrack<impl Below>) {
    if meta.ports() != 0 {
        meta.hash = conntrack.hash(meta.key);
        meta.flags |= Meta::HASHED;
    }
}

/// Finds the flow of every packet that is hashed. In two passes, so that the cache misses of a whole batch overlap: first all
/// entries are asked for, then all are read. True if every packet follows a flow now: then none can open one.
#[inline(never)]
pub fn run<N: Family>(batch: &mut Batch<N>, slots: &mut Slots, env: &Env<impl Recorder>) -> bool {
    if !is_needed::<N>(env) {
        return false;
    }
    let mut of_all = Meta::ROUTED;
    for (meta, slot) in batch.metas.iter().zip(slots.iter_mut()) {
        *slot = if meta.has(Meta::HASHED) { env.conntrack.probe(meta.hash) } else { None };
        if let Some(slot) = slot {
            env.conntrack.prefetch_entry(slot.entry());
        }
    }
    for (meta, slot) in batch.metas.iter_mut().zip(slots.iter()) {
        match slot.and_then(|slot| env.conntrack.read(slot, meta.key)) {
            Some(hit) => apply(meta, hit, env),
            None if meta.has(Meta::HASHED) => search(meta, slot.is_some(), env),
            None => {}
        }
        of_all &= meta.flags;
    }
    of_all != 0
}

/// Looks for the flow where it is seldom: in another slot than the first that looked right, or in another bucket.
#[inline(never)]
fn search<N: Family>(meta: &mut Meta<N>, deceived: bool, env: &Env<impl Recorder>) {
    let found = match deceived {
        true => env.conntrack.find(meta.key, meta.hash),
        false => env.conntrack.find_elsewhere(meta.key, meta.hash),
    };
    match found {
        Some(hit) => apply(meta, hit, env),
        None => env.recorder.note(|| Step::Unknown),
    }
}

/// Lets the packet follow its flow, unless the flow turns out to be over: then the packet counts as a new one.
///
/// What it calls where that seldom happens takes the hit by value: a reference would have every hit written to memory, and
/// read back before it is there.
#[inline(always)]
pub fn apply<N: Family>(meta: &mut Meta<N>, hit: Hit<N::Key>, env: &Env<impl Recorder>) {
    let (state, direction) = (hit.state(), hit.slot.direction());
    let anew = state.is_over() || state.is_unanswered();
    if anew && direction == Direction::Forward && meta.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
        begin_anew(meta, hit, env);
        return;
    }
    let next_hop = if hit.generation() == env.snapshot.generation {
        hit.next_hop()
    } else {
        match revalidate::<N>(meta.key, hit, env) {
            Ok(next_hop) => next_hop,
            Err(Stale) => {
                end_stale(meta, hit, env);
                return;
            }
        }
    };
    env.recorder.note(|| Step::Known(known(meta, hit, env.now.seconds())));
    env.conntrack.touch(&hit, state.after(direction, meta.tcp_flags), env.now.seconds());
    meta.other = hit.other;
    meta.next_hop = next_hop;
    meta.flags |= Meta::TRANSLATE | Meta::ROUTED;
}

/// What the table knows of the packet's flow.
fn known<N: Family>(meta: &Meta<N>, hit: Hit<N::Key>, now: u32) -> Known {
    let (direction, before) = (hit.slot.direction(), hit.state());
    let [forward, reply] = match direction {
        Direction::Forward => [meta.key, hit.other],
        Direction::Reply => [hit.other, meta.key],
    };
    Known {
        direction,
        before,
        after: before.after(direction, meta.tcp_flags),
        idle: now.saturating_sub(hit.last_seen()),
        generation: hit.generation(),
        forward: FiveTuple::<N>::from_words(forward).told(),
        reply: FiveTuple::<N>::from_words(reply).told(),
    }
}

/// Forgets a flow whose client begins a new connection.
#[cold]
fn begin_anew<N: Family>(meta: &mut Meta<N>, hit: Hit<N::Key>, env: &Env<impl Recorder>) {
    env.recorder.note(|| Step::BegunAnew { state: hit.state(), backend: backend::<N>(hit.other).told() });
    env.conntrack.remove(&hit);
    if hit.state().is_unanswered() {
        env.counters.flows_unanswered.add(1);
        meta.other = hit.other;
        meta.flags |= Meta::UNANSWERED;
    }
}

/// What becomes of a packet whose flow's endpoint serves no longer. The client's next one goes to another.
#[cold]
fn end_stale<N: Family>(meta: &mut Meta<N>, hit: Hit<N::Key>, env: &Env<impl Recorder>) {
    let direction = hit.slot.direction();
    if direction == Direction::Forward {
        env.recorder.note(|| Step::EndpointGone { direction, backend: backend::<N>(hit.other).told() });
        env.conntrack.remove(&hit);
    } else {
        // The flow stays until the client speaks or it expires: without it, the next answer would get through
        // untranslated.
        env.recorder.note(|| Step::EndpointGone { direction, backend: backend::<N>(meta.key).told() });
        meta.decide(Verdict::Drop(DropReason::StaleReply));
    }
}

/// The endpoint of a flow, by its reply key.
pub fn backend<N: Family>(reply: N::Key) -> Backend<N::Address> {
    Backend { address: reply.src().address(), port: (reply.ports_and_protocol() >> 48) as u16 }
}

/// A flow's endpoint serves no longer, or not in the way it did.
pub struct Stale;

/// Brings a decision made under another snapshot up to date.
///
/// A TCP connection stays with its backend whatever happens to the service; a UDP flow to an endpoint that was removed
/// is stale, so that the client's next packet chooses anew (as with kube-proxy, which deletes such entries).
#[cold]
pub fn revalidate<N: Family>(key: N::Key, hit: Hit<N::Key>, env: &Env<impl Recorder>) -> Result<u32, Stale> {
    let (forward, reply) = match hit.slot.direction() {
        Direction::Forward => (key, hit.other),
        Direction::Reply => (hit.other, key),
    };
    // A flow whose destination is not translated has no backend to lose.
    let backend = backend::<N>(reply);
    let FiveTuple { dst: vip, dst_port, protocol, .. } = FiveTuple::<N>::from_words(forward);
    let has_backend = vip.address() != backend.address || dst_port != backend.port;
    if protocol == ipv4::UDP && has_backend {
        let service = env.snapshot.service_of(vip, dst_port, ipv4::UDP);
        if !service.is_some_and(|service| env.snapshot.of::<N>().services.has_backend(service, backend)) {
            return Err(Stale);
        }
    }
    let mut next_hop = env.snapshot.route(hit.other.src());
    // What another node has answered until now only that one can answer.
    if hit.state().is_relayed() && hit.slot.direction() == Direction::Forward && next_hop != UNRESOLVED {
        next_hop = env.snapshot.next_hop(next_hop).relay.ok_or(Stale)?;
    }
    env.conntrack.redecide(&hit, next_hop, env.snapshot.generation);
    Ok(next_hop)
}
