//! Which flows leave with an address of the node as their source, and with which.

use std::ops::RangeInclusive;

use super::{CompileError, Family, Snapshot};
use crate::{
    net::Address,
    next_hop::Kind,
    spec::{FamilySpec, PortRole},
    tables::{Origin, Prefixes},
};

/// How sources are replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Masquerade<N> {
    /// The source towards pods.
    overlay: N,
    /// The source towards everything else.
    underlay: N,
    /// The source towards the node itself: its kernel keeps answers to its own addresses, but knows the gateway as ours.
    towards_node: N,
    /// The ports to choose from.
    pub ports: RangeInclusive<u16>,
    /// Where flows that leave the cluster keep their source; `None`: they keep it everywhere.
    egress: Option<Prefixes<N>>,
    /// Whether what the node's own processes answer from the underlay's address comes back to us, whoever it is for.
    answers_led: bool,
}

impl<N: Family> Masquerade<N> {
    pub(super) fn of(spec: &FamilySpec<N::Address>) -> Result<Option<Self>, CompileError> {
        let Some(wanted) = &spec.masquerade else { return Ok(None) };
        let (first, last) = (*wanted.ports.start(), *wanted.ports.end());
        if first < 1024 || first > last {
            return Err(CompileError::MasqueradePorts(first, last));
        }
        Ok(Some(Masquerade {
            overlay: wanted.overlay.number(),
            underlay: wanted.underlay.number(),
            towards_node: spec.gateway.unwrap_or(wanted.overlay).number(),
            ports: wanted.ports.clone(),
            egress: wanted.egress.as_deref().map(Prefixes::new),
            answers_led: wanted.answers_led,
        }))
    }

    /// Whether flows that leave the cluster are masqueraded.
    pub fn has_egress(&self) -> bool {
        self.egress.is_some()
    }

    /// Whether an address is one that stands in for others.
    pub fn is_own(&self, address: N) -> bool {
        [self.overlay, self.underlay, self.towards_node].contains(&address)
    }
}

impl Snapshot {
    /// The address that stands in for the source of a flow to `dst`, which `next_hop` leads to.
    #[inline]
    pub fn stand_in<N: Family>(&self, masquerade: &Masquerade<N>, dst: N, next_hop: u32) -> N {
        let next_hop = self.next_hop(next_hop);
        if masquerade.is_own(dst) {
            masquerade.towards_node
        } else if next_hop.kind == Kind::Overlay || self.port(next_hop.port).role == Some(PortRole::Pod) {
            masquerade.overlay
        } else {
            masquerade.underlay
        }
    }

    /// Whether answers of an endpoint at `dst` to `src`, of a flow that comes from `origin`, would not come back here, or not to
    /// who asked: they meet where both are the same; the kernel keeps packets between its own addresses, and answers who is
    /// outside by itself unless its answers [are led](Snapshot::leads_answers_of) here; and nobody outside the cluster knows
    /// the way to the node's address on the overlay, nor to a pod whose flows are masqueraded.
    #[inline]
    pub fn answers_go_astray<N: Family>(&self, origin: Origin, src: N, dst: N) -> bool {
        if src == dst || self.leaves_the_cluster(src, dst) {
            return true;
        }
        let is_own = |address| self.of::<N>().masquerade.as_ref().is_some_and(|masquerade| masquerade.is_own(address));
        if self.is_pod(dst) && !is_own(dst) {
            return false;
        }
        let is_led = || origin == Origin::Outside && self.leads_answers_of(dst);
        is_own(src) || is_own(dst) && !self.is_pod(src) && !is_led()
    }

    /// Whether what a process of the node answers from `address` to who came by an uplink is led here.
    #[inline]
    pub fn leads_answers_of<N: Family>(&self, address: N) -> bool {
        let masquerade = self.of::<N>().masquerade.as_ref();
        masquerade.is_some_and(|masquerade| masquerade.answers_led && masquerade.underlay == address)
    }

    /// Whether a flow from `src` to `dst` is one of a pod that leaves the cluster and is masqueraded.
    #[inline(always)]
    pub fn leaves_the_cluster<N: Family>(&self, src: N, dst: N) -> bool {
        let Some(masquerade) = &self.of::<N>().masquerade else { return false };
        let Some(kept) = &masquerade.egress else { return false };
        let is_inside = |address| self.is_pod(address) || masquerade.is_own(address);
        if !self.is_pod(src) || masquerade.is_own(src) || is_inside(dst) || kept.contains(dst) {
            return false;
        }
        let next_hop = self.next_hop(self.route(dst));
        next_hop.kind == Kind::Plain && self.port(next_hop.port).role != Some(PortRole::Pod)
    }
}
