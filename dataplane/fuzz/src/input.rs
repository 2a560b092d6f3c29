//! The language of inputs: any bytes are a script, and similar bytes are similar scripts.
//!
//! ```text
//! packet   | 0 . . . V C P P | length, 2 bytes | bytes |   P: port, C: mend checksums, V: wrap into VXLAN
//! end      | 1 0 . . . . . . |                             of the burst
//! wait     | 1 1 0 . . . . . | seconds / 16    |           ends the burst
//! publish  | 1 1 1 . . . . S |                             ends the burst; S: which snapshot
//! ```

use smoltcp::wire::{Icmpv4Packet, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

use crate::ipv6;

/// One step of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A packet arrives.
    Packet {
        /// At this port, 0 to 3.
        port: u16,
        /// Its checksums are mended first, so that mutation gets past them.
        mend: bool,
        /// It is wrapped as another VTEP would, so that mutation gets past the outer headers.
        wrap: bool,
        /// Ethernet header and on.
        bytes: Vec<u8>,
    },
    /// The packets so far are a burst.
    EndBurst,
    /// Seconds pass.
    Wait(u32),
    /// A snapshot takes the place of the one before.
    Publish(usize),
}

/// SCTP's number, which smoltcp has no name for.
pub const SCTP: u8 = 132;

const MEND: u8 = 4;
const WRAP: u8 = 8;

/// The script in `input`; it ends where the bytes do.
pub fn decode(mut input: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some((&op, rest)) = input.split_first() {
        let (step, rest) = match op >> 5 {
            0..=3 => {
                let (length, rest) = rest.split_at(rest.len().min(2));
                let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
                let (bytes, rest) = rest.split_at(rest.len().min(length));
                let (mend, wrap) = (op & MEND != 0, op & WRAP != 0);
                (Step::Packet { port: u16::from(op & 3), mend, wrap, bytes: bytes.into() }, rest)
            }
            4 | 5 => (Step::EndBurst, rest),
            6 => {
                let (sixteenth, rest) = rest.split_at(rest.len().min(1));
                (Step::Wait(sixteenth.iter().map(|&byte| u32::from(byte) * 16).sum()), rest)
            }
            _ => (Step::Publish(usize::from(op & 1)), rest),
        };
        steps.push(step);
        input = rest;
    }
    steps
}

/// The bytes of a script.
pub fn encode(steps: &[Step]) -> Vec<u8> {
    let mut input = Vec::new();
    for step in steps {
        match step {
            Step::Packet { port, mend, wrap, bytes } => {
                let flags = if *mend { MEND } else { 0 } | if *wrap { WRAP } else { 0 };
                input.push(*port as u8 & 3 | flags);
                input.extend((bytes.len() as u16).to_be_bytes());
                input.extend(bytes);
            }
            Step::EndBurst => input.push(4 << 5),
            Step::Wait(seconds) => input.extend([6 << 5, (seconds / 16) as u8]),
            Step::Publish(which) => input.push(7 << 5 | *which as u8 & 1),
        }
    }
    input
}

/// Mends the checksums of a frame of either family as far as its headers let: that of IPv4's header, and of TCP, UDP, SCTP or
/// ICMP.
pub fn mend(frame: &mut [u8]) {
    if frame.get(12..14) == Some(&[0x86, 0xdd]) {
        mend_ipv6(&mut frame[14..]);
    } else {
        mend_ipv4(frame);
    }
}

fn mend_ipv6(bytes: &mut [u8]) {
    let Some(packet) = ipv6::Packet::whole(bytes) else { return };
    let Some(at) = packet.checksum_at() else { return };
    let (offset, right) = (packet.offset, packet.right_checksum());
    bytes[offset + at.start..offset + at.end].copy_from_slice(&right);
}

fn mend_ipv4(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(14..) else { return };
    let Ok(mut ip) = Ipv4Packet::new_checked(packet) else { return };
    if ip.header_len() < 20 {
        return;
    }
    ip.fill_checksum();
    let (src, dst, protocol) = (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header());
    match protocol {
        IpProtocol::Tcp => {
            if let Ok(mut tcp) = TcpPacket::new_checked(ip.payload_mut()) {
                tcp.fill_checksum(&src, &dst);
            }
        }
        IpProtocol::Udp => {
            if let Ok(mut udp) = UdpPacket::new_checked(ip.payload_mut()) {
                udp.fill_checksum(&src, &dst);
            }
        }
        IpProtocol::Icmp => {
            if let Ok(mut icmp) = Icmpv4Packet::new_checked(ip.payload_mut()) {
                icmp.fill_checksum();
            }
        }
        IpProtocol::Unknown(SCTP) => {
            let packet = ip.payload_mut();
            if packet.len() >= 12 {
                packet[8..12].fill(0);
                let sum = crc32c::crc32c(packet).to_le_bytes();
                packet[8..12].copy_from_slice(&sum);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_read_back_as_written() {
        let steps = vec![
            Step::Packet { port: 2, mend: true, wrap: false, bytes: vec![1, 2, 3] },
            Step::Packet { port: 0, mend: false, wrap: true, bytes: vec![0; 300] },
            Step::EndBurst,
            Step::Wait(160),
            Step::Publish(1),
        ];
        assert_eq!(decode(&encode(&steps)), steps);
    }

    #[test]
    fn any_bytes_are_a_script() {
        assert_eq!(decode(&[]), []);
        assert_eq!(decode(&[0xc0]), [Step::Wait(0)]);
        assert_eq!(decode(&[1, 0, 9, 7]), [Step::Packet { port: 1, mend: false, wrap: false, bytes: vec![7] }]);
    }
}
