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
    /// TCP: nothing but the client's packets were seen. Half open, also if they came from the middle of a connection.
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
    /// TCP: as `Opening`, and the client has sent its SYN again.
    Retried = 8,
    /// TCP: the backend answered the SYN with a reset, or a router said that it cannot be reached.
    Refused = 9,
}

impl FlowState {
    /// All of them, in the order of their numbers.
    pub const ALL: [FlowState; 10] = {
        use FlowState::*;
        [Opening, Established, ClientClosed, BackendClosed, TimeWait, Reset, Unreplied, Replied, Retried, Refused]
    };

    /// The state of a new flow. A connection taken up from its middle (the switch may have been restarted) is no
    /// exception: only the backend's answer shows that there is one.
    #[inline]
    pub fn first(protocol: u8) -> FlowState {
        if protocol == ipv4::TCP { FlowState::Opening } else { FlowState::Unreplied }
    }

    /// The state after a packet.
    #[inline(always)]
    pub fn after(self, direction: Direction, tcp_flags: u8) -> FlowState {
        use FlowState::*;
        match (self, direction) {
            (Unreplied, Direction::Reply) => Replied,
            (Unreplied | Replied, _) => self,
            _ if tcp_flags & (tcp::RST | tcp::FIN) != 0 => self.after_close(direction, tcp_flags),
            (Opening | Retried | Refused, _) => self.while_opening(direction, tcp_flags),
            _ => self,
        }
    }

    #[cold]
    fn while_opening(self, direction: Direction, tcp_flags: u8) -> FlowState {
        use FlowState::*;
        match (self, direction) {
            (_, Direction::Reply) => Established,
            (Opening, Direction::Forward) if tcp_flags & tcp::SYN != 0 => Retried,
            _ => self,
        }
    }

    #[cold]
    fn after_close(self, direction: Direction, tcp_flags: u8) -> FlowState {
        use FlowState::*;
        match (self, direction) {
            (Reset, _) => Reset,
            (Opening | Retried, Direction::Reply) if tcp_flags & tcp::RST != 0 => Refused,
            // A client alone cannot make more of a flow than half of one.
            (Opening | Retried | Refused, Direction::Forward) if tcp_flags & tcp::RST == 0 => self,
            _ if tcp_flags & tcp::RST != 0 => Reset,
            (ClientClosed, Direction::Reply) | (BackendClosed, Direction::Forward) | (TimeWait, _) => TimeWait,
            (_, Direction::Forward) => ClientClosed,
            (_, Direction::Reply) => BackendClosed,
        }
    }

    /// True if nothing but a SYN from the client, which begins a new connection on the same tuple (RFC 9293, section
    /// 3.6.1), makes more of the flow.
    #[inline(always)]
    pub fn is_over(self) -> bool {
        matches!(self, FlowState::TimeWait | FlowState::Reset | FlowState::Refused)
    }

    /// True if the backend did not take the connection: refused it, or was silent when the SYN came again. Another one
    /// may get the next SYN.
    #[inline(always)]
    pub fn is_unanswered(self) -> bool {
        matches!(self, FlowState::Retried | FlowState::Refused)
    }

    /// True for flows that give way when the table is full: half open ones, which anybody can make with made-up source
    /// addresses, and those that are over.
    pub fn gives_way(self) -> bool {
        use FlowState::*;
        matches!(self, Opening | Retried | Refused | Unreplied | TimeWait | Reset)
    }

    /// True while the backend has not answered the client's SYN.
    pub fn is_opening(self) -> bool {
        matches!(self, FlowState::Opening | FlowState::Retried)
    }

    /// Seconds a flow may be idle in this state. The values are those of the Linux connection tracker with
    /// kube-proxy's defaults for TCP (`conntrack.tcpEstablishedTimeout` and `tcpCloseWaitTimeout`).
    pub fn idle_limit(self) -> u32 {
        match self {
            FlowState::Opening | FlowState::Retried => 60,
            FlowState::Established => 86_400,
            FlowState::ClientClosed | FlowState::BackendClosed => 3_600,
            FlowState::TimeWait => 120,
            FlowState::Reset | FlowState::Refused => 10,
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
            FlowState::Retried => "retried",
            FlowState::Refused => "refused",
        }
    }

    /// Reads a stored number.
    #[inline(always)]
    pub(super) fn from_number(number: u8) -> FlowState {
        use FlowState::*;
        // As many as four bits can name: then no number is out of range.
        const STATES: [FlowState; 16] = [
            Opening,
            Established,
            ClientClosed,
            BackendClosed,
            TimeWait,
            Reset,
            Unreplied,
            Replied,
            Retried,
            Refused,
            Refused,
            Refused,
            Refused,
            Refused,
            Refused,
            Refused,
        ];
        STATES[usize::from(number & 0b1111)]
    }
}

#[cfg(test)]
mod tests {
    use super::{Direction::*, FlowState::*, *};

    #[test]
    fn a_connection_opens_and_closes() {
        let mut state = FlowState::first(ipv4::TCP);
        for (direction, flags, expected) in [
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
        let state = FlowState::first(ipv4::UDP);
        assert_eq!(state.after(Forward, 0xff), Unreplied);
        assert_eq!(state.after(Reply, 0).after(Forward, 0), Replied);
    }

    #[test]
    fn a_backend_that_refuses_or_is_silent_is_told_apart() {
        let opening = FlowState::first(ipv4::TCP);
        assert!(!opening.is_unanswered());
        assert_eq!(opening.after(Reply, tcp::RST | tcp::ACK), Refused);
        let retried = opening.after(Forward, tcp::SYN);
        assert_eq!(retried, Retried);
        assert!(retried.is_unanswered() && Refused.is_unanswered());
        assert_eq!(retried.after(Reply, tcp::SYN | tcp::ACK), Established);
        assert_eq!(opening.after(Forward, tcp::RST), Reset, "the client gave up");
        assert_eq!(Established.after(Reply, tcp::RST), Reset);
    }

    #[test]
    fn a_client_alone_makes_no_flow_that_lasts() {
        for protocol in [ipv4::TCP, ipv4::UDP] {
            let mut states = vec![FlowState::first(protocol)];
            for _ in 0..4 {
                let flags = 0..=u8::MAX;
                let next: Vec<_> = flags.flat_map(|f| states.iter().map(move |s| s.after(Forward, f))).collect();
                states = next;
                states.sort_by_key(|state| *state as u8);
                states.dedup();
                assert!(states.iter().all(|state| state.gives_way()), "{states:?}");
            }
        }
        assert!([Established, ClientClosed, BackendClosed, Replied].iter().all(|state| !state.gives_way()));
    }

    #[test]
    fn states_read_back() {
        for (number, state) in (0..).zip(FlowState::ALL) {
            assert_eq!((FlowState::from_number(number), state as u8), (state, number));
        }
    }
}
