//! What the switch says itself: ARP replies for the gateway, echo replies, ICMP errors. None of it is hot.

use std::net::Ipv4Addr;

use crate::{
    flow::FiveTuple,
    io::Frame,
    packet::Meta,
    snapshot::{Family, Guard, PortEntry, Snapshot},
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

/// A family that the switch speaks.
pub trait Speak: Family {
    /// An ICMP error.
    type Error;
    /// Bytes of the packet it is about that an error carries at most.
    const QUOTE_LEN: usize;

    /// Whether an address is a group's: nobody's alone.
    fn is_group(address: Self) -> bool;

    /// Turns an echo request from `src` to `dst` into its reply; false if `message` is none, or damaged.
    fn answer_echo(message: &mut [u8], src: Self, dst: Self) -> bool;

    /// Whether no error may be sent about ICMP messages of this type.
    fn is_error(kind: u8) -> bool;

    /// Whether an error may be about `packet`, even if it is a fragment and not the first.
    fn may_be_told(packet: &[u8]) -> bool;

    /// The error that an answer is, if the family has such a one; `mtu` is of the packet's next hop.
    fn error(answer: Answer, mtu: u16) -> Option<Self::Error>;

    /// Writes an error's header in front of the quoted packet; `message` is both.
    fn emit_error(error: Self::Error, message: &mut [u8], src: Self, dst: Self);

    /// Writes the IP header of a message with so many bytes, which the switch sends on: that takes one from the hops it has.
    fn emit_header(packet: &mut [u8], src: Self, dst: Self, len: u16);

    /// Sends an answer at once if no route leads to whom it is for; otherwise it is still to be sent. Says what becomes of it.
    fn reply(_: &mut Frame, _: &Meta<Self>, _: Answer, _: &Snapshot) -> Option<Verdict> {
        Some(Verdict::Pending)
    }
}

/// Turns an echo request to the switch into its reply, ICMP part only; false if it is none.
#[cold]
pub fn echo<N: Speak>(frame: &mut Frame, meta: &Meta<N>) -> bool {
    let message = &mut frame.bytes_mut()[IP + usize::from(meta.ip_header_len)..];
    meta.protocol() == N::ICMP && !meta.has(Meta::FRAGMENT) && N::answer_echo(message, meta.src(), meta.dst())
}

/// Makes of a packet the message about it, addressed to its sender, and leaves it pending and unrouted if a route may lead there.
/// False if no message may be sent (RFC 1122, section 3.2.2; RFC 1812, section 4.3.2.7; RFC 4443, section 2.4 (e)) or there is
/// no address to send it from.
#[cold]
pub fn answer<N: Speak>(frame: &mut Frame, meta: &mut Meta<N>, answer: Answer, snapshot: &Snapshot) -> bool {
    let (sender, asked) = (meta.src(), meta.dst());
    let message_len;
    let from;
    if answer == Answer::Echo {
        from = asked;
        let header_len = usize::from(meta.ip_header_len);
        message_len = frame.len() - IP - header_len;
        // The reply has no options or extension headers: it starts where the header without them ends.
        if !frame.reframe(IP + header_len, IP + N::HEADER_LEN) {
            return false;
        }
    } else {
        from = snapshot.of::<N>().router;
        if from == N::default() || meta.answer.is_some() || !may_be_answered(frame, meta) {
            return false;
        }
        let Some(error) = N::error(answer, snapshot.next_hop(meta.next_hop).mtu) else { return false };
        let quote = (frame.len() - IP).min(N::QUOTE_LEN);
        let room = IP + N::HEADER_LEN + icmpv4::HEADER_LEN;
        if !frame.set_len(IP + quote) || !frame.reframe(IP, room) {
            return false;
        }
        message_len = icmpv4::HEADER_LEN + quote;
        N::emit_error(error, &mut frame.bytes_mut()[IP + N::HEADER_LEN..], from, sender);
    }
    let bytes = frame.bytes_mut();
    bytes[ethernet::TYPE..IP].copy_from_slice(&N::ETHERTYPE.to_be_bytes());
    N::emit_header(&mut bytes[IP..], from, sender, message_len as u16);
    meta.key = FiveTuple { src: from, dst: sender, protocol: N::ICMP, ..FiveTuple::default() }.to_words();
    meta.ip_header_len = N::HEADER_LEN as u8;
    meta.flags = 0;
    meta.answer = Some(answer);
    N::reply(frame, meta, answer, snapshot).map(|verdict| meta.decide(verdict)).is_some()
}

fn may_be_answered<N: Speak>(frame: &Frame, meta: &Meta<N>) -> bool {
    let packet = &frame.bytes()[IP..];
    let about_an_error =
        meta.protocol() == N::ICMP && packet.get(usize::from(meta.ip_header_len)).is_none_or(|kind| N::is_error(*kind));
    !about_an_error && !N::is_group(meta.dst()) && N::may_be_told(packet)
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

impl Speak for u32 {
    type Error = icmpv4::Error;
    const QUOTE_LEN: usize = icmpv4::QUOTE_LEN;

    /// Multicast, and above.
    fn is_group(address: u32) -> bool {
        address >= 0xe000_0000
    }

    fn answer_echo(message: &mut [u8], _: u32, _: u32) -> bool {
        icmpv4::answer_echo(message)
    }

    fn is_error(kind: u8) -> bool {
        icmpv4::is_error(kind)
    }

    fn may_be_told(packet: &[u8]) -> bool {
        be16(packet, ipv4::FRAGMENT) & ipv4::OFFSET == 0
    }

    fn error(answer: Answer, mtu: u16) -> Option<icmpv4::Error> {
        match answer {
            Answer::TimeExceeded => Some(icmpv4::Error::TimeExceeded),
            Answer::FragmentationNeeded => Some(icmpv4::Error::FragmentationNeeded(mtu)),
            Answer::NetUnreachable => Some(icmpv4::Error::NetUnreachable),
            Answer::PortUnreachable => Some(icmpv4::Error::PortUnreachable),
            Answer::Arp | Answer::Advertisement | Answer::PacketTooBig | Answer::Echo => None,
        }
    }

    fn emit_error(error: icmpv4::Error, message: &mut [u8], _: u32, _: u32) {
        error.emit(message);
    }

    fn emit_header(packet: &mut [u8], src: u32, dst: u32, len: u16) {
        let (total_len, ttl) = (ipv4::HEADER_LEN as u16 + len, ipv4::DEFAULT_TTL + 1);
        // An atomic datagram needs no identification (RFC 6864).
        ipv4::Header { tos: 0, total_len, id: 0, flags: ipv4::DF, ttl, protocol: ipv4::ICMP, src, dst }.emit(packet);
    }
}
