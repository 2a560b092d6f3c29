//! Chooses a backend for new flows to a service, and tracks them.

use crate::{
    flow::FiveTuple,
    packet::{Batch, Meta},
    pipeline::Env,
    record::{Frontend, Recorder, Step},
    spec::Otherwise,
    stages::{masquerade, select, track},
    tables::{
        ServiceIndex,
        conntrack::{FlowState, InsertError},
        service::Service,
    },
    verdict::{Answer, DropReason, Verdict},
    wire::{icmpv4, ipv4, tcp},
};

/// How often an insert that met another worker's is tried again before the packet is dropped. The other worker needs
/// some tens of nanoseconds.
const TRIES: u32 = 64;

/// New flows: the packet's index in the batch, and the hash of the reply key.
pub type Opening = Vec<(u16, u64)>;

/// Translates the first packet of every flow to a service, and of every flow that leaves the cluster masqueraded. Notes
/// untranslated flows that could be mistaken for such. In two passes, so that the cache misses of a batch overlap: first
/// all choose a backend and ask for the bucket of the answers, then all are put into the table.
#[inline(never)]
pub fn run(batch: &mut Batch, opening: &mut Opening, env: &Env<impl Recorder>) {
    if !env.snapshot.tracks {
        return;
    }
    for (at, meta) in batch.metas.iter_mut().enumerate() {
        if !meta.is_pending() || meta.flags & (Meta::ROUTED | Meta::HASHED) != Meta::HASHED {
            continue;
        }
        let chosen = match env.snapshot.services.lookup(meta.dst(), meta.dst_port(), meta.protocol()) {
            Some(service) => choose(meta, service, env),
            None if env.snapshot.leaves_the_cluster(meta.src(), meta.dst()) => leave(meta, env),
            None if must_be_known(meta, env) && may_open(meta) => {
                env.recorder.note(|| Step::MayBeMistaken);
                meta.other = FiveTuple::from_words(meta.key).reversed().to_words();
                Ok(())
            }
            None => continue,
        };
        match chosen {
            Ok(()) => {
                let reply_hash = env.conntrack.hash(meta.other);
                env.conntrack.prefetch_bucket(reply_hash);
                opening.push((at as u16, reply_hash));
            }
            Err(DropReason::NoBackend) => {
                meta.decide(Verdict::Owed(Answer::PortUnreachable));
                batch.owes = true;
            }
            Err(reason) => meta.decide(Verdict::Drop(reason)),
        }
    }
    for (at, reply_hash) in opening.drain(..) {
        let meta = &mut batch.metas[usize::from(at)];
        if let Err(reason) = open(meta, reply_hash, env) {
            meta.decide(Verdict::Drop(reason));
        }
    }
}

/// Chooses a backend and notes the reply key.
#[inline]
fn choose(meta: &mut Meta, service: ServiceIndex, env: &Env<impl Recorder>) -> Result<(), DropReason> {
    let service = env.snapshot.services.get(service);
    env.recorder.note(|| frontend(meta, service, env));
    if !may_open(meta) {
        return Err(DropReason::OutOfState);
    }
    if !service.admits(meta.src()) {
        return Err(DropReason::SourceNotAllowed);
    }
    let choice = service.choice(env.snapshot.origin(meta.in_port, meta.src()));
    let backend = select::backend(meta, service, choice, env).ok_or(match choice.otherwise {
        Otherwise::Refuse => DropReason::NoBackend,
        Otherwise::Drop => DropReason::NoLocalBackend,
    })?;
    let forward = FiveTuple::from_words(meta.key);
    let translated = FiveTuple { dst: backend.address.into(), dst_port: backend.port, ..forward };
    if env.snapshot.is_vtep(backend.address.into(), backend.port, meta.protocol()) {
        return Err(DropReason::VtepOnly);
    }
    if choice.masquerade || env.snapshot.answers_go_astray(forward.src, translated.dst) {
        return masquerade::assign(meta, translated, 0, env);
    }
    meta.other = translated.reversed().to_words();
    Ok(())
}

/// What there is for the packet at a service's frontend.
fn frontend(meta: &Meta, service: &Service, env: &Env<impl Recorder>) -> Step {
    let origin = env.snapshot.origin(meta.in_port, meta.src());
    let choice = service.choice(origin);
    Step::Service(Frontend {
        origin,
        source_range: service.source_range(meta.src()),
        endpoints: choice.endpoints().len(),
        masquerade: choice.masquerade,
        otherwise: choice.otherwise,
        scheduler: service.scheduler,
        affinity: service.affinity.map(|affinity| affinity.timeout.as_secs()),
    })
}

/// True for flows that keep their addresses and have to be told apart from others all the same: by an endpoint, which may
/// have one through its service from the same port (whose node has seen to that where both came over the overlay); or by
/// us, who would take the answers to one from outside for a flow that leaves the cluster.
#[inline]
fn must_be_known(meta: &Meta, env: &Env<impl Recorder>) -> bool {
    let is_to_endpoint = || env.snapshot.endpoints.may_contain(meta.dst(), meta.dst_port(), meta.protocol());
    !meta.has(Meta::DECAPSULATED) && is_to_endpoint() || env.snapshot.leaves_the_cluster(meta.dst(), meta.src())
}

/// Masquerades a flow out of the cluster.
fn leave(meta: &mut Meta, env: &Env<impl Recorder>) -> Result<(), DropReason> {
    env.recorder.note(|| Step::Leaves);
    if !may_open(meta) {
        return Err(DropReason::OutOfState);
    }
    // From a pod of another node: ours were asked when their packets came in.
    if env.snapshot.is_vtep(meta.dst(), meta.dst_port(), meta.protocol()) {
        return Err(DropReason::VtepOnly);
    }
    masquerade::assign(meta, FiveTuple::from_words(meta.key), 0, env)
}

/// True for a packet that begins a flow or may be of one that the switch knew before it was restarted. (Of TCP, Linux's
/// connection tracking takes up the same, but for the FIN; of ICMP, an echo request only. SCTP is as TCP.)
fn may_open(meta: &Meta) -> bool {
    if meta.protocol() == ipv4::ICMP {
        return meta.dst_port() == u16::from(icmpv4::ECHO_REQUEST);
    }
    if !matches!(meta.protocol(), ipv4::TCP | ipv4::SCTP) || meta.has(Meta::FRAGMENT) {
        return true;
    }
    matches!(meta.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN), tcp::SYN | tcp::ACK | FIN_ACK)
}

const FIN_ACK: u8 = tcp::FIN | tcp::ACK;

/// Puts the flow into the table, or follows it if it was put there meanwhile.
#[inline]
fn open(meta: &mut Meta, mut reply_hash: u64, env: &Env<impl Recorder>) -> Result<(), DropReason> {
    let (generation, now) = (env.snapshot.generation, env.now.seconds());
    let state = FlowState::first(meta.protocol());
    let next_hops = [(meta.other[0] >> 32) as u32, meta.src()].map(|address| env.snapshot.fib.lookup(address));
    let counted = meta.has(Meta::COUNTED);
    let mut failure = DropReason::ConntrackContended;
    for attempt in 1..=TRIES {
        let reply = meta.other;
        let keys = [(meta.key, meta.hash), (reply, reply_hash)];
        match env.conntrack.insert(keys, next_hops, generation, state, now, counted) {
            Ok(()) => {
                env.recorder.note(|| Step::Opened {
                    forward: FiveTuple::from_words(meta.key),
                    reply: FiveTuple::from_words(reply),
                });
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
                        env.conntrack.give_back([meta.key, reply]);
                        return Ok(());
                    }
                }
                std::hint::spin_loop();
            }
            // The port is left as taken, for it is: by the other flow.
            Err(InsertError::ReplyInUse) => {
                masquerade::reassign(meta, reply, attempt, env)?;
                reply_hash = env.conntrack.hash(meta.other);
            }
            Err(InsertError::Full) if env.conntrack.make_room() => {
                env.recorder.note(|| Step::GaveWay);
                env.counters.flows_gave_way.add(1);
            }
            Err(InsertError::Full) => {
                failure = DropReason::ConntrackFull;
                break;
            }
        }
    }
    env.conntrack.give_back([meta.key, meta.other]);
    // What is not translated needs no flow to get where it is going.
    let is_direct = FiveTuple::from_words(meta.key).reversed().to_words() == meta.other;
    if is_direct { Ok(()) } else { Err(failure) }
}
