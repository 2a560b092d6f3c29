//! The addresses of a pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{CniError, Code, Result};

/// One of IPv4, and one of IPv6 on nodes whose pods have both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub ipv4: Ipv4Addr,
    pub ipv6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Those that `source` lists.
    ///
    /// # Errors
    /// If it has no IPv4 address, or several of a family.
    pub fn read(source: &str, list: &[IpAddr]) -> Result<Addresses> {
        let ipv4: Vec<_> = list.iter().filter_map(|address| as_ipv4(*address)).collect();
        let ipv6: Vec<_> = list.iter().filter_map(|address| as_ipv6(*address)).collect();
        match (&ipv4[..], &ipv6[..]) {
            ([ipv4], []) => Ok(Addresses { ipv4: *ipv4, ipv6: None }),
            ([ipv4], [ipv6]) => Ok(Addresses { ipv4: *ipv4, ipv6: Some(*ipv6) }),
            _ => {
                let message = format!("{source} has {list:?}");
                Err(CniError::new(Code::InvalidConfig, message, "a pod has one IPv4 address, and at most one of IPv6"))
            }
        }
    }

    /// Both, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::V4(self.ipv4)].into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// Whether what is `wanted` of a family, if anything, has the address of that family.
    pub fn are_of(self, wanted: &[IpAddr]) -> bool {
        [false, true].into_iter().all(|ipv6| {
            let mut wanted = wanted.iter().filter(|address| address.is_ipv6() == ipv6).peekable();
            wanted.peek().is_none() || wanted.any(|wanted| self.iter().any(|address| address == *wanted))
        })
    }
}

fn as_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn as_ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_address_of_ipv4_and_at_most_one_of_ipv6() {
        let list = |text: &str| -> Vec<IpAddr> { text.split_whitespace().map(|text| text.parse().unwrap()).collect() };
        let read = |text: &str| Addresses::read("it", &list(text));
        assert_eq!(read("fd00::7 10.244.1.7").unwrap().iter().collect::<Vec<_>>(), list("10.244.1.7 fd00::7"));
        assert_eq!(read("10.244.1.7").unwrap().ipv6, None);
        for wrong in ["", "fd00::7", "10.244.1.7 10.244.1.8", "10.244.1.7 fd00::7 fd00::8"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let both = read("10.244.1.7 fd00::7").unwrap();
        for (wanted, holds) in
            [("", true), ("10.244.1.9 10.244.1.7", true), ("fd00::7", true), ("10.244.1.7 fd00::9", false)]
        {
            assert_eq!(both.are_of(&list(wanted)), holds, "{wanted}");
        }
        assert!(!read("10.244.1.7").unwrap().are_of(&list("fd00::7")), "it has none");
    }
}
