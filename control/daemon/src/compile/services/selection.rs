//! Which endpoints of a service new flows may go to, as one node sees it.
//!
//! Pure functions of endpoint slices and the node's place, for each family of addresses by itself. The rules are those of a kube-proxy: conditions with their
//! defaults, terminating endpoints where no ready one is left, hints, and the node's own endpoints for policy `Local`.

use std::{net::Ipv4Addr, sync::Arc};

use shunt_control_api::{Endpoint, EndpointHints, EndpointSlice, TrafficPolicy};
use shunt_dataplane::spec::{self, Backend, Otherwise, Rule};

use super::family::Family;

/// Where this node is.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its zone; empty: unknown.
    pub zone: &'a str,
    /// Its addresses at which node ports are had.
    pub addresses: &'a [Ipv4Addr],
    /// The one that other nodes know it by.
    pub underlay: Option<Ipv4Addr>,
    /// Nothing from outside of the cluster is let in.
    pub isolated: bool,
}

/// What an endpoint is good for, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usability {
    /// New flows.
    Ready,
    /// New flows if there is no ready one: it serves, and terminates.
    Leaving,
    /// Nothing.
    Unusable,
}

impl Usability {
    fn of<A>(endpoint: &Endpoint<A>) -> Usability {
        let conditions = endpoint.conditions;
        if conditions.is_ready() {
            Usability::Ready
        } else if conditions.is_serving() && conditions.is_terminating() {
            Usability::Leaving
        } else {
            Usability::Unusable
        }
    }
}

/// One address and target port of a service port.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a, A = Ipv4Addr> {
    /// The address and target port.
    pub backend: Backend<A>,
    /// What it is good for.
    pub usability: Usability,
    /// The endpoint it is of.
    pub endpoint: &'a Endpoint<A>,
}

impl<A: Family> Candidate<'_, A> {
    fn spec(&self) -> spec::Endpoint<A> {
        spec::Endpoint { backend: self.backend, weight: self.endpoint.weight }
    }
}

/// Among which ready endpoints those for everybody are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Those with a hint for this node.
    Node,
    /// Those with a hint for this node's zone.
    Zone,
    /// All.
    All,
}

/// What a node makes of the endpoints of one service port.
#[derive(Debug)]
pub struct Selection<'a, A = Ipv4Addr> {
    /// All of them, each address and target port once, ascending.
    pub candidates: Vec<Candidate<'a, A>>,
    /// By the hints.
    pub spread: Spread,
    /// What candidates must be good for to be chosen, of those anywhere.
    pub anywhere: Usability,
    /// The same, of those on this node.
    pub here: Usability,
    place: Place<'a>,
}

/// Why a candidate is chosen, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// New flows go to it.
    Chosen,
    /// New flows go to it though it terminates: no ready endpoint is left.
    ChosenWhileTerminating,
    /// It is not ready.
    NotReady,
    /// It terminates, and others are ready.
    Terminating,
    /// The policy is `Local`, and it is on another node.
    Elsewhere,
    /// Hints reserve it for other nodes or zones.
    HintedElsewhere,
}

impl Standing {
    /// Whether new flows go to it.
    pub fn is_chosen(self) -> bool {
        matches!(self, Standing::Chosen | Standing::ChosenWhileTerminating)
    }

    /// For a person.
    pub fn sentence(self) -> &'static str {
        match self {
            Standing::Chosen => "It is ready.",
            Standing::ChosenWhileTerminating => "It terminates, but no ready endpoint is left.",
            Standing::NotReady => "It is not ready.",
            Standing::Terminating => "It terminates, and others are ready.",
            Standing::Elsewhere => "It is on another node, and the policy is Local.",
            Standing::HintedElsewhere => "Its hints are for others, and some endpoint's are for this node or zone.",
        }
    }
}

impl<'a, A: Family> Selection<'a, A> {
    /// Selects among the endpoints of the family's `slices` that have a port called `port`. An address and target port in several
    /// slices counts once, by the slice that says the best of it: an endpoint that moves from slice to slice may be in
    /// both for a while.
    pub fn new(slices: &[&'a EndpointSlice], port: &str, place: Place<'a>) -> Selection<'a, A> {
        let mut candidates = Vec::new();
        for slice in slices {
            let Some(port) = slice.ports.iter().find(|p| p.name == port) else { continue };
            candidates.extend(A::endpoints(slice).iter().map(|endpoint| Candidate {
                backend: Backend { address: endpoint.address, port: port.port },
                usability: Usability::of(endpoint),
                endpoint,
            }));
        }
        candidates.sort_by_key(|candidate| (candidate.backend, candidate.usability));
        candidates.dedup_by_key(|candidate| candidate.backend);
        let best = |candidates: &mut dyn Iterator<Item = &Candidate<A>>| {
            candidates.map(|candidate| candidate.usability).min().unwrap_or(Usability::Unusable)
        };
        Selection {
            spread: spread(&candidates, place),
            anywhere: best(&mut candidates.iter()),
            here: best(&mut candidates.iter().filter(|candidate| &*candidate.endpoint.node == place.node)),
            candidates,
            place,
        }
    }

    /// What becomes of new flows under `policy`. Nowhere an endpoint: refused. None here, but elsewhere: dropped.
    pub fn rule(&self, policy: TrafficPolicy) -> Rule<A> {
        let chosen = self.candidates.iter().filter(|candidate| self.standing(candidate, policy).is_chosen());
        let mut endpoints = Vec::with_capacity(self.candidates.len());
        endpoints.extend(chosen.map(Candidate::spec));
        Rule {
            endpoints: endpoints.into(),
            otherwise: if self.anywhere == Usability::Unusable { Otherwise::Refuse } else { Otherwise::Drop },
            ..Rule::default()
        }
    }

    /// Those that new flows from anywhere do not go to and that serve all the same: the flows that they have stay, also where
    /// there are no connections (kube-proxy forgets UDP flows of endpoints that do not serve, and no others). Ascending.
    pub fn leaving(&self) -> Arc<[Backend<A>]> {
        let serves = |candidate: &&Candidate<A>| candidate.usability != Usability::Unusable;
        let is_left = |candidate: &&Candidate<A>| !self.standing(candidate, TrafficPolicy::Cluster).is_chosen();
        let left: Vec<_> = self.candidates.iter().filter(serves).filter(is_left).map(|c| c.backend).collect();
        // Most services have none, and what is empty is shared.
        if left.is_empty() { Arc::default() } else { left.into() }
    }

    /// Whether new flows under `policy` may go to one of the candidates, and why.
    pub fn standing(&self, candidate: &Candidate<A>, policy: TrafficPolicy) -> Standing {
        let needed = match policy {
            TrafficPolicy::Cluster => self.anywhere,
            TrafficPolicy::Local => self.here,
        };
        match candidate.usability {
            Usability::Unusable => Standing::NotReady,
            _ if policy == TrafficPolicy::Local && &*candidate.endpoint.node != self.place.node => Standing::Elsewhere,
            Usability::Leaving if needed == Usability::Ready => Standing::Terminating,
            Usability::Leaving => Standing::ChosenWhileTerminating,
            Usability::Ready if policy == TrafficPolicy::Cluster && !self.is_hinted(candidate) => {
                Standing::HintedElsewhere
            }
            Usability::Ready => Standing::Chosen,
        }
    }

    fn is_hinted(&self, candidate: &Candidate<A>) -> bool {
        match self.spread {
            Spread::Node => nodes(candidate.endpoint).iter().any(|node| node == self.place.node),
            Spread::Zone => zones(candidate.endpoint).iter().any(|zone| zone == self.place.zone),
            Spread::All => true,
        }
    }
}

/// Hints count only if every ready endpoint has one: as long as some have none, they are not all written yet.
fn spread<A>(candidates: &[Candidate<A>], place: Place) -> Spread {
    let meant_for = |names: fn(&Endpoint<A>) -> &[String], own: &str| {
        let mut ready = candidates.iter().filter(|c| c.usability == Usability::Ready).map(|c| names(c.endpoint));
        ready.clone().all(|names| !names.is_empty()) && ready.any(|names| names.iter().any(|name| name == own))
    };
    if meant_for(nodes, place.node) {
        Spread::Node
    } else if !place.zone.is_empty() && meant_for(zones, place.zone) {
        Spread::Zone
    } else {
        Spread::All
    }
}

fn nodes<A>(endpoint: &Endpoint<A>) -> &[String] {
    endpoint.hints.as_deref().map_or(&[], |EndpointHints { for_nodes, .. }| for_nodes)
}

fn zones<A>(endpoint: &Endpoint<A>) -> &[String] {
    endpoint.hints.as_deref().map_or(&[], |EndpointHints { for_zones, .. }| for_zones)
}

#[cfg(test)]
mod tests;
