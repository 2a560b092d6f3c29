//! Rewrites addresses and ports and mends the checksums (RFC 1624).

use crate::{
    packet::Meta,
    wire::{bytes_at, checksum, icmpv4, ipv4, sctp, tcp, udp},
};

/// Rewrites the packet to the reverse of `meta.other`: `ip` is its IPv4 header up to the options, `l4` what comes after
/// them. All numbers here are in the packet's byte order.
#[inline(always)]
pub fn translate(ip: &mut [u8; ipv4::HEADER_LEN], l4: &mut [u8], meta: &Meta) {
    let addresses = meta.other[0].rotate_left(32).to_be();
    let ports = ((meta.other[1] >> 32) as u32).rotate_left(16).to_be();
    let change = translate_addresses(ip, addresses);
    let field = match meta.protocol() {
        ipv4::UDP => udp::CHECKSUM,
        ipv4::TCP => tcp::CHECKSUM,
        _ => return translate_other(l4, ports, meta),
    };
    let (l4, l4_sum) = l4[..field + 2].split_at_mut(field);
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

/// As [`translate`], for what carries no ports: a fragment that is not the first one.
#[cold]
pub fn translate_portless(ip: &mut [u8; ipv4::HEADER_LEN], meta: &Meta) {
    translate_addresses(ip, meta.other[0].rotate_left(32).to_be());
}

/// Writes source and destination, and returns the change that a checksum over them sees.
#[inline(always)]
fn translate_addresses(ip: &mut [u8; ipv4::HEADER_LEN], addresses: u64) -> u64 {
    let change = checksum::delta(u64::from_ne_bytes(bytes_at(ip, ipv4::SRC)), addresses);
    let sum = checksum::update(u16::from_ne_bytes(bytes_at(ip, ipv4::CHECKSUM)), change);
    ip[ipv4::CHECKSUM..ipv4::SRC].copy_from_slice(&sum.to_ne_bytes());
    ip[ipv4::SRC..].copy_from_slice(&addresses.to_ne_bytes());
    change
}

/// What has no checksum over the addresses.
#[cold]
fn translate_other(l4: &mut [u8], ports: u32, meta: &Meta) {
    match meta.protocol() {
        ipv4::SCTP => {
            let len = if meta.has(Meta::FRAGMENT) { meta.datagram_len } else { l4.len() as u16 };
            sctp::set_ports(l4, ports.to_ne_bytes(), len);
        }
        _ => icmpv4::set_echo_ports(l4, u32::from_be(ports)),
    }
}
