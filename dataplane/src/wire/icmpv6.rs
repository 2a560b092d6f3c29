//! ICMPv6 (RFC 4443): echo answers, and the errors a router sends. Neighbour discovery is in [`ndp`](super::ndp).
//!
//! ```text
//!  0       1       2               4
//! +-------+-------+---------------+
//! | type  | code  | checksum      |  0
//! | id and sequence, or MTU       |  4
//! | data, or the offending packet |  8
//! ```
//!
//! Other than ICMP's the checksum is also over a pseudo header with the addresses (RFC 4443, section 2.3): who changes an
//! address has to mend it, as TCP's.

use super::{checksum, echo, ipv6, put16};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Where the checksum starts.
pub const CHECKSUM: usize = 2;
/// Where an echo's identifier starts.
pub const ECHO_ID: usize = echo::ID;
const MTU: usize = 4;

/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type: redirect (RFC 4861, section 4.5).
pub const REDIRECT: u8 = 137;

/// Bytes of the offending packet that an error carries at most: what fits into a packet that every network carries
/// (RFC 4443, section 2.4 (c)).
pub const QUOTE_LEN: usize = ipv6::LEAST_MTU as usize - ipv6::HEADER_LEN - HEADER_LEN;

/// An error about a packet, for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No route (type 1, code 0).
    NoRoute,
    /// Nobody serves this port (type 1, code 4).
    PortUnreachable,
    /// Too big for the next hop (type 2): what would fit, in bytes. Less than [`ipv6::LEAST_MTU`] is no help to a sender, who
    /// may not send packets that are smaller (RFC 8201, section 4).
    PacketTooBig(u32),
    /// The hop limit ran out (type 3, code 0).
    HopLimitExceeded,
}

impl Error {
    fn type_and_code(self) -> [u8; 2] {
        match self {
            Error::NoRoute => [UNREACHABLE, 0],
            Error::PortUnreachable => [UNREACHABLE, 4],
            Error::PacketTooBig(_) => [PACKET_TOO_BIG, 0],
            Error::HopLimitExceeded => [TIME_EXCEEDED, 0],
        }
    }

    /// Writes the error's header in front of the quoted packet. `message` is header and quote, `src` and `dst` are the
    /// addresses of the packet that carries it.
    ///
    /// # Panics
    /// If the slice is shorter than the header.
    pub fn emit(self, message: &mut [u8], src: u128, dst: u128) {
        message[..HEADER_LEN].fill(0);
        message[..2].copy_from_slice(&self.type_and_code());
        if let Error::PacketTooBig(mtu) = self {
            message[MTU..HEADER_LEN].copy_from_slice(&mtu.to_be_bytes());
        }
        finish(message, src, dst);
    }
}

/// Computes the checksum of a message in a packet with these addresses.
///
/// # Panics
/// If the message ends before the checksum does.
pub fn finish(message: &mut [u8], src: u128, dst: u128) {
    put16(message, CHECKSUM, 0);
    let sum = !sum(message, src, dst);
    put16(message, CHECKSUM, sum);
}

/// True if a message in a packet with these addresses is as its checksum says.
pub fn checksum_holds(message: &[u8], src: u128, dst: u128) -> bool {
    sum(message, src, dst) == 0xffff
}

/// Over pseudo header and message. It is never 0, as the pseudo header's protocol is not.
fn sum(message: &[u8], src: u128, dst: u128) -> u16 {
    let pseudo = checksum::pseudo_header_v6(src, dst, ipv6::ICMPV6, message.len() as u32);
    checksum::fold(pseudo + u64::from(checksum::sum(message)))
}

/// True for messages about which no error may be sent (RFC 4443, section 2.4 (e)): errors, whose types are below 128, and
/// redirects.
pub fn is_error(kind: u8) -> bool {
    kind < ECHO_REQUEST || kind == REDIRECT
}

/// True for what is said on a link about the link, and never sent on: multicast listener discovery (RFC 2710, RFC 3810), neighbour
/// discovery (RFC 4861), multicast router discovery (RFC 4286).
#[inline(always)]
pub fn is_of_the_link(kind: u8) -> bool {
    matches!(kind, 130..=137 | 143 | 151..=153)
}

/// True for the errors that are translated with the flow of the packet they quote (RFC 4443 defines these four).
#[inline(always)]
pub fn follows_a_flow(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// What an echo has instead of ports, source in the upper half: the one who asks has the identifier, the other one the
/// number of the request's type. 0 for other messages.
#[inline]
pub fn echo_ports(header: &[u8; HEADER_LEN]) -> u32 {
    echo::ports(header, ECHO_REQUEST, ECHO_REPLY)
}

/// Gives an echo the identifier among `ports`, which are as [`echo_ports`] has them, and mends its checksum. `addresses` is
/// what that sees of a change of the packet's addresses ([`checksum::delta_wide`], of numbers in host order), 0 if they
/// stay as they are.
///
/// # Panics
/// If the message is shorter than its header.
pub fn set_echo_ports(message: &mut [u8], ports: u32, addresses: u64) {
    echo::set_ports(message, ports, ECHO_REQUEST, addresses);
}

/// Turns an echo request, which came in a packet from `src` to `dst`, into its reply in place; false if the message is none,
/// or damaged. The reply is right in a packet from `dst` to `src`: to a sum that is the same.
pub fn answer_echo(message: &mut [u8], src: u128, dst: u128) -> bool {
    if message.len() < HEADER_LEN || message[..2] != [ECHO_REQUEST, 0] || !checksum_holds(message, src, dst) {
        return false;
    }
    message[0] = ECHO_REPLY;
    finish(message, dst, src);
    true
}

#[cfg(test)]
mod tests {
    use etherparse::{
        IcmpEchoHeader, Icmpv6Header, Icmpv6Slice, Icmpv6Type,
        icmpv6::{DestUnreachableCode, TimeExceededCode},
    };
    use proptest::prelude::*;

    use super::*;

    const SRC: u128 = 0xfd00_0010_0244_0001_0000_0000_0000_0001;
    const DST: u128 = 0xfd00_0010_0244_0002_ffff_ffff_ffff_fffe;

    fn echo(kind: Icmpv6Type, data: &[u8]) -> Vec<u8> {
        let header = Icmpv6Header::with_checksum(kind, SRC.to_be_bytes(), DST.to_be_bytes(), data).unwrap();
        [&header.to_bytes(), data].concat()
    }

    fn request(id: u16, data: &[u8]) -> Vec<u8> {
        echo(Icmpv6Type::EchoRequest(IcmpEchoHeader { id, seq: 9 }), data)
    }

    #[test]
    fn etherparse_reads_the_errors() {
        for (error, expected) in [
            (Error::NoRoute, Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute)),
            (Error::PortUnreachable, Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port)),
            (Error::PacketTooBig(0x1_0582), Icmpv6Type::PacketTooBig { mtu: 0x1_0582 }),
            (Error::HopLimitExceeded, Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded)),
        ] {
            for len in [HEADER_LEN, HEADER_LEN + 47, HEADER_LEN + QUOTE_LEN] {
                let mut message = vec![0xaa; len];
                error.emit(&mut message, SRC, DST);
                let parsed = Icmpv6Slice::from_slice(&message).unwrap();
                assert_eq!(parsed.icmp_type(), expected);
                assert!(parsed.is_checksum_valid(SRC.to_be_bytes(), DST.to_be_bytes()), "{error:?} of {len} bytes");
                assert!(message[HEADER_LEN..].iter().all(|byte| *byte == 0xaa));
            }
        }
    }

    #[test]
    fn linux_s_echo_is_answered_as_linux_answers_it() {
        // ping of Linux 6.18 on a veth, from fe80::ff:fe00:1 to fe80::1.
        let mut message = [128, 0, 0x2f, 0xc6, 0x4d, 0xe9, 0, 1, 0, 1, 2, 3, 4];
        let (src, dst) = (0xfe80 << 112 | 0xff_fe00_0001, 0xfe80 << 112 | 1);
        assert!(answer_echo(&mut message, src, dst));
        assert_eq!(message, [129, 0, 0x2e, 0xc6, 0x4d, 0xe9, 0, 1, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn an_echo_is_answered_and_a_damaged_one_is_not() {
        let mut message = request(3, b"ping of odd length");
        let mut damaged = message.clone();
        damaged[10] ^= 4;
        assert!(!answer_echo(&mut damaged, SRC, DST));
        assert!(!answer_echo(&mut message.clone(), SRC, DST + 1), "it was for another address");
        for len in 0..message.len() {
            assert!(!answer_echo(&mut message[..len].to_vec(), SRC, DST), "cut to {len}");
        }
        assert!(answer_echo(&mut message, SRC, DST));
        let reply = Icmpv6Slice::from_slice(&message).unwrap();
        assert_eq!(reply.icmp_type(), Icmpv6Type::EchoReply(IcmpEchoHeader { id: 3, seq: 9 }));
        assert!(reply.is_checksum_valid(DST.to_be_bytes(), SRC.to_be_bytes()));
        assert_eq!(reply.payload(), b"ping of odd length");
        assert!(!answer_echo(&mut message, DST, SRC), "a reply is not answered");
    }

    #[test]
    fn an_echo_and_its_reply_have_the_same_ports_reversed() {
        assert_eq!(echo_ports(&[128, 0, 1, 2, 0xab, 0xcd, 0, 1]), 0xabcd_0080);
        assert_eq!(echo_ports(&[129, 0, 1, 2, 0xab, 0xcd, 0, 1]), 0x0080_abcd);
        assert_eq!(echo_ports(&[135, 0, 1, 2, 0xab, 0xcd, 0, 1]), 0, "a neighbour solicitation is no echo");
        assert_eq!(echo_ports(&[8, 0, 1, 2, 0xab, 0xcd, 0, 1]), 0, "nor is what would be one in IPv4");
        assert_eq!(echo_ports(&[128, 1, 1, 2, 0xab, 0xcd, 0, 1]), 0, "RFC 4443 knows code 0 only");
    }

    #[test]
    fn errors_and_what_follows_a_flow() {
        let errors: Vec<u8> = (0..=255).filter(|kind| is_error(*kind)).collect();
        assert_eq!(errors, (0..128).chain([137]).collect::<Vec<u8>>());
        assert_eq!((0..=255).filter(|kind| follows_a_flow(*kind)).collect::<Vec<u8>>(), [1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn another_identifier_and_other_addresses_leave_the_checksum_right(
            id: u16, new_id in prop_oneof![Just(128u16), any::<u16>()], new_src: u128, new_dst: u128, is_request: bool,
            data in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let header = IcmpEchoHeader { id, seq: 1 };
            let kind = if is_request { Icmpv6Type::EchoRequest(header) } else { Icmpv6Type::EchoReply(header) };
            let mut message = echo(kind, &data);
            let words = |src: u128, dst: u128| [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64];
            let ports = match is_request {
                true => u32::from(new_id) << 16 | 128,
                false => 128 << 16 | u32::from(new_id),
            };
            set_echo_ports(&mut message, ports, checksum::delta_wide(words(SRC, DST), words(new_src, new_dst)));
            prop_assert_eq!(echo_ports(message.first_chunk().unwrap()), ports);
            prop_assert!(checksum_holds(&message, new_src, new_dst));
            set_echo_ports(&mut message, 128, 0);
            prop_assert!(checksum_holds(&message, new_src, new_dst));
        }
    }
}
