//! A set of prefixes of which no two share an address.

use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;

/// Disjoint prefixes of both families, each with a tag. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct DisjointPrefixes<T: Clone> {
    /// IPv4 addresses are before those of IPv6.
    by_first: OrdMap<IpAddr, (IpNet, T)>,
}

impl<T: Clone> Default for DisjointPrefixes<T> {
    fn default() -> Self {
        DisjointPrefixes { by_first: OrdMap::new() }
    }
}

impl<T: Clone> DisjointPrefixes<T> {
    /// Adds `prefix`, unless it overlaps one that is there: then that one is the error.
    pub fn insert(&mut self, prefix: IpNet, tag: T) -> Result<(), &(IpNet, T)> {
        // Members are disjoint, so the last one that begins at or before the end of `prefix` is the only candidate.
        if let Some((&first, (other, _))) = self.by_first.range(..=prefix.broadcast()).next_back()
            && other.broadcast() >= prefix.network()
        {
            return Err(&self.by_first[&first]);
        }
        self.by_first.insert(prefix.network(), (prefix, tag));
        Ok(())
    }

    /// Removes `prefix`, which is there.
    pub fn remove(&mut self, prefix: IpNet) {
        self.by_first.remove(&prefix.network());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn neighbours_fit_and_overlaps_are_found_from_either_side() {
        let mut set = DisjointPrefixes::default();
        set.insert(net("10.244.2.0/24"), 'a').unwrap();
        set.insert(net("10.244.3.0/24"), 'b').unwrap();
        set.insert(net("10.244.1.0/24"), 'c').unwrap();
        assert_eq!(set.insert(net("10.244.2.0/24"), 'd'), Err(&(net("10.244.2.0/24"), 'a')), "the same");
        assert_eq!(set.insert(net("10.244.3.128/25"), 'd'), Err(&(net("10.244.3.0/24"), 'b')), "inside");
        assert!(set.insert(net("10.244.0.0/16"), 'd').is_err(), "around");
        set.insert(net("10.244.4.0/22"), 'e').unwrap();
        set.remove(net("10.244.2.0/24"));
        set.insert(net("10.244.2.128/25"), 'f').unwrap();
        set.insert(net("::/0"), 'g').unwrap();
        assert!(set.insert(net("fd00::/64"), 'h').is_err());
        set.remove(net("::/0"));
        set.insert(net("fd00::/64"), 'h').unwrap();
        assert!(set.insert(net("0.0.0.0/0"), 'i').is_err());
    }
}
