//! All connections of one side: which packet is whose, what is due when, and where new ones come from.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
};

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket};

use super::{
    arp::Neighbours,
    conversation::{Conversation, Role, Side},
    link::{ETHERNET, EthernetHeader, Inbox, Link},
    meter::{End, Meter},
    stack::Stack,
};

/// Our end of a connection, and the other.
type Ends = (SocketAddrV4, SocketAddrV4);

/// A buffer that a connection has for what it receives, in bytes, and at most for what it sends.
const BUFFER: usize = 16 * 1024;

/// A TCP segment's place and what matters of it here.
struct Segment {
    ends: Ends,
    begins: bool,
    resets: bool,
}

/// Connections of one side.
pub struct Crowd {
    /// Frames in and out.
    pub link: Link,
    /// Who is where.
    pub neighbours: Neighbours,
    /// Counts and times.
    pub meter: Meter,
    role: Role,
    /// The most that may be open at once.
    most: usize,
    seed: u64,
    /// First and last of the addresses this side plays.
    ours: Box<dyn Fn(Ipv4Addr) -> bool + Send>,
    places: Vec<Place>,
    free: Vec<u32>,
    open: HashMap<Ends, u32>,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    inbox: Inbox,
}

struct Place {
    conversation: Conversation,
    ends: Ends,
    /// When its timer ends; others of it in the heap are void.
    timer: u64,
}

impl Crowd {
    /// A side that plays the addresses for which `ours` says yes.
    pub fn new(
        link: Link,
        neighbours: Neighbours,
        role: Role,
        most: u32,
        seed: u64,
        ours: impl Fn(Ipv4Addr) -> bool + Send + 'static,
    ) -> Crowd {
        Crowd {
            link,
            neighbours,
            meter: Meter::new(),
            role,
            most: most as usize,
            seed,
            ours: Box::new(ours),
            places: Vec::new(),
            free: Vec::new(),
            open: HashMap::new(),
            timers: BinaryHeap::new(),
            inbox: Inbox::default(),
        }
    }

    /// Whether another connection may be opened.
    pub fn has_room(&self) -> bool {
        self.open.len() < self.most
    }

    /// Takes what has come, and does what is due. False if there was nothing to do.
    pub fn work(&mut self, now: u64) -> bool {
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut worked = self.link.receive(&mut inbox);
        for frame in inbox.frames() {
            if !self.neighbours.take(&mut self.link, frame, &self.ours) {
                self.take(frame, now);
            }
        }
        self.inbox = inbox;
        while let Some(&Reverse((due, place))) = self.timers.peek()
            && due <= now
        {
            self.timers.pop();
            if self.places[place as usize].timer == due {
                self.serve(place, None, false, now);
                worked = true;
            }
        }
        self.link.flush();
        worked
    }

    /// Opens a connection, unless one with these ends is open.
    pub fn connect(&mut self, ends: Ends, header: EthernetHeader, now: u64) -> bool {
        if self.open.contains_key(&ends) {
            return false;
        }
        let place = self.occupy(ends, now);
        self.places[place as usize].conversation.stack.connect(ends.0, ends.1, header);
        self.serve(place, None, false, now);
        true
    }

    /// Ends all that is open.
    pub fn abort(&mut self, now: u64) {
        for place in self.open.values().copied().collect::<Vec<_>>() {
            self.give_up(place, now);
            self.release(place, End::TimedOut);
        }
        self.link.flush();
    }

    /// A frame that is not ARP.
    fn take(&mut self, frame: &[u8], now: u64) {
        let Some(segment) = segment(frame) else { return };
        let place = match self.open.get(&segment.ends) {
            Some(place) => *place,
            None if self.role.side == Side::Server
                && segment.begins
                && self.has_room()
                && (self.ours)(*segment.ends.0.ip()) =>
            {
                let place = self.occupy(segment.ends, now);
                let header = self.neighbours.header_back(frame);
                self.places[place as usize].conversation.stack.listen(segment.ends.0, header);
                place
            }
            None => return,
        };
        self.serve(place, Some(&frame[ETHERNET..]), segment.resets, now);
    }

    /// Takes a free place, or makes one.
    fn occupy(&mut self, ends: Ends, now: u64) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            let number = self.places.len() as u32;
            let send = self.role.says.len().min(BUFFER);
            let seed = self.seed.wrapping_add(u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let stack = Stack::new(&mut self.link, BUFFER, send, seed, now);
            self.places.push(Place { conversation: Conversation::new(stack), ends, timer: u64::MAX });
            number
        });
        let occupied = &mut self.places[place as usize];
        (occupied.ends, occupied.timer) = (ends, u64::MAX);
        occupied.conversation.begin(&self.role, now);
        self.open.insert(ends, place);
        self.meter.opened();
        place
    }

    /// Gives a connection its packet or its turn.
    fn serve(&mut self, place: u32, packet: Option<&[u8]>, reset: bool, now: u64) {
        let Place { conversation, timer, .. } = &mut self.places[place as usize];
        conversation.stack.poll(&mut self.link, packet, now);
        let end = conversation.advance(&self.role, &mut self.meter, reset, now);
        if end.is_none() {
            // What it wants to say now goes out now.
            conversation.stack.poll(&mut self.link, None, now);
        }
        match end {
            Some(end) => {
                if end != End::Closed {
                    self.give_up(place, now);
                }
                self.release(place, end);
            }
            None if now >= conversation.give_up => {
                self.give_up(place, now);
                self.release(place, End::TimedOut);
            }
            None => {
                let due = conversation.due(now).max(now + 1);
                if *timer <= now || due < *timer {
                    *timer = due;
                    self.timers.push(Reverse((due, place)));
                }
            }
        }
    }

    /// Tells the other side that it is over, if that side may not know.
    fn give_up(&mut self, place: u32, now: u64) {
        let conversation = &mut self.places[place as usize].conversation;
        conversation.abort();
        conversation.stack.poll(&mut self.link, None, now);
    }

    fn release(&mut self, place: u32, end: End) {
        self.meter.ended(end);
        let released = &mut self.places[place as usize];
        released.timer = u64::MAX;
        self.open.remove(&released.ends);
        self.free.push(place);
    }
}

/// Reads a frame's TCP header, if it has a whole one over IPv4.
fn segment(frame: &[u8]) -> Option<Segment> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    if ip.next_header() != IpProtocol::Tcp || ip.frag_offset() != 0 {
        return None;
    }
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    let ends = (SocketAddrV4::new(ip.dst_addr(), tcp.dst_port()), SocketAddrV4::new(ip.src_addr(), tcp.src_port()));
    Some(Segment { ends, begins: tcp.syn() && !tcp.ack(), resets: tcp.rst() })
}
