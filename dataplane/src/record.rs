//! What the stages tell about a packet on its walk, for whoever asked.
//!
//! Forwarding and explaining are one code: the stages are compiled once for workers, with [`Off`] as the recorder, in which
//! nothing of this is left, and once for each recorder that listens. A recorder hears of one packet at a time.

use std::{cell::RefCell, net::IpAddr};

use ipnet::IpNet;

use crate::{
    flow::FiveTuple,
    net::MacAddr,
    next_hop::{Kind, NextHop},
    spec::{Backend, Otherwise, PortId, Rate, Scheduler},
    tables::{
        Origin,
        conntrack::{Below, Direction, FlowState, Nothing},
    },
    verdict::Answer,
};

/// Who listens to the stages.
pub trait Recorder: Copy {
    /// What is below the connection table that the stages use.
    type Below: Below;

    /// False if the packet is only thought of: it must not change what others forward by.
    const LIVE: bool;

    /// A stage found something out about the packet.
    fn note(self, step: impl FnOnce() -> Step);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug)]
pub struct Off;

impl Recorder for Off {
    type Below = Nothing;
    const LIVE: bool = true;

    #[inline(always)]
    fn note(self, _: impl FnOnce() -> Step) {}
}

/// What was heard so far.
pub type Notes = RefCell<Vec<Step>>;

/// What a stage found out. VTEPs' addresses are in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Decap: it came in a VXLAN packet from this address.
    Outer {
        /// The sender.
        vtep: u32,
        /// The network.
        vni: u32,
    },
    /// Parse: its headers are sound.
    Headers {
        /// Who sent it to whom. No ports in a fragment.
        tuple: FiveTuple<IpAddr>,
        /// Flags of its TCP header; of SCTP, those that say what its chunks do; else 0.
        tcp_flags: u8,
        /// It is a fragment.
        fragment: bool,
    },
    /// Before all stages: a process of the node sent it to a frontend, by a way on which a program led it to the host port.
    Led,
    /// Fragments: its ports, as the first fragment of its datagram has them.
    FragmentPorts {
        /// Source and destination.
        ports: (u16, u16),
    },
    /// Related: an ICMP error that quotes a packet of this flow.
    Quoted {
        /// The packet it is about, as its sender knows it.
        about: FiveTuple<IpAddr>,
    },
    /// Track: it is of a flow that the table has.
    Known(Known),
    /// Track: the flow is over, or its backend did not answer, and the client begins anew.
    BegunAnew {
        /// How far the flow had come.
        state: FlowState,
        /// Who served it.
        backend: Backend<IpAddr>,
    },
    /// Track: the flow's endpoint serves no longer. A client's packet makes a new flow, an endpoint's is dropped.
    EndpointGone {
        /// Which packet of the flow it is.
        direction: Direction,
        /// Who served it.
        backend: Backend<IpAddr>,
    },
    /// Track: no flow has its tuple.
    Unknown,
    /// Service: its destination is a frontend of a service.
    Service(Frontend),
    /// Service: it leaves the cluster, and so gets the node's address.
    Leaves,
    /// Service: it goes past all services, but its flow might be mistaken for one that does not, so it is tracked.
    MayBeMistaken,
    /// Select: an endpoint was chosen.
    Endpoint {
        /// Which.
        backend: Backend<IpAddr>,
        /// By what.
        why: Why,
        /// The one that did not answer before.
        avoided: Option<Backend<IpAddr>>,
    },
    /// Masquerade: its source is replaced.
    Masqueraded {
        /// By which address,
        address: IpAddr,
        /// and which port.
        port: u16,
        /// The port is not the one that the client's other flows have: some flow to the same destination had that.
        other_port: bool,
    },
    /// Service: the endpoint's node answers the client directly, so the flow is relayed to it.
    Relayed,
    /// Service: the endpoint is here and the service has direct server return, so the client's address is kept.
    SourceKept,
    /// Service: answers to the flow could not be told from another flow's, so its source has to be replaced.
    AnswersAlike {
        /// The answers.
        answers: FiveTuple<IpAddr>,
    },
    /// Service: the table was full, and a half open flow gave way.
    GaveWay,
    /// Service: the flow is in the table.
    Opened {
        /// Packets of the client.
        forward: FiveTuple<IpAddr>,
        /// Answers.
        reply: FiveTuple<IpAddr>,
    },
    /// Route: where it goes.
    Route {
        /// Its destination, once translated.
        destination: IpAddr,
        /// The FIB's prefix for that; `None`: there is none.
        prefix: Option<IpNet>,
        /// Its flow knew: the FIB was not asked.
        by_flow: bool,
        /// Where that is.
        way: Way,
    },
    /// Oversize: it is cut into fragments.
    Cut {
        /// The longest packet that its next hop takes, in bytes.
        mtu: u16,
        /// How many there are.
        fragments: usize,
    },
    /// Forward: its addresses and ports are rewritten.
    Rewritten {
        /// To these.
        to: FiveTuple<IpAddr>,
    },
    /// Forward: it goes into a VXLAN packet.
    Encapsulated {
        /// To this address.
        vtep: u32,
        /// From this UDP port, which differs from flow to flow.
        port: u16,
    },
    /// Limit: its sender may send so much.
    EgressLimit(Rate),
    /// Limit: its receiver may receive so much.
    IngressLimit(Rate),
    /// The switch answers it.
    Answered(Answer),
}

/// A flow that a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Which packet of it this is.
    pub direction: Direction,
    /// How far it had come.
    pub before: FlowState,
    /// How far it is with this packet.
    pub after: FlowState,
    /// Seconds since its last packet.
    pub idle: u32,
    /// Under which generation its way was decided, before this packet.
    pub generation: u32,
    /// Who opened it to whom.
    pub forward: FiveTuple<IpAddr>,
    /// Who answers whom.
    pub reply: FiveTuple<IpAddr>,
}

/// A service's frontend, as a packet's origin sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// Where the packet comes from.
    pub origin: Origin,
    /// Which of its source ranges the source is in; `None`: it has none, and everybody may use it.
    pub source_range: Option<Option<IpNet>>,
    /// Endpoints to choose from.
    pub endpoints: usize,
    /// The source is replaced.
    pub masquerade: bool,
    /// If there is no endpoint.
    pub otherwise: Otherwise,
    /// How an endpoint is chosen.
    pub scheduler: Scheduler,
    /// Clients stay with an endpoint for so many seconds.
    pub affinity: Option<u64>,
}

/// Why an endpoint was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The flow's hash names it.
    FlowHash,
    /// The hash of the client's address names it.
    ClientHash,
    /// It is its turn.
    Turn,
    /// It has the fewest flows for its weight.
    FewestFlows,
    /// The client's last flow went there, so many seconds ago.
    Affinity(u32),
    /// The node that relayed the packet named it.
    Named,
}

/// A next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// What is done.
    pub kind: Kind,
    /// The port it leaves by.
    pub port: PortId,
    /// The station on that port's link that gets it.
    pub station: MacAddr,
    /// The VTEP, if it goes over the overlay.
    pub vtep: Option<u32>,
    /// The longest IP packet that may go there.
    pub mtu: u16,
}

impl Way {
    /// A next hop's.
    pub fn of(next_hop: &NextHop) -> Way {
        let NextHop { kind, port, mtu, .. } = *next_hop;
        Way { kind, port, station: next_hop.station(), vtep: next_hop.vtep(), mtu }
    }
}

impl Step {
    /// The stage that found it out, as the walk of a packet names it.
    pub fn stage(&self) -> &'static str {
        match self {
            Step::Led => "lead",
            Step::Outer { .. } => "decap",
            Step::Headers { .. } => "parse",
            Step::FragmentPorts { .. } => "fragments",
            Step::Quoted { .. } => "related",
            Step::Known(_) | Step::BegunAnew { .. } | Step::EndpointGone { .. } | Step::Unknown => "track",
            Step::Service(_)
            | Step::Leaves
            | Step::MayBeMistaken
            | Step::Relayed
            | Step::SourceKept
            | Step::AnswersAlike { .. }
            | Step::GaveWay
            | Step::Opened { .. } => "service",
            Step::Endpoint { .. } => "select",
            Step::Masqueraded { .. } => "masquerade",
            Step::Route { .. } => "route",
            Step::Cut { .. } => "oversize",
            Step::Rewritten { .. } => "nat",
            Step::Encapsulated { .. } => "encap",
            Step::EgressLimit(_) | Step::IngressLimit(_) => "limit",
            Step::Answered(_) => "answer",
        }
    }
}
