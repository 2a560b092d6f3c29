//! How far a flow has come, as far as its packets show, and how long it may then be idle.

use super::{STATE, association};
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
    /// TCP: both sides have spoken, and the client again.
    Established = 1,
    /// TCP: the client has sent its FIN.
    ClientClosed = 2,
    /// TCP: the backend has sent its FIN.
    BackendClosed = 3,
    /// TCP: both have sent a FIN.
    TimeWait = 4,
    /// TCP: one side has sent a reset.
    Reset = 5,
    /// Neither TCP nor SCTP: nothing but the client's packets were seen.
    Unreplied = 6,
    /// Neither TCP nor SCTP: both sides have spoken.
    Replied = 7,
    /// TCP: as `Opening`, and the client has sent its SYN again.
    Retried = 8,
    /// TCP: the backend answered the SYN with a reset, or a router said that it cannot be reached.
    Refused = 9,
    /// SCTP: nothing but the client's packets were seen.
    CookieWait = 10,
    /// SCTP: as `CookieWait`, and the client has sent its INIT again.
    InitRetried = 11,
    /// SCTP: the backend answered the INIT, as it does any that comes, whoever sends it.
    CookieEchoed = 12,
    /// SCTP: both sides have spoken, and the client had the backend's cookie.
    Associated = 13,
    /// SCTP: one side has said that it will send no more.
    ShuttingDown = 14,
    /// SCTP: the association was shut down or aborted.
    Closed = 15,
    /// SCTP: the backend answered the INIT with an ABORT, or a router said that it cannot be reached.
    Declined = 16,
    /// TCP: the backend answered the SYN, as it does any that comes, whoever sends it.
    Answered = 17,
    /// TCP, relayed: no answer comes this way. Nothing but the client's SYN was seen.
    RelayedSyn = 18,
    /// TCP, relayed: the client goes on.
    RelayedStream = 19,
    /// Neither TCP nor SCTP, relayed.
    RelayedDatagrams = 20,
    /// SCTP, relayed.
    RelayedAssociation = 21,
    /// TCP or SCTP, relayed: the client has closed it.
    RelayedClosed = 22,
}

impl FlowState {
    /// All of them, in the order of their numbers.
    pub const ALL: [FlowState; 23] = {
        use FlowState::*;
        [
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
            CookieWait,
            InitRetried,
            CookieEchoed,
            Associated,
            ShuttingDown,
            Closed,
            Declined,
            Answered,
            RelayedSyn,
            RelayedStream,
            RelayedDatagrams,
            RelayedAssociation,
            RelayedClosed,
        ]
    };

    /// The state of a new flow. A connection taken up from its middle (the switch may have been restarted) is no
    /// exception: only the backend's answer shows that there is one.
    #[inline]
    pub fn first(protocol: u8) -> FlowState {
        match protocol {
            ipv4::TCP => FlowState::Opening,
            ipv4::SCTP => FlowState::CookieWait,
            _ => FlowState::Unreplied,
        }
    }

    /// The state of a new flow that another node answers.
    pub fn relayed(protocol: u8) -> FlowState {
        match protocol {
            ipv4::TCP => FlowState::RelayedSyn,
            ipv4::SCTP => FlowState::RelayedAssociation,
            _ => FlowState::RelayedDatagrams,
        }
    }

    /// True for flows that another node answers.
    pub fn is_relayed(self) -> bool {
        use FlowState::*;
        matches!(self, RelayedSyn | RelayedStream | RelayedDatagrams | RelayedAssociation | RelayedClosed)
    }

    /// The state after a packet. Its `flags` are TCP's, or of SCTP [those that say the same](crate::wire::sctp::flags).
    #[inline(always)]
    pub fn after(self, direction: Direction, flags: u8) -> FlowState {
        use FlowState::*;
        match (self, direction) {
            (Unreplied, Direction::Reply) => Replied,
            (Unreplied | Replied | RelayedDatagrams, _) => self,
            _ if flags & (tcp::RST | tcp::FIN) != 0 => self.after_close(direction, flags),
            (Established | ClientClosed | BackendClosed | TimeWait | Reset, _) => self,
            (RelayedStream | RelayedAssociation | RelayedClosed, _) => self,
            _ => self.while_opening(direction, flags),
        }
    }

    #[cold]
    fn while_opening(self, direction: Direction, flags: u8) -> FlowState {
        use FlowState::*;
        match (self, direction) {
            _ if association::has(self) => association::after(self, direction, flags),
            (Answered, _) if flags & tcp::SYN != 0 => self,
            (Answered, _) => Established,
            (RelayedSyn, _) if flags & tcp::SYN != 0 => self,
            (RelayedSyn, _) => RelayedStream,
            (_, Direction::Reply) if flags & tcp::SYN != 0 => Answered,
            (_, Direction::Reply) => Established,
            (Opening, Direction::Forward) if flags & tcp::SYN != 0 => Retried,
            _ => self,
        }
    }

    #[cold]
    fn after_close(self, direction: Direction, flags: u8) -> FlowState {
        use FlowState::*;
        match (self, direction) {
            _ if association::has(self) => association::after(self, direction, flags),
            (Reset, _) => Reset,
            (RelayedSyn | RelayedStream | RelayedAssociation | RelayedClosed, _) => RelayedClosed,
            (Opening | Retried, Direction::Reply) if flags & tcp::RST != 0 => Refused,
            // A client alone cannot make more of a flow than half of one.
            (Opening | Retried | Refused | Answered, Direction::Forward) if flags & tcp::RST == 0 => self,
            _ if flags & tcp::RST != 0 => Reset,
            (ClientClosed, Direction::Reply) | (BackendClosed, Direction::Forward) | (TimeWait, _) => TimeWait,
            (_, Direction::Forward) => ClientClosed,
            (_, Direction::Reply) => BackendClosed,
        }
    }

    /// True if nothing but a SYN from the client, which begins a new connection on the same tuple (RFC 9293, section
    /// 3.6.1), makes more of the flow.
    #[inline(always)]
    pub fn is_over(self) -> bool {
        use FlowState::*;
        matches!(self, TimeWait | Reset | Refused | Closed | Declined | RelayedClosed)
    }

    /// True if the backend did not take the connection: refused it, or was silent when the SYN came again. Another one
    /// may get the next SYN.
    #[inline(always)]
    pub fn is_unanswered(self) -> bool {
        use FlowState::*;
        matches!(self, Retried | Refused | InitRetried | Declined)
    }

    /// True for flows that give way when the table is full: half open ones, which anybody can make with made-up source
    /// addresses, and those that are over.
    pub fn gives_way(self) -> bool {
        use FlowState::*;
        match self {
            Opening | Answered | Retried | Refused | Unreplied | TimeWait | Reset => true,
            CookieWait | InitRetried | CookieEchoed | Declined | Closed => true,
            RelayedSyn | RelayedClosed => true,
            RelayedStream | RelayedDatagrams | RelayedAssociation => false,
            Established | ClientClosed | BackendClosed | Replied | Associated | ShuttingDown => false,
        }
    }

    /// True for flows that give way only if nothing that [does](FlowState::gives_way) is found: of those that another node
    /// answers, nobody here knows whether there is more than a client. That node remembers them.
    pub fn gives_way_last(self) -> bool {
        use FlowState::*;
        matches!(self, RelayedStream | RelayedDatagrams | RelayedAssociation)
    }

    /// The state once a router has said that the backend cannot be reached; `None` if it is known that it can.
    pub fn unreachable(self) -> Option<FlowState> {
        use FlowState::*;
        match self {
            Opening | Retried => Some(Refused),
            CookieWait | InitRetried => Some(Declined),
            _ => None,
        }
    }

    /// Seconds a flow may be idle in this state. The values are those of the Linux connection tracker, for TCP with
    /// kube-proxy's defaults (`conntrack.tcpEstablishedTimeout` and `tcpCloseWaitTimeout`). But for associations that
    /// begin or end, which it gives three seconds: a second and third INIT, or SHUTDOWN, would find them forgotten.
    pub fn idle_limit(self) -> u32 {
        match self {
            FlowState::Opening | FlowState::Retried | FlowState::Answered => 60,
            FlowState::RelayedSyn => 60,
            FlowState::Established | FlowState::RelayedStream => 86_400,
            FlowState::ClientClosed | FlowState::BackendClosed => 3_600,
            FlowState::TimeWait | FlowState::RelayedClosed => 120,
            FlowState::Reset | FlowState::Refused => 10,
            FlowState::Unreplied => 30,
            FlowState::Replied | FlowState::RelayedDatagrams => 120,
            // The longest retransmission timeout (RFC 9260, section 16).
            FlowState::CookieWait | FlowState::InitRetried | FlowState::CookieEchoed | FlowState::ShuttingDown => 60,
            FlowState::Associated | FlowState::RelayedAssociation => 210,
            FlowState::Closed | FlowState::Declined => 10,
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
            FlowState::CookieWait => "cookie-wait",
            FlowState::InitRetried => "init-retried",
            FlowState::CookieEchoed => "cookie-echoed",
            FlowState::Associated => "associated",
            FlowState::ShuttingDown => "shutting-down",
            FlowState::Closed => "closed",
            FlowState::Declined => "declined",
            FlowState::Answered => "answered",
            FlowState::RelayedSyn => "relayed-syn",
            FlowState::RelayedStream => "relayed-stream",
            FlowState::RelayedDatagrams => "relayed-datagrams",
            FlowState::RelayedAssociation => "relayed-association",
            FlowState::RelayedClosed => "relayed-closed",
        }
    }

    /// Reads a stored number.
    #[inline(always)]
    pub(super) fn from_number(number: u8) -> FlowState {
        // As many as the bits can name: then no number is out of range.
        const STATES: [FlowState; STATE as usize + 1] = {
            let mut states = [FlowState::Declined; STATE as usize + 1];
            let mut at = 0;
            while at < FlowState::ALL.len() {
                states[at] = FlowState::ALL[at];
                at += 1;
            }
            states
        };
        STATES[usize::from(number & STATE as u8)]
    }
}

#[cfg(test)]
mod tests {
    use super::{Direction::*, FlowState::*, *};

    #[test]
    fn a_connection_opens_and_closes() {
        let mut state = FlowState::first(ipv4::TCP);
        for (direction, flags, expected) in [
            (Reply, tcp::SYN | tcp::ACK, Answered),
            (Forward, tcp::SYN, Answered),
            (Reply, tcp::SYN | tcp::ACK, Answered),
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
    fn a_relayed_connection_lives_by_what_its_client_says() {
        let mut state = FlowState::relayed(ipv4::TCP);
        for (flags, expected) in [
            (tcp::SYN, RelayedSyn),
            (tcp::ACK, RelayedStream),
            (tcp::SYN, RelayedStream),
            (tcp::FIN | tcp::ACK, RelayedClosed),
            (tcp::ACK, RelayedClosed),
        ] {
            state = state.after(Forward, flags);
            assert_eq!(state, expected);
        }
        assert!(RelayedClosed.is_over() && !RelayedStream.is_over());
        assert_eq!(FlowState::relayed(ipv4::SCTP).after(Forward, tcp::RST), RelayedClosed);
        assert_eq!(FlowState::relayed(ipv4::UDP).after(Forward, 0xff), RelayedDatagrams);
        assert!(![RelayedSyn, RelayedStream].iter().any(|state| state.is_unanswered()), "who would know?");
    }

    #[test]
    fn a_backend_that_refuses_or_is_silent_is_told_apart() {
        let opening = FlowState::first(ipv4::TCP);
        assert!(!opening.is_unanswered());
        assert_eq!(opening.after(Reply, tcp::RST | tcp::ACK), Refused);
        let retried = opening.after(Forward, tcp::SYN);
        assert_eq!(retried, Retried);
        assert!(retried.is_unanswered() && Refused.is_unanswered());
        assert_eq!(retried.after(Reply, tcp::SYN | tcp::ACK), Answered);
        assert_eq!(opening.after(Reply, tcp::ACK), Established, "taken up from its middle");
        assert_eq!(opening.after(Forward, tcp::RST), Reset, "the client gave up");
        assert_eq!(Established.after(Reply, tcp::RST), Reset);
    }

    #[test]
    fn a_client_alone_makes_no_flow_that_lasts() {
        for protocol in [ipv4::TCP, ipv4::UDP, ipv4::SCTP] {
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
        // What one side of is seen may be no more than that side.
        for protocol in [ipv4::TCP, ipv4::UDP, ipv4::SCTP] {
            let first = FlowState::relayed(protocol);
            let states =
                (0..=u8::MAX).flat_map(|f| [first.after(Forward, f), first.after(Forward, f).after(Forward, f)]);
            states.for_each(|state| {
                assert!(state.is_relayed() && state.gives_way() != state.gives_way_last(), "{state:?}")
            });
        }
        let lasting = [Established, ClientClosed, BackendClosed, Replied, Associated, ShuttingDown];
        assert!(lasting.iter().all(|state| !state.gives_way()));
    }

    #[test]
    fn states_read_back() {
        for (number, state) in (0..).zip(FlowState::ALL) {
            assert_eq!((FlowState::from_number(number), state as u8), (state, number));
        }
    }
}
