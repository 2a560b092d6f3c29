//! ICMP (RFC 792): echo answers, and the errors a router sends (RFC 1812, section 4.3).
//!
//! ```text
//!  0       1       2               4
//! +-------+-------+---------------+
//! | type  | code  | checksum      |  0
//! | id and sequence, or MTU       |  4
//! | data, or the offending packet |  8
//! ```

use super::{checksum, echo, ipv4, put16};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Where the checksum starts.
pub const CHECKSUM: usize = 2;
/// Where an echo's identifier starts.
pub const ECHO_ID: usize = echo::ID;
const MTU: usize = 6;

/// Type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Code of unreachable: fragmentation needed, and not allowed.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Bytes of the offending packet that an error carries at most, so that the error's packet stays within 576 bytes
/// (RFC 1812, section 4.3.2.3).
pub const QUOTE_LEN: usize = 576 - ipv4::HEADER_LEN - HEADER_LEN;

/// An error about a packet, for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No route (code 0).
    NetUnreachable,
    /// Nobody serves this port (code 3).
    PortUnreachable,
    /// Too big for the next hop and not to be fragmented (code 4, RFC 1191): what would fit, in bytes.
    FragmentationNeeded(u16),
    /// The time to live ran out (type 11, code 0).
    TimeExceeded,
}

impl Error {
    fn type_and_code(self) -> [u8; 2] {
        match self {
            Error::NetUnreachable => [UNREACHABLE, 0],
            Error::PortUnreachable => [UNREACHABLE, 3],
            Error::FragmentationNeeded(_) => [UNREACHABLE, FRAGMENTATION_NEEDED],
            Error::TimeExceeded => [TIME_EXCEEDED, 0],
        }
    }

    /// Writes the error's header in front of the quoted packet. `message` is header and quote.
    ///
    /// # Panics
    /// If the slice is shorter than the header.
    pub fn emit(self, message: &mut [u8]) {
        message[..HEADER_LEN].fill(0);
        message[..2].copy_from_slice(&self.type_and_code());
        if let Error::FragmentationNeeded(mtu) = self {
            put16(message, MTU, mtu);
        }
        let sum = checksum::sum(message);
        put16(message, CHECKSUM, !sum);
    }
}

/// True for messages about which no error may be sent (RFC 1122, section 3.2.2): all but queries.
pub fn is_error(kind: u8) -> bool {
    !matches!(kind, ECHO_REPLY | ECHO_REQUEST | 13..=18)
}

/// True for the errors that are translated with the flow of the packet they quote (RFC 5508, section 7.1: hard and soft
/// errors alike). A redirect is for one link and a source quench is obsolete (RFC 6633): neither is.
#[inline(always)]
pub fn follows_a_flow(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// What an echo has instead of ports, source in the upper half: the one who asks has the identifier, the other one the
/// number of the request's type. 0 for other messages.
#[inline]
pub fn echo_ports(header: &[u8; HEADER_LEN]) -> u32 {
    echo::ports(header, ECHO_REQUEST, ECHO_REPLY)
}

/// Gives an echo the identifier among `ports`, which are as [`echo_ports`] has them, and mends its checksum.
///
/// # Panics
/// If the message is shorter than its header.
pub fn set_echo_ports(message: &mut [u8], ports: u32) {
    echo::set_ports(message, ports, ECHO_REQUEST, 0);
}

/// Turns an echo request into its reply, in place; false if the message is none, or damaged.
pub fn answer_echo(message: &mut [u8]) -> bool {
    if message.len() < HEADER_LEN
        || message[0] != ECHO_REQUEST
        || message[1] != 0
        || checksum::fold(checksum::sum(message).into()) != 0xffff
    {
        return false;
    }
    message[0] = ECHO_REPLY;
    // Summed anew: an update would give 0 for a reply of nothing but zeros, where 0xffff is right.
    put16(message, CHECKSUM, 0);
    let sum = checksum::sum(message);
    put16(message, CHECKSUM, !sum);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Slice, Icmpv4Type, icmpv4::DestUnreachableHeader};

    #[test]
    fn etherparse_reads_the_errors() {
        let mut message = [0xaa; HEADER_LEN + 28];
        Error::FragmentationNeeded(1450).emit(&mut message);
        let parsed = Icmpv4Slice::from_slice(&message).unwrap();
        assert_eq!(
            parsed.icmp_type(),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1450 })
        );
        assert_eq!(checksum::sum(&message), 0xffff);
        Error::TimeExceeded.emit(&mut message);
        assert!(matches!(Icmpv4Slice::from_slice(&message).unwrap().icmp_type(), Icmpv4Type::TimeExceeded(_)));
    }

    #[test]
    fn an_echo_is_answered_and_a_damaged_one_is_not() {
        let request = etherparse::Icmpv4Header::with_checksum(
            Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 3, seq: 9 }),
            b"ping",
        )
        .to_bytes();
        let mut message = request.to_vec();
        message.extend_from_slice(b"ping");
        let mut damaged = message.clone();
        damaged[10] ^= 4;
        assert!(!answer_echo(&mut damaged));
        assert!(answer_echo(&mut message));
        assert_eq!(message[0], ECHO_REPLY);
        assert_eq!(checksum::sum(&message), 0xffff);
        assert!(!answer_echo(&mut message), "a reply is not answered");
    }

    #[test]
    fn an_echo_and_its_reply_have_the_same_ports_reversed() {
        assert_eq!(echo_ports(&[8, 0, 1, 2, 0xab, 0xcd, 0, 1]), 0xabcd_0008);
        assert_eq!(echo_ports(&[0, 0, 1, 2, 0xab, 0xcd, 0, 1]), 0x0008_abcd);
        assert_eq!(echo_ports(&[13, 0, 1, 2, 0xab, 0xcd, 0, 1]), 0, "a timestamp is no echo");
        assert_eq!(echo_ports(&[8, 1, 1, 2, 0xab, 0xcd, 0, 1]), 0, "RFC 792 knows code 0 only");
    }

    #[test]
    fn an_echo_of_zeros_is_answered_with_a_checksum_that_holds() {
        let mut message = [ECHO_REQUEST, 0, 0xf7, 0xff, 0, 0, 0, 0];
        assert!(answer_echo(&mut message));
        assert_eq!(message, [ECHO_REPLY, 0, 0xff, 0xff, 0, 0, 0, 0]);
    }
}
