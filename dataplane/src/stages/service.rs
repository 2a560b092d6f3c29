//! Chooses a backend for new flows to a service, and tracks them.

use crate::{
    flow::{FiveTuple, FlowKey},
    io::Frame,
    net::Address,
    packet::{BATCH, Batch, Meta},
    pipeline::Env,
    record::{Frontend, Recorder, Step},
    snapshot::Family,
    spec::Otherwise,
    stages::{
        lost, masquerade,
        relay::{self, Way},
        select,
        track::{self, ASKED_AT_ONCE},
    },
    tables::{
        Origin, ServiceIndex,
        conntrack::{FlowState, InsertError, NewFlow},
        service::Service,
    },
    verdict::{Answer, DropReason, Verdict},
    wire::{ipv4, tcp},
};

/// How often an insert that met another worker's is tried again before the packet is dropped. The other worker needs
/// some tens of nanoseconds.
const TRIES: u32 = 64;

/// What [`run`] remembers from pass to pass, and for how long: a batch.
#[derive(Debug)]
pub struct Opening {
    new: Vec<New>,
    /// Free entries for their flows.
    entries: Vec<u32>,
}

/// A packet that no flow decides.
#[derive(Clone, Copy, Debug)]
struct New {
    /// Its index in the batch.
    at: u16,
    /// Where it comes from.
    origin: Origin,
    /// The service that it is for, if it is for one.
    service: Option<ServiceIndex>,
    /// The next hop by which it is relayed, if it is.
    relay: Option<u32>,
    /// First that of its destination as a frontend, then that of the reply key.
    hash: u64,
}

impl Opening {
    /// Room for a batch.
    pub fn new() -> Opening {
        Opening { new: Vec::with_capacity(BATCH), entries: Vec::with_capacity(BATCH) }
    }
}

impl Default for Opening {
    fn default() -> Self {
        Opening::new()
    }
}

/// Translates the first packet of every flow to a service, and of every flow that leaves the cluster masqueraded. Notes
/// untranslated flows that could be mistaken for such.
///
/// In several passes, each of which asks for what the next one reads, so that the cache misses of a batch overlap: where
/// the destinations are in the table of services; the services; their endpoints; the answers' place in the connection
/// table, whose entries are taken all at once.
#[inline(never)]
pub fn run<N: Family>(batch: &mut Batch<N>, opening: &mut Opening, env: &Env<impl Recorder>) {
    if !env.snapshot.of::<N>().tracks {
        return;
    }
    let Opening { new, entries } = opening;
    let services = &env.snapshot.of::<N>().services;
    for (at, meta) in batch.metas.iter().enumerate() {
        if meta.is_pending() && meta.flags & (Meta::ROUTED | Meta::HASHED) == Meta::HASHED {
            let hash = services.ask(meta.dst(), meta.dst_port(), meta.protocol());
            new.push(New { at: at as u16, origin: Origin::Outside, service: None, relay: None, hash });
        }
    }
    if new.is_empty() {
        return;
    }
    let is_complete = env.conntrack.is_complete(env.now.seconds());
    new.retain_mut(|new| {
        let meta = &mut batch.metas[usize::from(new.at)];
        new.service = services.find(meta.dst(), meta.dst_port(), meta.protocol(), new.hash);
        if new.service.is_none() && relay::is_relayed(&batch.frames[usize::from(new.at)], meta) {
            new.service = relayed_to_us(meta, env);
        }
        match new.service {
            Some(service) => {
                new.origin = env.snapshot.origin(meta.in_port, meta.has(Meta::DECAPSULATED), meta.src());
                services.prefetch(service, new.origin);
                true
            }
            None => meta.is_pending() && (is_complete || !lost::drop_answer(meta, env)) && past_services(meta, env),
        }
    });
    env.conntrack.take_entries(new.len(), entries);
    entries.iter().for_each(|entry| env.conntrack.prefetch_entry(*entry));
    for New { at, origin, service, .. } in new.iter() {
        if let Some(service) = service {
            services.get(*service).choice(*origin).prefetch(batch.metas[usize::from(*at)].hash);
        }
    }
    for group in new.chunks_mut(ASKED_AT_ONCE) {
        for new in &mut *group {
            let (frame, meta) = (&batch.frames[usize::from(new.at)], &mut batch.metas[usize::from(new.at)]);
            match new.service.map_or(Ok(None), |service| choose(frame, meta, services.get(service), new.origin, env)) {
                Ok(relay) => {
                    new.relay = relay;
                    new.hash = env.conntrack.hash(meta.other);
                }
                Err(DropReason::NoBackend) => {
                    meta.decide(Verdict::Owed(Answer::PortUnreachable));
                    batch.owes = true;
                }
                Err(reason) => meta.decide(Verdict::Drop(reason)),
            }
        }
        group.iter().for_each(|new| env.conntrack.prefetch_place(new.hash));
    }
    for New { at, hash, relay, .. } in new.drain(..) {
        let meta = &mut batch.metas[usize::from(at)];
        if meta.is_pending()
            && let Err(reason) = open(meta, hash, relay, entries, env)
        {
            meta.decide(Verdict::Drop(reason));
        }
    }
    env.conntrack.give_entries(entries);
}

/// The service that another node relayed a packet for. Without one it must not go on: routers would bring it to the other
/// node again.
#[cold]
fn relayed_to_us<N: Family>(meta: &mut Meta<N>, env: &Env<impl Recorder>) -> Option<ServiceIndex> {
    if env.snapshot.is_pod(meta.src()) {
        return None;
    }
    let service = env.snapshot.service_of(meta.dst(), meta.dst_port(), meta.protocol());
    if service.is_none() {
        meta.decide(Verdict::Drop(DropReason::RelayedInVain));
    }
    service
}

/// Decides about the first packet of a flow to no service. True if the flow is to be tracked.
#[inline]
fn past_services<N: Family>(meta: &mut Meta<N>, env: &Env<impl Recorder>) -> bool {
    if env.snapshot.leaves_the_cluster(meta.src(), meta.dst()) {
        let left = leave(meta, env);
        left.map_or_else(|reason| meta.decide(Verdict::Drop(reason)), drop);
        return left.is_ok();
    }
    let is_tracked = must_be_known(meta, env) && may_open(meta);
    if is_tracked {
        env.recorder.note(|| Step::MayBeMistaken);
        meta.other = FiveTuple::<N>::from_words(meta.key).reversed().to_words();
    }
    is_tracked
}

/// Chooses a backend and notes the reply key. Returns the next hop by which the flow is relayed, if it is.
#[inline]
fn choose<N: Family>(
    frame: &Frame,
    meta: &mut Meta<N>,
    service: &Service<N::Address>,
    origin: Origin,
    env: &Env<impl Recorder>,
) -> Result<Option<u32>, DropReason> {
    env.recorder.note(|| frontend(meta, service, origin));
    if !may_open(meta) {
        return Err(DropReason::OutOfState);
    }
    let choice = service.choice(origin);
    if !choice.is_plain && !service.admits(meta.src()) {
        return Err(DropReason::SourceNotAllowed);
    }
    let named = if origin == Origin::Relayed { relay::named(frame, meta, service, choice, env) } else { None };
    let backend = named.or_else(|| select::backend(meta, service, choice, env)).ok_or(match choice.otherwise {
        Otherwise::Refuse => DropReason::NoBackend,
        Otherwise::Drop => DropReason::NoLocalBackend,
    })?;
    let forward = FiveTuple::<N>::from_words(meta.key);
    let translated = FiveTuple { dst: backend.address.number(), dst_port: backend.port, ..forward };
    if N::is_vtep(env.snapshot, backend.address.number(), backend.port, meta.protocol()) {
        return Err(DropReason::VtepOnly);
    }
    let go_astray = env.snapshot.answers_go_astray(origin, forward.src, translated.dst);
    let direct = origin == Origin::Outside && service.direct && !go_astray;
    let way = if direct { relay::way(translated.dst, env.snapshot) } else { None };
    if way.is_none() && (choice.masquerade || go_astray) {
        return masquerade::assign(meta, translated, 0, env).map(|()| None);
    }
    meta.other = translated.reversed().to_words();
    Ok(match way {
        Some(Way::Relayed(next_hop)) => {
            env.recorder.note(|| Step::Relayed);
            Some(next_hop)
        }
        Some(Way::Here) => {
            env.recorder.note(|| Step::SourceKept);
            None
        }
        None => None,
    })
}

/// What there is for the packet at a service's frontend.
fn frontend<N: Family>(meta: &Meta<N>, service: &Service<N::Address>, origin: Origin) -> Step {
    let choice = service.choice(origin);
    Step::Service(Frontend {
        origin,
        source_range: service.source_range(meta.src()).map(|range| range.map(Into::into)),
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
fn must_be_known<N: Family>(meta: &Meta<N>, env: &Env<impl Recorder>) -> bool {
    let is_to_endpoint = || env.snapshot.of::<N>().endpoints.may_contain(meta.dst(), meta.dst_port(), meta.protocol());
    !meta.has(Meta::DECAPSULATED) && is_to_endpoint() || env.snapshot.leaves_the_cluster(meta.dst(), meta.src())
}

/// Masquerades a flow out of the cluster.
fn leave<N: Family>(meta: &mut Meta<N>, env: &Env<impl Recorder>) -> Result<(), DropReason> {
    env.recorder.note(|| Step::Leaves);
    if !may_open(meta) {
        return Err(DropReason::OutOfState);
    }
    // From a pod of another node: ours were asked when their packets came in.
    if N::is_vtep(env.snapshot, meta.dst(), meta.dst_port(), meta.protocol()) {
        return Err(DropReason::VtepOnly);
    }
    masquerade::assign(meta, FiveTuple::<N>::from_words(meta.key), 0, env)
}

/// True for a packet that begins a flow or may be of one that the switch knew before it was restarted. (Of TCP, Linux's
/// connection tracking takes up the same, but for the FIN; of ICMP, an echo request only. SCTP is as TCP.)
fn may_open<N: Family>(meta: &Meta<N>) -> bool {
    if meta.protocol() == N::ICMP {
        return meta.dst_port() == N::ECHO_REQUEST;
    }
    if !matches!(meta.protocol(), ipv4::TCP | ipv4::SCTP) || meta.has(Meta::FRAGMENT) {
        return true;
    }
    matches!(meta.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN), tcp::SYN | tcp::ACK | FIN_ACK)
}

const FIN_ACK: u8 = tcp::FIN | tcp::ACK;

/// Puts the flow into the table, or follows it if it was put there meanwhile.
#[inline]
fn open<N: Family>(
    meta: &mut Meta<N>,
    mut reply_hash: u64,
    relay: Option<u32>,
    entries: &mut Vec<u32>,
    env: &Env<impl Recorder>,
) -> Result<(), DropReason> {
    let mut next_hops = [meta.other.src(), meta.src()].map(|address| env.snapshot.route(address));
    let to_backend = next_hops[0];
    next_hops[0] = relay.unwrap_or(to_backend);
    let mut flow = NewFlow {
        keys: [(meta.key, meta.hash); 2],
        next_hops,
        generation: env.snapshot.generation,
        state: if relay.is_some() { FlowState::relayed(meta.protocol()) } else { FlowState::first(meta.protocol()) },
        tick: env.now.seconds(),
        counted: meta.has(Meta::COUNTED),
    };
    let mut failure = DropReason::ConntrackContended;
    for attempt in 1..=TRIES {
        let reply = meta.other;
        flow.keys[1] = (reply, reply_hash);
        let put = free_entry(entries, env).map_or(Err(InsertError::Full), |entry| env.conntrack.put(entry, &flow));
        match put {
            Ok(()) => {
                entries.pop();
                env.recorder.note(|| Step::Opened {
                    forward: FiveTuple::<N>::from_words(meta.key).told(),
                    reply: FiveTuple::<N>::from_words(reply).told(),
                });
                env.counters.flows_opened.add(1);
                meta.next_hop = flow.next_hops[0];
                meta.flags |= Meta::TRANSLATE | Meta::ROUTED;
                return Ok(());
            }
            // Another packet of this batch, or another worker, has opened the flow since it was looked up.
            Err(InsertError::Exists) => {
                if let Some(hit) = env.conntrack.find(meta.key, meta.hash) {
                    track::apply(meta, hit, env);
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
                // If it was to be relayed: its answers have to come back here.
                flow.next_hops[0] = to_backend;
                flow.state = FlowState::first(meta.protocol());
                reply_hash = env.conntrack.hash(meta.other);
            }
            Err(InsertError::Crowded(hash)) if make_room_for(hash, env) => {}
            Err(InsertError::Full | InsertError::Crowded(_)) => {
                failure = DropReason::ConntrackFull;
                break;
            }
        }
    }
    env.conntrack.give_back([meta.key, meta.other]);
    // What is not translated needs no flow to get where it is going.
    let is_direct = FiveTuple::<N>::from_words(meta.key).reversed().to_words() == meta.other;
    if is_direct { Ok(()) } else { Err(failure) }
}

/// A free entry, still among `entries`: the last of them, or one that a flow which gives way leaves.
#[inline(always)]
fn free_entry(entries: &mut Vec<u32>, env: &Env<impl Recorder>) -> Option<u32> {
    if entries.is_empty() {
        make_room(entries, env);
    }
    entries.last().copied()
}

#[cold]
fn make_room(entries: &mut Vec<u32>, env: &Env<impl Recorder>) {
    // Some may have become free meanwhile.
    env.conntrack.take_entries(1, entries);
    if entries.is_empty()
        && let Some(entry) = env.conntrack.make_room(env.now.seconds())
    {
        gave_way(env);
        entries.push(entry);
    }
}

/// Makes room where a key has to be: its slots are all taken, while there may be free ones elsewhere.
#[cold]
fn make_room_for(hash: u64, env: &Env<impl Recorder>) -> bool {
    let has_room = env.conntrack.make_room_for(hash, env.now.seconds());
    if has_room {
        gave_way(env);
    }
    has_room
}

/// Notes that a flow made room for another one.
fn gave_way(env: &Env<impl Recorder>) {
    env.recorder.note(|| Step::GaveWay);
    env.counters.flows_gave_way.add(1);
}
