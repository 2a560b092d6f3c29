//! Test packets: made from templates, known again by their signature.

mod inspect;
pub mod signature;
mod template;

pub use self::{
    inspect::{Seen, inspect},
    signature::Signature,
    template::{Flow, Stations, Template},
};
use crate::profile::Protocol;
use shunt_dataplane::wire::{ethernet, icmpv4, ipv4, tcp, udp};

/// Bytes of a test packet's headers, from Ethernet to the transport, without outer ones.
pub fn headers_len(protocol: Protocol) -> usize {
    ethernet::HEADER_LEN
        + ipv4::HEADER_LEN
        + match protocol {
            Protocol::Udp => udp::HEADER_LEN,
            Protocol::Tcp => tcp::HEADER_LEN,
            Protocol::Icmp => icmpv4::HEADER_LEN,
        }
}
