//! Packets that are too big for their next hop, and that may be cut into fragments (RFC 791, section 3.2; RFC 1812,
//! section 5.2.6). Each fragment is a packet of its own from then on and goes the same way. They leave after all else of
//! their batch, of which they are taken out first: it might have no room for them.

use std::collections::VecDeque;

use crate::{
    io::{Frame, FramePool},
    packet::{BATCH, Batch, Meta},
    pipeline::Env,
    record::{Recorder, Step},
    verdict::{Answer, DropReason, Verdict},
    wire::{be16, checksum, ethernet, ipv4, put16},
};

const IP: usize = ethernet::HEADER_LEN;

/// What becomes of an IPv4 packet that is longer than `mtu`.
#[cold]
pub fn verdict(packet: &[u8], mtu: u16) -> Verdict {
    if be16(packet, ipv4::FRAGMENT) & ipv4::DF != 0 || mtu < ipv4::LEAST_MTU {
        Verdict::Owed(Answer::FragmentationNeeded)
    } else if packet[ipv4::TTL] <= 1 {
        Verdict::Owed(Answer::TimeExceeded)
    } else {
        Verdict::Oversized
    }
}

/// Those of one batch, in their order.
#[derive(Debug, Default)]
pub struct Oversized(VecDeque<(Frame, Meta)>);

impl Oversized {
    /// None, and room for a batch.
    pub fn new() -> Oversized {
        Oversized(VecDeque::with_capacity(BATCH))
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes them out of a batch.
    pub fn take_from(&mut self, batch: &mut Batch) {
        batch.take_out(Verdict::Oversized, |frame, meta| self.0.push_back((frame, *meta)));
    }

    /// Puts them back into a batch, cut into fragments that are still to be sent on, as far as there is room: in an empty batch
    /// there is for one packet at least. A packet for whose fragments `pool` has no frames comes back to be dropped.
    pub fn cut_into(&mut self, batch: &mut Batch, pool: &mut FramePool, env: &Env<impl Recorder>) {
        while let Some((mut frame, mut meta)) = self.0.pop_front() {
            let mtu = env.snapshot.next_hop(meta.next_hop).mtu;
            let cut = Cut::of(&frame.bytes()[IP..], mtu);
            let more = cut.pieces() - 1;
            if more >= batch.room() {
                return self.0.push_front((frame, meta));
            }
            let first = batch.frames.len();
            if cut.end() > LONGEST {
                meta.decide(Verdict::Drop(DropReason::BadIpHeader));
            } else if (pool.free() as usize) < more {
                meta.decide(Verdict::Drop(DropReason::NoFrame));
            } else {
                env.recorder.note(|| Step::Cut { mtu, fragments: more + 1 });
                env.counters.port(meta.in_port).fragments.add(more as u64);
                if !meta.has(Meta::FRAGMENT) {
                    meta.datagram_len = cut.payload as u16;
                    meta.flags |= Meta::FRAGMENT;
                }
                meta.decide(Verdict::Pending);
                let pieces = (1..=more).map(|at| cut.piece(&frame, at, pool.take().expect("they were counted")));
                batch.frames.extend(pieces);
                cut.first(&mut frame);
            }
            batch.frames.insert(first, frame);
            batch.metas.resize(batch.frames.len(), meta);
        }
    }
}

/// The longest datagram, in bytes after the header: more has no offset.
const LONGEST: usize = 8 * ipv4::OFFSET as usize;

/// How a packet is cut. Lengths in bytes.
struct Cut {
    header_len: usize,
    payload: usize,
    /// Of the payload, in each fragment but the last one.
    step: usize,
    /// Where the payload begins in its datagram, and whether it is followed by more: the packet may be a fragment itself.
    start: usize,
    is_followed: bool,
    /// The flag that nobody uses.
    reserved: u16,
}

impl Cut {
    fn of(packet: &[u8], mtu: u16) -> Cut {
        let (header_len, fragment) = (ipv4::header_len(packet), be16(packet, ipv4::FRAGMENT));
        Cut {
            header_len,
            payload: usize::from(ipv4::total_len(packet)) - header_len,
            step: (usize::from(mtu) - header_len) & !7,
            start: 8 * usize::from(fragment & ipv4::OFFSET),
            is_followed: fragment & ipv4::MORE_FRAGMENTS != 0,
            reserved: fragment & !(ipv4::FRAGMENTED | ipv4::DF),
        }
    }

    fn pieces(&self) -> usize {
        self.payload.div_ceil(self.step)
    }

    /// Where the last fragment begins in the datagram.
    fn end(&self) -> usize {
        self.start + (self.pieces() - 1) * self.step
    }

    /// Makes of a fresh frame a fragment of `packet` that is not the first one.
    fn piece(&self, packet: &Frame, at: usize, mut piece: Frame) -> Frame {
        let (header, payload) = packet.bytes().split_at(IP + self.header_len);
        let part = &payload[at * self.step..self.payload.min((at + 1) * self.step)];
        piece.set_len(header.len() + part.len());
        let (its_header, its_payload) = piece.bytes_mut().split_at_mut(header.len());
        its_header.copy_from_slice(header);
        its_payload.copy_from_slice(part);
        ipv4::blank_options_of_first(&mut its_header[IP + ipv4::HEADER_LEN..]);
        self.describe(at, its_header, part.len());
        piece
    }

    /// Makes the first fragment of a packet of itself.
    fn first(&self, packet: &mut Frame) {
        packet.set_len(IP + self.header_len + self.step);
        self.describe(0, &mut packet.bytes_mut()[..IP + self.header_len], self.step);
    }

    /// Says in a fragment's headers which one it is.
    fn describe(&self, at: usize, header: &mut [u8], len: usize) {
        let ip = &mut header[IP..];
        let follows = self.is_followed || at + 1 < self.pieces();
        let offset = (self.start + at * self.step) / 8;
        put16(ip, ipv4::TOTAL_LEN, (self.header_len + len) as u16);
        let more = if follows { ipv4::MORE_FRAGMENTS } else { 0 };
        put16(ip, ipv4::FRAGMENT, self.reserved | more | offset as u16);
        put16(ip, ipv4::CHECKSUM, 0);
        let sum = checksum::sum(ip);
        put16(ip, ipv4::CHECKSUM, !sum);
    }
}
