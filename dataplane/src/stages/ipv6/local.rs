//! What the switch says itself to who speaks IPv6: who has the gateway's address, echo replies, ICMPv6 errors.

use crate::{
    io::Frame,
    packet::Meta,
    snapshot::{PortEntry, Snapshot},
    spec::PortRole,
    stages::local::Speak,
    verdict::{Answer, DropReason, Verdict},
    wire::{
        ethernet, icmpv6, ipv6,
        ndp::{self, Solicitation},
    },
};

const IP: usize = ethernet::HEADER_LEN;

/// Answers a question of neighbour discovery for the gateway on a pod's or host port, in place. All else that is said on a link
/// about the link ends here.
#[cold]
pub fn discovery(frame: &mut Frame, meta: &Meta<u128>, port: &PortEntry, snapshot: &Snapshot) -> Verdict {
    let (packet, gateway) = (&frame.bytes()[IP..], snapshot.ipv6.gateway);
    let is_station = matches!(port.role, Some(PortRole::Pod | PortRole::Host)) && !meta.has(Meta::DECAPSULATED);
    if let Some((mac, address)) = ndp::sender(packet)
        && let Some(guard) = &port.guard
    {
        if mac.is_some_and(|mac| mac.to_number() != guard.mac) {
            return Verdict::Drop(DropReason::SpoofedMac);
        }
        if address != guard.ipv6 && address != 0 && !ipv6::is_link_local(address) {
            return Verdict::Drop(DropReason::SpoofedAddress);
        }
    }
    match Solicitation::parse(packet) {
        Some(asked) if is_station && asked.target == gateway && gateway != 0 => {
            if !frame.set_len(ndp::ANSWER_LEN) {
                return Verdict::Drop(DropReason::NoHeadroom);
            }
            asked.answer(frame.bytes_mut(), port.mac);
            Verdict::Answer(Answer::Advertisement, meta.in_port)
        }
        _ => Verdict::Drop(DropReason::DiscoveryIgnored),
    }
}

impl Speak for u128 {
    type Error = icmpv6::Error;
    const QUOTE_LEN: usize = icmpv6::QUOTE_LEN;

    fn is_group(address: u128) -> bool {
        ipv6::is_multicast(address)
    }

    fn answer_echo(message: &mut [u8], src: u128, dst: u128) -> bool {
        icmpv6::answer_echo(message, src, dst)
    }

    fn is_error(kind: u8) -> bool {
        icmpv6::is_error(kind)
    }

    /// RFC 4443 names no fragments among what no error may be about.
    fn may_be_told(_: &[u8]) -> bool {
        true
    }

    fn error(answer: Answer, mtu: u16) -> Option<icmpv6::Error> {
        match answer {
            Answer::TimeExceeded => Some(icmpv6::Error::HopLimitExceeded),
            Answer::PacketTooBig => Some(icmpv6::Error::PacketTooBig(mtu.into())),
            Answer::NetUnreachable => Some(icmpv6::Error::NoRoute),
            Answer::PortUnreachable => Some(icmpv6::Error::PortUnreachable),
            Answer::Arp | Answer::Advertisement | Answer::Echo | Answer::FragmentationNeeded => None,
        }
    }

    fn emit_error(error: icmpv6::Error, message: &mut [u8], src: u128, dst: u128) {
        error.emit(message, src, dst);
    }

    fn emit_header(packet: &mut [u8], src: u128, dst: u128, len: u16) {
        let (next_header, hop_limit) = (ipv6::ICMPV6, ipv6::DEFAULT_HOP_LIMIT + 1);
        ipv6::Header { traffic_class: 0, payload_len: len, next_header, hop_limit, src, dst }.emit(packet);
    }

    /// A link-local address is on the link that the packet came from, as parsing saw.
    fn reply(frame: &mut Frame, meta: &Meta<u128>, answer: Answer, snapshot: &Snapshot) -> Option<Verdict> {
        if !ipv6::is_link_local(meta.dst()) {
            return Some(Verdict::Pending);
        }
        let PortEntry { mac, guard, .. } = *snapshot.port(meta.in_port);
        frame.bytes_mut()[IP + ipv6::HOP_LIMIT] = ipv6::DEFAULT_HOP_LIMIT;
        ethernet::emit(frame.bytes_mut(), guard?.station(), mac, ethernet::IPV6);
        Some(Verdict::Answer(answer, meta.in_port))
    }
}
