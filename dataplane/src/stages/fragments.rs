//! Fragments follow the first fragment of their datagram, which alone carries the ports.
//!
//! Nothing is put together here. What the first fragment says is noted where all workers find it, and every other
//! fragment goes on with those ports as if it carried them. One that comes before its first fragment waits, for a short
//! time and among few. So does the first fragment of an SCTP packet for the last: by how much its checksum changes with the
//! ports depends on how far they are from the packet's end.
//!
//! Of what came over an uplink before its first fragment and could be the node's own, the kernel has the fragment and we have
//! a copy, by the host port. It goes on only if a flow of ours turns out to be its own.

use crate::{
    counters::WorkerCounters,
    flow::{FiveTuple, Packed},
    io::Frame,
    net::{MacAddr, Protocol},
    packet::{BATCH, Batch, Meta},
    pipeline::Env,
    record::{Recorder, Step},
    snapshot::Family,
    spec::PortRole,
    stages::{nat, track},
    tables::recent::Key,
    time::Now,
    verdict::{DropReason, Verdict},
    wire::{be16, be32, ethernet, ipv4, sctp, tcp, udp},
};

const IP: usize = ethernet::HEADER_LEN;

/// Datagrams known at a time, by all workers.
pub const DATAGRAMS: usize = 4096;

/// How long a datagram is known, in milliseconds. Identifications return (RFC 4963): an old one must not catch the
/// fragments of a new one that come out of order.
const KNOWN_FOR: u32 = 2_000;

/// Fragments that may wait at one worker.
const WAITING: usize = 64;

/// The sender of copies on the host port.
pub const OVERTAKER: MacAddr = MacAddr([0x02, 0x53, 0x48, 0x55, 0x4e, 0x54]);

/// How long one may wait, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;

/// The fragments that wait at one worker, in the order they came.
#[derive(Debug)]
pub struct Held<N: Packed = u32>(Vec<Waiting<N>>);

#[derive(Debug)]
struct Waiting<N: Packed> {
    frame: Frame,
    meta: Meta<N>,
    is_copy: bool,
    until: Now,
}

impl<N: Packed> Waiting<N> {
    fn in_vain(&self) -> DropReason {
        if self.is_copy { DropReason::KernelsFragment } else { DropReason::FragmentTimeout }
    }
}

impl<N: Packed> Held<N> {
    /// None.
    pub fn new() -> Held<N> {
        Held(Vec::with_capacity(WAITING))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their frames.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.0.iter().map(|waiting| &waiting.frame)
    }

    /// Takes out the copy that has waited longest, to be dropped: its first fragment is the least likely to come still.
    fn take_oldest_copy(&mut self, env: &Env<impl Recorder>) -> Option<(Frame, Meta<N>)> {
        let at = self.0.iter().position(|waiting| waiting.is_copy)?;
        let Waiting { frame, mut meta, .. } = self.0.remove(at);
        env.counters.port(meta.in_port).held.subtract(1);
        meta.decide(Verdict::Drop(DropReason::KernelsFragment));
        Some((frame, meta))
    }

    /// Lets none of them wait any longer, and counts them as dropped.
    pub fn give_up<'a>(&'a mut self, counters: &'a WorkerCounters) -> impl Iterator<Item = Frame> + 'a {
        self.0.drain(..).map(|waiting| {
            let port = counters.port(waiting.meta.in_port);
            port.held.subtract(1);
            port.drops[waiting.in_vain() as usize].add(1);
            waiting.frame
        })
    }
}

impl<N: Packed> Default for Held<N> {
    fn default() -> Self {
        Held::new()
    }
}

/// Gives the fragments among packets with ports theirs. Those about which something is not known yet leave the batch to
/// wait; those that need not wait any longer come back into it.
#[cold]
pub fn run<N: Fragmented>(batch: &mut Batch<N>, held: &mut Held<N>, env: &Env<impl Recorder>) {
    // Otherwise nothing needs ports.
    let needed = track::is_needed::<N>(env);
    let mut at = 0;
    while at < batch.len() {
        let (frame, meta) = (&batch.frames[at], &mut batch.metas[at]);
        let is_fragment = meta.is_pending() && meta.has(Meta::FRAGMENT);
        let is_copy = is_fragment && is_copy(frame, meta, env);
        let is_ours = is_fragment && needed && has_ports(meta);
        if is_ours && !is_known(frame, meta, is_copy, env) {
            let gives_way = if held.len() < WAITING { None } else { held.take_oldest_copy(env) };
            if held.len() < WAITING {
                let (frame, meta) = (batch.frames.remove(at), batch.metas.remove(at));
                env.counters.port(meta.in_port).held.add(1);
                held.0.push(Waiting { frame, meta, is_copy, until: Now(env.now.0 + PATIENCE) });
                let Some((frame, meta)) = gives_way else { continue };
                batch.frames.insert(at, frame);
                batch.metas.insert(at, meta);
            } else {
                let reason = if is_copy { DropReason::KernelsFragment } else { DropReason::FragmentsWaiting };
                meta.decide(Verdict::Drop(reason));
            }
        } else if is_copy && !is_ours {
            meta.decide(Verdict::Drop(DropReason::KernelsFragment));
        }
        at += 1;
    }
    release(batch, held, env);
}

/// Moves those about which all is known now, and those that waited too long, back into the batch as far as it has room.
fn release<N: Fragmented>(batch: &mut Batch<N>, held: &mut Held<N>, env: &Env<impl Recorder>) {
    let mut room = BATCH - batch.len();
    let ready = held.0.extract_if(.., |waiting| {
        if room == 0 {
            return false;
        }
        if !is_known(&waiting.frame, &mut waiting.meta, waiting.is_copy, env) {
            if env.now < waiting.until {
                return false;
            }
            waiting.meta.decide(Verdict::Drop(waiting.in_vain()));
        }
        room -= 1;
        true
    });
    for Waiting { frame, meta, .. } in ready {
        env.counters.port(meta.in_port).held.subtract(1);
        batch.frames.push(frame);
        batch.metas.push(meta);
    }
}

/// Whether the kernel has the fragment, and this is a copy.
fn is_copy<N: Family>(frame: &Frame, meta: &Meta<N>, env: &Env<impl Recorder>) -> bool {
    env.snapshot.port(meta.in_port).role == Some(PortRole::Host)
        && ethernet::source_number(frame.bytes()) == OVERTAKER.to_number()
}

/// Finds out a fragment's ports: from itself if it is the first, and all others learn them. False if they, or what else has
/// to be known about it, are not known: of a copy also the flow, without which the fragment is the kernel's.
fn is_known<N: Fragmented, R: Recorder>(frame: &Frame, meta: &mut Meta<N>, is_copy: bool, env: &Env<R>) -> bool {
    let packet = &frame.bytes()[IP..];
    let l4 = &packet[usize::from(meta.ip_header_len)..];
    let Piece { id, offset, is_last } = N::piece(packet);
    let datagram = datagram(id, meta, env);
    let is_sctp = meta.protocol() == ipv4::SCTP;
    if R::LIVE && is_sctp && is_last {
        let len = u64::from(offset) * 8 + l4.len() as u64;
        env.fragments.put(length_of(datagram), len, millis(env.now));
    }
    if offset != 0 {
        let ports = known(datagram, env).inspect(|ports| set_ports(meta, *ports as u32, env));
        return ports.is_some() && (!is_copy || env.conntrack.find(meta.key, meta.hash).is_some());
    }
    // A first fragment that does not even hold the transport header is nobody's honest work (RFC 1858, section 3).
    let header_len = match meta.protocol() {
        ipv4::TCP => tcp::HEADER_LEN,
        ipv4::SCTP => sctp::HEADER_LEN,
        _ => udp::HEADER_LEN,
    };
    if l4.len() < header_len {
        meta.decide(Verdict::Drop(DropReason::BadL4Header));
        return true;
    }
    let ports = be32(l4, 0);
    set_ports(meta, ports, env);
    if R::LIVE {
        env.fragments.put(datagram, ports.into(), millis(env.now));
    }
    match meta.protocol() {
        ipv4::TCP => meta.tcp_flags = l4[tcp::FLAGS],
        ipv4::SCTP => meta.tcp_flags = sctp::flags(l4),
        _ => {}
    }
    !is_sctp || known(length_of(datagram), env).inspect(|len| meta.datagram_len = *len as u16).is_some()
}

/// The ports of a datagram whose first fragment was seen not long ago, or the [length](length_of) of one whose last was.
fn known(key: Key, env: &Env<impl Recorder>) -> Option<u64> {
    // Another worker's clock may be a little ahead.
    let is_fresh = |tick: u32| (millis(env.now).wrapping_sub(tick) as i32) < KNOWN_FOR as i32;
    env.fragments.get(key).filter(|seen| is_fresh(seen.tick)).map(|seen| seen.value)
}

fn set_ports<N: Family>(meta: &mut Meta<N>, ports: u32, env: &Env<impl Recorder>) {
    let (src_port, dst_port) = ((ports >> 16) as u16, ports as u16);
    env.recorder.note(|| Step::FragmentPorts { ports: (src_port, dst_port) });
    meta.key = FiveTuple { src_port, dst_port, ..FiveTuple::<N>::from_words(meta.key) }.to_words();
    track::hash(meta, env.conntrack);
}

fn has_ports<N: Family>(meta: &Meta<N>) -> bool {
    Protocol::of(meta.protocol()).is_some()
}

/// A family whose packets may be fragments.
pub trait Fragmented: Family {
    /// What a fragment says about itself; `packet` is one, from its IP header on.
    fn piece(packet: &[u8]) -> Piece;
}

/// What a fragment says about itself.
pub struct Piece {
    /// The datagram's identification.
    pub id: u32,
    /// Where it belongs, in units of 8 bytes.
    pub offset: u16,
    /// No other comes after it.
    pub is_last: bool,
}

impl Fragmented for u32 {
    fn piece(packet: &[u8]) -> Piece {
        let fragment = be16(packet, ipv4::FRAGMENT);
        let (offset, is_last) = (fragment & ipv4::OFFSET, fragment & ipv4::MORE_FRAGMENTS == 0);
        Piece { id: be16(packet, ipv4::ID).into(), offset, is_last }
    }
}

/// What the fragments of a datagram have in common (RFC 791, section 3.2; RFC 8200, section 4.5).
fn datagram<N: Family>(id: u32, meta: &Meta<N>, env: &Env<impl Recorder>) -> Key {
    let [addresses, _] = env.conntrack.known_as(meta.key);
    [addresses, u64::from(id) << 8 | u64::from(meta.protocol())]
}

/// The key under which the length of a datagram is known, in bytes without IP headers.
fn length_of([addresses, datagram]: Key) -> Key {
    [addresses, datagram | 1 << 63]
}

fn millis(now: Now) -> u32 {
    (now.0 / 1_000_000) as u32
}

/// As [`nat::translate`], for fragments: only the first one has ports and a checksum.
#[cold]
pub fn translate(ip: &mut [u8; ipv4::HEADER_LEN], l4: &mut [u8], meta: &Meta) {
    if be16(ip, ipv4::FRAGMENT) & ipv4::OFFSET == 0 {
        nat::translate(ip, l4, meta);
    } else {
        nat::translate_portless(ip, meta);
    }
}
