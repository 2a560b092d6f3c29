//! Names for things on the network that `std::net` has no type for.

use std::{
    fmt::{self, Debug, Display},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::BitAnd,
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::tables::hash::folded_multiply;

/// An Ethernet address (IEEE 802), six bytes in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The broadcast address `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// The address as a number, to be compared: that of the eight bytes 0, 0 and the address, read little-endian.
    #[inline(always)]
    pub fn to_number(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([0, 0, a, b, c, d, e, f])
    }

    /// True for a group address (multicast or broadcast): the lowest bit of the first byte is set.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not six two-digit hexadecimal bytes separated by colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: expected six two-digit hexadecimal bytes separated by colons")]
pub struct MacAddrParseError;

impl FromStr for MacAddr {
    type Err = MacAddrParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddrParseError)?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(MacAddrParseError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddrParseError)?;
        }
        match parts.next() {
            None => Ok(MacAddr(bytes)),
            Some(_) => Err(MacAddrParseError),
        }
    }
}

/// An address of one family: what is had twice, for IPv4 and for IPv6, is written once over this.
pub trait Address: Copy + Ord + Hash + Debug + Display + Into<IpAddr> + Send + Sync + 'static {
    /// The address as a number.
    type Number: Number<Address = Self>;
    /// A prefix of such addresses.
    type Net: Prefix<Self>;

    /// The address as a number, in host order.
    fn number(self) -> Self::Number;
}

/// An [`Address`] as a number, in host order: what the engine works with.
pub trait Number: Copy + Ord + Hash + Default + Debug + BitAnd<Output = Self> + Send + Sync + 'static {
    /// The address that it is the number of.
    type Address: Address<Number = Self>;

    /// The address.
    fn address(self) -> Self::Address;

    /// The number that a word is, if it stands for itself.
    fn of_word(word: u64) -> Option<Self>;

    /// 64 bits that stand for it: itself if it is no longer, else a hash that is no secret.
    fn word(self) -> u64;
}

/// A prefix of addresses of one family.
pub trait Prefix<A: Address>:
    Copy + Ord + Hash + Debug + Display + Into<IpNet> + From<A> + Send + Sync + 'static
{
    /// Its first address.
    fn network(&self) -> A;
    /// The bits that its addresses have in common.
    fn mask(&self) -> A;
    /// How many bits these are.
    fn bits(&self) -> u8;
    /// The prefix of the addresses that are `network` where the bits of `mask` are set, if these are the first ones.
    fn masked(network: A, mask: A) -> Option<Self>;
    /// The prefix without host bits.
    fn truncated(&self) -> Self;
    /// The first of its addresses that a station may have.
    fn first_host(&self) -> Option<A>;
    /// Whether an address is in it.
    fn holds(&self, address: A) -> bool;
}

impl Address for Ipv4Addr {
    type Number = u32;
    type Net = Ipv4Net;

    #[inline(always)]
    fn number(self) -> u32 {
        self.into()
    }
}

impl Address for Ipv6Addr {
    type Number = u128;
    type Net = Ipv6Net;

    #[inline(always)]
    fn number(self) -> u128 {
        self.into()
    }
}

impl Number for u32 {
    type Address = Ipv4Addr;

    #[inline(always)]
    fn address(self) -> Ipv4Addr {
        self.into()
    }

    #[inline(always)]
    fn of_word(word: u64) -> Option<u32> {
        Some(word as u32)
    }

    #[inline(always)]
    fn word(self) -> u64 {
        self.into()
    }
}

impl Number for u128 {
    type Address = Ipv6Addr;

    #[inline(always)]
    fn address(self) -> Ipv6Addr {
        self.into()
    }

    fn of_word(_: u64) -> Option<u128> {
        None
    }

    #[inline(always)]
    fn word(self) -> u64 {
        // The words are of the digits of pi.
        folded_multiply((self >> 64) as u64 ^ 0x4528_21e6_38d0_1377, self as u64 ^ 0xbe54_66cf_34e9_0c6c)
    }
}

macro_rules! prefix {
    ($net:ty, $address:ty) => {
        impl Prefix<$address> for $net {
            fn network(&self) -> $address {
                <$net>::network(self)
            }

            fn mask(&self) -> $address {
                self.netmask()
            }

            fn bits(&self) -> u8 {
                self.prefix_len()
            }

            fn truncated(&self) -> Self {
                self.trunc()
            }

            fn first_host(&self) -> Option<$address> {
                self.hosts().next()
            }

            fn masked(network: $address, mask: $address) -> Option<Self> {
                <$net>::with_netmask(network, mask).ok()
            }

            fn holds(&self, address: $address) -> bool {
                self.contains(&address)
            }
        }
    };
}
prefix!(Ipv4Net, Ipv4Addr);
prefix!(Ipv6Net, Ipv6Addr);

/// A transport protocol that services can name (Kubernetes `ServicePort.protocol`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// The protocol with this number in the IP header; `None` for one that services cannot name.
    pub fn of(number: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| *protocol as u8 == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_read_back_as_written() {
        let mac: MacAddr = "0a:58:0a:f4:01:02".parse().unwrap();
        assert_eq!(mac.0, [0x0a, 0x58, 0x0a, 0xf4, 1, 2]);
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:02");
    }

    #[test]
    fn malformed_mac_addresses_are_refused() {
        for text in ["", "0a:58", "0a:58:0a:f4:01:02:03", "0a:58:0a:f4:01:0g", "a:58:0a:f4:01:02", "+a:58:0a:f4:01:02"]
        {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrParseError), "{text}");
        }
    }
}
