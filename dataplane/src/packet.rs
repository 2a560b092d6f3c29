//! A batch: frames, and what the stages found out about them.

use crate::{
    flow::{FlowKey, Packed},
    io::Frame,
    spec::PortId,
    verdict::{Answer, PackedVerdict, Verdict},
};

/// Packets that go through the stages together at most: enough to amortise a stage's instructions, few enough for the
/// first-level cache.
pub const BATCH: usize = 256;

/// What is known about one packet, with addresses of one family. 64 bytes if that is IPv4.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Meta<N: Packed = u32> {
    /// Its five-tuple, packed.
    pub key: N::Key,
    /// The tuple of packets the other way once translated: what the packet is rewritten to, reversed.
    pub other: N::Key,
    /// Seeded hash of `key`; valid if [`Meta::HASHED`] is set.
    pub hash: u64,
    /// Index of its next hop in the snapshot.
    pub next_hop: u32,
    /// Its fate so far.
    verdict: PackedVerdict,
    /// The port it came in on.
    pub in_port: PortId,
    /// Bytes of its IP header, with what comes before the transport header.
    pub ip_header_len: u8,
    /// Flags of its TCP header, or [those that say the same](crate::wire::sctp::flags) of SCTP; else 0.
    pub tcp_flags: u8,
    /// The constants below.
    pub flags: u8,
    /// What the packet is, if the switch made it.
    pub answer: Option<Answer>,
    /// Bytes of the SCTP packet that it is the first fragment of.
    pub datagram_len: u16,
}

/// Its flags.
impl Meta {
    /// A fragment: it has no ports, though the first one carries them.
    pub const FRAGMENT: u8 = 1;
    /// `hash` is valid.
    pub const HASHED: u8 = 2;
    /// Addresses and ports are rewritten to the reverse of `other`.
    pub const TRANSLATE: u8 = 4;
    /// `next_hop` is decided.
    pub const ROUTED: u8 = 8;
    /// Came out of a VXLAN packet.
    pub const DECAPSULATED: u8 = 16;
    /// An ICMP error, which follows the flow of the packet it quotes.
    pub const ICMP_ERROR: u8 = 32;
    /// Its flow counts as its backend's load.
    pub const COUNTED: u8 = 128;
    /// Begins a connection anew that the backend in `other` did not answer.
    pub const UNANSWERED: u8 = 64;
}

impl<N: Packed> Meta<N> {
    /// True if a flag is set.
    #[inline(always)]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Source address.
    #[inline(always)]
    pub fn src(&self) -> N {
        self.key.src()
    }

    /// Destination address.
    #[inline(always)]
    pub fn dst(&self) -> N {
        self.key.dst()
    }

    /// Source and destination port; 0 if there are none.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        (self.key.ports_and_protocol() >> 32) as u32
    }

    /// Destination port.
    #[inline(always)]
    pub fn dst_port(&self) -> u16 {
        (self.key.ports_and_protocol() >> 32) as u16
    }

    /// IP protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.key.ports_and_protocol() as u8
    }

    /// True while no stage has decided the packet's fate.
    #[inline(always)]
    pub fn is_pending(&self) -> bool {
        self.verdict == PackedVerdict::PENDING
    }

    /// Its fate so far.
    #[inline(always)]
    pub fn verdict(&self) -> Verdict {
        self.verdict.into()
    }

    /// Decides its fate.
    #[inline(always)]
    pub fn decide(&mut self, verdict: impl Into<PackedVerdict>) {
        self.verdict = verdict.into();
    }

    /// True if both have the same fate.
    #[inline(always)]
    pub fn shares_fate_with(&self, other: &Meta<N>) -> bool {
        self.verdict == other.verdict
    }

    /// Nothing is known of it but the port it came in on.
    pub(crate) fn new(in_port: PortId) -> Meta<N> {
        Meta {
            key: N::Key::default(),
            other: N::Key::default(),
            hash: 0,
            next_hop: 0,
            verdict: PackedVerdict::PENDING,
            in_port,
            ip_header_len: 0,
            tcp_flags: 0,
            flags: 0,
            answer: None,
            datagram_len: 0,
        }
    }
}

/// Packets, one behind the other, that have one fate.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Their fate.
    pub verdict: Verdict,
    /// How many they are.
    pub len: usize,
}

/// Up to [`BATCH`] packets in hand. The frame and the meta of a packet have the same index.
#[derive(Debug)]
pub struct Batch<N: Packed = u32> {
    /// The frames.
    pub frames: Vec<Frame>,
    /// What is known about each.
    pub metas: Vec<Meta<N>>,
    /// Some verdict is [`Verdict::Owed`].
    pub owes: bool,
    /// What became of them, when they have been through the pipeline: so many met this fate, then so many that one.
    pub runs: Vec<Run>,
    /// Which ports they came in on, as received: so many on this one, then so many on that one.
    arrivals: Vec<(PortId, usize)>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch::new()
    }
}

impl Batch {
    /// An empty batch of IPv4 packets, to be, with room for [`BATCH`].
    pub fn new() -> Batch {
        Batch::of_family()
    }
}

impl<N: Packed> Batch<N> {
    /// An empty batch with room for [`BATCH`] packets.
    pub fn of_family() -> Batch<N> {
        Batch {
            frames: Vec::with_capacity(BATCH),
            metas: Vec::with_capacity(BATCH),
            owes: false,
            runs: Vec::with_capacity(BATCH),
            arrivals: Vec::with_capacity(BATCH),
        }
    }

    /// Packets in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// True if it holds none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Packets that still fit.
    pub fn room(&self) -> usize {
        BATCH - self.frames.len()
    }

    /// Gives the frames that were appended to `frames` since the last call their metas: they came in on `port`.
    #[inline]
    pub fn received_on(&mut self, port: PortId) {
        self.arrivals.push((port, self.frames.len() - self.metas.len()));
        self.metas.resize(self.frames.len(), Meta::new(port));
    }

    /// Frame and meta of every packet.
    #[inline(always)]
    pub fn packets(&mut self) -> impl Iterator<Item = (&mut Frame, &mut Meta<N>)> {
        self.frames.iter_mut().zip(&mut self.metas)
    }

    /// The packets of one port after those of another, as they were received: while none has left the batch.
    #[inline]
    pub fn by_port(&mut self) -> impl Iterator<Item = (PortId, &mut [Frame], &mut [Meta<N>])> {
        let (mut frames, mut metas) = (&mut self.frames[..], &mut self.metas[..]);
        self.arrivals.iter().map(move |&(port, len)| {
            let frames = frames.split_off_mut(..len).expect("every frame arrived");
            (port, frames, metas.split_off_mut(..len).expect("and has its meta"))
        })
    }

    /// Takes the packets with this verdict out, in their order.
    #[inline]
    pub fn take_out(&mut self, verdict: Verdict, mut take: impl FnMut(Frame, &Meta<N>)) {
        let Batch { frames, metas, .. } = self;
        let is_it = |meta: &Meta<N>| meta.verdict() == verdict;
        let mut its = metas.iter();
        let frames = frames.extract_if(.., |_| its.next().is_some_and(is_it));
        frames.zip(metas.iter().filter(|meta| is_it(meta))).for_each(|(frame, meta)| take(frame, meta));
        metas.retain(|meta| !is_it(meta));
    }

    /// Forgets what is known, when the frames have been taken out.
    pub fn clear(&mut self) {
        debug_assert!(self.frames.is_empty());
        self.metas.clear();
        self.runs.clear();
        self.arrivals.clear();
        self.owes = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_is_one_cache_line() {
        assert_eq!(size_of::<Meta<u32>>(), 64);
    }
}
