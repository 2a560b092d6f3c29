//! ICMPv6 errors follow the flow of the packet they are about: as `stages/related.rs`, where is said how.

use crate::{
    flow::FiveTuple,
    io::Frame,
    net::Protocol,
    packet::{Batch, Meta},
    pipeline::Env,
    record::{Recorder, Step},
    stages::{ipv6::nat, related, track::Stale},
    verdict::{DropReason, Verdict},
    wire::{be32, ethernet, icmpv6, ipv4, ipv6, sctp},
};

const IP: usize = ethernet::HEADER_LEN;

/// Translates the errors that belong to a flow and sends them its way.
#[cold]
pub fn run(batch: &mut Batch<u128>, env: &Env<impl Recorder>) {
    for (frame, meta) in batch.packets() {
        if !meta.is_pending() || !meta.has(Meta::ICMP_ERROR) {
            continue;
        }
        let Some(quote) = Quote::find(frame, meta) else { continue };
        let key = quote.way.to_words();
        let Some(hit) = env.conntrack.find(key, env.conntrack.hash(key)) else { continue };
        let before = FiveTuple::<u128>::from_words(hit.other);
        env.recorder.note(|| Step::Quoted { about: before.told() });
        let kind = frame.bytes()[IP + usize::from(meta.ip_header_len)];
        match related::follow::<u128>(key, hit, kind == icmpv6::UNREACHABLE, env) {
            Ok(next_hop) => {
                quote.translate(frame, meta, &before);
                meta.next_hop = next_hop;
                meta.flags |= Meta::ROUTED;
            }
            Err(Stale) => meta.decide(Verdict::Drop(DropReason::StaleReply)),
        }
    }
}

/// What an error says about the packet that caused it.
struct Quote {
    /// Where the quoted packet's header starts in the frame.
    ip: usize,
    /// Where its transport header starts.
    l4: usize,
    /// Where it ends.
    end: usize,
    /// It is all of its datagram.
    is_whole: bool,
    /// The tuple of packets that go the error's way.
    way: FiveTuple<u128>,
}

impl Quote {
    /// The quoted packet, if it is one that can be of a flow, and the error's own checksum holds.
    fn find(frame: &Frame, meta: &Meta<u128>) -> Option<Quote> {
        let message_at = IP + usize::from(meta.ip_header_len);
        let message = &frame.bytes()[message_at..];
        let quoted = message.get(icmpv6::HEADER_LEN..)?;
        let transport = ipv6::transport(quoted)?;
        // Of what is behind the quoted packet nothing is its own (RFC 4884, section 4).
        let end = quoted.len().min(ipv6::total_len(quoted));
        let l4 = quoted.get(transport.offset..end)?;
        let ports = match transport.protocol {
            _ if transport.fragment.is_some_and(|fragment| fragment.offset != 0) => return None,
            ipv6::ICMPV6 => icmpv6::echo_ports(l4.first_chunk()?),
            protocol => Protocol::of(protocol).filter(|_| l4.len() >= icmpv6::HEADER_LEN).map(|_| be32(l4, 0))?,
        };
        let (src_port, dst_port) = ((ports >> 16) as u16, ports as u16);
        let (src, dst) = (ipv6::src(quoted), ipv6::dst(quoted));
        let caused = FiveTuple { src, dst, src_port, dst_port, protocol: transport.protocol };
        // An error about a packet of another sender than the one it is addressed to is none of the flow's.
        if src != meta.dst() || !icmpv6::checksum_holds(message, meta.src(), meta.dst()) {
            return None;
        }
        let ip = message_at + icmpv6::HEADER_LEN;
        Some(Quote {
            ip,
            l4: ip + transport.offset,
            end: ip + end,
            is_whole: transport.is_whole(),
            way: caused.reversed(),
        })
    }

    /// Turns the quoted packet into `before`, what it was before the flow's translation, and changes those of the error's own
    /// addresses that the flow changes in packets that go this way.
    fn translate(&self, frame: &mut Frame, meta: &Meta<u128>, before: &FiveTuple<u128>) {
        let bytes = frame.bytes_mut();
        let (head, l4) = bytes[..self.end].split_at_mut(self.l4);
        let quoted = &mut head[self.ip..];
        let len = (ipv6::total_len(quoted) - quoted.len().min(ipv6::total_len(quoted))) as u16;
        let change = nat::set_addresses(quoted, before.src, before.dst);
        // How long the packet was that this is the first fragment of, the quote does not tell.
        let known = if before.protocol == ipv4::SCTP && !self.is_whole { sctp::CHECKSUM } else { l4.len() };
        nat::set_ports(&mut l4[..known], before, change, len);
        let src = if before.dst == self.way.src { meta.src() } else { before.dst };
        nat::set_addresses(&mut bytes[IP..], src, before.src);
        icmpv6::finish(&mut bytes[IP + usize::from(meta.ip_header_len)..], src, before.src);
    }
}
