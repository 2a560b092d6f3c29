//! The life of a burst's IPv6 packets: the stages of [`Pipeline::run`](super::Pipeline::run) once more, after all else is on its
//! way, so that IPv4 pays nothing for them.

use super::{Env, answer};
use crate::{
    packet::{BATCH, Batch, Meta},
    record::Recorder,
    stages::{
        forward,
        fragments::{self, Held},
        ipv6,
        service::{self, Opening},
        track::{self, Slots},
    },
    time::TokenBucket,
    verdict::Verdict,
};

/// The packets, and what is remembered from burst to burst.
#[derive(Debug)]
pub struct Lane {
    batch: Batch<u128>,
    slots: Box<Slots>,
    opening: Opening,
    /// The fragments that wait for the first one of their datagram.
    pub held: Held<u128>,
    /// There is something to do, though there may be no packets.
    due: bool,
}

impl Lane {
    /// No packets, and room for a batch.
    pub fn new() -> Lane {
        Lane {
            batch: Batch::of_family(),
            slots: Box::new([None; BATCH]),
            opening: Opening::new(),
            held: Held::new(),
            due: false,
        }
    }

    /// Whether it is to [run](Lane::run).
    #[inline(always)]
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// Lets fragments that wait see whether they need not any longer.
    #[inline(always)]
    pub fn look_after_held(&mut self) {
        self.due |= !self.held.is_empty();
    }

    /// Takes them out of a batch.
    #[cold]
    pub fn take_from(&mut self, batch: &mut Batch) {
        self.due = true;
        batch.take_out(Verdict::Ipv6, |frame, meta| {
            let mut found = Meta::new(meta.in_port);
            found.flags = meta.flags & Meta::DECAPSULATED;
            self.batch.frames.push(frame);
            self.batch.metas.push(found);
        });
    }

    /// Takes them from headers to verdicts, and puts them into an empty batch.
    pub fn run(&mut self, out: &mut Batch, errors: &mut TokenBucket, ip_id: &mut u16, env: &Env<impl Recorder>) {
        let Lane { batch, slots, opening, held, due } = self;
        *due = false;
        let flags = ipv6::parse::run(batch, env);
        if flags & (Meta::ICMP_ERROR | Meta::FRAGMENT) != 0 || !held.is_empty() {
            ipv6::related::run(batch, env);
            fragments::run(batch, held, env);
        }
        let all_known = track::run(batch, slots, env);
        if !all_known {
            service::run(batch, opening, env);
        }
        forward::run(batch, ip_id, env);
        if batch.owes {
            answer(batch, errors, ip_id, env);
        }
        out.frames.append(&mut batch.frames);
        out.metas.extend(batch.metas.iter().map(|meta| {
            let mut sealed = Meta::new(meta.in_port);
            sealed.decide(meta.verdict());
            sealed
        }));
        batch.clear();
    }
}
