//! Services by VIP, port and protocol.
//!
//! An open-addressing hash of cache lines: each line holds up to five keys and the services they belong to, and a
//! lookup reads one, rarely two. What a service's new flows need (its Maglev table) is kept apart, by index.
//!
//! The table is in [shards](Shards), one for each of the [`ServiceSet`] it is built from. A shard that did not change is
//! shared with the table before, so a change costs one shard, however many services there are.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{Prefixes, arena::prefetch, hash::Hasher, maglev::Maglev};
use crate::{
    net::{Address, Number},
    service_set::{ServiceKey, ServiceSet, shard_of},
    shards::Shards,
    spec::{Affinity, Backend, Endpoint, Otherwise, Rule, Scheduler, ServiceSpec},
};

/// Keys in one line: five of 8 bytes and five indices of 4 bytes are 60 bytes.
const WAYS: usize = 5;

/// Sets the hash apart from those of other tables with the same seed.
const PURPOSE: u64 = 2;

/// A service's place in one [`ServiceTable`]; another build may give it another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServiceIndex {
    shard: u32,
    at: u32,
}

/// The services of a snapshot.
pub struct ServiceTable<A: Address = Ipv4Addr> {
    seed: u64,
    hasher: Hasher,
    shards: Shards<Shard<A>>,
    /// What it was built from.
    set: ServiceSet<A>,
}

/// The services whose VIPs are in one shard of the set.
#[derive(Clone)]
struct Shard<A: Address> {
    /// A power of two of them, more than half as many as keys: lines are seldom full, never all.
    lines: Arc<[Line]>,
    /// Ascending by key.
    services: Arc<[Service<A>]>,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    /// Filled from the front; 0 where there is none.
    keys: [u64; WAYS],
    services: [u32; WAYS],
}

/// One frontend, as new flows need it.
pub struct Service<A: Address = Ipv4Addr> {
    key: ServiceKey<A>,
    /// Whether clients stay with an endpoint.
    pub affinity: Option<Affinity>,
    /// How an endpoint is chosen.
    pub scheduler: Scheduler,
    /// What comes from outside keeps its source where it can ([`ServiceSpec::relayed`]).
    pub direct: bool,
    /// Flows that have had their turn.
    turn: AtomicU32,
    /// By [`Origin`].
    choices: [Choice<A>; 4],
    /// Who may use it; empty: everybody.
    sources: Prefixes<A::Number>,
    /// Those that keep the flows they have, ascending.
    leaving: Arc<[Backend<A>]>,
}

impl<A: Address> Service<A> {
    /// What there is for new flows from `origin`.
    #[inline]
    pub fn choice(&self, origin: Origin) -> &Choice<A> {
        &self.choices[origin as usize]
    }

    /// Whether it may be used from `source` (host order).
    #[inline]
    pub fn admits(&self, source: A::Number) -> bool {
        self.sources.is_empty() || self.sources.contains(source)
    }

    /// The source range that `source` (host order) is in, if it has any: `Some(None)` is not admitted.
    pub fn source_range(&self, source: A::Number) -> Option<Option<A::Net>> {
        (!self.sources.is_empty()).then(|| self.sources.find(source))
    }

    fn is_at(&self, vip: A::Number, port: u16, protocol: u8) -> bool {
        (self.key.0.number(), self.key.1, self.key.2 as u8) == (vip, port, protocol)
    }

    /// Flows that have had their turn.
    pub fn turns(&self) -> u32 {
        self.turn.load(Ordering::Relaxed)
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
    /// This node's own stack, with another address than the one on the overlay.
    Node,
    /// Anywhere else.
    Outside,
    /// Anywhere else, by way of another node that relayed it.
    Relayed,
}

/// A [`Rule`], as new flows need it. Those with the same endpoints share the Maglev table. On a line of its own: with many
/// services, hardly a new flow finds any of its service's in the cache.
#[derive(Clone)]
#[repr(align(64))]
pub struct Choice<A = Ipv4Addr> {
    maglev: Maglev<A>,
    /// Everybody may use the service, and a flow's hash alone says which endpoint it gets: there is no need to look at the
    /// rest of the service.
    pub is_plain: bool,
    /// The flow's source is replaced.
    pub masquerade: bool,
    /// What happens if there is no endpoint.
    pub otherwise: Otherwise,
}

impl<A: Address> Choice<A> {
    /// The backend that a hash names; `None` if there is none.
    #[inline]
    pub fn select(&self, hash: u64) -> Option<Backend<A>> {
        self.maglev.select(hash)
    }

    /// Brings into the cache what [`Choice::select`] reads for this hash.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.maglev.prefetch(hash);
    }

    /// The endpoints to choose from, those without weight among them, by ascending backend.
    pub fn endpoints(&self) -> &[Endpoint<A>] {
        self.maglev.endpoints()
    }

    /// The endpoint that `backend` is, if it is one.
    pub fn endpoint(&self, backend: Backend<A>) -> Option<Endpoint<A>> {
        let endpoints = self.endpoints();
        endpoints.binary_search_by_key(&backend, |endpoint| endpoint.backend).ok().map(|at| endpoints[at])
    }
}

impl<A: Address> ServiceTable<A> {
    /// The table of `set`. Shards that `previous` was built from too are shared with it, if it has the same seed; in
    /// the others, services with the same endpoints as before share their Maglev tables. Frontends and rules with one list
    /// of endpoints share its table.
    ///
    /// # Panics
    /// If a service has more than [`MAX_BACKENDS`](super::maglev::MAX_BACKENDS).
    pub fn build(set: &ServiceSet<A>, previous: Option<&Self>, seed: u64) -> Self {
        let mut build = Build { hasher: Hasher::new(seed, PURPOSE), seed, tables: HashMap::new() };
        let none = build.shard(&[], &[]);
        let previous = previous.filter(|previous| previous.seed == seed);
        let previous = previous.map(|previous| (previous.set.shards(), &previous.shards));
        let shards = set.shards().map(previous, |specs, known| match known {
            Some((same, shard)) if Arc::ptr_eq(specs, same) => shard.clone(),
            _ if specs.is_empty() => none.clone(),
            _ => build.shard(specs, known.map_or(&[], |(_, shard)| &shard.services)),
        });
        ServiceTable { seed, hasher: build.hasher, shards, set: set.clone() }
    }

    /// What it was built from.
    pub fn set(&self) -> &ServiceSet<A> {
        &self.set
    }

    /// Whether there are no services at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// How many services there are.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// The service at `vip` and `port`; `protocol` is the number in the IP header.
    #[inline]
    pub fn lookup(&self, vip: A::Number, port: u16, protocol: u8) -> Option<ServiceIndex> {
        self.find(vip, port, protocol, self.hasher.hash(key(vip, port, protocol)))
    }

    /// Brings into the cache what [`ServiceTable::find`] reads, which wants the hash that is returned.
    #[inline]
    pub fn ask(&self, vip: A::Number, port: u16, protocol: u8) -> u64 {
        let hash = self.hasher.hash(key(vip, port, protocol));
        let lines = &self.shards.get(shard_of(vip)).lines;
        prefetch(lines.as_ptr().wrapping_add(hash as usize & (lines.len() - 1)));
        hash
    }

    /// As [`ServiceTable::lookup`], for what was [asked](ServiceTable::ask) for.
    #[inline]
    pub fn find(&self, vip: A::Number, port: u16, protocol: u8, hash: u64) -> Option<ServiceIndex> {
        let shard = shard_of(vip);
        let table = self.shards.get(shard);
        let at = table.find(key(vip, port, protocol), hash)?;
        // A number of 32 bits is in the key as it is.
        let is_meant = size_of::<A>() == 4 || table.services[at as usize].is_at(vip, port, protocol);
        is_meant.then_some(ServiceIndex { shard: shard as u32, at })
    }

    /// Brings into the cache what new flows from `origin` mostly need of a service.
    #[inline]
    pub fn prefetch(&self, service: ServiceIndex, origin: Origin) {
        prefetch(std::ptr::from_ref(self.get(service).choice(origin)));
    }

    /// Whether any service has this VIP.
    pub fn has_vip(&self, vip: A::Number) -> bool {
        let table = self.shards.get(shard_of(vip));
        let first = table.find(vip_key(vip), self.hasher.hash(vip_key(vip)));
        first.is_some_and(|at| table.services[at as usize].key.0.number() == vip)
    }

    /// A service of this table.
    ///
    /// # Panics
    /// If the index is another table's and beyond this one's.
    #[inline]
    pub fn get(&self, service: ServiceIndex) -> &Service<A> {
        &self.shards.get(service.shard as usize).services[service.at as usize]
    }

    /// Whether `backend` still serves a service of this table, whomever, if only with the flows that it has.
    #[inline]
    pub fn has_backend(&self, service: ServiceIndex, backend: Backend<A>) -> bool {
        let service = self.shards.get(service.shard as usize).services.get(service.at as usize);
        service.is_some_and(|service| {
            service.choices.iter().any(|choice| choice.maglev.contains(backend))
                || service.leaving.binary_search(&backend).is_ok()
        })
    }
}

/// A table at work.
struct Build<A> {
    hasher: Hasher,
    seed: u64,
    /// The Maglev tables that are more than the list itself, by its address: of as many frontends and rules as share it.
    tables: HashMap<*const Endpoint<A>, Maglev<A>>,
}

impl<A: Address> Build<A> {
    /// A shard of `specs`, ascending by key; `previous` are the services that were in its place.
    fn shard(&mut self, specs: &[ServiceSpec<A>], previous: &[Service<A>]) -> Shard<A> {
        let is_first = |at: usize| at == 0 || specs[at - 1].vip != specs[at].vip;
        let vips = (0..specs.len()).filter(|at| is_first(*at)).count();
        let mut lines = vec![Line::default(); ((specs.len() + vips) / 2 + 1).next_power_of_two()];
        let hasher = self.hasher;
        let service = |(at, spec): (usize, &ServiceSpec<A>)| {
            let vip = spec.vip.number();
            insert(&mut lines, hasher, key(vip, spec.port, spec.protocol as u8), at as u32);
            if is_first(at) {
                insert(&mut lines, hasher, vip_key(vip), at as u32);
            }
            let known = previous.binary_search_by_key(&spec.key(), |service| service.key).ok().map(|at| &previous[at]);
            self.service(spec, known)
        };
        let services = specs.iter().enumerate().map(service).collect();
        Shard { lines: lines.into(), services }
    }

    fn service(&mut self, spec: &ServiceSpec<A>, known: Option<&Service<A>>) -> Service<A> {
        let mut leaving = spec.leaving.clone();
        if !leaving.is_sorted() {
            Arc::make_mut(&mut leaving).sort_unstable();
        }
        Service {
            key: spec.key(),
            affinity: spec.affinity,
            scheduler: spec.scheduler,
            direct: spec.relayed.is_some(),
            // Else every update would make the first endpoints' turn come first.
            turn: AtomicU32::new(known.map_or(0, Service::turns)),
            choices: self.choices(spec, known.map_or(&[], |service| &service.choices)),
            sources: Prefixes::new(&spec.sources),
            leaving,
        }
    }

    /// The choices of a service's rules.
    fn choices(&mut self, spec: &ServiceSpec<A>, previous: &[Choice<A>]) -> [Choice<A>; 4] {
        let is_plain = spec.scheduler == Scheduler::Maglev && spec.affinity.is_none() && spec.sources.is_empty();
        let mut made = [const { None::<Choice<A>> }; 4];
        for (at, &Rule { ref endpoints, masquerade, otherwise }) in spec.rules().into_iter().enumerate() {
            let maglev = self.maglev(endpoints, previous.iter().chain(made[..at].iter().flatten()));
            made[at] = Some(Choice { maglev, is_plain, masquerade, otherwise });
        }
        made.map(|choice| choice.expect("there is one for each rule"))
    }

    /// The table of a list: that of another frontend with the same list, or one of `known` with the same endpoints.
    fn maglev<'a>(&mut self, list: &Arc<[Endpoint<A>]>, mut known: impl Iterator<Item = &'a Choice<A>>) -> Maglev<A> {
        // The lists live longer than this: an address stands for one of them.
        if let Some(maglev) = self.tables.get(&list.as_ptr()) {
            return maglev.clone();
        }
        let maglev = match known.find(|choice| choice.maglev.is_of(list)) {
            Some(choice) => choice.maglev.clone(),
            None => Maglev::build(list, self.seed),
        };
        if maglev.slots_at().is_some() {
            self.tables.insert(list.as_ptr(), maglev.clone());
        }
        maglev
    }
}

impl<A: Address> Shard<A> {
    #[inline(always)]
    fn find(&self, key: u64, hash: u64) -> Option<u32> {
        let mut at = hash as usize;
        loop {
            let line = self.lines.get(at & (self.lines.len() - 1))?;
            if let Some(way) = line.keys.iter().position(|&k| k == key) {
                return Some(line.services[way]);
            }
            if !line.is_full() {
                return None;
            }
            at = at.wrapping_add(1);
        }
    }
}

/// Gives `key`, which is not there yet, to a service.
fn insert(lines: &mut [Line], hasher: Hasher, key: u64, service: u32) {
    let mut at = hasher.hash(key) as usize;
    let mask = lines.len() - 1;
    loop {
        let line = &mut lines[at & mask];
        if let Some(way) = line.keys.iter().position(|&k| k == 0) {
            line.keys[way] = key;
            line.services[way] = service;
            return;
        }
        at = at.wrapping_add(1);
    }
}

impl Line {
    #[inline(always)]
    fn is_full(&self) -> bool {
        self.keys[WAYS - 1] != 0
    }
}

/// The three as one number, never 0: of IPv6, another three may have the same.
#[inline(always)]
fn key(vip: impl Number, port: u16, protocol: u8) -> u64 {
    vip.word().rotate_left(32) ^ (u64::from(port) << 16 | u64::from(protocol) << 8 | 1)
}

/// Stands for a VIP itself.
#[inline(always)]
fn vip_key(vip: impl Number) -> u64 {
    vip.word().rotate_left(32) ^ 2
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{net::Protocol, service_set::ServiceKey};

    fn backend(i: u32) -> Backend {
        Backend { address: Ipv4Addr::from(0x0af4_0000 + i), port: 8080 }
    }

    fn endpoints(backends: &[u32]) -> Arc<[Endpoint]> {
        backends.iter().map(|&i| backend(i).into()).collect()
    }

    fn spec(vip: u32, port: u16, protocol: Protocol, backends: &[u32]) -> ServiceSpec {
        ServiceSpec::simple(Ipv4Addr::from(vip), port, protocol, endpoints(backends))
    }

    fn many(n: u32) -> ServiceSet {
        (0..n).map(|i| spec(0x0a60_0000 + i, 80, Protocol::Tcp, &[i, i + 1, i + 2])).collect()
    }

    fn build<const N: usize>(specs: &[ServiceSpec; N], previous: Option<&ServiceTable>, seed: u64) -> ServiceTable {
        ServiceTable::build(&specs.clone().into(), previous, seed)
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
        let table = build(&[], None, 1);
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
        let table = build(&specs, None, 1);
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
        assert!(table.has_vip(0x0a60_000a) && table.has_vip(0x0a60_000b) && !table.has_vip(0x0a60_000c));
    }

    #[test]
    fn full_lines_overflow_into_the_next() {
        // Of 80k keys in 64k lines (two for each service: its own and its VIP's), by the Poisson distribution some
        // hundred lines are wanted by five or more.
        let set = many(40_000);
        let table = ServiceTable::build(&set, None, 1);
        assert!(table.shards.iter().flat_map(|shard| shard.lines.iter()).any(Line::is_full));
        for spec in set.iter() {
            assert_eq!(maglev(&table, spec).endpoints(), &*spec.from_pods.endpoints);
            assert!(table.has_vip(spec.vip.into()));
        }
    }

    #[test]
    fn what_did_not_change_is_shared_with_the_previous_build() {
        let set = many(2000);
        let before = ServiceTable::build(&set, None, 1);
        let mut changed = set.clone();
        let key = |n: u32| (Ipv4Addr::from(0x0a60_0000 + n), 80, Protocol::Tcp);
        changed.remove(key(100));
        changed.insert(spec(0x0a60_0000 + 500, 80, Protocol::Tcp, &[7, 8]));
        // A list of its own with the same content, in another order.
        let reversed: Arc<[Endpoint]> = set.get(key(600)).unwrap().from_pods.endpoints.iter().rev().copied().collect();
        changed.insert(ServiceSpec::simple(key(600).0, 80, Protocol::Tcp, reversed));
        changed.insert(spec(77, 80, Protocol::Tcp, &[9]));
        let after = ServiceTable::build(&changed, Some(&before), 1);
        let touched: Vec<_> =
            [100u32, 500, 600].map(|n| shard_of(0x0a60_0000 + n)).into_iter().chain([shard_of(77u32)]).collect();
        assert_eq!(changed.changed(&set).count(), 4);
        for (at, (old, new)) in before.shards.iter().zip(after.shards.iter()).enumerate() {
            assert_eq!(Arc::ptr_eq(&old.services, &new.services), !touched.contains(&at), "shard {at}");
        }
        for spec in changed.iter().filter(|spec| spec.vip != Ipv4Addr::from(77)) {
            let same = spec.vip != key(500).0;
            assert_eq!(share(maglev(&before, spec), maglev(&after, spec)), same, "{}", spec.vip);
        }
        assert_eq!(maglev(&after, changed.get(key(500)).unwrap()).endpoints(), &*endpoints(&[7, 8]));
        assert_eq!((after.len(), after.has_vip(key(100).0.into())), (2000, false));
    }

    #[test]
    fn another_seed_shares_nothing() {
        let specs = [spec(1, 80, Protocol::Tcp, &[2, 1])];
        let before = build(&specs, None, 1);
        let after = build(&specs, Some(&before), 2);
        assert!(!share(maglev(&before, &specs[0]), maglev(&after, &specs[0])));
    }

    #[test]
    fn rules_decide_by_origin_and_share_equal_tables() {
        let mut spec = spec(1, 80, Protocol::Tcp, &[1, 2]);
        spec.from_node.endpoints = endpoints(&[3]);
        spec.from_outside = Rule { endpoints: endpoints(&[1, 2]), otherwise: Otherwise::Drop, ..Rule::default() };
        let table = build(&[spec.clone()], None, 1);
        let service = find(&table, &spec).unwrap();
        let [pods, node, outside] =
            [Origin::Pod, Origin::Node, Origin::Outside].map(|origin| table.get(service).choice(origin));
        assert!(share(&pods.maglev, &outside.maglev), "though the lists are two");
        assert_eq!(node.select(7), Some(backend(3)));
        assert_eq!([pods, node, outside].map(|c| c.otherwise), [Otherwise::Refuse, Otherwise::Refuse, Otherwise::Drop]);
        assert!([1, 2, 3].iter().all(|&i| table.has_backend(service, backend(i))));

        // Another rule may take a table over.
        std::mem::swap(&mut spec.from_pods, &mut spec.from_node);
        let after = build(&[spec.clone()], Some(&table), 1);
        assert!(share(&after.get(service).choice(Origin::Node).maglev, &pods.maglev));
    }

    #[test]
    fn frontends_with_one_list_share_its_table() {
        let list = endpoints(&(0..20).collect::<Vec<_>>());
        let at = |vip: u32, list: &Arc<[Endpoint]>| ServiceSpec::simple(vip.into(), 80, Protocol::Tcp, list.clone());
        let slots = |table: &ServiceTable, spec: &ServiceSpec| maglev(table, spec).slots_at().unwrap();
        let specs = [at(1, &list), at(2, &list), at(3, &endpoints(&(0..20).collect::<Vec<_>>()))];
        let table = build(&specs, None, 1);
        assert_eq!(slots(&table, &specs[0]), slots(&table, &specs[1]));
        assert_ne!(slots(&table, &specs[0]), slots(&table, &specs[2]), "a list of its own");

        // Another one comes, and with it the list is made anew: all of them share what one of them had.
        let list = endpoints(&(0..20).collect::<Vec<_>>());
        let again = [at(2, &list), at(3, &specs[2].from_pods.endpoints), at(4, &list)];
        let after = build(&again, Some(&table), 1);
        assert_eq!(slots(&after, &again[0]), slots(&after, &again[2]));
        assert_eq!(slots(&after, &again[1]), slots(&table, &specs[2]));
    }

    type Model = HashMap<(u32, u16, Protocol), Vec<Backend>>;

    fn specs() -> impl Strategy<Value = Vec<ServiceSpec>> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        // Some have so many that they need a table.
        let backends = prop_oneof![
            9 => prop::collection::vec(0u32..12, 0..6),
            1 => (12u32..30).prop_map(|n| (0..n).collect()),
        ];
        let service = (0u32..40, 0u16..3, protocol, backends);
        prop::collection::vec(service.prop_map(|(vip, port, protocol, b)| spec(vip, port, protocol, &b)), 0..80)
    }

    proptest! {
        #[test]
        fn agrees_with_a_hash_map_through_updates(updates in prop::collection::vec(specs(), 1..5), seed: u64) {
            let mut previous: Option<ServiceTable> = None;
            for specs in updates {
                let mut model = Model::new();
                for spec in &specs {
                    let backends = spec.from_pods.endpoints.iter().map(|endpoint| endpoint.backend).collect();
                    model.insert((spec.vip.into(), spec.port, spec.protocol), backends);
                }
                // Step by step: what stays as it was is shared, as in an update.
                let mut set = previous.as_ref().map_or_else(ServiceSet::default, |table| table.set().clone());
                let is_gone = |key: &ServiceKey| !model.contains_key(&(key.0.into(), key.1, key.2));
                let gone: Vec<_> = set.iter().map(ServiceSpec::key).filter(is_gone).collect();
                gone.into_iter().for_each(|key| drop(set.remove(key)));
                for spec in specs {
                    if set.get(spec.key()) != Some(&spec) {
                        set.insert(spec);
                    }
                }
                let table = ServiceTable::build(&set, previous.as_ref(), seed);
                let anew = ServiceTable::build(&set.iter().cloned().collect(), None, seed);
                prop_assert_eq!(table.len(), model.len());
                for vip in 0..41 {
                    prop_assert_eq!(table.has_vip(vip), model.keys().any(|key| key.0 == vip));
                }
                for (vip, port, protocol) in (0..41).flat_map(|vip| {
                    (0..4).flat_map(move |port| [(vip, port, Protocol::Tcp), (vip, port, Protocol::Udp)])
                }) {
                    let found = table.lookup(vip, port, protocol as u8);
                    let expected = model.get(&(vip, port, protocol));
                    prop_assert_eq!(found.is_some(), expected.is_some());
                    let Some((service, expected)) = found.zip(expected) else { continue };
                    for hash in [0, 1, 0x1234_5678, u64::MAX, seed] {
                        let selected = table.get(service).choice(Origin::Outside).select(hash);
                        prop_assert_eq!(selected, anew.get(service).choice(Origin::Outside).select(hash));
                        prop_assert_eq!(selected.is_some(), !expected.is_empty());
                        prop_assert!(selected.is_none_or(|backend| expected.contains(&backend)));
                    }
                    for backend in (0..31).map(backend) {
                        prop_assert_eq!(table.has_backend(service, backend), expected.contains(&backend));
                    }
                }
                previous = Some(table);
            }
        }
    }
}
