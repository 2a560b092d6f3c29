//! Ranges of addresses, as the host-local plugin has them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::error::{CniError, Code, Result};

/// Addresses of a subnet that pods may have.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Range {
    subnet: Ipv4Net,
    range_start: Option<Ipv4Addr>,
    range_end: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
}

impl Range {
    /// All of a subnet.
    pub fn of(subnet: Ipv4Net) -> Range {
        Range { subnet, range_start: None, range_end: None, gateway: None }
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
        if self.subnet.prefix_len() > 30 {
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
    fn first(&self) -> Ipv4Addr {
        self.range_start.unwrap_or_else(|| Ipv4Addr::from(u32::from(self.subnet.network()) + 1))
    }

    /// The last address before the subnet's broadcast address, unless told.
    fn last(&self) -> Ipv4Addr {
        self.range_end.unwrap_or_else(|| Ipv4Addr::from(u32::from(self.subnet.broadcast()) - 1))
    }

    /// The subnet's first address unless told: a bridge would have it, and a node may go back to one.
    fn gateway(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| Ipv4Addr::from(u32::from(self.subnet.network()) + 1))
    }

    /// Whether a pod may have `address`.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&address) && address != self.gateway()
    }

    /// All addresses that pods may have, beginning behind `last` and coming round to it.
    pub fn after(&self, last: Option<Ipv4Addr>) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let (first, end) = (u32::from(self.first()), u32::from(self.last()));
        let count = end - first + 1;
        let start = last.filter(|last| self.contains(*last)).map_or(0, |last| u32::from(last) - first + 1);
        let addresses = (0..count).map(move |n| Ipv4Addr::from(first + (start + n) % count));
        addresses.filter(|address| *address != self.gateway())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_round_and_leave_out_the_gateway() {
        let range = Range::of("10.244.1.0/29".parse().unwrap());
        let last = |after: Option<[u8; 4]>| -> Vec<u8> {
            range.after(after.map(Into::into)).map(|address| address.octets()[3]).collect()
        };
        assert_eq!(last(None), [2, 3, 4, 5, 6]);
        assert_eq!(last(Some([10, 244, 1, 4])), [5, 6, 2, 3, 4]);
        assert_eq!(last(Some([10, 244, 1, 6])), [2, 3, 4, 5, 6]);
        assert_eq!(last(Some([10, 9, 9, 9])), [2, 3, 4, 5, 6], "one of another range");
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
        assert!(
            message(r#"{"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.9", "rangeEnd": "10.244.1.8"}"#)
                .contains("behind rangeEnd")
        );
    }
}
