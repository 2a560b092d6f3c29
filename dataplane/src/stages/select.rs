//! Which backend a new flow gets.

use crate::{
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step, Why},
    spec::{Affinity, Backend, Endpoint, Scheduler},
    stages::track,
    tables::{
        hash::mix,
        service::{Choice, Service},
    },
};

/// Clients whose endpoint is remembered at a time, over all services with session affinity.
pub const CLIENTS: usize = 1 << 17;

/// Hashes tried for a backend other than a silent one: of two equal backends, all name the same once in 65,536 times.
const OTHER_HASHES: usize = 16;

/// Of more endpoints than this, not all loads are compared but those of as many that the flow's hash names.
const COMPARED: usize = 32;

/// The backend for the first packet of a flow; `None` if there is none.
#[inline]
pub fn backend<R: Recorder>(meta: &mut Meta, service: &Service, choice: &Choice, env: &Env<R>) -> Option<Backend> {
    if choice.is_plain && !meta.has(Meta::UNANSWERED) {
        let backend = choice.select(meta.hash)?;
        env.recorder.note(|| Step::Endpoint { backend, why: Why::FlowHash, avoided: None });
        return Some(backend);
    }
    unusual(meta, service, choice, env)
}

#[inline(never)]
fn unusual<R: Recorder>(meta: &mut Meta, service: &Service, choice: &Choice, env: &Env<R>) -> Option<Backend> {
    // What did not answer this flow's earlier SYN.
    let silent = meta.has(Meta::UNANSWERED).then(|| track::backend(meta.other));
    if service.scheduler == Scheduler::LeastConnections {
        meta.flags |= Meta::COUNTED;
    }
    let Some(affinity) = service.affinity else { return schedule(meta, service, choice, env, silent) };
    let known = remembered(meta, affinity, choice, env).filter(|(backend, _)| Some(*backend) != silent);
    let backend = match known {
        Some((backend, age)) => {
            env.recorder.note(|| Step::Endpoint { backend, why: Why::Affinity(age), avoided: silent });
            backend
        }
        None => schedule(meta, service, choice, env, silent)?,
    };
    if R::LIVE {
        remember(meta, affinity, backend, env);
    }
    Some(backend)
}

fn schedule<R: Recorder>(
    meta: &Meta,
    service: &Service,
    choice: &Choice,
    env: &Env<R>,
    silent: Option<Backend>,
) -> Option<Backend> {
    let (backend, why) = match service.scheduler {
        // A client's flows may be its first at two workers at once: both must come to the same backend.
        Scheduler::Maglev if service.affinity.is_none() => (by_hash(meta.hash, choice, silent), Why::FlowHash),
        Scheduler::Maglev | Scheduler::SourceHash => {
            (by_hash(env.conntrack.hash([meta.src().into(), 0]), choice, silent), Why::ClientHash)
        }
        Scheduler::RoundRobin => (in_turn::<R>(service, choice.endpoints(), silent), Why::Turn),
        Scheduler::LeastConnections => (least(meta, choice, env, silent), Why::FewestFlows),
    };
    let backend = backend?;
    env.recorder.note(|| Step::Endpoint { backend, why, avoided: silent });
    Some(backend)
}

/// The backend that the hash names, or one that another hash does if that one is silent.
fn by_hash(mut hash: u64, choice: &Choice, silent: Option<Backend>) -> Option<Backend> {
    let named = choice.select(hash);
    if named.is_none() || named != silent {
        return named;
    }
    let mut others = std::iter::repeat_with(|| {
        hash = mix(hash);
        choice.select(hash)
    });
    others.by_ref().take(OTHER_HASHES).find(|backend| *backend != silent).unwrap_or(named)
}

/// In turns. With different weights, turns fall so that each endpoint's are as far apart as its share allows.
fn in_turn<R: Recorder>(service: &Service, endpoints: &[Endpoint], silent: Option<Backend>) -> Option<Backend> {
    let total: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    let alike = endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight);
    if total == 0 {
        return None;
    }
    let whose = |turn: u32| {
        if alike {
            return endpoints[turn as usize % endpoints.len()].backend;
        }
        // Multiples of the golden ratio, modulo 1, are spread most evenly (Knuth, volume 3, section 6.4).
        let mut at = (u64::from(turn.wrapping_mul(0x9e37_79b9)) * total) >> 32;
        let holds = |endpoint: &&Endpoint| {
            let weight = u64::from(endpoint.weight);
            let holds = at < weight;
            at = at.wrapping_sub(weight);
            holds
        };
        endpoints.iter().find(holds).expect("the place is below the sum of weights").backend
    };
    // A packet that is only thought of takes nobody's turn.
    let turn = |later| if R::LIVE { service.next_turn() } else { service.turns().wrapping_add(later) };
    let first = whose(turn(0));
    if Some(first) == silent { Some(whose(turn(1))) } else { Some(first) }
}

/// The one with the fewest flows for its weight.
fn least(meta: &Meta, choice: &Choice, env: &Env<impl Recorder>, silent: Option<Backend>) -> Option<Backend> {
    let endpoints = choice.endpoints();
    let protocol = meta.key[1] & 0xff;
    let load = |Backend { address, port }: Backend| {
        u64::from(env.conntrack.load([u64::from(u32::from(address)) << 32, u64::from(port) << 48 | protocol]))
    };
    let mut best: Option<(u64, u64, Backend)> = None;
    let mut consider = |Endpoint { backend, weight }: Endpoint| {
        let (load, weight) = (load(backend) + 1, u64::from(weight));
        // load / weight < best load / best weight, without division.
        if weight > 0 && best.is_none_or(|(least, its, known)| known != backend && load * its < least * weight) {
            best = Some((load, weight, backend));
        }
    };
    let usable = |endpoint: &Endpoint| Some(endpoint.backend) != silent;
    if endpoints.len() <= COMPARED {
        // From another one each time, so that equal ones take turns.
        let (before, from) = endpoints.split_at(meta.hash as usize % endpoints.len().max(1));
        from.iter().chain(before).copied().filter(usable).for_each(&mut consider);
    } else {
        let mut hash = meta.hash;
        for _ in 0..COMPARED {
            hash = mix(hash);
            let at = (u128::from(hash) * endpoints.len() as u128) >> 64;
            Some(endpoints[at as usize]).filter(usable).into_iter().for_each(&mut consider);
        }
    }
    best.map(|(_, _, backend)| backend).or_else(|| choice.select(meta.hash))
}

/// The endpoint of the client's last flow and how many seconds ago that was, if that was not too long ago and the endpoint
/// is still to be chosen.
fn remembered(meta: &Meta, affinity: Affinity, choice: &Choice, env: &Env<impl Recorder>) -> Option<(Backend, u32)> {
    let seen = env.clients.get([meta.src().into(), affinity.group])?;
    // Another worker's clock may be a little ahead.
    let age = env.now.seconds().wrapping_sub(seen.tick) as i32;
    let backend = Backend { address: ((seen.value >> 16) as u32).into(), port: seen.value as u16 };
    let usable = choice.endpoint(backend).is_some_and(|endpoint| endpoint.weight > 0);
    (i64::from(age) < affinity.timeout.as_secs() as i64 && usable).then_some((backend, age.max(0) as u32))
}

fn remember(meta: &Meta, affinity: Affinity, Backend { address, port }: Backend, env: &Env<impl Recorder>) {
    let value = u64::from(u32::from(address)) << 16 | u64::from(port);
    let now = env.now.seconds();
    let gave_way = env.clients.put([meta.src().into(), affinity.group], value, now);
    if gave_way.is_some_and(|tick| u64::from(now.wrapping_sub(tick)) < affinity.timeout.as_secs()) {
        env.counters.clients_forgotten.add(1);
    }
}
