//! A few prefixes, and whether an address is in one of them.

use crate::net::{Address, Number, Prefix};

/// A set of prefixes. Made for a handful: every one is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefixes<N = u32>(Box<[Masked<N>]>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Masked<N> {
    network: N,
    mask: N,
}

impl<N: Number> Prefixes<N> {
    /// The set of `nets`, whose host bits do not count.
    pub fn new(nets: &[<N::Address as Address>::Net]) -> Prefixes<N> {
        let masked = nets.iter().map(|net| Masked { network: net.network().number(), mask: net.mask().number() });
        Prefixes(masked.collect())
    }

    /// Whether `address` (host order) is in one of them.
    #[inline]
    pub fn contains(&self, address: N) -> bool {
        self.0.iter().any(|prefix| address & prefix.mask == prefix.network)
    }

    /// The longest of them that `address` (host order) is in.
    pub fn find(&self, address: N) -> Option<<N::Address as Address>::Net> {
        let holding = self.0.iter().filter(|prefix| address & prefix.mask == prefix.network);
        let longest = holding.max_by_key(|prefix| prefix.mask)?;
        <N::Address as Address>::Net::masked(longest.network.address(), longest.mask.address())
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_prefix_contains_nothing_and_the_zero_prefix_everything() {
        assert!(!Prefixes::<u32>::new(&[]).contains(0) && Prefixes::<u32>::new(&[]).is_empty());
        let all = Prefixes::new(&["10.0.0.0/0".parse().unwrap()]);
        assert!(all.contains(0) && all.contains(u32::MAX) && !all.is_empty());
    }

    proptest! {
        #[test]
        fn agrees_with_the_prefixes_themselves(nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..6), probe: u32) {
            let nets: Vec<_> =
                nets.into_iter().map(|(address, len)| Ipv4Net::new(address.into(), len).unwrap()).collect();
            let set = Prefixes::new(&nets);
            let edges = nets.iter().flat_map(|net| {
                let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
                [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
            });
            for address in edges.chain([probe]) {
                let holding = || nets.iter().filter(|net| net.contains(&Ipv4Addr::from(address)));
                prop_assert_eq!(set.contains(address), holding().next().is_some());
                prop_assert_eq!(set.find(address), holding().max_by_key(|net| net.prefix_len()).map(Ipv4Net::trunc));
            }
        }
    }
}
