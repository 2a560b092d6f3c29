//! Ranges of addresses, as the host-local plugin has them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::error::{CniError, Code, Result};

/// Addresses of a subnet that pods may have.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Range {
    subnet: IpNet,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl Range {
    /// All of a subnet.
    pub fn of(subnet: IpNet) -> Range {
        Range { subnet, range_start: None, range_end: None, gateway: None }
    }

    /// Whether its addresses are of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.subnet.addr().is_ipv6()
    }

    /// # Errors
    /// Names the key that makes no sense.
    pub fn check(&self) -> Result<()> {
        let refuse = |key: &str, what: String| {
            Err(CniError::new(Code::InvalidConfig, format!("ipam.ranges: {key}: {what}"), "correct it"))
        };
        if self.subnet != self.subnet.trunc() {
            return refuse("subnet", format!("{} has bits set behind its length", self.subnet));
        }
        if self.subnet.max_prefix_len() - self.subnet.prefix_len() < 2 {
            return refuse("subnet", format!("{} has no room for pods", self.subnet));
        }
        for (key, address) in [("rangeStart", self.range_start), ("rangeEnd", self.range_end)] {
            if let Some(address) = address.filter(|address| !self.subnet.contains(address)) {
                return refuse(key, format!("{address} is outside {}", self.subnet));
            }
        }
        if self.first() > self.last() {
            return refuse("rangeStart", format!("{} is behind rangeEnd", self.first()));
        }
        Ok(())
    }

    /// The first address behind the subnet's own, unless told.
    fn first(&self) -> IpAddr {
        self.range_start.unwrap_or_else(|| self.second())
    }

    /// The subnet's last address, before which IPv4 has that of broadcasts, unless told.
    fn last(&self) -> IpAddr {
        let last = self.subnet.broadcast();
        self.range_end.unwrap_or_else(|| if self.is_ipv6() { last } else { self.address(number(last) - 1) })
    }

    /// The subnet's first address unless told: a bridge would have it, and a node may go back to one.
    fn gateway(&self) -> IpAddr {
        self.gateway.unwrap_or_else(|| self.second())
    }

    /// The one behind the subnet's own.
    fn second(&self) -> IpAddr {
        self.address(number(self.subnet.network()) + 1)
    }

    /// The address of its family with this number.
    fn address(&self, number: u128) -> IpAddr {
        // A number of this subnet's, which fits.
        if self.is_ipv6() { IpAddr::V6(number.into()) } else { IpAddr::V4((number as u32).into()) }
    }

    /// Whether a pod may have `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        (self.first()..=self.last()).contains(&address) && address != self.gateway()
    }

    /// All addresses that pods may have, beginning behind `last` and coming round to it.
    pub fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let (first, end) = (number(self.first()), number(self.last()));
        let count = end - first + 1;
        let start = last.filter(|last| self.contains(*last)).map_or(0, |last| number(last) - first + 1);
        let addresses = (0..count).map(move |n| self.address(first + (start + n) % count));
        addresses.filter(|address| *address != self.gateway())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_round_and_leave_out_the_gateway() {
        let range = Range::of("10.244.1.0/29".parse().unwrap());
        let last = |after: Option<[u8; 4]>| -> Vec<u8> {
            range.after(after.map(Into::into)).map(|address| (number(address) & 0xff) as u8).collect()
        };
        assert_eq!(last(None), [2, 3, 4, 5, 6]);
        assert_eq!(last(Some([10, 244, 1, 4])), [5, 6, 2, 3, 4]);
        assert_eq!(last(Some([10, 244, 1, 6])), [2, 3, 4, 5, 6]);
        assert_eq!(last(Some([10, 9, 9, 9])), [2, 3, 4, 5, 6], "one of another range");
    }

    #[test]
    fn ipv6_has_no_broadcasts() {
        let range = Range::of("fd00::/125".parse().unwrap());
        let of = |n: u128| IpAddr::V6((0xfd00 << 112 | n).into());
        assert!(range.after(None).eq((2..8).map(of)));
        assert!(range.after(Some(of(6))).eq([7, 2, 3, 4, 5, 6].map(of)));
        assert!(!range.contains(of(0)) && !range.contains(of(1)) && range.contains(of(7)));
        // One that nobody ever comes to the end of.
        let range = Range::of("fd00::/64".parse().unwrap());
        assert_eq!(range.after(Some(of((1 << 64) - 1))).next(), Some(of(2)));
    }

    #[test]
    fn nonsense_is_refused_by_its_key() {
        let message = |json: &str| {
            let range: Range = serde_json::from_str(json).unwrap();
            range.check().unwrap_err().to_json("1.0.0")["msg"].as_str().unwrap().to_owned()
        };
        assert!(message(r#"{"subnet": "10.244.1.1/24"}"#).contains("subnet"));
        assert!(message(r#"{"subnet": "10.244.1.0/31"}"#).contains("no room"));
        assert!(message(r#"{"subnet": "10.244.1.0/24", "rangeStart": "10.1.1.1"}"#).contains("rangeStart"));
        assert!(message(r#"{"subnet": "10.244.1.0/24", "rangeEnd": "fd00::7"}"#).contains("rangeEnd"));
        assert!(
            message(r#"{"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.9", "rangeEnd": "10.244.1.8"}"#)
                .contains("behind rangeEnd")
        );
    }
}
