//! Rewrites addresses and ports and mends the checksums (RFC 1624).

use crate::{
    packet::Meta,
    wire::{be16, checksum, icmpv4, ipv4, put16, put32, tcp, udp},
};

/// Rewrites the packet (from its IPv4 header on) to the reverse of `meta.other`. Returns what to add to the complement
/// of the IPv4 header checksum, which is left to the caller, who has more to change.
#[inline(always)]
pub fn translate(packet: &mut [u8], meta: &Meta) -> u64 {
    let ([old_addresses, old_ports], [other_addresses, other_ports]) = (meta.key, meta.other);
    let addresses = other_addresses.rotate_left(32);
    let ports = (other_ports >> 32) as u32;
    let ports = ports.rotate_left(16);

    let change = checksum::delta(words(old_addresses), words(addresses));
    let l4_change = change + checksum::delta(checksum::halves((old_ports >> 32) as u32), checksum::halves(ports));
    packet[ipv4::SRC..ipv4::SRC + 8].copy_from_slice(&addresses.to_be_bytes());

    let l4 = &mut packet[usize::from(meta.ip_header_len)..];
    if meta.protocol() == ipv4::ICMP {
        translate_echo(l4, ports);
        return change;
    }
    put32(l4, 0, ports);
    if meta.protocol() == ipv4::TCP {
        let sum = be16(l4, tcp::CHECKSUM);
        put16(l4, tcp::CHECKSUM, checksum::update(sum, l4_change));
    } else {
        let sum = be16(l4, udp::CHECKSUM);
        if sum != 0 {
            let sum = checksum::update(sum, l4_change);
            // Zero would mean that there is no checksum (RFC 768).
            put16(l4, udp::CHECKSUM, if sum == 0 { 0xffff } else { sum });
        }
    }
    change
}

/// Replaces the identifier of an echo: the port of the one who asks, the other one's being fixed (see
/// [`icmpv4::echo_ports`]).
#[cold]
fn translate_echo(message: &mut [u8], ports: u32) {
    let (src_port, dst_port) = ((ports >> 16) as u16, ports as u16);
    let id = if dst_port == u16::from(icmpv4::ECHO_REQUEST) { src_port } else { dst_port };
    let change = checksum::delta(be16(message, icmpv4::ECHO_ID).into(), id.into());
    put16(message, icmpv4::ECHO_ID, id);
    let sum = be16(message, icmpv4::CHECKSUM);
    put16(message, icmpv4::CHECKSUM, checksum::update(sum, change));
}

#[inline(always)]
fn words(addresses: u64) -> u64 {
    checksum::halves((addresses >> 32) as u32) + checksum::halves(addresses as u32)
}
