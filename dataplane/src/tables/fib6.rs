//! The forwarding table: longest prefix match over IPv6.
//!
//! An address is a subnet of 64 bits and an interface of 64 bits (RFC 4291, section 2.5.1), and most routes lead to a whole
//! subnet, another node's, or to a single interface, a pod here. So each half is looked for where whole halves are, in a
//! hash table, and only if it is not there among the ranges that shorter prefixes make:
//!
//! ```text
//! address  |  subnet, 64 bits  |  interface, 64 bits  |
//!             exact or range --> exact or range
//! ```
//!
//! Other nodes' pods are found in one step and those here in two, whatever other lengths there are. A search among ranges of
//! whole addresses is simpler, and takes several times as long with 5,000 nodes; a hash table for each prefix length takes
//! a step for each.
//!
//! The hash needs no secret: outsiders choose what is looked up, but not what is in the table, and the build sees to
//! it that no lookup takes more than a few steps.

use std::collections::BTreeMap;

use ipnet::Ipv6Net;

use super::hash::mix;

/// Places looked at for one number, at most: as many as a cache line holds. With more the table is smaller, but how many it
/// takes is mispredicted more often.
const MOST_STEPS: usize = 4;

/// Multipliers tried with one number of places before it is doubled.
const TRIES: u64 = 16;

/// A prefix of one half of an address: its first number, its length and its next hop.
type HalfRoute = (u64, u8, u32);

/// Longest prefix match from an IPv6 address to the number of a next hop. Read without locks; a reference to it is all that
/// many lookups need.
pub struct Fib6 {
    subnets: Exact<Subnet>,
    /// Where the subnets lead that are not among those.
    others: Ranges,
    divided: Vec<Divided>,
}

/// Where a subnet leads that some prefix of /64 or longer is in.
#[derive(Clone, Copy)]
enum Subnet {
    /// All of it to a next hop.
    Whole(u32),
    /// Its interfaces to more than one: the number of what tells them apart.
    Divided(u32),
}

/// Where the interfaces of a subnet lead.
struct Divided {
    single: Exact<u32>,
    others: Ranges,
}

impl Fib6 {
    /// A FIB of `routes` (prefix, next hop); addresses that none covers lead to `default`. Host bits of a prefix are
    /// ignored. Of a prefix given twice the last counts.
    pub fn build(routes: impl IntoIterator<Item = (Ipv6Net, u32)>, default: u32) -> Fib6 {
        let mut above = Vec::new();
        let mut within = BTreeMap::<u64, Vec<HalfRoute>>::new();
        for (prefix, next_hop) in routes {
            let (subnet, interface) = halves(prefix.network().into());
            match prefix.prefix_len() {
                len @ ..64 => above.push((subnet, len, next_hop)),
                len => within.entry(subnet).or_default().push((interface, len - 64, next_hop)),
            }
        }
        let others = Ranges::build(above, default);
        let mut divided = Vec::new();
        let mut subnets = Vec::new();
        for (subnet, routes) in within {
            let leads = match routes.iter().all(|(_, len, _)| *len == 0) {
                true => Subnet::Whole(routes.last().expect("it was made for one").2),
                false => Subnet::Divided(divided.len() as u32),
            };
            if let Subnet::Divided(_) = leads {
                divided.push(Divided::build(routes, others.lookup(subnet)));
            }
            subnets.push((subnet, leads));
        }
        Fib6 { subnets: Exact::build(&subnets), others, divided }
    }

    /// The next hop for `address` (host order).
    #[inline(always)]
    pub fn lookup(&self, address: u128) -> u32 {
        let (subnet, interface) = halves(address);
        match self.subnets.find(subnet) {
            Some(Subnet::Whole(next_hop)) => next_hop,
            Some(Subnet::Divided(at)) => self.divided[at as usize].lookup(interface),
            None => self.others.lookup(subnet),
        }
    }
}

impl Divided {
    fn build(routes: Vec<HalfRoute>, default: u32) -> Divided {
        let (single, shorter): (Vec<_>, Vec<_>) = routes.into_iter().partition(|(_, len, _)| *len == 64);
        let single: BTreeMap<_, _> = single.into_iter().map(|(interface, _, next_hop)| (interface, next_hop)).collect();
        Divided { single: Exact::build(&Vec::from_iter(single)), others: Ranges::build(shorter, default) }
    }

    #[inline(always)]
    fn lookup(&self, interface: u64) -> u32 {
        self.single.find(interface).unwrap_or_else(|| self.others.lookup(interface))
    }
}

#[inline(always)]
fn halves(address: u128) -> (u64, u64) {
    ((address >> 64) as u64, address as u64)
}

/// What is known of single numbers: a hash table with open addressing.
struct Exact<T> {
    multiplier: u64,
    /// How far a product is shifted to leave a place's number.
    shift: u32,
    /// A power of two of them, half of them empty at least.
    places: Box<[(u64, Option<T>)]>,
}

impl<T: Copy> Exact<T> {
    /// A table of `known`, whose numbers differ.
    fn build(known: &[(u64, T)]) -> Exact<T> {
        let mut places = (2 * known.len()).next_power_of_two().max(2);
        loop {
            if let Some(table) = (0..TRIES).find_map(|attempt| Exact::try_build(known, places, mix(attempt) | 1)) {
                return table;
            }
            places *= 2;
        }
    }

    /// `None` if with this multiplier some number would not be found within [`MOST_STEPS`].
    fn try_build(known: &[(u64, T)], places: usize, multiplier: u64) -> Option<Exact<T>> {
        let shift = u64::BITS - places.trailing_zeros();
        let mut table = Exact { multiplier, shift, places: vec![(0, None); places].into() };
        for &(number, what) in known {
            let at = table.probe(number).find(|&at| table.places[at].1.is_none())?;
            table.places[at] = (number, Some(what));
        }
        Some(table)
    }

    #[inline(always)]
    fn find(&self, number: u64) -> Option<T> {
        for at in self.probe(number) {
            let (held, what) = self.places[at];
            if held == number || what.is_none() {
                return what;
            }
        }
        None
    }

    /// Where a number may be, in the order to look.
    #[inline(always)]
    fn probe(&self, number: u64) -> impl Iterator<Item = usize> {
        let (first, mask) = ((number.wrapping_mul(self.multiplier) >> self.shift) as usize, self.places.len() - 1);
        (first..first + MOST_STEPS).map(move |at| at & mask)
    }
}

/// Next hops of all numbers of 64 bits, by ranges.
struct Ranges {
    /// The first number of each range, in order; of the first one 0.
    starts: Box<[u64]>,
    next_hops: Box<[u32]>,
}

impl Ranges {
    /// The ranges into which `routes` divide the numbers; what none covers leads to `default`.
    fn build(mut routes: Vec<HalfRoute>, default: u32) -> Ranges {
        // Shortest first: a longer prefix then overwrites what it takes away from a shorter one. Stable, for the last of
        // equal prefixes to count.
        routes.sort_by_key(|&(_, len, _)| len);
        let last = |&(first, len, _): &HalfRoute| first | u64::MAX.checked_shr(len.into()).unwrap_or(0);
        let behind = routes.iter().filter_map(|route| last(route).checked_add(1));
        let mut starts: Vec<u64> = [0].into_iter().chain(routes.iter().map(|route| route.0)).chain(behind).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut next_hops = vec![default; starts.len()];
        for route in &routes {
            let from = starts.partition_point(|start| *start < route.0);
            let to = starts.partition_point(|start| *start <= last(route));
            next_hops[from..to].fill(route.2);
        }
        Ranges { starts: starts.into(), next_hops: next_hops.into() }
    }

    #[inline(always)]
    fn lookup(&self, number: u64) -> u32 {
        // The first range starts at 0.
        self.next_hops[self.starts.partition_point(|start| *start <= number) - 1]
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    fn lookup(fib: &Fib6, address: &str) -> u32 {
        fib.lookup(address.parse::<Ipv6Addr>().unwrap().into())
    }

    /// The first and the last address of a prefix.
    fn ends(prefix: &Ipv6Net) -> (u128, u128) {
        (prefix.network().into(), prefix.broadcast().into())
    }

    /// What a FIB should say, by trying every route.
    fn longest_match(routes: &[(Ipv6Net, u32)], default: u32, address: u128) -> u32 {
        let covering = routes.iter().filter(|(prefix, _)| prefix.contains(&Ipv6Addr::from(address)));
        // Of equal keys `max_by_key` takes the last.
        covering.max_by_key(|(prefix, _)| prefix.prefix_len()).map_or(default, |&(_, next_hop)| next_hop)
    }

    #[test]
    fn without_routes_everything_leads_to_the_default() {
        let fib = Fib6::build([], 9);
        for address in ["::", "fd00::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert_eq!(lookup(&fib, address), 9, "{address}");
        }
    }

    #[test]
    fn the_zero_prefix_takes_the_defaults_place() {
        let fib = Fib6::build([(net("::/0"), 1), (net("fd00::1/128"), 2)], 9);
        for (address, next_hop) in
            [("::", 1), ("fd00::", 1), ("fd00::1", 2), ("fd00::2", 1), ("fd00:0:0:1::1", 1), ("ffff::", 1)]
        {
            assert_eq!(lookup(&fib, address), next_hop, "{address}");
        }
    }

    #[test]
    fn the_longest_of_overlapping_prefixes_wins_in_any_order() {
        let mut routes = [
            (net("fd00::/8"), 1),
            (net("fd00:10:244::/48"), 2),
            (net("fd00:10:244:1::/64"), 3),
            (net("fd00:10:244:1::a/128"), 4),
            (net("fd00:10:244:1::/126"), 5),
            (net("fd00:10:244::/49"), 6),
            (net("fd00:10:244:2::b/128"), 7),
        ];
        for _ in 0..routes.len() {
            routes.rotate_left(1);
            let fib = Fib6::build(routes, 0);
            for (address, next_hop) in [
                ("fe00::", 0),
                ("fd00:10:245::", 1),
                ("fd00:10:244:8000::1", 2),
                ("fd00:10:244:1::9", 3),
                ("fd00:10:244:1::a", 4),
                ("fd00:10:244:1::b", 3),
                ("fd00:10:244:1::3", 5),
                ("fd00:10:244:3::1", 6),
                ("fd00:10:244:2::a", 6),
                ("fd00:10:244:2::b", 7),
            ] {
                assert_eq!(lookup(&fib, address), next_hop, "{address}");
            }
        }
    }

    #[test]
    fn every_prefix_length_ends_exactly_where_it_should() {
        for len in 1..=128 {
            let prefix = Ipv6Net::new((u128::MAX / 3 * 2).into(), len).unwrap();
            let fib = Fib6::build([(prefix, 1)], 0);
            let (first, last) = ends(&prefix);
            assert_eq!([fib.lookup(first), fib.lookup(last)], [1, 1], "{prefix}");
            assert_eq!(fib.lookup(first - 1), 0, "{prefix}");
            assert_eq!(fib.lookup(last.wrapping_add(1)), 0, "{prefix}");
        }
    }

    #[test]
    fn the_first_and_last_addresses_there_are_can_be_routed() {
        let last = Ipv6Net::new(u128::MAX.into(), 128).unwrap();
        let fib = Fib6::build([(net("::/128"), 1), (last, 2)], 0);
        assert_eq!([0, 1, u128::MAX - 1, u128::MAX].map(|address| fib.lookup(address)), [1, 0, 0, 2]);
    }

    #[test]
    fn the_last_of_equal_prefixes_counts_and_host_bits_do_not() {
        for len in [48, 64, 112] {
            let prefix = |address: &str| Ipv6Net::new(address.parse().unwrap(), len).unwrap();
            let fib = Fib6::build([(prefix("fd00::1"), 1), (prefix("fd00::2"), 2)], 0);
            assert_eq!(lookup(&fib, "fd00::3"), 2, "/{len}");
        }
    }

    #[test]
    fn the_subnets_of_five_thousand_nodes_are_found_wherever_they_lie() {
        let base = u128::from("fd00:10:244::".parse::<Ipv6Addr>().unwrap());
        // One after the other, as far apart as each other, and anywhere.
        let places: [fn(u64) -> u64; 4] = [|node| node, |node| node << 4, |node| node << 32, |node| mix(node) >> 8];
        for place in places {
            let subnet = |node: u64| base ^ u128::from(place(node)) << 64;
            let nodes = (0..5000).map(|node| (Ipv6Net::new(subnet(node).into(), 64).unwrap(), node as u32));
            let pods =
                (0..256).map(|pod| (Ipv6Net::new((subnet(42) + 7 * pod).into(), 128).unwrap(), 5000 + pod as u32));
            let fib = Fib6::build(nodes.chain(pods), 9999);
            assert!(fib.subnets.places.len() <= 65_536, "found without much growing");
            for node in (0..5000).filter(|node| *node != 42) {
                assert_eq!(fib.lookup(subnet(node) | u128::from(mix(node))), node as u32);
                assert_eq!(fib.lookup(subnet(node) ^ 1 << 127), 9999);
            }
            for pod in 0..256 {
                assert_eq!(fib.lookup(subnet(42) + 7 * pod), 5000 + pod as u32);
                assert_eq!(fib.lookup(subnet(42) + 7 * pod + 1), 42);
            }
        }
    }

    /// Prefixes crowded into a few values of some words, so that they nest and collide, in both halves and across.
    fn routes() -> impl Strategy<Value = Vec<(Ipv6Net, u32)>> {
        let word = || prop_oneof![6 => 0u16..2, 1 => Just(u16::MAX), 1 => any::<u16>()];
        let address = prop::array::uniform8(word()).prop_map(Ipv6Addr::from);
        let len = prop_oneof![0u8..=128, Just(0), Just(63), Just(64), Just(65), Just(128), 60u8..68];
        let prefix = (address, len).prop_map(|(address, len)| Ipv6Net::new(address, len).unwrap());
        prop::collection::vec((prefix, 0u32..1000), 0..60)
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_route(routes in routes(), probes in prop::collection::vec(any::<u128>(), 16)) {
            let fib = Fib6::build(routes.iter().copied(), 5000);
            // The edges of every prefix and one beyond, where a wrong table would be wrong, and what shares its subnet.
            let edges = routes.iter().flat_map(|(prefix, _)| {
                let (first, last) = ends(prefix);
                [first.wrapping_sub(1), first, last, last.wrapping_add(1), first ^ 1 << 63, first ^ 1 << 64]
            });
            for address in edges.chain(probes) {
                prop_assert_eq!(
                    fib.lookup(address), longest_match(&routes, 5000, address), "{}", Ipv6Addr::from(address)
                );
            }
        }
    }
}
