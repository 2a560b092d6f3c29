//! The steps of a packet's walk, one file each. Every stage goes over the whole batch before the next one starts.

pub mod decap;
pub mod forward;
pub mod fragments;
pub mod ipv6;
pub mod limit;
pub mod local;
pub mod lost;
pub mod masquerade;
pub mod nat;
pub mod oversize;
pub mod parse;
pub mod related;
pub mod relay;
pub mod route;
pub mod select;
pub mod service;
pub mod track;
pub mod usual;

use self::fragments::Piece;
use crate::{
    io::Frame,
    next_hop::NextHop,
    packet::Meta,
    pipeline::Env,
    record::Recorder,
    snapshot::{Family, Snapshot},
    verdict::{Answer, Verdict},
};

/// What stages that are one code for both families do differently for each.
pub trait Stages: Family {
    /// Sends a packet to its next hop, or says what becomes of it otherwise.
    fn send(
        frame: &mut Frame,
        meta: &Meta<Self>,
        next_hop: &NextHop,
        ip_id: &mut u16,
        env: &Env<impl Recorder>,
    ) -> Result<(), Verdict>;

    /// What a fragment says about itself; `packet` is one, from its IP header on.
    fn piece(packet: &[u8]) -> Piece;

    /// Makes of a packet the message about it, still to be sent. False if there is to be none.
    fn answer(frame: &mut Frame, meta: &mut Meta<Self>, answer: Answer, snapshot: &Snapshot) -> bool;
}

impl Stages for u32 {
    #[inline(always)]
    fn send(
        frame: &mut Frame,
        meta: &Meta,
        next_hop: &NextHop,
        ip_id: &mut u16,
        env: &Env<impl Recorder>,
    ) -> Result<(), Verdict> {
        forward::send(frame, meta, next_hop, ip_id, env)
    }

    fn piece(packet: &[u8]) -> Piece {
        Piece::of(packet)
    }

    fn answer(frame: &mut Frame, meta: &mut Meta, answer: Answer, snapshot: &Snapshot) -> bool {
        local::answer(frame, meta, answer, snapshot)
    }
}

impl Stages for u128 {
    #[inline(always)]
    fn send(
        frame: &mut Frame,
        meta: &Meta<u128>,
        next_hop: &NextHop,
        ip_id: &mut u16,
        env: &Env<impl Recorder>,
    ) -> Result<(), Verdict> {
        ipv6::forward::send(frame, meta, next_hop, ip_id, env)
    }

    fn piece(packet: &[u8]) -> Piece {
        ipv6::parse::piece(packet)
    }

    fn answer(frame: &mut Frame, meta: &mut Meta<u128>, answer: Answer, snapshot: &Snapshot) -> bool {
        ipv6::local::answer(frame, meta, answer, snapshot)
    }
}
