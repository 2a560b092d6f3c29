//! The forwarding table: longest prefix match over IPv4.
//!
//! A trie with strides of 16, 8 and 8 bits; prefixes are expanded to the stride they end in:
//!
//! ```text
//! address     |      16 bits      |   8   |   8   |
//!               root[65536] --> node[256] --> node[256]
//! ```
//!
//! How deep a destination's prefix goes changes from packet to packet (a remote node's /24, a local pod's /32), and a
//! branch on it would be mispredicted as often. So every lookup takes all three steps. Nodes lie in one array of
//! cells, and the first cells stand for the next hops: cell `n` holds `n`. An entry is the number of a node's first cell;
//! one that is a next hop is a node of one cell, itself, and the steps left over stay in that cell.

use std::hint::select_unpredictable;

use ipnet::Ipv4Net;

const NODE_CELLS: usize = 1 << 8;

/// Next hops a FIB can tell apart. Four bytes are spent on each up to the highest used: number them densely.
pub const MAX_NEXT_HOPS: u32 = 1 << 20;

/// Longest prefix match from an IPv4 address to the number of a next hop.
pub struct Fib {
    root: Box<[u32; 1 << 16]>,
    cells: Vec<u32>,
    /// The first cell of the first node; the cells before it are next hops.
    first_node: u32,
}

/// Where a FIB lies.
#[derive(Clone, Copy)]
pub struct View<'a> {
    root: &'a [u32; 1 << 16],
    cells: &'a [u32],
    first_node: u32,
}

impl Fib {
    /// A FIB of `routes` (prefix, next hop); addresses that none covers lead to `default`. Host bits of a prefix are
    /// ignored. Of a prefix given twice the last counts.
    ///
    /// # Panics
    /// If a next hop is [`MAX_NEXT_HOPS`] or more, or there are several million routes.
    pub fn build(routes: impl IntoIterator<Item = (Ipv4Net, u32)>, default: u32) -> Fib {
        let mut routes: Vec<_> = routes.into_iter().collect();
        // Shortest first: a longer prefix then overwrites what it takes away from a shorter one, and no prefix ever
        // meets a node that belongs to a longer one. Stable, for the last of equal prefixes to count.
        routes.sort_by_key(|(prefix, _)| prefix.prefix_len());
        let highest = routes.iter().fold(default, |highest, &(_, next_hop)| highest.max(next_hop));
        assert!(highest < MAX_NEXT_HOPS, "next hop {highest} is not below {MAX_NEXT_HOPS}");
        let root = vec![default; 1 << 16].into_boxed_slice().try_into().expect("of this length");
        let mut fib = Fib { root, cells: (0..=highest).collect(), first_node: highest + 1 };
        for (prefix, next_hop) in routes {
            fib.insert(prefix, next_hop);
        }
        fib.cells.shrink_to_fit();
        fib
    }

    /// The next hop for `address` (host order).
    #[inline(always)]
    pub fn lookup(&self, address: u32) -> u32 {
        self.view().lookup(address)
    }

    /// Where it lies, for many lookups.
    #[inline(always)]
    pub fn view(&self) -> View<'_> {
        View { root: &self.root, cells: &self.cells, first_node: self.first_node }
    }

    fn insert(&mut self, prefix: Ipv4Net, next_hop: u32) {
        let (address, len) = (u32::from(prefix.network()), prefix.prefix_len());
        let [.., low, lowest] = address.to_be_bytes().map(usize::from);
        let high = (address >> 16) as usize;
        if len <= 16 {
            return self.root[high..][..1 << (16 - len)].fill(next_hop);
        }
        self.root[high] = self.node_below(self.root[high]);
        let middle = self.root[high] as usize + low;
        if len <= 24 {
            return self.cells[middle..][..1 << (24 - len)].fill(next_hop);
        }
        self.cells[middle] = self.node_below(self.cells[middle]);
        let last = self.cells[middle] as usize + lowest;
        self.cells[last..][..1 << (32 - len)].fill(next_hop);
    }

    /// The entry as a node; a next hop is first pushed down into a new one.
    fn node_below(&mut self, entry: u32) -> u32 {
        if entry >= self.first_node {
            return entry;
        }
        let first = self.cells.len();
        self.cells.resize(first + NODE_CELLS, entry);
        assert!(self.cells.len() <= 1 << 31, "more than four million routes");
        first as u32
    }
}

impl View<'_> {
    /// As [`Fib::lookup`].
    #[inline(always)]
    pub fn lookup(&self, address: u32) -> u32 {
        let entry = self.root[(address >> 16) as usize];
        let entry = self.step(entry, address >> 8);
        self.step(entry, address)
    }

    /// The entry below `entry` for the low byte of `bits`; a next hop stays what it is.
    #[inline(always)]
    fn step(&self, entry: u32, bits: u32) -> u32 {
        let choice = select_unpredictable(entry >= self.first_node, bits & 0xff, 0);
        // Entries only lead to cells there are; asked this way, the check costs no path that panics.
        self.cells.get((entry + choice) as usize).copied().unwrap_or(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn lookup(fib: &Fib, address: &str) -> u32 {
        fib.lookup(address.parse::<Ipv4Addr>().unwrap().into())
    }

    /// What a FIB should say, by trying every route.
    fn longest_match(routes: &[(Ipv4Net, u32)], default: u32, address: u32) -> u32 {
        let covering = routes.iter().filter(|(prefix, _)| prefix.contains(&Ipv4Addr::from(address)));
        // Of equal keys `max_by_key` takes the last.
        covering.max_by_key(|(prefix, _)| prefix.prefix_len()).map_or(default, |&(_, next_hop)| next_hop)
    }

    #[test]
    fn without_routes_everything_leads_to_the_default() {
        let fib = Fib::build([], 9);
        for address in ["0.0.0.0", "10.0.0.1", "255.255.255.255"] {
            assert_eq!(lookup(&fib, address), 9, "{address}");
        }
    }

    #[test]
    fn the_zero_prefix_takes_the_defaults_place() {
        let fib = Fib::build([(net("0.0.0.0/0"), 1), (net("10.1.2.3/32"), 2)], 9);
        assert_eq!(lookup(&fib, "0.0.0.0"), 1);
        assert_eq!(lookup(&fib, "255.255.255.255"), 1);
        assert_eq!(lookup(&fib, "10.1.2.2"), 1);
        assert_eq!(lookup(&fib, "10.1.2.3"), 2);
    }

    #[test]
    fn the_longest_of_overlapping_prefixes_wins_in_any_order() {
        let mut routes = [
            (net("10.0.0.0/8"), 1),
            (net("10.244.0.0/16"), 2),
            (net("10.244.1.0/24"), 3),
            (net("10.244.1.10/32"), 4),
            (net("10.244.1.0/30"), 5),
            (net("10.244.0.0/17"), 6),
        ];
        for _ in 0..routes.len() {
            routes.rotate_left(1);
            let fib = Fib::build(routes.iter().copied(), 0);
            for (address, next_hop) in [
                ("11.0.0.0", 0),
                ("10.0.0.1", 1),
                ("10.244.128.1", 2),
                ("10.244.1.9", 3),
                ("10.244.1.10", 4),
                ("10.244.1.11", 3),
                ("10.244.1.3", 5),
                ("10.244.2.1", 6),
            ] {
                assert_eq!(lookup(&fib, address), next_hop, "{address}");
            }
        }
    }

    #[test]
    fn every_prefix_length_ends_exactly_where_it_should() {
        for len in 1..=32 {
            let prefix = Ipv4Net::new(Ipv4Addr::new(170, 170, 170, 170), len).unwrap();
            let fib = Fib::build([(prefix, 1)], 0);
            let (first, last) = (u32::from(prefix.network()), u32::from(prefix.broadcast()));
            assert_eq!([fib.lookup(first), fib.lookup(last)], [1, 1], "{prefix}");
            assert_eq!(fib.lookup(first - 1), 0, "{prefix}");
            assert_eq!(fib.lookup(last.wrapping_add(1)), 0, "{prefix}");
        }
    }

    #[test]
    fn the_first_and_last_addresses_there_are_can_be_routed() {
        let fib = Fib::build([(net("0.0.0.0/32"), 1), (net("255.255.255.255/32"), 2)], 0);
        assert_eq!([fib.lookup(0), fib.lookup(1), fib.lookup(u32::MAX - 1), fib.lookup(u32::MAX)], [1, 0, 0, 2]);
    }

    #[test]
    fn the_last_of_equal_prefixes_counts_and_host_bits_do_not() {
        let fib = Fib::build([(net("10.1.0.0/16"), 1), (net("10.1.2.3/16"), 2)], 0);
        assert_eq!(lookup(&fib, "10.1.255.255"), 2);
    }

    #[test]
    #[should_panic(expected = "is not below")]
    fn next_hops_without_end_are_refused() {
        Fib::build([(net("10.0.0.0/8"), MAX_NEXT_HOPS)], 0);
    }

    /// Prefixes crowded into a few octets, so that they nest and collide.
    fn routes() -> impl Strategy<Value = Vec<(Ipv4Net, u32)>> {
        let octet = || prop_oneof![4 => 0u8..3, 1 => any::<u8>()];
        let address = (octet(), octet(), octet(), octet()).prop_map(|(a, b, c, d)| Ipv4Addr::new(a, b, c, d));
        let prefix = (address, 0u8..=32).prop_map(|(address, len)| Ipv4Net::new(address, len).unwrap());
        prop::collection::vec((prefix, 0u32..1000), 0..60)
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_route(routes in routes(), probes in prop::collection::vec(any::<u32>(), 16)) {
            let fib = Fib::build(routes.iter().copied(), 5000);
            // The edges of every prefix and one beyond, where a wrong table would be wrong.
            let edges = routes.iter().flat_map(|(prefix, _)| {
                let (first, last) = (u32::from(prefix.network()), u32::from(prefix.broadcast()));
                [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
            });
            for address in edges.chain(probes) {
                prop_assert_eq!(
                    fib.lookup(address), longest_match(&routes, 5000, address), "{}", Ipv4Addr::from(address)
                );
            }
        }
    }
}
