//! Looks packets up in the connection table: a hit carries the whole decision.

use crate::{
    packet::{BATCH, Batch, Meta},
    pipeline::Env,
    spec::Backend,
    tables::{
        Conntrack,
        conntrack::{Direction, Hit, Slot},
    },
    wire::{ipv4, tcp},
};

use std::net::Ipv4Addr;

/// The slots of a batch's packets, between probing and reading.
pub type Slots = [Option<Slot>; BATCH];

/// Whether packets have to be looked up at all.
#[inline]
pub fn is_needed(env: &Env) -> bool {
    !env.snapshot.services.is_empty() || env.conntrack.in_use() != 0
}

/// Asks for the bucket of a TCP or UDP packet's flow.
#[inline(always)]
pub fn ask(meta: &mut Meta, conntrack: &Conntrack) {
    if meta.ports() != 0 {
        meta.hash = conntrack.hash(meta.key);
        meta.flags |= Meta::HASHED;
        conntrack.prefetch_bucket(meta.hash);
    }
}

/// Finds the flow of every packet that has [asked](ask) for it. In two passes, so that the cache misses of a whole batch
/// overlap: first all entries are asked for, then all are read.
#[inline(never)]
pub fn run(batch: &mut Batch, slots: &mut Slots, env: &Env) {
    if !is_needed(env) {
        return;
    }
    for (meta, slot) in batch.metas.iter().zip(slots.iter_mut()) {
        *slot = if meta.has(Meta::HASHED) { env.conntrack.probe(meta.hash) } else { None };
        if let Some(slot) = slot {
            env.conntrack.prefetch_entry(*slot);
        }
    }
    for (meta, slot) in batch.metas.iter_mut().zip(slots.iter()) {
        match slot.and_then(|slot| env.conntrack.read(slot, meta.key)) {
            Some(hit) => apply(meta, &hit, env),
            None if meta.has(Meta::HASHED) => search(meta, env),
            None => {}
        }
    }
}

/// Looks for the flow where it is seldom: in another slot than the first that looked right.
#[inline(never)]
fn search(meta: &mut Meta, env: &Env) {
    if let Some(hit) = env.conntrack.find(meta.key, meta.hash) {
        apply(meta, &hit, env);
    }
}

/// Lets the packet follow its flow, unless the flow turns out to be over: then the packet counts as a new one.
#[inline(always)]
pub fn apply(meta: &mut Meta, hit: &Hit, env: &Env) {
    let (state, direction) = (hit.state(), hit.slot.direction());
    if state.is_over() && direction == Direction::Forward && meta.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
        env.conntrack.remove(hit);
        return;
    }
    let next_hop = if hit.generation() == env.snapshot.generation {
        hit.next_hop()
    } else {
        match revalidate(meta, hit, env) {
            Some(next_hop) => next_hop,
            None => return,
        }
    };
    env.conntrack.touch(hit, state.after(direction, meta.tcp_flags), env.now.seconds());
    meta.other = hit.other;
    meta.next_hop = next_hop;
    meta.flags |= Meta::TRANSLATE | Meta::ROUTED;
}

/// Brings a decision made under another snapshot up to date; `None` if the flow was forgotten.
///
/// A TCP connection stays with its backend whatever happens to the service; a UDP flow to an endpoint that was removed
/// is forgotten, so that the next packet chooses anew (as kube-proxy does, which deletes such entries).
#[cold]
fn revalidate(meta: &Meta, hit: &Hit, env: &Env) -> Option<u32> {
    let (forward, reply) = match hit.slot.direction() {
        Direction::Forward => (meta.key, hit.other),
        Direction::Reply => (hit.other, meta.key),
    };
    if meta.protocol() == ipv4::UDP {
        let backend = Backend { address: Ipv4Addr::from((reply[0] >> 32) as u32), port: (reply[1] >> 48) as u16 };
        let service = env.snapshot.services.lookup(forward[0] as u32, (forward[1] >> 32) as u16, ipv4::UDP);
        if !service.is_some_and(|service| env.snapshot.services.has_backend(service, backend)) {
            env.conntrack.remove(hit);
            return None;
        }
    }
    let destination = (hit.other[0] >> 32) as u32;
    let next_hop = env.snapshot.fib.lookup(destination);
    env.conntrack.redecide(hit, next_hop, env.snapshot.generation);
    Some(next_hop)
}
