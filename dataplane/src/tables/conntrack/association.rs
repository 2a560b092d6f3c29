//! The states of an SCTP association (RFC 9260, section 4), as far as a switch between the two sides has to tell them
//! apart.
//!
//! A backend answers every INIT and remembers nothing of it; that there is a client shows only once the backend has got
//! its own cookie back. So up to then the flow is half open, whatever went to and fro.

use super::{Direction, FlowState};
use crate::wire::tcp;

/// Whether a state is one of an association.
pub(super) fn has(state: FlowState) -> bool {
    use FlowState::*;
    matches!(state, CookieWait | InitRetried | CookieEchoed | Associated | ShuttingDown | Closed | Declined)
}

/// The state after a packet with these [flags](crate::wire::sctp::flags).
pub(super) fn after(state: FlowState, direction: Direction, flags: u8) -> FlowState {
    use FlowState::*;
    let says = |flag| flags & flag != 0;
    match (state, direction) {
        (CookieWait | InitRetried, Direction::Reply) if says(tcp::RST) => Declined,
        _ if says(tcp::RST) => Closed,
        (CookieWait, Direction::Forward) if says(tcp::SYN) => InitRetried,
        // A client alone cannot make more of a flow than half of one.
        (CookieWait | InitRetried | CookieEchoed | Declined, Direction::Forward) => state,
        (CookieWait | InitRetried | Declined, Direction::Reply) if says(tcp::SYN) => CookieEchoed,
        (CookieEchoed, Direction::Reply) if says(tcp::SYN) => state,
        (Closed, _) => state,
        _ if says(tcp::FIN) => ShuttingDown,
        (ShuttingDown, _) => state,
        _ => Associated,
    }
}

#[cfg(test)]
mod tests {
    use super::{Direction::*, FlowState::*, *};
    use crate::wire::ipv4;

    const INIT: u8 = tcp::SYN;
    const INIT_ACK: u8 = tcp::SYN | tcp::ACK;
    const DATA: u8 = tcp::ACK;
    const SHUTDOWN: u8 = tcp::FIN | tcp::ACK;
    const ABORT: u8 = tcp::RST;

    fn follow(steps: &[(Direction, u8, FlowState)]) {
        let mut state = FlowState::first(ipv4::SCTP);
        for (at, &(direction, flags, expected)) in steps.iter().enumerate() {
            state = state.after(direction, flags);
            assert_eq!(state, expected, "step {at}");
        }
    }

    #[test]
    fn an_association_begins_and_is_shut_down() {
        follow(&[
            (Reply, INIT_ACK, CookieEchoed),
            (Forward, DATA, CookieEchoed),
            (Reply, INIT_ACK, CookieEchoed),
            (Reply, DATA, Associated),
            (Forward, INIT, Associated),
            (Reply, INIT_ACK, Associated),
            (Forward, SHUTDOWN, ShuttingDown),
            (Reply, DATA, ShuttingDown),
            (Reply, SHUTDOWN, ShuttingDown),
            (Forward, ABORT, Closed),
            (Reply, SHUTDOWN, Closed),
            (Forward, DATA, Closed),
        ]);
        assert!(Closed.is_over() && !ShuttingDown.is_over());
    }

    #[test]
    fn one_taken_up_from_its_middle_is_one_once_the_backend_speaks() {
        follow(&[(Forward, DATA, CookieWait), (Reply, DATA, Associated), (Reply, ABORT, Closed)]);
        follow(&[(Forward, SHUTDOWN, CookieWait), (Reply, SHUTDOWN, ShuttingDown)]);
    }

    #[test]
    fn a_backend_that_declines_or_is_silent_is_told_apart() {
        follow(&[(Reply, ABORT, Declined), (Forward, DATA, Declined), (Reply, INIT_ACK, CookieEchoed)]);
        follow(&[(Forward, INIT, InitRetried), (Forward, INIT, InitRetried), (Reply, INIT_ACK, CookieEchoed)]);
        follow(&[(Forward, ABORT, Closed)]);
        assert!(Declined.is_unanswered() && InitRetried.is_unanswered() && !CookieEchoed.is_unanswered());
        assert_eq!(CookieWait.unreachable(), Some(Declined));
        assert_eq!(Associated.unreachable(), None);
    }

    #[test]
    fn answers_to_made_up_clients_leave_nothing_that_lasts() {
        follow(&[(Reply, INIT_ACK, CookieEchoed), (Reply, INIT_ACK, CookieEchoed)]);
        assert!(CookieEchoed.gives_way());
    }
}
