//! Which backend a new flow gets.

use crate::{
    flow::FiveTuple,
    net::{Address, Number},
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step, Why},
    snapshot::Family,
    spec::{Affinity, Backend, Endpoint, Scheduler},
    stages::track,
    tables::{
        hash::{among, mix},
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
pub fn backend<N: Family, R: Recorder>(
    meta: &mut Meta<N>,
    service: &Service<N::Address>,
    choice: &Choice<N::Address>,
    env: &Env<R>,
) -> Option<Backend<N::Address>> {
    if choice.is_plain && !meta.has(Meta::UNANSWERED) {
        let backend = choice.select(meta.hash)?;
        env.recorder.note(|| Step::Endpoint { backend: backend.told(), why: Why::FlowHash, avoided: None });
        return Some(backend);
    }
    unusual(meta, service, choice, env)
}

#[inline(never)]
fn unusual<N: Family, R: Recorder>(
    meta: &mut Meta<N>,
    service: &Service<N::Address>,
    choice: &Choice<N::Address>,
    env: &Env<R>,
) -> Option<Backend<N::Address>> {
    // What did not answer this flow's earlier SYN.
    let silent = meta.has(Meta::UNANSWERED).then(|| track::backend::<N>(meta.other));
    if service.scheduler == Scheduler::LeastConnections {
        meta.flags |= Meta::COUNTED;
    }
    let Some(affinity) = service.affinity else { return schedule(meta, service, choice, env, silent) };
    let known = remembered(meta, affinity, choice, env).filter(|(backend, _)| Some(*backend) != silent);
    let backend = match known {
        Some((backend, age)) => {
            env.recorder.note(|| endpoint(backend, Why::Affinity(age), silent));
            backend
        }
        None => schedule(meta, service, choice, env, silent)?,
    };
    if R::LIVE {
        remember(meta, affinity, backend, env);
    }
    Some(backend)
}

fn schedule<N: Family, R: Recorder>(
    meta: &Meta<N>,
    service: &Service<N::Address>,
    choice: &Choice<N::Address>,
    env: &Env<R>,
    silent: Option<Backend<N::Address>>,
) -> Option<Backend<N::Address>> {
    let (backend, why) = match service.scheduler {
        // A client's flows may be its first at two workers at once: both must come to the same backend.
        Scheduler::Maglev if service.affinity.is_none() => (by_hash(meta.hash, choice, silent), Why::FlowHash),
        Scheduler::Maglev | Scheduler::SourceHash => {
            (by_hash(env.conntrack.hash([meta.src().word(), 0]), choice, silent), Why::ClientHash)
        }
        Scheduler::RoundRobin => (in_turn::<_, R>(service, choice.endpoints(), silent), Why::Turn),
        Scheduler::LeastConnections => (least(meta, choice, env, silent), Why::FewestFlows),
    };
    let backend = backend?;
    env.recorder.note(|| endpoint(backend, why, silent));
    Some(backend)
}

fn endpoint<A: Address>(backend: Backend<A>, why: Why, avoided: Option<Backend<A>>) -> Step {
    Step::Endpoint { backend: backend.told(), why, avoided: avoided.map(Backend::told) }
}

/// The backend that the hash names, or one that another hash does if that one is silent.
fn by_hash<A: Address>(mut hash: u64, choice: &Choice<A>, silent: Option<Backend<A>>) -> Option<Backend<A>> {
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
fn in_turn<A: Address, R: Recorder>(
    service: &Service<A>,
    endpoints: &[Endpoint<A>],
    silent: Option<Backend<A>>,
) -> Option<Backend<A>> {
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
        let holds = |endpoint: &&Endpoint<A>| {
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
fn least<N: Family>(
    meta: &Meta<N>,
    choice: &Choice<N::Address>,
    env: &Env<impl Recorder>,
    silent: Option<Backend<N::Address>>,
) -> Option<Backend<N::Address>> {
    let endpoints = choice.endpoints();
    let load = |Backend { address, port }: Backend<N::Address>| {
        let any_client =
            FiveTuple { src: address.number(), src_port: port, protocol: meta.protocol(), ..Default::default() };
        u64::from(env.conntrack.load(any_client.to_words()))
    };
    let mut best: Option<(u64, u64, Backend<N::Address>)> = None;
    let mut consider = |Endpoint { backend, weight }: Endpoint<N::Address>| {
        let (load, weight) = (load(backend) + 1, u64::from(weight));
        // load / weight < best load / best weight, without division.
        if weight > 0 && best.is_none_or(|(least, its, known)| known != backend && load * its < least * weight) {
            best = Some((load, weight, backend));
        }
    };
    let usable = |endpoint: &Endpoint<N::Address>| Some(endpoint.backend) != silent;
    if endpoints.len() <= COMPARED {
        // From another one each time, so that equal ones take turns.
        let (before, from) = endpoints.split_at(meta.hash as usize % endpoints.len().max(1));
        from.iter().chain(before).copied().filter(usable).for_each(&mut consider);
    } else {
        let mut hash = meta.hash;
        for _ in 0..COMPARED {
            hash = mix(hash);
            Some(endpoints[among(endpoints.len(), hash)]).filter(usable).into_iter().for_each(&mut consider);
        }
    }
    best.map(|(_, _, backend)| backend).or_else(|| choice.select(meta.hash))
}

/// The endpoint of the client's last flow and how many seconds ago that was, if that was not too long ago and the endpoint
/// is still to be chosen.
fn remembered<N: Family>(
    meta: &Meta<N>,
    affinity: Affinity,
    choice: &Choice<N::Address>,
    env: &Env<impl Recorder>,
) -> Option<(Backend<N::Address>, u32)> {
    let seen = env.clients.get([meta.src().word(), affinity.group])?;
    // Another worker's clock may be a little ahead.
    let age = env.now.seconds().wrapping_sub(seen.tick) as i32;
    let endpoint = match N::of_word(seen.value >> 16) {
        Some(address) => choice.endpoint(Backend { address: address.address(), port: seen.value as u16 }),
        None => choice.endpoints().iter().copied().find(|endpoint| as_remembered(endpoint.backend) == seen.value),
    }?;
    let usable = i64::from(age) < affinity.timeout.as_secs() as i64 && endpoint.weight > 0;
    usable.then_some((endpoint.backend, age.max(0) as u32))
}

/// A backend in a word: of IPv6, 48 bits stand for the address.
fn as_remembered<A: Address>(Backend { address, port }: Backend<A>) -> u64 {
    address.number().word() << 16 | u64::from(port)
}

fn remember<N: Family>(meta: &Meta<N>, affinity: Affinity, backend: Backend<N::Address>, env: &Env<impl Recorder>) {
    let now = env.now.seconds();
    let gave_way = env.clients.put([meta.src().word(), affinity.group], as_remembered(backend), now);
    if gave_way.is_some_and(|tick| u64::from(now.wrapping_sub(tick)) < affinity.timeout.as_secs()) {
        env.counters.clients_forgotten.add(1);
    }
}
