//! What the switch says itself to who speaks IPv6: who has the gateway's address, echo replies, ICMPv6 errors.

use crate::{
    flow::FiveTuple,
    io::Frame,
    packet::Meta,
    snapshot::{PortEntry, Snapshot},
    spec::PortRole,
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

/// Turns an echo request to the switch into its reply, ICMPv6 part only; false if it is none.
#[cold]
pub fn echo(frame: &mut Frame, meta: &Meta<u128>) -> bool {
    meta.protocol() == ipv6::ICMPV6
        && !meta.has(Meta::FRAGMENT)
        && icmpv6::answer_echo(&mut frame.bytes_mut()[IP + usize::from(meta.ip_header_len)..], meta.src(), meta.dst())
}

/// Makes of a packet the message about it, addressed to its sender, and leaves it pending and unrouted. False if no
/// message may be sent (RFC 4443, section 2.4 (e)) or there is no address to send it from.
#[cold]
pub fn answer(frame: &mut Frame, meta: &mut Meta<u128>, answer: Answer, snapshot: &Snapshot) -> bool {
    let (sender, asked) = (meta.src(), meta.dst());
    let message_len;
    let from;
    if answer == Answer::Echo {
        from = asked;
        let header_len = usize::from(meta.ip_header_len);
        message_len = frame.len() - IP - header_len;
        // The reply has no extension headers.
        if !frame.reframe(IP + header_len, IP + ipv6::HEADER_LEN) {
            return false;
        }
    } else {
        from = snapshot.ipv6.router;
        if from == 0 || meta.answer.is_some() || !may_be_answered(frame, meta) {
            return false;
        }
        let Some(error) = error(answer, meta, snapshot) else { return false };
        let quote = (frame.len() - IP).min(icmpv6::QUOTE_LEN);
        let room = IP + ipv6::HEADER_LEN + icmpv6::HEADER_LEN;
        if !frame.set_len(IP + quote) || !frame.reframe(IP, room) {
            return false;
        }
        message_len = icmpv6::HEADER_LEN + quote;
        error.emit(&mut frame.bytes_mut()[IP + ipv6::HEADER_LEN..], from, sender);
    }
    let header = ipv6::Header {
        traffic_class: 0,
        payload_len: message_len as u16,
        next_header: ipv6::ICMPV6,
        // One more than it is to have, as forwarding takes one.
        hop_limit: ipv6::DEFAULT_HOP_LIMIT + 1,
        src: from,
        dst: sender,
    };
    header.emit(&mut frame.bytes_mut()[IP..]);
    let tuple = FiveTuple { src: from, dst: sender, protocol: ipv6::ICMPV6, ..FiveTuple::default() };
    meta.key = tuple.to_words();
    meta.ip_header_len = ipv6::HEADER_LEN as u8;
    meta.flags = 0;
    meta.answer = Some(answer);
    if ipv6::is_link_local(sender) {
        // No route leads there: it is on the link that it came from, as parsing saw.
        let PortEntry { mac, guard, .. } = *snapshot.port(meta.in_port);
        let Some(guard) = guard else { return false };
        frame.bytes_mut()[IP + ipv6::HOP_LIMIT] = ipv6::DEFAULT_HOP_LIMIT;
        ethernet::emit(frame.bytes_mut(), guard.station(), mac, ethernet::IPV6);
        meta.decide(Verdict::Answer(answer, meta.in_port));
    } else {
        meta.decide(Verdict::Pending);
    }
    true
}

fn error(answer: Answer, meta: &Meta<u128>, snapshot: &Snapshot) -> Option<icmpv6::Error> {
    match answer {
        Answer::TimeExceeded => Some(icmpv6::Error::HopLimitExceeded),
        Answer::PacketTooBig => Some(icmpv6::Error::PacketTooBig(snapshot.next_hop(meta.next_hop).mtu.into())),
        Answer::NetUnreachable => Some(icmpv6::Error::NoRoute),
        Answer::PortUnreachable => Some(icmpv6::Error::PortUnreachable),
        Answer::Arp | Answer::Advertisement | Answer::Echo | Answer::FragmentationNeeded => None,
    }
}

fn may_be_answered(frame: &Frame, meta: &Meta<u128>) -> bool {
    let about_an_error = meta.protocol() == ipv6::ICMPV6
        && frame.bytes().get(IP + usize::from(meta.ip_header_len)).is_none_or(|kind| icmpv6::is_error(*kind));
    !about_an_error && !ipv6::is_multicast(meta.dst())
}
