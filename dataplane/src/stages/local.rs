//! What the switch says itself: ARP replies for the gateway, echo replies, ICMP errors. None of it is hot.

use std::net::Ipv4Addr;

use crate::{
    io::Frame,
    packet::Meta,
    snapshot::{Guard, PortEntry, Snapshot},
    spec::{PortId, PortRole},
    verdict::{Answer, DropReason, Verdict},
    wire::{arp, be16, ethernet, icmpv4, ipv4},
};

const IP: usize = ethernet::HEADER_LEN;

/// Answers an ARP request for the gateway on a pod or host port, in place; on a pod's also one for another address that the
/// pod takes to be on its link.
#[cold]
pub fn arp(frame: &mut Frame, in_port: PortId, port: &PortEntry, snapshot: &Snapshot) -> Verdict {
    if let Some(reason) = port.guard.and_then(|guard| spoofed(frame.bytes(), &guard)) {
        return Verdict::Drop(reason);
    }
    let is_ours = |target: u32| match port.role {
        Some(PortRole::Pod | PortRole::Host) if target == snapshot.ipv4.gateway && target != 0 => true,
        // Who asks for its own address wants to know whether somebody else has it.
        Some(PortRole::Pod) => port.guard.is_some_and(|guard| {
            target != guard.address
                && snapshot.ipv4.on_link.is_some_and(|prefix| prefix.contains(&Ipv4Addr::from(target)))
        }),
        _ => false,
    };
    match arp::Request::parse(&frame.bytes()[IP..]) {
        Some(request) if is_ours(request.target_ip) => {
            frame.set_len(IP + arp::LEN);
            request.answer(frame.bytes_mut(), port.mac);
            Verdict::Answer(Answer::Arp, in_port)
        }
        _ => Verdict::Drop(DropReason::ArpIgnored),
    }
}

/// What is wrong with the sender of an ARP message from a port with one station. A sender that is probing for its address
/// does not have it yet (RFC 5227, section 2.1.1).
fn spoofed(frame: &[u8], guard: &Guard) -> Option<DropReason> {
    let (mac, address) = arp::sender(&frame[IP..])?;
    if ethernet::source_number(frame) != guard.mac || mac.to_number() != guard.mac {
        Some(DropReason::SpoofedMac)
    } else if address != guard.address && address != 0 {
        Some(DropReason::SpoofedAddress)
    } else {
        None
    }
}

/// Turns an echo request to the switch into its reply, ICMP part only; false if it is none.
#[cold]
pub fn echo(frame: &mut Frame, meta: &Meta) -> bool {
    meta.protocol() == ipv4::ICMP
        && !meta.has(Meta::FRAGMENT)
        && icmpv4::answer_echo(&mut frame.bytes_mut()[IP + usize::from(meta.ip_header_len)..])
}

/// Makes of a packet the message about it, addressed to its sender, and leaves it pending and unrouted. False if no
/// message may be sent (RFC 1122, section 3.2.2; RFC 1812, section 4.3.2.7) or there is no address to send it from.
#[cold]
pub fn answer(frame: &mut Frame, meta: &mut Meta, answer: Answer, snapshot: &Snapshot) -> bool {
    let replied_to = (meta.src(), meta.dst());
    let message_len;
    let from;
    if answer == Answer::Echo {
        from = replied_to.1;
        let header_len = usize::from(meta.ip_header_len);
        message_len = frame.len() - IP - header_len;
        // The reply has no options: it starts where the header without them ends.
        if !frame.reframe(IP + header_len, IP + ipv4::HEADER_LEN) {
            return false;
        }
    } else {
        from = snapshot.ipv4.router;
        if from == 0 || meta.answer.is_some() || !may_be_answered(frame, meta) {
            return false;
        }
        let Some(error) = error(answer, meta, snapshot) else { return false };
        let quote = (frame.len() - IP).min(icmpv4::QUOTE_LEN);
        let room = IP + ipv4::HEADER_LEN + icmpv4::HEADER_LEN;
        if !frame.set_len(IP + quote) || !frame.reframe(IP, room) {
            return false;
        }
        message_len = icmpv4::HEADER_LEN + quote;
        error.emit(&mut frame.bytes_mut()[IP + ipv4::HEADER_LEN..]);
    }
    let header = ipv4::Header {
        tos: 0,
        total_len: (ipv4::HEADER_LEN + message_len) as u16,
        id: 0,
        // An atomic datagram needs no identification (RFC 6864).
        flags: ipv4::DF,
        // One more than it is to have, as forwarding takes one.
        ttl: ipv4::DEFAULT_TTL + 1,
        protocol: ipv4::ICMP,
        src: from,
        dst: replied_to.0,
    };
    let bytes = frame.bytes_mut();
    bytes[ethernet::TYPE..IP].copy_from_slice(&ethernet::IPV4.to_be_bytes());
    header.emit(&mut bytes[IP..]);
    meta.key = [u64::from(from) << 32 | u64::from(replied_to.0), u64::from(ipv4::ICMP)];
    meta.ip_header_len = ipv4::HEADER_LEN as u8;
    meta.flags = 0;
    meta.answer = Some(answer);
    meta.decide(Verdict::Pending);
    true
}

/// The reason to give for a packet whose answer was not sent.
pub fn unanswered(answer: Answer) -> DropReason {
    match answer {
        Answer::Arp => DropReason::ArpIgnored,
        Answer::Echo => DropReason::SwitchAddress,
        Answer::TimeExceeded => DropReason::TtlExpired,
        Answer::FragmentationNeeded | Answer::PacketTooBig => DropReason::TooBig,
        Answer::Advertisement => DropReason::DiscoveryIgnored,
        Answer::NetUnreachable => DropReason::NoRoute,
        Answer::PortUnreachable => DropReason::NoBackend,
    }
}

fn error(answer: Answer, meta: &Meta, snapshot: &Snapshot) -> Option<icmpv4::Error> {
    match answer {
        Answer::TimeExceeded => Some(icmpv4::Error::TimeExceeded),
        Answer::FragmentationNeeded => Some(icmpv4::Error::FragmentationNeeded(snapshot.next_hop(meta.next_hop).mtu)),
        Answer::NetUnreachable => Some(icmpv4::Error::NetUnreachable),
        Answer::PortUnreachable => Some(icmpv4::Error::PortUnreachable),
        Answer::Arp | Answer::Advertisement | Answer::PacketTooBig | Answer::Echo => None,
    }
}

fn may_be_answered(frame: &Frame, meta: &Meta) -> bool {
    let packet = &frame.bytes()[IP..];
    let later_fragment = be16(packet, ipv4::FRAGMENT) & ipv4::OFFSET != 0;
    let about_an_error = meta.protocol() == ipv4::ICMP
        && packet.get(usize::from(meta.ip_header_len)).is_none_or(|kind| icmpv4::is_error(*kind));
    !later_fragment && !about_an_error && meta.dst() < 0xe000_0000
}
