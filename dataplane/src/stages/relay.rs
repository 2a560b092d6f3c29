//! Direct server return: what a client outside sends to one node goes on, as it is, to the node of its endpoint, which
//! answers the client itself. Neither has to replace the client's address for that.
//!
//! The first node chooses the endpoint, keeps the flow with it, and names it to the other node in the source address of the
//! inner Ethernet header: a mark, then the endpoint's IPv4 address. So the packet gets no longer, and the other node needs
//! no memory of a flow to find the endpoint again when it was restarted.

use crate::{
    io::Frame,
    next_hop::Kind,
    packet::Meta,
    pipeline::Env,
    record::{Recorder, Step, Why},
    snapshot::{Family, Snapshot},
    spec::{Backend, PortRole, Scheduler},
    tables::service::{Choice, Service},
    wire::{be16, be32, ethernet, put16, put32},
};

/// How the source address of a relayed frame begins: locally administered (IEEE 802, clause 8.4), of one station.
pub const MARK: u16 = 0x5e44;

/// How the source of a flow from outside can be kept.
pub enum Way {
    /// Its endpoint is here.
    Here,
    /// By the next hop with this index.
    Relayed(u32),
}

/// The way to an endpoint at `address` on which a source outside can be kept; `None`: its answers have to come back here.
pub fn way<N: Family>(address: N, snapshot: &Snapshot) -> Option<Way> {
    let next_hop = snapshot.next_hop(snapshot.route(address));
    let is_pod = next_hop.kind == Kind::Plain && snapshot.port(next_hop.port).role == Some(PortRole::Pod);
    if is_pod || snapshot.leads_answers_of(address) {
        return Some(Way::Here);
    }
    next_hop.relay.map(Way::Relayed)
}

/// Names `endpoint` in a frame that was encapsulated: its inner Ethernet header starts at `inner`.
pub fn name(frame: &mut Frame, inner: usize, endpoint: u32) {
    let source = &mut frame.bytes_mut()[inner + ethernet::SOURCE..];
    put16(source, 0, MARK);
    put32(source, 2, endpoint);
}

/// Whether another node relayed the packet to us.
#[inline]
pub fn is_relayed<N: Family>(frame: &Frame, meta: &Meta<N>) -> bool {
    N::RELAYS && meta.has(Meta::DECAPSULATED) && be16(frame.bytes(), ethernet::SOURCE) == MARK
}

/// The endpoint of a relayed packet that the other node named, if it is to be chosen here and did not fail to answer.
#[cold]
pub fn named<N: Family>(
    frame: &Frame,
    meta: &mut Meta<N>,
    service: &Service<N::Address>,
    choice: &Choice<N::Address>,
    env: &Env<impl Recorder>,
) -> Option<Backend<N::Address>> {
    if !is_relayed(frame, meta) || meta.has(Meta::UNANSWERED) {
        return None;
    }
    let address = N::of_word(be32(frame.bytes(), ethernet::SOURCE + 2).into())?.address();
    let endpoints = choice.endpoints();
    let at = endpoints.partition_point(|endpoint| endpoint.backend.address < address);
    let backend = endpoints.get(at).map(|endpoint| endpoint.backend).filter(|backend| backend.address == address)?;
    if service.scheduler == Scheduler::LeastConnections {
        meta.flags |= Meta::COUNTED;
    }
    env.recorder.note(|| Step::Endpoint { backend: backend.told(), why: Why::Named, avoided: None });
    Some(backend)
}
