//! Rewrites addresses and ports and mends the checksums (RFC 1624).

use crate::{
    packet::Meta,
    wire::{bytes_at, checksum, ipv4, udp},
};

/// Rewrites the packet to the reverse of `meta.other`: `ip` is its IPv4 header up to the options, `l4` what comes after
/// them. All numbers here are in the packet's byte order.
#[inline(always)]
pub fn translate(ip: &mut [u8; ipv4::HEADER_LEN], l4: &mut [u8], meta: &Meta) {
    let addresses = meta.other[0].rotate_left(32).to_be();
    let ports = ((meta.other[1] >> 32) as u32).rotate_left(16).to_be();
    let field = checksum::field(meta.protocol()).unwrap_or(udp::CHECKSUM);
    let (l4, l4_sum) = l4[..field + 2].split_at_mut(field);

    let change = checksum::delta(u64::from_ne_bytes(bytes_at(ip, ipv4::SRC)), addresses);
    let sum = checksum::update(u16::from_ne_bytes(bytes_at(ip, ipv4::CHECKSUM)), change);
    ip[ipv4::CHECKSUM..ipv4::SRC].copy_from_slice(&sum.to_ne_bytes());
    ip[ipv4::SRC..].copy_from_slice(&addresses.to_ne_bytes());

    let sum = u16::from_ne_bytes(bytes_at(l4_sum, 0));
    // A UDP datagram may have none (RFC 768).
    if sum != 0 || meta.protocol() != ipv4::UDP {
        let old_ports = u32::from_ne_bytes(bytes_at(l4, 0));
        let sum = checksum::update(sum, change + checksum::delta_narrow(old_ports, ports));
        let sum = checksum::as_sent(sum, meta.protocol());
        l4_sum.copy_from_slice(&sum.to_ne_bytes());
    }
    l4[..4].copy_from_slice(&ports.to_ne_bytes());
}
