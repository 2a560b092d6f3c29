//! How far a flow has come, as far as its packets show, and how long it may then be idle.

use crate::wire::{ipv4, tcp};

/// Which of a flow's two keys a packet matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// As the client opened it.
    Forward,
    /// The backend's answers.
    Reply,
}

/// A flow's state. The numbers are stored in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FlowState {
    /// TCP: nothing but the client's packets were seen.
    Opening = 0,
    /// TCP: both sides have spoken.
    Established = 1,
    /// TCP: the client has sent its FIN.
    ClientClosed = 2,
    /// TCP: the backend has sent its FIN.
    BackendClosed = 3,
    /// TCP: both have sent a FIN.
    TimeWait = 4,
    /// TCP: one side has sent a reset.
    Reset = 5,
    /// Not TCP: nothing but the client's packets were seen.
    Unreplied = 6,
    /// Not TCP: both sides have spoken.
    Replied = 7,
}

impl FlowState {
    /// The state of a flow whose first packet has these TCP flags. A packet from the middle of a connection is taken
    /// up as established: the switch may have been restarted.
    #[inline]
    pub fn first(protocol: u8, tcp_flags: u8) -> FlowState {
        if protocol != ipv4::TCP {
            FlowState::Unreplied
        } else if tcp_flags & tcp::SYN != 0 {
            FlowState::Opening
        } else {
            FlowState::Established
        }
    }

    /// The state after a packet.
    #[inline(always)]
    pub fn after(self, direction: Direction, tcp_flags: u8) -> FlowState {
        use FlowState::*;
        match (self, direction) {
            (Unreplied, Direction::Reply) => Replied,
            (Unreplied | Replied, _) => self,
            _ if tcp_flags & (tcp::RST | tcp::FIN) != 0 => self.after_close(direction, tcp_flags),
            (Opening, Direction::Reply) => Established,
            _ => self,
        }
    }

    #[cold]
    fn after_close(self, direction: Direction, tcp_flags: u8) -> FlowState {
        use FlowState::*;
        match (self, direction) {
            (Reset, _) => Reset,
            _ if tcp_flags & tcp::RST != 0 => Reset,
            (ClientClosed, Direction::Reply) | (BackendClosed, Direction::Forward) | (TimeWait, _) => TimeWait,
            (_, Direction::Forward) => ClientClosed,
            (_, Direction::Reply) => BackendClosed,
        }
    }

    /// True if a SYN from the client begins a new connection on the same tuple (RFC 9293, section 3.6.1).
    #[inline(always)]
    pub fn is_over(self) -> bool {
        matches!(self, FlowState::TimeWait | FlowState::Reset)
    }

    /// Seconds a flow may be idle in this state. The values are those of the Linux connection tracker with
    /// kube-proxy's defaults for TCP (`conntrack.tcpEstablishedTimeout` and `tcpCloseWaitTimeout`).
    pub fn idle_limit(self) -> u32 {
        match self {
            FlowState::Opening => 60,
            FlowState::Established => 86_400,
            FlowState::ClientClosed | FlowState::BackendClosed => 3_600,
            FlowState::TimeWait => 120,
            FlowState::Reset => 10,
            FlowState::Unreplied => 30,
            FlowState::Replied => 120,
        }
    }

    /// The state's name, for people.
    pub fn name(self) -> &'static str {
        match self {
            FlowState::Opening => "opening",
            FlowState::Established => "established",
            FlowState::ClientClosed => "client-closed",
            FlowState::BackendClosed => "backend-closed",
            FlowState::TimeWait => "time-wait",
            FlowState::Reset => "reset",
            FlowState::Unreplied => "unreplied",
            FlowState::Replied => "replied",
        }
    }

    /// Reads a stored number.
    #[inline(always)]
    pub(super) fn from_number(number: u8) -> FlowState {
        use FlowState::*;
        const STATES: [FlowState; 8] =
            [Opening, Established, ClientClosed, BackendClosed, TimeWait, Reset, Unreplied, Replied];
        STATES[usize::from(number & 7)]
    }
}

#[cfg(test)]
mod tests {
    use super::{Direction::*, FlowState::*, *};

    #[test]
    fn a_connection_opens_and_closes() {
        let mut state = FlowState::first(ipv4::TCP, tcp::SYN);
        for (direction, flags, expected) in [
            (Forward, tcp::SYN, Opening),
            (Reply, tcp::SYN | tcp::ACK, Established),
            (Forward, tcp::ACK, Established),
            (Forward, tcp::FIN | tcp::ACK, ClientClosed),
            (Forward, tcp::FIN | tcp::ACK, ClientClosed),
            (Reply, tcp::ACK, ClientClosed),
            (Reply, tcp::FIN | tcp::ACK, TimeWait),
            (Forward, tcp::ACK, TimeWait),
            (Reply, tcp::RST, Reset),
        ] {
            state = state.after(direction, flags);
            assert_eq!(state, expected);
        }
        assert!(state.is_over());
    }

    #[test]
    fn a_datagram_flow_counts_as_replied_once_the_backend_speaks() {
        let state = FlowState::first(ipv4::UDP, 0);
        assert_eq!(state.after(Forward, 0xff), Unreplied);
        assert_eq!(state.after(Reply, 0).after(Forward, 0), Replied);
    }

    #[test]
    fn states_read_back() {
        for number in 0..8 {
            assert_eq!(FlowState::from_number(number) as u8, number);
        }
    }
}
