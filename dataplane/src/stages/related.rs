//! ICMP errors follow the flow of the packet they are about (RFC 5508, section 4).
//!
//! Such an error quotes the packet that caused it, as that packet was where the error was made: behind our translation.
//! Whoever sent it knows it as it was before. The quoted packet and the error travel in opposite directions, so the
//! reverse of the quoted tuple is the key under which the flow knows packets that go the error's way; the flow's other
//! key is what the quoted packet was before translation.
//!
//! An error that belongs to no tracked flow is a packet like any other, as it is to Linux's connection tracking.

use crate::{
    flow::FiveTuple,
    net::Protocol,
    next_hop::Kind,
    packet::{Batch, Meta},
    pipeline::Env,
    record::{Recorder, Step},
    snapshot::Family,
    stages::{
        relay,
        track::{self, Stale},
    },
    tables::conntrack::{Direction, Hit, Key},
    verdict::{DropReason, Verdict},
    wire::{be16, be32, checksum, ethernet, icmpv4, ipv4, put16, put32, sctp},
};

const IP: usize = ethernet::HEADER_LEN;

/// Bytes an error must quote of the transport header (RFC 792): the ports are among them.
const QUOTED_L4: usize = 8;

/// Translates the errors that belong to a flow and sends them its way.
#[cold]
pub fn run(batch: &mut Batch, env: &Env<impl Recorder>) {
    for (frame, meta) in batch.frames.iter_mut().zip(&mut batch.metas) {
        if !meta.is_pending() || !meta.has(Meta::ICMP_ERROR) {
            continue;
        }
        let packet = &mut frame.bytes_mut()[IP..];
        let Some(quote) = Quote::find(packet, usize::from(meta.ip_header_len)) else { continue };
        // An error about a packet of another sender than the one it is addressed to is none of the flow's.
        if quote.key[0] as u32 != meta.dst() {
            continue;
        }
        let Some(hit) = env.conntrack.find(quote.key, env.conntrack.hash(quote.key)) else {
            if relay::is_relayed(frame, meta) {
                meta.decide(Verdict::Drop(DropReason::RelayedInVain));
            }
            continue;
        };
        env.recorder.note(|| Step::Quoted { about: FiveTuple::<u32>::from_words(hit.other).told() });
        let Ok(next_hop) = follow::<u32>(quote.key, hit, says_unreachable(packet, meta), env) else {
            meta.decide(Verdict::Drop(DropReason::StaleReply));
            continue;
        };
        // Where it is about a flow that another node serves, that node translates it, too.
        if env.snapshot.next_hop(next_hop).kind == Kind::Relay {
            meta.other = hit.other;
        } else {
            quote.translate(packet, hit.other);
        }
        meta.next_hop = next_hop;
        meta.flags |= Meta::ROUTED;
    }
}

/// The next hop of an error about a packet of a flow, of whose packets the error's way `key` is the tuple. Notes that the
/// endpoint cannot be reached, if the error says so.
pub(super) fn follow<N: Family>(
    key: N::Key,
    hit: Hit<N::Key>,
    says_unreachable: bool,
    env: &Env<impl Recorder>,
) -> Result<u32, Stale> {
    let next_hop = match hit.generation() == env.snapshot.generation {
        true => hit.next_hop(),
        false => track::revalidate::<N>(key, hit, env)?,
    };
    let refuses = hit.slot.direction() == Direction::Reply && says_unreachable;
    if refuses && let Some(state) = hit.state().unreachable() {
        env.conntrack.touch(&hit, state, env.now.seconds());
    }
    Ok(next_hop)
}

/// True for an error that says that the destination cannot be reached at all (RFC 1122, section 4.2.3.9).
fn says_unreachable(packet: &[u8], meta: &Meta) -> bool {
    let message = &packet[usize::from(meta.ip_header_len)..];
    message[0] == icmpv4::UNREACHABLE && message[1] != icmpv4::FRAGMENTATION_NEEDED
}

/// What an error says about the packet that caused it.
struct Quote {
    /// Where the quoted packet's IPv4 header starts in the error's packet.
    ip: usize,
    /// Where its transport header starts.
    l4: usize,
    /// The key of packets that go the error's way.
    key: Key,
}

impl Quote {
    /// The quoted packet, if it is one that can be of a flow: its first fragment or a whole one, with ports or what an echo
    /// has instead.
    fn find(packet: &[u8], header_len: usize) -> Option<Quote> {
        let ip = header_len + icmpv4::HEADER_LEN;
        let quoted = packet.get(ip..).filter(|quoted| quoted.len() >= ipv4::HEADER_LEN && quoted[0] >> 4 == 4)?;
        let (header_len, protocol) = (ipv4::header_len(quoted), quoted[ipv4::PROTOCOL]);
        let is_first = be16(quoted, ipv4::FRAGMENT) & ipv4::OFFSET == 0;
        if header_len < ipv4::HEADER_LEN || !is_first {
            return None;
        }
        let l4: &[u8; QUOTED_L4] = quoted.get(header_len..)?.first_chunk()?;
        let ports = match protocol {
            ipv4::ICMP => icmpv4::echo_ports(l4),
            _ => Protocol::of(protocol).map(|_| be32(l4, 0))?,
        };
        let (src_port, dst_port) = ((ports >> 16) as u16, ports as u16);
        let caused = FiveTuple { src: ipv4::src(quoted), dst: ipv4::dst(quoted), src_port, dst_port, protocol };
        Some(Quote { ip, l4: ip + header_len, key: caused.reversed().to_words() })
    }

    /// Turns the quoted packet into `before`, what it was before the flow's translation, and changes those of the error's
    /// own addresses that the flow changes in packets that go this way. So its source, whichever router it was, becomes
    /// the VIP: the client would not believe one that it never sent to. Linux does the same.
    fn translate(&self, packet: &mut [u8], before: Key) {
        let [addresses, ports] = before;
        let (src, dst) = (ipv4::src(packet), ipv4::dst(packet));
        let new_src = if addresses as u32 == (self.key[0] >> 32) as u32 { src } else { addresses as u32 };
        let new_dst = (addresses >> 32) as u32;
        put32(packet, ipv4::SRC, new_src);
        put32(packet, ipv4::DST, new_dst);
        let pair = |src: u32, dst: u32| u64::from(src) << 32 | u64::from(dst);
        mend(packet, ipv4::CHECKSUM, checksum::delta(pair(src, dst), pair(new_src, new_dst)));

        let quoted_before = checksum::sum(&packet[self.ip..]);
        // The key's addresses are the other way round, which is all the same to a sum.
        let change = checksum::delta(self.key[0], addresses);
        packet[self.ip + ipv4::SRC..self.ip + ipv4::SRC + 8].copy_from_slice(&addresses.to_be_bytes());
        mend(packet, self.ip + ipv4::CHECKSUM, change);
        self.set_ports(packet, (ports >> 32) as u32, change);
        let quoted_after = checksum::sum(&packet[self.ip..]);
        let message = self.ip - icmpv4::HEADER_LEN;
        mend(packet, message + icmpv4::CHECKSUM, checksum::delta_narrow(quoted_before.into(), quoted_after.into()));
    }

    /// Gives the quoted packet its ports and mends its transport checksum, if it was quoted and there is one. `change` is
    /// what that sees of the addresses.
    fn set_ports(&self, packet: &mut [u8], ports: u32, change: u64) {
        let (ip, l4) = packet[self.ip..].split_at_mut(self.l4 - self.ip);
        let protocol = ip[ipv4::PROTOCOL];
        if protocol == ipv4::ICMP {
            return icmpv4::set_echo_ports(l4, ports);
        }
        let Some(field) = checksum::field(protocol) else {
            let is_whole = be16(ip, ipv4::FRAGMENT) & ipv4::FRAGMENTED == 0;
            // How long the packet was that this is the first fragment of, the quote does not tell.
            let known = if is_whole { l4.len() } else { sctp::CHECKSUM };
            let len = ipv4::total_len(ip).saturating_sub(ip.len() as u16);
            return sctp::set_ports(&mut l4[..known], ports.to_be_bytes(), len);
        };
        put32(l4, 0, ports);
        let has_sum = l4.len() >= field + 2 && (protocol != ipv4::UDP || be16(l4, field) != 0);
        if has_sum {
            mend(l4, field, change + checksum::delta_narrow((self.key[1] >> 32) as u32, ports));
            let sum = be16(l4, field);
            put16(l4, field, checksum::as_sent(sum, protocol));
        }
    }
}

fn mend(packet: &mut [u8], at: usize, change: u64) {
    let sum = be16(packet, at);
    put16(packet, at, checksum::update(sum, change));
}
