//! What to do about connections that the table has lost, by a restart or a flush, until their clients bring them back.
//!
//! A client's next packet brings its connection back. What its backend sends before that cannot be told from a direct
//! connection's: untranslated, it would make the client reset the connection. So for some seconds it is dropped, to be
//! sent again by the backend; who was connected directly meanwhile loses no more than these seconds.

use crate::{
    flow::FiveTuple,
    next_hop::Kind,
    packet::Meta,
    pipeline::Env,
    record::Recorder,
    snapshot::{Family, Snapshot},
    spec::PortRole,
    verdict::{DropReason, Verdict},
    wire::{ipv4, tcp},
};

/// Seconds that clients have: enough for four retransmissions of TCP (RFC 6298, at Linux's least timeout of 0.2 seconds).
pub const PATIENCE: u32 = 5;

/// Drops a packet of no known flow that may be the answer of a backend. True if it was dropped.
#[cold]
pub fn drop_answer<N: Family>(meta: &mut Meta<N>, env: &Env<impl Recorder>) -> bool {
    let begins = meta.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    let is_connection = matches!(meta.protocol(), ipv4::TCP | ipv4::SCTP) && !meta.has(Meta::FRAGMENT);
    let is_answer = is_connection && !begins && may_be_answer(FiveTuple::<N>::from_words(meta.key), env.snapshot);
    if is_answer {
        meta.decide(Verdict::Drop(DropReason::OutOfState));
    }
    is_answer
}

/// True for what goes to a port that only masqueraded flows have, and for what comes from an endpoint for a client whose
/// flows are translated here.
fn may_be_answer<N: Family>(tuple: FiveTuple<N>, snapshot: &Snapshot) -> bool {
    let masquerade = snapshot.of::<N>().masquerade.as_ref();
    if masquerade.is_some_and(|known| known.is_own(tuple.dst) && known.ports.contains(&tuple.dst_port)) {
        return true;
    }
    if !snapshot.of::<N>().endpoints.may_contain(tuple.src, tuple.src_port, tuple.protocol) {
        return false;
    }
    let next_hop = snapshot.next_hop(snapshot.route(tuple.dst));
    let is_uplink = snapshot.port(next_hop.port).role == Some(PortRole::Uplink);
    // A pod of another node has its flows translated there.
    next_hop.kind == Kind::Plain && !(is_uplink && snapshot.is_pod(tuple.dst))
}
