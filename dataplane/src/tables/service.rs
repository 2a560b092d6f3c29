//! Services by VIP, port and protocol.
//!
//! An open-addressing hash of cache lines: each line holds up to five keys and the services they belong to, and a
//! lookup reads one, rarely two. What a service's new flows need (its Maglev table) is kept apart, by index.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Prefixes, hash::Hasher, maglev::Maglev};
use crate::spec::{Affinity, Backend, Endpoint, Otherwise, Rule, Scheduler, ServiceSpec};

/// Keys in one line: five of 8 bytes and five indices of 4 bytes are 60 bytes.
const WAYS: usize = 5;

/// Sets the hash apart from those of other tables with the same seed.
const PURPOSE: u64 = 2;

/// A service's number in one [`ServiceTable`]; another build may give it another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServiceIndex(u32);

/// The services of a snapshot.
pub struct ServiceTable {
    seed: u64,
    hasher: Hasher,
    /// A power of two of them, more than half as many as services: lines are seldom full, never all.
    lines: Box<[Line]>,
    services: Vec<Service>,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    /// Filled from the front; 0 where there is none.
    keys: [u64; WAYS],
    services: [u32; WAYS],
}

/// One frontend, as new flows need it.
pub struct Service {
    key: u64,
    /// Whether clients stay with an endpoint.
    pub affinity: Option<Affinity>,
    /// How an endpoint is chosen.
    pub scheduler: Scheduler,
    /// Flows that have had their turn.
    turn: AtomicU32,
    /// By [`Origin`].
    choices: [Choice; 3],
    /// Who may use it; empty: everybody.
    sources: Prefixes,
}

impl Service {
    /// What there is for new flows from `origin`.
    #[inline]
    pub fn choice(&self, origin: Origin) -> &Choice {
        &self.choices[origin as usize]
    }

    /// Whether it may be used from `source` (host order).
    #[inline]
    pub fn admits(&self, source: u32) -> bool {
        self.sources.is_empty() || self.sources.contains(source)
    }

    /// Counts up with each call, over all workers.
    pub fn next_turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// Where a new flow comes from: it says which of a service's rules applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A pod, of this node or another.
    Pod,
    /// This node's own stack.
    Node,
    /// Anywhere else.
    Outside,
}

/// A [`Rule`], as new flows need it. Those with the same endpoints share the Maglev table.
#[derive(Clone)]
pub struct Choice {
    maglev: Maglev,
    /// The flow's source is replaced.
    pub masquerade: bool,
    /// What happens if there is no endpoint.
    pub otherwise: Otherwise,
}

impl Choice {
    /// The backend that a hash names; `None` if there is none.
    #[inline]
    pub fn select(&self, hash: u64) -> Option<Backend> {
        self.maglev.select(hash)
    }

    /// The endpoints to choose from, those without weight among them, by ascending backend.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.maglev.endpoints()
    }

    /// The endpoint that `backend` is, if it is one.
    pub fn endpoint(&self, backend: Backend) -> Option<Endpoint> {
        let endpoints = self.endpoints();
        endpoints.binary_search_by_key(&backend, |endpoint| endpoint.backend).ok().map(|at| endpoints[at])
    }
}

impl ServiceTable {
    /// The table of `specs`. A service that `previous` has with the same endpoints, built with the same seed, shares
    /// its Maglev tables; that is found fastest where the list is the same `Arc` and ascending. Of specs with one
    /// (VIP, port, protocol) the first counts.
    ///
    /// # Panics
    /// If a service has more than [`MAX_BACKENDS`](super::maglev::MAX_BACKENDS).
    pub fn build(specs: &[ServiceSpec], previous: Option<&ServiceTable>, seed: u64) -> ServiceTable {
        let mut table = ServiceTable {
            seed,
            hasher: Hasher::new(seed, PURPOSE),
            lines: vec![Line::default(); (specs.len() / 2 + 1).next_power_of_two()].into(),
            services: Vec::with_capacity(specs.len()),
        };
        let mut reuse = Reuse { previous: previous.filter(|previous| previous.seed == seed), cursor: 0 };
        for spec in specs {
            let key = key(spec.vip.into(), spec.port, spec.protocol as u8);
            if table.insert(key) {
                let known = reuse.find(key);
                let choices = choices(spec.rules(), known.map_or(&[], |service| &service.choices), seed);
                // Else every update would make the first endpoints' turn come first.
                let turn = AtomicU32::new(known.map_or(0, |service| service.turn.load(Ordering::Relaxed)));
                let (affinity, scheduler) = (spec.affinity, spec.scheduler);
                let sources = Prefixes::new(&spec.sources);
                table.services.push(Service { key, affinity, scheduler, turn, choices, sources });
            }
        }
        table
    }

    /// Whether there are no services at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// How many services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// The service at `vip` (host order) and `port`; `protocol` is the number in the IP header.
    #[inline]
    pub fn lookup(&self, vip: u32, port: u16, protocol: u8) -> Option<ServiceIndex> {
        self.find(key(vip, port, protocol))
    }

    /// A service of this table.
    ///
    /// # Panics
    /// If the index is another table's and beyond this one's.
    #[inline]
    pub fn get(&self, service: ServiceIndex) -> &Service {
        &self.services[service.0 as usize]
    }

    /// Whether `backend` still serves a service of this table, whomever.
    #[inline]
    pub fn has_backend(&self, service: ServiceIndex, backend: Backend) -> bool {
        let service = self.services.get(service.0 as usize);
        service.is_some_and(|service| service.choices.iter().any(|choice| choice.maglev.contains(backend)))
    }

    #[inline(always)]
    fn find(&self, key: u64) -> Option<ServiceIndex> {
        let mut at = self.hasher.hash(key) as usize;
        loop {
            let line = self.lines.get(at & (self.lines.len() - 1))?;
            if let Some(way) = line.keys.iter().position(|&k| k == key) {
                return Some(ServiceIndex(line.services[way]));
            }
            if !line.is_full() {
                return None;
            }
            at = at.wrapping_add(1);
        }
    }

    /// Gives `key` the next service's index; false if it has one.
    fn insert(&mut self, key: u64) -> bool {
        let mut at = self.hasher.hash(key) as usize;
        let mask = self.lines.len() - 1;
        loop {
            let line = &mut self.lines[at & mask];
            if line.keys.contains(&key) {
                return false;
            }
            if let Some(way) = line.keys.iter().position(|&k| k == 0) {
                line.keys[way] = key;
                line.services[way] = self.services.len() as u32;
                return true;
            }
            at = at.wrapping_add(1);
        }
    }
}

impl Line {
    #[inline(always)]
    fn is_full(&self) -> bool {
        self.keys[WAYS - 1] != 0
    }
}

/// The three as one number, never 0.
#[inline(always)]
fn key(vip: u32, port: u16, protocol: u8) -> u64 {
    u64::from(vip) << 32 | u64::from(port) << 16 | u64::from(protocol) << 8 | 1
}

/// The choices of a service's rules. A Maglev table is taken over from `previous` or shared with an earlier rule.
fn choices(rules: [&Rule; 3], previous: &[Choice], seed: u64) -> [Choice; 3] {
    let mut made = [const { None::<Choice> }; 3];
    for (at, rule) in rules.into_iter().enumerate() {
        let mut known = previous.iter().chain(made[..at].iter().flatten());
        let maglev = match known.find(|choice| choice.maglev.is_of(&rule.endpoints)) {
            Some(choice) => choice.maglev.clone(),
            None => Maglev::build(&rule.endpoints, seed),
        };
        made[at] = Some(Choice { maglev, masquerade: rule.masquerade, otherwise: rule.otherwise });
    }
    made.map(|choice| choice.expect("there is one for each rule"))
}

/// Finds services again in the previous table.
struct Reuse<'a> {
    previous: Option<&'a ServiceTable>,
    /// Behind the service found last: specs mostly come in the order they came in before, and a walk through memory
    /// is cheaper than a hash lookup each.
    cursor: usize,
}

impl<'a> Reuse<'a> {
    fn find(&mut self, key: u64) -> Option<&'a Service> {
        let previous = self.previous?;
        let is_next = previous.services.get(self.cursor).is_some_and(|service| service.key == key);
        let index = if is_next { self.cursor } else { previous.find(key)?.0 as usize };
        self.cursor = index + 1;
        Some(&previous.services[index])
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::net::Protocol;

    fn backend(i: u32) -> Backend {
        Backend { address: Ipv4Addr::from(0x0af4_0000 + i), port: 8080 }
    }

    fn endpoints(backends: &[u32]) -> Arc<[Endpoint]> {
        backends.iter().map(|&i| backend(i).into()).collect()
    }

    fn spec(vip: u32, port: u16, protocol: Protocol, backends: &[u32]) -> ServiceSpec {
        ServiceSpec::simple(Ipv4Addr::from(vip), port, protocol, endpoints(backends))
    }

    fn many(n: u32) -> Vec<ServiceSpec> {
        (0..n).map(|i| spec(0x0a60_0000 + i, 80, Protocol::Tcp, &[i, i + 1, i + 2])).collect()
    }

    fn find(table: &ServiceTable, spec: &ServiceSpec) -> Option<ServiceIndex> {
        table.lookup(spec.vip.into(), spec.port, spec.protocol as u8)
    }

    /// The Maglev table of a service; that two builds share one shows in its backends' address.
    fn maglev<'a>(table: &'a ServiceTable, spec: &ServiceSpec) -> &'a Maglev {
        &table.get(find(table, spec).unwrap()).choice(Origin::Pod).maglev
    }

    fn share(one: &Maglev, other: &Maglev) -> bool {
        std::ptr::eq(one.endpoints(), other.endpoints())
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        let table = ServiceTable::build(&[], None, 1);
        assert!(table.is_empty());
        assert_eq!(table.lookup(0, 0, 0), None);
        assert_eq!(table.lookup(0x0a60_0001, 80, 6), None);
    }

    #[test]
    fn address_port_and_protocol_all_count() {
        let specs = [
            spec(0x0a60_000a, 53, Protocol::Tcp, &[1]),
            spec(0x0a60_000a, 53, Protocol::Udp, &[2]),
            spec(0x0a60_000a, 54, Protocol::Tcp, &[3]),
            spec(0x0a60_000b, 53, Protocol::Tcp, &[]),
        ];
        let table = ServiceTable::build(&specs, None, 1);
        assert_eq!(table.len(), 4);
        for spec in &specs {
            let service = find(&table, spec).unwrap();
            let backends: Vec<_> = spec.from_pods.endpoints.iter().map(|endpoint| endpoint.backend).collect();
            for origin in [Origin::Pod, Origin::Node, Origin::Outside] {
                assert_eq!(table.get(service).choice(origin).select(99), backends.first().copied());
            }
            assert!(backends.iter().all(|&b| table.has_backend(service, b)));
            assert!(!table.has_backend(service, backend(4)));
        }
        assert_eq!(table.lookup(0x0a60_000a, 53, 1), None);
        assert_eq!(table.lookup(0x0a60_000b, 54, 6), None);
        assert_eq!(table.lookup(0, 0, 0), None);
    }

    #[test]
    fn of_two_specs_for_one_service_the_first_counts() {
        let specs = [spec(1, 80, Protocol::Tcp, &[1]), spec(1, 80, Protocol::Tcp, &[2])];
        let table = ServiceTable::build(&specs, None, 1);
        assert_eq!(table.len(), 1);
        assert_eq!(maglev(&table, &specs[0]).select(5), Some(backend(1)));
    }

    #[test]
    fn full_lines_overflow_into_the_next() {
        // 20k keys in 16k lines: by the Poisson distribution, some two dozen are wanted by more than five.
        let specs = many(20_000);
        let table = ServiceTable::build(&specs, None, 1);
        assert!(table.lines.iter().any(Line::is_full));
        for (i, spec) in specs.iter().enumerate() {
            assert_eq!(find(&table, spec), Some(ServiceIndex(i as u32)));
        }
    }

    #[test]
    fn unchanged_services_share_their_table_with_the_previous_build() {
        let mut specs = many(1000);
        let before = ServiceTable::build(&specs, None, 1);
        specs[500] = spec(specs[500].vip.into(), 80, Protocol::Tcp, &[7, 8]);
        specs.remove(100);
        specs.insert(300, spec(77, 80, Protocol::Tcp, &[9]));
        // A list of its own with the same content, in another order.
        let reversed: Arc<[Endpoint]> = specs[600].from_pods.endpoints.iter().rev().copied().collect();
        specs[600] = ServiceSpec::simple(specs[600].vip, 80, Protocol::Tcp, reversed);
        let after = ServiceTable::build(&specs, Some(&before), 1);
        for (i, spec) in specs.iter().enumerate().filter(|(i, _)| *i != 300) {
            assert_eq!(share(maglev(&before, spec), maglev(&after, spec)), i != 500, "{i}");
        }
        assert_eq!(maglev(&after, &specs[500]).endpoints(), &*endpoints(&[7, 8]));
    }

    #[test]
    fn another_seed_shares_nothing() {
        let specs = [spec(1, 80, Protocol::Tcp, &[2, 1])];
        let before = ServiceTable::build(&specs, None, 1);
        let after = ServiceTable::build(&specs, Some(&before), 2);
        assert!(!share(maglev(&before, &specs[0]), maglev(&after, &specs[0])));
    }

    #[test]
    fn rules_decide_by_origin_and_share_equal_tables() {
        let mut spec = spec(1, 80, Protocol::Tcp, &[1, 2]);
        spec.from_node.endpoints = endpoints(&[3]);
        spec.from_outside = Rule { endpoints: endpoints(&[1, 2]), otherwise: Otherwise::Drop, ..Rule::default() };
        let table = ServiceTable::build(&[spec.clone()], None, 1);
        let service = find(&table, &spec).unwrap();
        let [pods, node, outside] =
            [Origin::Pod, Origin::Node, Origin::Outside].map(|origin| table.get(service).choice(origin));
        assert!(share(&pods.maglev, &outside.maglev), "though the lists are two");
        assert_eq!(node.select(7), Some(backend(3)));
        assert_eq!([pods, node, outside].map(|c| c.otherwise), [Otherwise::Refuse, Otherwise::Refuse, Otherwise::Drop]);
        assert!([1, 2, 3].iter().all(|&i| table.has_backend(service, backend(i))));

        // Another rule may take a table over.
        std::mem::swap(&mut spec.from_pods, &mut spec.from_node);
        let after = ServiceTable::build(&[spec.clone()], Some(&table), 1);
        assert!(share(&after.get(service).choice(Origin::Node).maglev, &pods.maglev));
    }

    type Model = HashMap<(u32, u16, Protocol), Vec<Backend>>;

    fn specs() -> impl Strategy<Value = Vec<ServiceSpec>> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        let service = (0u32..40, 0u16..3, protocol, prop::collection::vec(0u32..12, 0..6));
        prop::collection::vec(service.prop_map(|(vip, port, protocol, b)| spec(vip, port, protocol, &b)), 0..80)
    }

    proptest! {
        #[test]
        fn agrees_with_a_hash_map_through_updates(updates in prop::collection::vec(specs(), 1..5), seed: u64) {
            let mut previous: Option<ServiceTable> = None;
            for specs in updates {
                let table = ServiceTable::build(&specs, previous.as_ref(), seed);
                let mut model = Model::new();
                for spec in &specs {
                    model.entry((spec.vip.into(), spec.port, spec.protocol)).or_insert_with(|| {
                        spec.from_pods.endpoints.iter().map(|endpoint| endpoint.backend).collect()
                    });
                }
                prop_assert_eq!(table.len(), model.len());
                for (vip, port, protocol) in (0..41).flat_map(|vip| {
                    (0..4).flat_map(move |port| [(vip, port, Protocol::Tcp), (vip, port, Protocol::Udp)])
                }) {
                    let found = table.lookup(vip, port, protocol as u8);
                    let expected = model.get(&(vip, port, protocol));
                    prop_assert_eq!(found.is_some(), expected.is_some());
                    let Some((service, expected)) = found.zip(expected) else { continue };
                    for hash in [0, 1, 0x1234_5678, u64::MAX, seed] {
                        let selected = table.get(service).choice(Origin::Outside).select(hash);
                        prop_assert_eq!(selected.is_some(), !expected.is_empty());
                        prop_assert!(selected.is_none_or(|backend| expected.contains(&backend)));
                    }
                    for backend in (0..13).map(backend) {
                        prop_assert_eq!(table.has_backend(service, backend), expected.contains(&backend));
                    }
                }
                previous = Some(table);
            }
        }
    }
}
