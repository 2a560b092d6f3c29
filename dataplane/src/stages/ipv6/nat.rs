//! Rewrites addresses and ports of IPv6 packets and mends the checksums (RFC 1624). The header itself has none.

use crate::{
    flow::FiveTuple,
    packet::Meta,
    wire::{be16, be32, be64, checksum, icmpv6, ipv4, ipv6, put16, put32, sctp},
};

/// Rewrites the packet to the reverse of `meta.other`: `ip` is its header, `l4` what comes after all extension headers.
pub fn translate(ip: &mut [u8; ipv6::HEADER_LEN], l4: &mut [u8], meta: &Meta<u128>) {
    let to = FiveTuple::<u128>::from_words(meta.other).reversed();
    let len = if meta.has(Meta::FRAGMENT) { meta.datagram_len } else { l4.len() as u16 };
    let change = set_addresses(ip, to.src, to.dst);
    set_ports(l4, &to, change, len);
}

/// As [`translate`], for what carries no ports: a fragment that is not the first one.
#[cold]
pub fn translate_portless(ip: &mut [u8; ipv6::HEADER_LEN], meta: &Meta<u128>) {
    let to = FiveTuple::<u128>::from_words(meta.other).reversed();
    set_addresses(ip, to.src, to.dst);
}

/// Writes source and destination, and returns the change that a checksum over them sees.
pub(super) fn set_addresses(ip: &mut [u8], src: u128, dst: u128) -> u64 {
    let words = |ip: &[u8]| std::array::from_fn(|n| be64(ip, ipv6::SRC + 8 * n));
    let old = words(ip);
    ip[ipv6::SRC..ipv6::DST].copy_from_slice(&src.to_be_bytes());
    ip[ipv6::DST..ipv6::HEADER_LEN].copy_from_slice(&dst.to_be_bytes());
    checksum::delta_wide(old, words(ip))
}

/// Gives a transport header its ports and mends its checksum, as far as it is there: an error quotes only what has room. `len` is
/// that of the whole packet behind its headers.
pub(super) fn set_ports(l4: &mut [u8], to: &FiveTuple<u128>, change: u64, len: u16) {
    let ports = u32::from(to.src_port) << 16 | u32::from(to.dst_port);
    match to.protocol {
        ipv6::ICMPV6 => icmpv6::set_echo_ports(l4, ports, change),
        ipv4::SCTP => sctp::set_ports(l4, ports.to_be_bytes(), len),
        protocol => {
            let change = change + checksum::delta_narrow(be32(l4, 0), ports);
            put32(l4, 0, ports);
            let Some(field) = checksum::field(protocol).filter(|field| l4.len() >= field + 2) else { return };
            let sum = be16(l4, field);
            // A UDP datagram of a tunnel may have none (RFC 6935).
            if sum != 0 || protocol != ipv4::UDP {
                put16(l4, field, checksum::as_sent(checksum::update(sum, change), protocol));
            }
        }
    }
}
