//! What differs between the families in a packet that is made up.

use super::{Arrival, Question, QuestionError};
use crate::{
    flow::FiveTuple,
    net::Number,
    snapshot::{Family, Snapshot},
    spec::{PortId, PortRole},
    wire::{checksum, icmpv4, icmpv6, ipv4, ipv6},
};

/// A family that packets are made up of.
pub trait Made: Family {
    /// What its ICMP has as the type of an echo reply.
    const ECHO_REPLY: u8;

    /// Writes the IP header of a packet of `length` bytes.
    fn emit(question: &Question, tuple: &FiveTuple<Self>, length: u16, packet: &mut [u8]);

    /// What a checksum covers beside the transport header and what follows it, which are `len` bytes.
    fn pseudo_header(tuple: &FiveTuple<Self>, len: u16) -> u64;

    /// Where packets from here are expected, which neither a pod's port nor a station on the uplink nor a VTEP has behind it.
    fn arrival_from_elsewhere(self, snapshot: &Snapshot) -> Result<Arrival, QuestionError>;
}

impl Made for u32 {
    const ECHO_REPLY: u8 = icmpv4::ECHO_REPLY;

    fn emit(question: &Question, tuple: &FiveTuple, length: u16, packet: &mut [u8]) {
        let FiveTuple { src, dst, protocol, .. } = *tuple;
        let flags = if question.dont_fragment { ipv4::DF } else { 0 };
        ipv4::Header { tos: 0, total_len: length, id: 0, flags, ttl: question.ttl, protocol, src, dst }.emit(packet);
    }

    fn pseudo_header(tuple: &FiveTuple, len: u16) -> u64 {
        match tuple.protocol {
            ipv4::ICMP => 0,
            protocol => checksum::pseudo_header(tuple.src, tuple.dst, protocol, len),
        }
    }

    /// From the node if it is one of the node's addresses; from anywhere else they come over the uplink.
    fn arrival_from_elsewhere(self, snapshot: &Snapshot) -> Result<Arrival, QuestionError> {
        let (role, missing) = if snapshot.is_own(self) {
            (PortRole::Host, QuestionError::NoHostPort(self.address()))
        } else {
            (PortRole::Uplink, QuestionError::NoUplink(self.address()))
        };
        natively_on(role, snapshot).ok_or(missing)
    }
}

impl Made for u128 {
    const ECHO_REPLY: u8 = icmpv6::ECHO_REPLY;

    fn emit(question: &Question, tuple: &FiveTuple<u128>, length: u16, packet: &mut [u8]) {
        let FiveTuple { src, dst, protocol, .. } = *tuple;
        let payload_len = length - ipv6::HEADER_LEN as u16;
        let (next_header, hop_limit) = (protocol, question.ttl);
        ipv6::Header { traffic_class: 0, payload_len, next_header, hop_limit, src, dst }.emit(packet);
    }

    fn pseudo_header(tuple: &FiveTuple<u128>, len: u16) -> u64 {
        checksum::pseudo_header_v6(tuple.src, tuple.dst, tuple.protocol, len.into())
    }

    /// From the node if it is its address; the uplink's link sends the switch none.
    fn arrival_from_elsewhere(self, snapshot: &Snapshot) -> Result<Arrival, QuestionError> {
        let of_node = Some(PortRole::Host).filter(|_| self == snapshot.ipv6.router);
        let arrival = of_node.and_then(|role| natively_on(role, snapshot));
        arrival.ok_or(QuestionError::NeitherPodNorVtep(self.address()))
    }
}

/// The first port of this role.
fn natively_on(role: PortRole, snapshot: &Snapshot) -> Option<Arrival> {
    let found = (0..).map(PortId).zip(snapshot.ports.iter()).find(|(_, port)| port.role == Some(role));
    found.map(|(port, _)| Arrival { port, vtep: None })
}
