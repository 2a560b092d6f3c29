//! One connection from its first packet to its last.

use smoltcp::socket::tcp::State;

use super::{
    message::{Extent, Incoming, Progress},
    meter::{End, Meter},
    stack::Stack,
};

/// Which end of connections this side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Connects, asks, takes the answer, closes.
    Client,
    /// Waits, takes what is asked, answers, closes after the other side.
    Server,
}

/// What this side does in each of its connections.
pub struct Role {
    /// Which end it is.
    pub side: Side,
    /// What it sends: the request, or the answer.
    pub says: Vec<u8>,
    /// What it waits for.
    pub hears: Extent,
    /// How long a client stays after the answer, in ns.
    pub hold: u64,
    /// How long a connection may take apart from that, in ns.
    pub timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until the handshake is done.
    Opening,
    /// Until all that is to be said is in the socket.
    Speaking,
    /// Until the other side's message is whole.
    Hearing,
    /// Until the time of [`Conversation::until`].
    Holding,
    /// Until the other side closes.
    Staying,
    /// Until both sides have closed.
    Closing,
}

/// A connection, or a free place for one.
pub struct Conversation {
    /// Its stack.
    pub stack: Stack,
    phase: Phase,
    said: usize,
    heard: Incoming,
    /// When it was begun, in ns.
    began: u64,
    /// When the request went out, in ns.
    asked: u64,
    until: u64,
    /// When it is given up, in ns.
    pub give_up: u64,
}

impl Conversation {
    /// A free place.
    pub fn new(stack: Stack) -> Conversation {
        let heard = Incoming::new(Extent::Bytes(0));
        Conversation { stack, phase: Phase::Closing, said: 0, heard, began: 0, asked: 0, until: 0, give_up: 0 }
    }

    /// A connection begins; its stack connects or listens.
    pub fn begin(&mut self, role: &Role, now: u64) {
        self.phase = Phase::Opening;
        self.said = 0;
        self.heard = Incoming::new(role.hears);
        (self.began, self.asked) = (now, now);
        self.give_up = now + role.timeout;
    }

    /// When something is to be done even if no packet comes, in ns.
    pub fn due(&mut self, now: u64) -> u64 {
        let own = if self.phase == Phase::Holding { self.until } else { self.give_up };
        self.stack.poll_at(now).map_or(own, |at| at.min(own))
    }

    /// Does what can be done now. `reset` says that the packet before was a reset. Returns how the connection ended, if it
    /// did.
    pub fn advance(&mut self, role: &Role, meter: &mut Meter, reset: bool, now: u64) -> Option<End> {
        loop {
            let before = self.phase;
            if let Some(end) = self.step(role, meter, reset, now) {
                return Some(end);
            }
            if self.phase == before {
                return None;
            }
        }
    }

    fn step(&mut self, role: &Role, meter: &mut Meter, reset: bool, now: u64) -> Option<End> {
        let socket = self.stack.socket();
        let state = socket.state();
        if state == State::Closed && self.phase != Phase::Closing {
            return Some(End::Reset);
        }
        while socket.can_recv() {
            let taken = socket.recv(|bytes| {
                self.heard.take(bytes);
                (bytes.len(), ())
            });
            taken.expect("the socket said that it can");
        }
        match self.phase {
            Phase::Opening => {
                if !matches!(state, State::Listen | State::SynSent | State::SynReceived) {
                    meter.established(now - self.began);
                    self.asked = now;
                    self.phase = if role.side == Side::Client { Phase::Speaking } else { Phase::Hearing };
                }
            }
            Phase::Speaking => match socket.send_slice(&role.says[self.said..]) {
                Ok(taken) => {
                    self.said += taken;
                    if self.said == role.says.len() {
                        self.phase = if role.side == Side::Client { Phase::Hearing } else { Phase::Staying };
                    }
                }
                Err(_) => return Some(End::Reset),
            },
            Phase::Hearing => match (self.heard.progress(), role.side) {
                (Progress::Whole, Side::Server) => {
                    self.asked = now;
                    self.phase = Phase::Speaking;
                }
                (Progress::Whole, Side::Client) => {
                    meter.answered(now - self.asked);
                    self.until = now + role.hold;
                    self.give_up = self.until + role.timeout;
                    self.phase = Phase::Holding;
                }
                (Progress::Unfinished, _) if socket.may_recv() => {}
                (Progress::Unfinished | Progress::Wrong, _) => return Some(End::Reset),
            },
            Phase::Holding => {
                if now >= self.until || !socket.may_recv() {
                    socket.close();
                    self.phase = Phase::Closing;
                }
            }
            Phase::Staying => {
                if !socket.may_recv() {
                    if socket.send_queue() == 0 {
                        meter.answered(now - self.asked);
                    }
                    socket.close();
                    self.phase = Phase::Closing;
                }
            }
            // The last state of the side that closed first lasts for minutes on a real host, in case its last packet was lost
            // (RFC 9293, section 3.6.1). A tester needs the place, and takes an address and port again as late as it can.
            Phase::Closing => {
                if matches!(state, State::TimeWait | State::Closed) {
                    return Some(if reset { End::Reset } else { End::Closed });
                }
            }
        }
        None
    }

    /// Ends it at once, with a reset to the other side at the next poll.
    pub fn abort(&mut self) {
        self.stack.socket().abort();
        self.phase = Phase::Closing;
    }
}
