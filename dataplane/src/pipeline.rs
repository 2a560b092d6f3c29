//! The hot path: the life of a burst, top to bottom.
//!
//! A pure function of the packets, the snapshot, the connection table, the time and the worker's small state: a
//! recorded run can be replayed.

mod ipv6;

use std::hint::cold_path;

use crate::{
    counters::WorkerCounters,
    io::{Frame, FramePool},
    packet::{BATCH, Batch, Meta, Run},
    record::{Off, Recorder, Step},
    snapshot::Snapshot,
    spec::PortRole,
    stages::{
        forward::{self, Forward},
        fragments::{self, Held},
        limit, local,
        oversize::Oversized,
        parse, related,
        service::{self, Opening},
        track::{self, Slots},
    },
    tables::{Conntrack, Recent},
    time::{Now, TokenBucket},
    verdict::{Answer, Verdict},
};

/// What a burst is forwarded by.
#[derive(Clone, Copy)]
pub struct Env<'a, R: Recorder = Off> {
    /// The forwarding state.
    pub snapshot: &'a Snapshot,
    /// The connection table, shared with other workers.
    pub conntrack: &'a Conntrack<R::Below>,
    /// What is known of fragmented datagrams, shared with other workers.
    pub fragments: &'a Recent,
    /// The endpoints of clients of services with session affinity, shared with other workers.
    pub clients: &'a Recent,
    /// This worker's counters.
    pub counters: &'a WorkerCounters,
    /// The time of the burst.
    pub now: Now,
    /// Who wants to know what becomes of the packets, and why.
    pub recorder: R,
}

/// ICMP errors one worker sends per second, on average and at once (RFC 1812, section 4.3.2.8 asks for a limit).
const ERRORS_PER_SECOND: u32 = 1000;
const ERROR_BURST: u32 = 100;

/// One worker's pipeline and what it remembers from burst to burst.
#[derive(Debug)]
pub struct Pipeline {
    slots: Box<Slots>,
    opening: Opening,
    /// The fragments that wait for the first one of their datagram.
    held: Held,
    oversized: Oversized,
    ipv6: ipv6::Lane,
    ip_id: u16,
    error_budget: TokenBucket,
}

impl Pipeline {
    /// A pipeline. Workers with different `seed`s number their outer headers differently.
    pub fn new(seed: u16) -> Pipeline {
        Pipeline {
            slots: Box::new([None; BATCH]),
            opening: Opening::new(),
            held: Held::new(),
            oversized: Oversized::new(),
            ipv6: ipv6::Lane::new(),
            ip_id: seed,
            error_budget: TokenBucket::new(ERRORS_PER_SECOND, ERROR_BURST),
        }
    }

    /// Takes a batch from received frames to verdicts: afterwards every packet's fate is sealed. Fragments that have to
    /// wait are taken out of the batch, and those that waited long enough are added to it. Packets that are too big, and those
    /// of IPv6, are taken out, too, for [`Pipeline::rest`].
    #[inline]
    pub fn run(&mut self, batch: &mut Batch, env: &Env<impl Recorder>) {
        let flags = parse::run(batch, env);
        if let Some(limits) = &env.snapshot.limits {
            limit::egress(batch, limits, env);
        }
        if flags & parse::IPV6 != 0 {
            self.ipv6.take_from(batch);
        }
        if flags & u16::from(Meta::ICMP_ERROR | Meta::FRAGMENT) != 0 || !self.held.is_empty() {
            related::run(batch, env);
            fragments::run(batch, &mut self.held, env);
        }
        self.ipv6.look_after_held();
        let all_known = track::run(batch, &mut self.slots, env);
        if !all_known {
            service::run(batch, &mut self.opening, env);
        }
        forward::run(batch, &mut self.ip_id, env);
        if batch.owes {
            answer(batch, &mut self.error_budget, &mut self.ip_id, env);
            self.oversized.take_from(batch);
        }
        finish(batch, env);
    }

    /// Whether fragments wait for the first one of their datagram. While they do, [`Pipeline::run`] must be called from time to
    /// time, with an empty batch if there is no other.
    #[inline]
    pub fn holds_any(&self) -> bool {
        !self.held.is_empty() || !self.ipv6.held.is_empty()
    }

    /// The frames of those.
    pub fn held(&self) -> impl Iterator<Item = &Frame> {
        self.held.frames().chain(self.ipv6.held.frames())
    }

    /// Lets none of them wait any longer, and counts them as dropped.
    pub fn give_up<'a>(&'a mut self, counters: &'a WorkerCounters) -> impl Iterator<Item = Frame> + 'a {
        self.held.give_up(counters).chain(self.ipv6.held.give_up(counters))
    }

    /// Puts what [`Pipeline::run`] has taken out into an empty batch, as far as there is room, and seals its fate: packets of
    /// IPv6, and those that were too big, cut into fragments, which take what they need more from `pool`. False if there is
    /// nothing: to be called until then, before the next run.
    #[inline]
    pub fn rest(&mut self, batch: &mut Batch, pool: &mut FramePool, env: &Env<impl Recorder>) -> bool {
        if self.ipv6.is_due() {
            cold_path();
            self.ipv6.run(batch, &mut self.error_budget, &mut self.ip_id, env);
            finish(batch, env);
            return true;
        }
        let are_any = !self.oversized.is_empty();
        if are_any {
            cold_path();
            self.oversized.cut_into(batch, pool, env);
            forward::run(batch, &mut self.ip_id, env);
            finish(batch, env);
        }
        are_any
    }
}

/// Sends the switch's own messages instead of the packets they are about.
#[cold]
fn answer<N: Forward>(batch: &mut Batch<N>, budget: &mut TokenBucket, ip_id: &mut u16, env: &Env<impl Recorder>) {
    for (frame, meta) in batch.packets() {
        let Verdict::Owed(answer) = meta.verdict() else { continue };
        let allowed = answer == Answer::Echo || budget.take(env.now);
        if !allowed || !local::answer(frame, meta, answer, env.snapshot) {
            meta.decide(Verdict::Drop(local::unanswered(answer)));
        } else {
            env.recorder.note(|| Step::Answered(answer));
        }
    }
    // The answers are routed like any packet; one that cannot be sent is not answered in its turn.
    forward::run(batch, ip_id, env);
    for meta in &mut batch.metas {
        let Some(answer) = meta.answer else { continue };
        match meta.verdict() {
            Verdict::Tx(port) => meta.decide(Verdict::Answer(answer, port)),
            Verdict::Owed(_) => meta.decide(Verdict::Drop(local::unanswered(answer))),
            _ => {}
        }
    }
}

/// What is done once packets are on their way.
#[inline(always)]
fn finish(batch: &mut Batch, env: &Env<impl Recorder>) {
    if let Some(limits) = &env.snapshot.limits {
        limit::ingress(batch, limits, env);
    }
    count(batch, env);
}

/// Counts every packet's fate at the port it came in on, and notes who shares it.
#[inline(always)]
fn count(batch: &mut Batch, env: &Env<impl Recorder>) {
    for run in batch.metas.chunk_by(|a, b| a.in_port == b.in_port && a.shares_fate_with(b)) {
        let port = env.counters.port(run[0].in_port);
        let (verdict, len) = (run[0].verdict(), run.len());
        let counter = match verdict {
            Verdict::Tx(out) if env.snapshot.port(out).role == Some(PortRole::Host) => &port.to_host,
            Verdict::Tx(_) => &port.forwarded,
            Verdict::Answer(answer, _) => &port.answers[answer as usize],
            Verdict::Drop(reason) => &port.drops[reason as usize],
            Verdict::Pending | Verdict::Owed(_) | Verdict::Oversized | Verdict::Ipv6 => {
                unreachable!("every packet's fate is sealed")
            }
        };
        counter.add(len as u64);
        batch.runs.push(Run { verdict, len });
    }
}
