//! What would become of a packet, and why: `explain`.
//!
//! The packet is made and goes through the real [`Pipeline`] with a recorder that listens. Nothing comes of it: the
//! connection table is one [laid over](crate::tables::conntrack::Base) the workers', the counters are its own, and what the
//! stages would note for others ([`Recorder::LIVE`]) they do not. Then the answer that the packet would get goes the
//! other way, as if the packet had been sent.
//!
//! What depends on more than the packet is as it would be for the next one: whose turn it is, which port is free. A worker
//! that sends more ICMP errors than it may, a port without room, or one beyond its bandwidth limit is not foreseen.

mod made;
mod question;

pub use question::{Arrival, Question, QuestionError};

use std::{marker::PhantomData, net::IpAddr};

use crate::{
    flow::FiveTuple,
    io::{FramePool, MAX_FRAME_LEN},
    next_hop::Kind,
    packet::Batch,
    pipeline::{Env, Pipeline},
    record::{Notes, Recorder, Step, Way},
    spec::PortId,
    tables::{Conntrack, conntrack::Base},
    verdict::Verdict,
};

/// Frames that a packet without options needs where it is cut into the smallest fragments.
pub const FRAMES: u32 = MAX_FRAME_LEN.div_ceil(48) as u32;

/// What becomes of a packet and of its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The snapshot's generation.
    pub generation: u32,
    /// The packet.
    pub packet: Walk,
    /// The answer to it, if it is sent on.
    pub answer: Option<Walk>,
}

/// One packet's way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// What was asked about: it as it is received, and where.
    pub question: Question,
    /// Where it is received.
    pub arrival: Arrival,
    /// What the stages found out, in their order.
    pub steps: Vec<Step>,
    /// Its fate.
    pub fate: Fate,
    /// What leaves, from the Ethernet header on; empty if nothing does. Fragments that it was cut into, one behind the other.
    pub sent: Vec<u8>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The switch decides.
    Decided(Verdict),
    /// A fragment that waits for the first one of its datagram.
    Waits,
    /// It is the node's kernel's: the uplink's classifier leaves it there, or nothing leads it here from there.
    Kernel,
}

/// Whether a packet comes to the switch at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comes {
    /// It does.
    Yes,
    /// A program leads it here.
    Led,
    /// It is the node's kernel's.
    No,
}

impl Walk {
    /// Where it goes, as decided last: after its own way, that of the answer that the switch gave.
    pub fn way(&self) -> Option<Way> {
        self.steps.iter().rev().find_map(|step| match step {
            Step::Route { way, .. } => Some(*way),
            _ => None,
        })
    }

    /// Its tuple as it leaves.
    pub fn tuple(&self) -> FiveTuple<IpAddr> {
        let rewritten = self.steps.iter().rev().find_map(|step| match step {
            Step::Rewritten { to } => Some(*to),
            _ => None,
        });
        rewritten.unwrap_or(self.question.tuple)
    }
}

/// A run of packets through the pipeline that leaves no trace. Each finds what those before it would have left.
pub struct DryRun<'a> {
    live: Env<'a>,
    table: Conntrack<Base<'a>>,
    pipeline: Pipeline,
    batch: Batch,
    pool: &'a mut FramePool,
}

/// Listens to the walk of a packet that is only thought of.
#[derive(Clone, Copy)]
struct Listener<'n, 'a> {
    notes: &'n Notes,
    below: PhantomData<fn() -> Base<'a>>,
}

impl<'a> Recorder for Listener<'_, 'a> {
    type Below = Base<'a>;
    const LIVE: bool = false;

    fn note(self, step: impl FnOnce() -> Step) {
        self.notes.borrow_mut().push(step());
    }
}

impl<'a> DryRun<'a> {
    /// Begins a run with what packets would find in `live`, whose counters it counts in: they should be nobody's. It takes
    /// one frame of `pool` at a time, or one for each fragment of a packet: [`FRAMES`] are enough.
    pub fn new(live: Env<'a>, pool: &'a mut FramePool) -> DryRun<'a> {
        DryRun { live, table: Conntrack::over(live.conntrack), pipeline: Pipeline::new(0), batch: Batch::new(), pool }
    }

    /// What the stages say of a packet received on `port`, what becomes of it, and what leaves.
    ///
    /// # Panics
    /// If the packet is longer than [`MAX_FRAME_LEN`], or the pool has no frame.
    pub fn run(&mut self, port: PortId, packet: &[u8]) -> (Vec<Step>, Fate, Vec<u8>) {
        assert!(packet.len() <= MAX_FRAME_LEN, "longer than a frame: {} bytes", packet.len());
        let notes = Notes::default();
        let Env { snapshot, fragments, clients, counters, now, .. } = self.live;
        let recorder = Listener { notes: &notes, below: PhantomData };
        let env = Env { snapshot, conntrack: &self.table, fragments, clients, counters, now, recorder };
        let mut frame = self.pool.take().expect("a frame for one packet");
        frame.fill(packet);
        self.batch.frames.push(frame);
        self.batch.received_on(port);
        self.pipeline.run(&mut self.batch, &env);
        let told = notes.borrow().len();
        self.pipeline.rest(&mut self.batch, self.pool, &env);
        self.pipeline.give_up(counters).for_each(|frame| self.pool.give(frame));
        let fate = self.batch.metas.first().map_or(Fate::Waits, |meta| Fate::Decided(meta.verdict()));
        let mut sent = Vec::new();
        for frame in self.batch.frames.drain(..) {
            if matches!(fate, Fate::Decided(Verdict::Tx(_) | Verdict::Answer(..))) {
                sent.extend_from_slice(frame.bytes());
            }
            self.pool.give(frame);
        }
        self.batch.clear();
        // All fragments go the same way, which the packet was found to go before it was cut.
        let mut steps = notes.into_inner();
        let of_fragments = steps.split_off(told);
        for step in of_fragments {
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
        (steps, fate, sent)
    }

    fn walk<E: From<QuestionError>>(
        &mut self,
        question: Question,
        comes: &mut impl FnMut(&Question, PortId, &[u8]) -> Result<Comes, E>,
    ) -> Result<Walk, E> {
        let arrival = question.arrival(self.live.snapshot)?;
        let packet = question.packet(&arrival, self.live.snapshot)?;
        let comes = comes(&question, arrival.port, &packet)?;
        let (mut steps, fate, sent) = match comes {
            Comes::Yes | Comes::Led => self.run(arrival.port, &packet),
            Comes::No => (Vec::new(), Fate::Kernel, Vec::new()),
        };
        if comes == Comes::Led {
            steps.insert(0, Step::Led);
        }
        Ok(Walk { question, arrival, steps, fate, sent })
    }

    /// What becomes of the packet that the question is about, and of its answer. `comes` says whether a packet gets to a port
    /// at all.
    ///
    /// # Errors
    /// If there can be no such packet, or `comes` fails.
    pub fn explain<E: From<QuestionError>>(
        &mut self,
        question: Question,
        mut comes: impl FnMut(&Question, PortId, &[u8]) -> Result<Comes, E>,
    ) -> Result<Explanation, E> {
        let packet = self.walk(question, &mut comes)?;
        // What is relayed is not answered by way of this node.
        let sent = matches!(packet.fate, Fate::Decided(Verdict::Tx(_)));
        let way = packet.way().filter(|way| sent && way.kind != Kind::Relay);
        let answer = way.map(|way| {
            let arrival = Arrival { port: way.port, vtep: way.vtep };
            self.walk(packet.question.answer(packet.tuple(), arrival), &mut comes)
        });
        Ok(Explanation { generation: self.live.snapshot.generation, packet, answer: answer.transpose()? })
    }
}
