//! Replaces the source of a new flow by an address of the node and a port that no other flow to its destination has.

use crate::{
    flow::FiveTuple,
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step},
    snapshot::Family,
    tables::hash::mix,
    verdict::DropReason,
};

/// Makes `meta.other` the key of answers to a masqueraded flow: `translated` is the flow as its destination would see it,
/// but for the source. `attempt` counts the ports that were tried and found to be taken. The port is this flow's until
/// it is in the table, or given back.
///
/// All flows of one address and port of a client get the same port as long as no other flow to their destination has it
/// (RFC 4787, section 4.1, REQ-1): peers that learn the port from one another reach the client by it.
#[cold]
pub fn assign<N: Family>(
    meta: &mut Meta<N>,
    translated: FiveTuple<N>,
    attempt: u32,
    env: &Env<impl Recorder>,
) -> Result<(), DropReason> {
    let masquerade = env.snapshot.of::<N>().masquerade.as_ref().ok_or(DropReason::NoMasquerade)?;
    let next_hop = env.snapshot.route(translated.dst);
    let src = env.snapshot.stand_in(masquerade, translated.dst, next_hop);
    let reply = FiveTuple { src, ..translated }.reversed();
    let port = if attempt == 0 {
        let client = FiveTuple { dst: N::default(), dst_port: 0, ..translated };
        env.conntrack.take_preferred_port(reply.to_words(), &masquerade.ports, env.conntrack.hash(client.to_words()))
    } else {
        None
    };
    let other_port = port.is_none();
    let port = port.or_else(|| {
        let random = mix(meta.hash.wrapping_add(attempt.into()));
        env.conntrack.take_port(reply.to_words(), &masquerade.ports, random)
    });
    let port = port.ok_or(DropReason::NoMasqueradePort)?;
    env.recorder.note(|| Step::Masqueraded { address: src.address().into(), port, other_port });
    meta.other = FiveTuple { dst_port: port, ..reply }.to_words();
    Ok(())
}

/// Masquerades a flow whose answers, with the key `reply`, could not be told from another flow's.
#[cold]
pub fn reassign<N: Family>(
    meta: &mut Meta<N>,
    reply: N::Key,
    attempt: u32,
    env: &Env<impl Recorder>,
) -> Result<(), DropReason> {
    let answers = FiveTuple::<N>::from_words(reply);
    env.recorder.note(|| Step::AnswersAlike { answers: answers.told() });
    assign(meta, answers.reversed(), attempt, env)
}
