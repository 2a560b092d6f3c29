//! Frames in and out of a station, and what is counted of them.

use smoltcp::{
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use crate::engine::Station;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// An Ethernet header as it goes in front of a packet: destination, source, type.
pub type EthernetHeader = [u8; ETHERNET];

/// Packets and bytes of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frames without FCS.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

/// A station with what has arrived on it and with counters.
pub struct Link {
    station: Box<dyn Station>,
    /// The longest IP packet, in bytes.
    mtu: usize,
    scratch: Vec<u8>,
    /// Frames that were handed over.
    pub sent: Tally,
    /// Frames that arrived.
    pub received: Tally,
    /// Frames the station had no room for. Whoever sent one sends it again when its timer ends.
    pub refused: u64,
}

/// Frames that arrived together, one behind the other.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Inbox {
    /// The frames.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

impl Link {
    /// Sends and receives over `station`, whose interface carries IP packets of `mtu` bytes.
    pub fn new(station: Box<dyn Station>, mtu: u16) -> Link {
        let (sent, received) = (Tally::default(), Tally::default());
        Link { station, mtu: mtu.into(), scratch: Vec::new(), sent, received, refused: 0 }
    }

    /// Replaces what is in `inbox` with what has arrived. False if nothing has.
    pub fn receive(&mut self, inbox: &mut Inbox) -> bool {
        inbox.bytes.clear();
        inbox.ends.clear();
        let received = &mut self.received;
        self.station.receive(&mut |frame| {
            received.add(frame.len());
            inbox.bytes.extend_from_slice(frame);
            inbox.ends.push(inbox.bytes.len());
        });
        !inbox.ends.is_empty()
    }

    /// Queues a frame.
    pub fn send(&mut self, frame: &[u8]) {
        let mut write = |room: &mut [u8]| room.copy_from_slice(frame);
        let taken = self.station.push(frame.len(), &mut write) || {
            self.station.flush();
            self.station.push(frame.len(), &mut write)
        };
        if taken { self.sent.add(frame.len()) } else { self.refused += 1 }
    }

    /// Makes what was queued leave.
    pub fn flush(&mut self) {
        self.station.flush();
    }

    /// Frames the station dropped for want of time to take them.
    pub fn missed(&self) -> u64 {
        self.station.missed()
    }
}

/// What one stack sees of the link while it is polled: at most one packet that came, and a way out.
pub struct Seat<'a> {
    /// The way out.
    pub link: &'a mut Link,
    /// What goes in front of packets.
    pub header: EthernetHeader,
    /// The packet that came, without its Ethernet header.
    pub packet: Option<&'a [u8]>,
}

/// A packet for a stack.
pub struct Arrived<'a>(&'a [u8]);

/// The way out for one packet.
pub struct Leaving<'a> {
    link: &'a mut Link,
    header: EthernetHeader,
}

impl<'s> Device for Seat<'s> {
    type RxToken<'a>
        = Arrived<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Leaving<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Arrived<'_>, Leaving<'_>)> {
        let packet = self.packet.take()?;
        Some((Arrived(packet), Leaving { link: self.link, header: self.header }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving { link: self.link, header: self.header })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        // Without Ethernet a stack needs no neighbours of its own: what the link's peers answer to is found once for all.
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.link.mtu;
        // A sender behind a veth leaves transport checksums unfinished, so what arrives cannot be checked.
        let mut checksum = ChecksumCapabilities::ignored();
        (checksum.ipv4, checksum.tcp) = (Checksum::Tx, Checksum::Tx);
        capabilities.checksum = checksum;
        capabilities
    }
}

impl RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = std::mem::take(&mut self.link.scratch);
        frame.clear();
        frame.extend_from_slice(&self.header);
        frame.resize(ETHERNET + len, 0);
        let result = write(&mut frame[ETHERNET..]);
        self.link.send(&frame);
        self.link.scratch = frame;
        result
    }
}
