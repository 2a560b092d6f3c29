//! Descriptors for packets that do not start where the kernel put them.
//!
//! xsk-rs hides a descriptor's address: it can be made by `Umem::new`, which places one at
//! `chunk * 2048 + 256 + headroom`, or filled in by the kernel, and not be moved. Encapsulation moves a packet's start 50
//! bytes to the front, decapsulation 50 bytes to the back. So descriptors for those starts are minted once, by making
//! UMEMs of the same shape with other headrooms and keeping their descriptors, which are plain numbers. Why this and not
//! moving the payload: `docs/decisions/0001-moving-the-packet-start.md`.

use std::num::NonZeroU32;

use xsk_rs::{
    FrameDesc, Umem,
    config::{FrameSize, QueueSize, UmemConfig},
};

use super::{XskError, memory::RING_SIZE};
use crate::io::{FRAME_SIZE, Frame, RX_HEADROOM};

/// Bytes VXLAN over IPv4 puts in front of a packet (RFC 7348, section 5): Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
const VXLAN_OVERHEAD: usize = 50;

/// Bytes the kernel keeps in front of the headroom for XDP programs (`XDP_PACKET_HEADROOM` in linux/bpf.h).
const XDP_HEADROOM: usize = 256;

const RECEIVED: usize = RX_HEADROOM;
const ENCAPSULATED: usize = RX_HEADROOM - VXLAN_OVERHEAD;
const DECAPSULATED: usize = RX_HEADROOM + VXLAN_OVERHEAD;

/// One descriptor per chunk for each start that a packet commonly has when it is sent.
pub(super) struct Starts {
    received: Box<[FrameDesc]>,
    encapsulated: Box<[FrameDesc]>,
    decapsulated: Box<[FrameDesc]>,
}

impl Starts {
    /// Makes the UMEM and the descriptors of its chunks. The others' memory is only registered for the moment.
    pub(super) fn mint(frames: NonZeroU32) -> Result<(Umem, Starts), XskError> {
        let (_, encapsulated) = umem(frames, ENCAPSULATED)?;
        let (_, decapsulated) = umem(frames, DECAPSULATED)?;
        let (umem, received) = umem(frames, RECEIVED)?;
        let starts =
            Starts { received: received.into(), encapsulated: encapsulated.into(), decapsulated: decapsulated.into() };
        Ok((umem, starts))
    }

    /// The descriptor with which chunk `index` is given to the kernel to receive into.
    #[inline(always)]
    pub(super) fn to_receive(&self, index: u32) -> FrameDesc {
        self.received[index as usize]
    }

    /// The table in which the frame's descriptor is found by its chunk. A frame that starts anywhere else is first moved
    /// to a start that has one; `None` if it is too long to be moved.
    #[inline(always)]
    pub(super) fn to_send(&self, frame: &mut Frame) -> Option<&[FrameDesc]> {
        match frame.headroom() {
            RECEIVED => Some(&self.received),
            ENCAPSULATED => Some(&self.encapsulated),
            DECAPSULATED => Some(&self.decapsulated),
            _ => self.normalise(frame),
        }
    }

    #[cold]
    fn normalise(&self, frame: &mut Frame) -> Option<&[FrameDesc]> {
        if frame.move_to(RECEIVED) {
            return Some(&self.received);
        }
        frame.move_to(ENCAPSULATED).then_some(&*self.encapsulated)
    }
}

fn umem(frames: NonZeroU32, start: usize) -> Result<(Umem, Vec<FrameDesc>), XskError> {
    let ring = QueueSize::new(RING_SIZE).expect("a power of two");
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(FRAME_SIZE as u32).expect("the least the kernel takes"))
        .frame_headroom((start - XDP_HEADROOM) as u32)
        .fill_queue_size(ring)
        .comp_queue_size(ring)
        .build()
        .expect("the frame size is a power of two and leaves room for data");
    let (umem, descriptors) =
        Umem::new(config, frames, false).map_err(|error| XskError::memory(frames.get(), &error))?;
    assert!(
        descriptors.iter().enumerate().all(|(i, d)| d.addr() == i * FRAME_SIZE + start),
        "xsk-rs no longer places descriptors at chunk * frame size + headrooms"
    );
    Ok((umem, descriptors))
}
