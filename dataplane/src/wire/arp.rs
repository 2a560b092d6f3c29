//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!  0               2               4       5       6
//! +---------------+---------------+-------+-------+---------------+
//! | hardware (1)  | proto (0x800) | 6     | 4     | operation     |
//! +---------------+---------------+-------+-------+---------------+
//!  8 sender MAC   14 sender IP    18 target MAC   24 target IP    28
//! ```

use super::{be16, be32, ethernet, put16, put32};
use crate::net::MacAddr;

/// Bytes of the message.
pub const LEN: usize = 28;
const OPERATION: usize = 6;
const SENDER_MAC: usize = 8;
const SENDER_IP: usize = 14;
const TARGET_MAC: usize = 18;
const TARGET_IP: usize = 24;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Who a message says it is from; `None` if it is cut short.
pub fn sender(message: &[u8]) -> Option<(MacAddr, u32)> {
    let message = message.first_chunk::<LEN>()?;
    Some((MacAddr(message[SENDER_MAC..SENDER_MAC + 6].try_into().expect("six bytes")), be32(message, SENDER_IP)))
}

/// Someone asks who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub sender_mac: MacAddr,
    /// Its address; 0 for a probe (RFC 5227).
    pub sender_ip: u32,
    /// The address it asks for.
    pub target_ip: u32,
}

impl Request {
    /// Reads a request; `None` if the message is anything else.
    pub fn parse(message: &[u8]) -> Option<Request> {
        let header = message.get(..LEN)?;
        let right = be16(header, 0) == 1
            && be16(header, 2) == ethernet::IPV4
            && header[4] == 6
            && header[5] == 4
            && be16(header, OPERATION) == REQUEST;
        let (sender_mac, sender_ip) = sender(message)?;
        right.then(|| Request { sender_mac, sender_ip, target_ip: be32(header, TARGET_IP) })
    }

    /// Turns the request that `frame` carries into the reply "`mac` has it", Ethernet header included.
    pub fn answer(&self, frame: &mut [u8], mac: MacAddr) {
        ethernet::emit(frame, self.sender_mac, mac, ethernet::ARP);
        let message = &mut frame[ethernet::HEADER_LEN..];
        put16(message, OPERATION, REPLY);
        message[SENDER_MAC..SENDER_MAC + 6].copy_from_slice(&mac.0);
        put32(message, SENDER_IP, self.target_ip);
        message[TARGET_MAC..TARGET_MAC + 6].copy_from_slice(&self.sender_mac.0);
        put32(message, TARGET_IP, self.sender_ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

    #[test]
    fn smoltcp_s_request_is_read_and_our_reply_is_read_by_smoltcp() {
        let mut frame = vec![0; ethernet::HEADER_LEN + LEN];
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
            source_protocol_addr: [10, 244, 1, 9].into(),
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: [169, 254, 1, 1].into(),
        }
        .emit(&mut ArpPacket::new_unchecked(&mut frame[ethernet::HEADER_LEN..]));

        let request = Request::parse(&frame[ethernet::HEADER_LEN..]).unwrap();
        assert_eq!(request.target_ip, 0xa9fe0101);
        request.answer(&mut frame, MacAddr([2, 0, 0, 0, 0, 9]));

        let reply = ArpRepr::parse(&ArpPacket::new_checked(&frame[ethernet::HEADER_LEN..]).unwrap()).unwrap();
        assert_eq!(
            reply,
            ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
                source_protocol_addr: [169, 254, 1, 1].into(),
                target_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
                target_protocol_addr: [10, 244, 1, 9].into(),
            }
        );
        assert_eq!(Request::parse(&frame[ethernet::HEADER_LEN..]), None, "a reply is no request");
        assert_eq!(Request::parse(&frame[ethernet::HEADER_LEN..ethernet::HEADER_LEN + 20]), None, "cut short");
    }
}
