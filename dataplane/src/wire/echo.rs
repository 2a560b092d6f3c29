//! What echo messages of ICMP and ICMPv6 have alike: they differ by the numbers of their types only.

use super::{be16, checksum, put16};

/// Bytes of the header.
const HEADER_LEN: usize = 8;
const CHECKSUM: usize = 2;
/// Where an echo's identifier starts.
pub const ID: usize = 4;

/// What an echo has instead of ports, source in the upper half: the one who asks has the identifier, the other one the
/// number of the request's type. 0 for other messages than those of type `request` and `reply`.
#[inline(always)]
pub(super) fn ports(header: &[u8; HEADER_LEN], request: u8, reply: u8) -> u32 {
    let id = u32::from(be16(header, ID));
    match header[..2] {
        [kind, 0] if kind == request => id << 16 | u32::from(request),
        [kind, 0] if kind == reply => u32::from(request) << 16 | id,
        _ => 0,
    }
}

/// Gives an echo the identifier among `ports`, which are as [`ports`] has them, and mends its checksum, which sees the change
/// `addresses`, too.
///
/// # Panics
/// If the message is shorter than its header.
#[inline(always)]
pub(super) fn set_ports(message: &mut [u8], ports: u32, request: u8, addresses: u64) {
    let (src_port, dst_port) = ((ports >> 16) as u16, ports as u16);
    let id = if dst_port == u16::from(request) { src_port } else { dst_port };
    let change = addresses + checksum::delta_narrow(be16(message, ID).into(), id.into());
    put16(message, ID, id);
    let sum = be16(message, CHECKSUM);
    put16(message, CHECKSUM, checksum::update(sum, change));
}
