//! What becomes of a packet, and why.

use crate::spec::PortId;

/// A packet's fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not yet decided: later stages look at it.
    Pending,
    /// Not forwarded: its sender is owed an answer, still to be made.
    Owed(Answer),
    /// Not forwarded yet: it has to be cut into fragments before.
    Oversized,
    /// Not forwarded yet: of the other family than its batch.
    Ipv6,
    /// Sent out of a port (the host port is one of them).
    Tx(PortId),
    /// Turned into a message of the switch's own, which goes out of a port.
    Answer(Answer, PortId),
    /// Dropped.
    Drop(DropReason),
}

/// A verdict in one word, so that a burst's verdicts are compared without branches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PackedVerdict(u32);

impl PackedVerdict {
    /// [`Verdict::Pending`].
    pub const PENDING: PackedVerdict = PackedVerdict(0);
}

impl From<Verdict> for PackedVerdict {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        PackedVerdict(match verdict {
            Verdict::Pending => 0,
            Verdict::Tx(port) => 1 << 24 | u32::from(port.0),
            Verdict::Answer(answer, port) => 2 << 24 | (answer as u32) << 16 | u32::from(port.0),
            Verdict::Drop(reason) => 3 << 24 | (reason as u32) << 16,
            Verdict::Owed(answer) => 4 << 24 | (answer as u32) << 16,
            Verdict::Oversized => 5 << 24,
            Verdict::Ipv6 => 6 << 24,
        })
    }
}

impl From<PackedVerdict> for Verdict {
    #[inline(always)]
    fn from(PackedVerdict(word): PackedVerdict) -> Self {
        let (number, port) = ((word >> 16) as usize & 0xff, PortId(word as u16));
        match word >> 24 {
            0 => Verdict::Pending,
            1 => Verdict::Tx(port),
            2 => Verdict::Answer(Answer::ALL[number], port),
            3 => Verdict::Drop(DropReason::ALL[number]),
            4 => Verdict::Owed(Answer::ALL[number]),
            5 => Verdict::Oversized,
            _ => Verdict::Ipv6,
        }
    }
}

impl std::fmt::Debug for PackedVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Verdict::from(*self).fmt(f)
    }
}

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal, $sentence:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $(#[doc = $sentence] $variant,)*
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: [$name; [$($name::$variant),*].len()] = [$($name::$variant),*];

            /// The name used in counters, metrics and the API.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// What it means, for a person.
            pub fn sentence(self) -> &'static str {
                match self { $($name::$variant => $sentence,)* }
            }
        }
    };
}

named! {
    /// Why a packet was dropped.
    DropReason {
        Truncated = "truncated", "The frame ends before the headers it announces.";
        NotOurMac = "not_our_mac", "The frame is addressed to another station.";
        UnknownEtherType = "unknown_ethertype", "The frame carries neither IP nor ARP; or IPv6, which is not configured.";
        ArpIgnored = "arp_ignored", "An ARP message that asks for an address the switch does not answer for, or is no request.";
        DiscoveryIgnored = "discovery_ignored", "A neighbour discovery or multicast listener message that is not a sound question for the gateway: router solicitations, duplicate address detection, reports.";
        BadIpHeader = "bad_ip_header", "The IP version, a header's length or the packet's is impossible.";
        BadIpChecksum = "bad_ip_checksum", "The IPv4 header checksum is wrong.";
        MartianSource = "martian_source", "The source address is multicast, loopback, broadcast or unspecified.";
        SpoofedMac = "spoofed_mac", "A pod sent with an Ethernet source address (or one in an ARP or neighbour discovery message) that is not its own.";
        SpoofedAddress = "spoofed_address", "Sent with an IP source address (or one in an ARP or neighbour discovery message) other than that of the pod behind the port, or of an isolated node.";
        VtepOnly = "vtep_only", "Sent to the VXLAN port of a VTEP by a pod or through a service: only VTEPs may do that.";
        BadL4Header = "bad_l4_header", "The packet ends before its TCP, UDP or ICMP header does.";
        NotVxlan = "not_vxlan", "An uplink packet that is neither VXLAN for our VTEP nor routed here natively.";
        BadVxlan = "bad_vxlan", "The outer UDP length or the VXLAN header is damaged, or carries no VNI.";
        BadOuterChecksum = "bad_outer_checksum", "The outer UDP checksum is not zero and wrong.";
        UnknownVni = "unknown_vni", "The VXLAN network identifier is not ours.";
        UnknownVtep = "unknown_vtep", "The VXLAN packet comes from an address that is no known VTEP.";
        EcnLost = "ecn_lost", "Congestion was marked on the way for a packet that cannot carry the mark (RFC 6040).";
        NoRoute = "no_route", "No route leads to the destination.";
        Unresolved = "unresolved_next_hop", "The next hop's MAC address is not known yet: the kernel is resolving it.";
        TtlExpired = "ttl_expired", "The time to live ran out, and the error message about it was not sent (rate limit).";
        TooBig = "too_big", "The packet is too big for the next hop and must not be cut into fragments, and the error message about it was not sent.";
        NoFrame = "no_frame", "The packet had to be cut into fragments for its next hop, and no frames were free for them.";
        ForwardedBroadcast = "forwarded_broadcast", "The destination is a multicast or broadcast address, which is not routed.";
        SwitchAddress = "switch_address", "Sent to the switch's own address, and nothing it answers.";
        NoService = "no_service", "The destination is in a service range, but no service has this address.";
        NoBackend = "no_backend", "The service has no endpoint, or none of this port and protocol, and the error message about it was not sent.";
        NoLocalBackend = "no_local_backend", "The service's traffic policy keeps this flow on the node, and no endpoint is here; or the node is isolated.";
        FragmentTimeout = "fragment_timeout", "A fragment waited in vain for the first one of its datagram, which carries the ports.";
        FragmentsWaiting = "fragments_waiting", "As many fragments as may wait were waiting for the first one of their datagram.";
        KernelsFragment = "kernels_fragment", "A copy of a fragment that came before the first one of its datagram and was not for a service: nothing is lost, the node's kernel has the fragment itself.";
        OutOfState = "out_of_state", "A packet to a service or out of the cluster that belongs to no known connection and neither begins nor continues one; or an answer, soon after a restart or a flush, that came before the client's next packet.";
        StaleReply = "stale_reply", "An answer of an endpoint that no longer serves: its flow is forgotten.";
        RelayedInVain = "relayed_in_vain", "Another node relayed it, but this one has no such service, or no such flow.";
        SourceNotAllowed = "source_not_allowed", "The sender is in none of the service's source ranges.";
        NoMasquerade = "no_masquerade", "The source had to be replaced by the node's address, and masquerade is not configured.";
        NoMasqueradePort = "no_masquerade_port", "Every masquerade port is taken by a flow to the same destination.";
        ConntrackFull = "conntrack_full", "The connection table is full, and no half open flow was found to give way.";
        ConntrackContended = "conntrack_contended", "Another worker was putting the same flow into the table.";
        NoHeadroom = "no_headroom", "The frame has no room for the outer headers.";
        EgressLimit = "egress_limit", "Sent by a pod beyond its bandwidth limit.";
        IngressLimit = "ingress_limit", "Sent to a pod beyond its bandwidth limit.";
    }
}

named! {
    /// What the switch itself answered.
    Answer {
        Arp = "arp_reply", "An ARP reply for the gateway, or for what a pod takes to be on its link.";
        Advertisement = "neighbour_advertisement", "A neighbour advertisement for the gateway.";
        Echo = "echo_reply", "An answer to a ping of one of the switch's addresses.";
        TimeExceeded = "time_exceeded", "ICMP time exceeded, to the sender of a packet whose time to live ran out.";
        FragmentationNeeded = "fragmentation_needed", "ICMP fragmentation needed, with the MTU that would fit.";
        PacketTooBig = "packet_too_big", "ICMPv6 packet too big, with the MTU that would fit.";
        NetUnreachable = "net_unreachable", "ICMP network unreachable: no route.";
        PortUnreachable = "port_unreachable", "ICMP port unreachable: a service without this port or without endpoints.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn packed_verdicts_read_back() {
        let port = PortId(271);
        let fixed = [Verdict::Pending, Verdict::Oversized, Verdict::Ipv6, Verdict::Tx(PortId(0)), Verdict::Tx(port)];
        let answers = Answer::ALL.map(|answer| Verdict::Answer(answer, port));
        let (owed, drops) = (Answer::ALL.map(Verdict::Owed), DropReason::ALL.map(Verdict::Drop));
        for verdict in fixed.into_iter().chain(answers).chain(owed).chain(drops) {
            assert_eq!(Verdict::from(PackedVerdict::from(verdict)), verdict);
        }
    }

    #[test]
    fn names_are_unique_and_sentences_are_sentences() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            assert!(reason.sentence().ends_with('.'), "{}", reason.name());
        }
    }
}
