//! Which destinations may be endpoints of services: a filter that never says no of one, and seldom yes of others.
//!
//! A flow that a client opens to an endpoint directly, past its service, looks to the endpoint like one through the
//! service from the same port. Both have to be tracked for them to be told apart, and the filter picks the direct flows
//! for which that is worth it. One of its words answers a question (a blocked Bloom filter: Putze, Sanders, Singler,
//! WEA 2007); a million endpoints take 4 to 8 MiB.
//!
//! Connections to an endpoint outlive its removal. So it is not forgotten when it goes, but when as many others have come
//! since as the filter has room for. Until then snapshots share the words: a bit that is set too early is no harm. There is
//! room for at least as many as there were, so that filling it anew, which takes a tenth of a second with a million, comes
//! to a tenth of a microsecond for each that came.

use std::{
    marker::PhantomData,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::hash::Hasher;
use crate::{
    net::{Address, Number},
    service_set::ServiceSet,
    spec::{Backend, Endpoint, ServiceSpec},
};

/// Sets the hash apart from those of other tables with the same seed.
const PURPOSE: u64 = 4;

/// Endpoints to a word of 64 bits, at most.
const PER_WORD: usize = 4;

/// Words at least: few endpoints should not be forgotten soon.
const LEAST_WORDS: usize = 64;

/// The filter.
pub struct Endpoints<A = Ipv4Addr> {
    seed: u64,
    hasher: Hasher,
    words: Arc<[AtomicU64]>,
    /// Endpoints that it was told of, each once.
    known: usize,
    family: PhantomData<A>,
}

impl<A: Address> Endpoints<A> {
    /// The endpoints of `set`, whoever may use them, and those that `previous` knows, if they have room. `changed` are the
    /// shards of the set that `previous` has not seen.
    pub fn of(set: &ServiceSet<A>, changed: &[&[ServiceSpec<A>]], previous: Option<&Self>, seed: u64) -> Self {
        let count = |services: &mut dyn Iterator<Item = &ServiceSpec<A>>| {
            services.map(|service| lists(service).map(<[_]>::len).sum::<usize>() + service.leaving.len()).sum::<usize>()
        };
        let new = || changed.iter().copied().flatten();
        let has_room = |known: &&Endpoints<A>| {
            let room = known.words.len() * PER_WORD;
            known.seed == seed && known.known <= room && count(&mut new()) <= room
        };
        if let Some(previous) = previous.filter(has_room) {
            let mut filter = Endpoints { words: previous.words.clone(), ..*previous };
            filter.insert_all(new());
            return filter;
        }
        let words = (2 * count(&mut set.iter()) / PER_WORD + 1).next_power_of_two().max(LEAST_WORDS);
        let words = (0..words).map(|_| AtomicU64::new(0)).collect();
        let mut filter = Endpoints { seed, hasher: Hasher::new(seed, PURPOSE), words, known: 0, family: PhantomData };
        filter.insert_all(set.iter());
        filter
    }

    fn insert_all<'a>(&mut self, services: impl Iterator<Item = &'a ServiceSpec<A>>) {
        for service in services {
            let chosen = lists(service).flatten().map(|endpoint| endpoint.backend);
            chosen.chain(service.leaving.iter().copied()).for_each(|b| self.insert(b, service.protocol as u8));
        }
    }

    fn insert(&mut self, Backend { address, port }: Backend<A>, protocol: u8) {
        let (at, bits) = self.place(address.number(), port, protocol);
        // Relaxed: workers have to see it once they have the snapshot, and its publication orders that.
        let before = self.words[at].fetch_or(bits, Ordering::Relaxed);
        self.known += usize::from(before & bits != bits);
    }

    /// False if no service has an endpoint at `address` (host order) and `port` for this protocol.
    #[inline]
    pub fn may_contain(&self, address: A::Number, port: u16, protocol: u8) -> bool {
        let (at, bits) = self.place(address, port, protocol);
        self.words.get(at).is_some_and(|word| word.load(Ordering::Relaxed) & bits == bits)
    }

    /// A word, and three bits in it.
    #[inline(always)]
    fn place(&self, address: A::Number, port: u16, protocol: u8) -> (usize, u64) {
        let hash = self.hasher.hash(address.word().rotate_left(32) ^ (u64::from(port) << 16 | u64::from(protocol)));
        let bits = 1 << (hash >> 58) | 1 << (hash >> 52 & 63) | 1 << (hash >> 46 & 63);
        (hash as usize & (self.words.len() - 1), bits)
    }
}

/// The different endpoint lists of a service.
fn lists<A: Address>(service: &ServiceSpec<A>) -> impl Iterator<Item = &[Endpoint<A>]> {
    let rules = service.rules();
    let is_new = move |at: usize| rules[..at].iter().all(|rule| !Arc::ptr_eq(&rule.endpoints, &rules[at].endpoints));
    (0..rules.len()).filter(move |at| is_new(*at)).map(move |at| &*rules[at].endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::Protocol, spec::Rule};

    fn of(services: &[ServiceSpec], previous: Option<&Endpoints>, seed: u64) -> Endpoints {
        Endpoints::of(&services.iter().cloned().collect(), &[services], previous, seed)
    }

    fn backend(n: u32) -> Backend {
        Backend { address: (0x0af4_0000 + n).into(), port: 8080 }
    }

    #[test]
    fn it_knows_every_endpoint_and_few_others() {
        let service = |n: u32| {
            let endpoints = (0..10).map(|i| backend(n * 10 + i).into()).collect();
            ServiceSpec::simple((0x0a60_0000 + n).into(), 80, Protocol::Tcp, endpoints)
        };
        let filter = of(&(0..1000).map(service).collect::<Vec<_>>(), None, 1);
        let knows = |n: u32, port, protocol| filter.may_contain(0x0af4_0000 + n, port, protocol);
        assert!((0..10_000).all(|n| knows(n, 8080, 6)));
        for (port, protocol) in [(8081, 6), (8080, 17), (80, 6)] {
            let mistaken = (0..10_000).filter(|n| knows(*n, port, protocol)).count();
            assert!(mistaken < 300, "{mistaken} in 10,000 at port {port}");
        }
    }

    #[test]
    fn the_endpoints_of_every_rule_count() {
        let mut service = ServiceSpec::simple([10, 96, 0, 1].into(), 80, Protocol::Udp, [backend(1).into()].into());
        service.from_outside = Rule { endpoints: [backend(2).into()].into(), ..Rule::default() };
        let filter = of(&[service], None, 1);
        assert!(filter.may_contain(0x0af4_0001, 8080, 17) && filter.may_contain(0x0af4_0002, 8080, 17));
        assert!(!of(&[], None, 1).may_contain(0x0af4_0001, 8080, 17));
    }

    #[test]
    fn those_that_went_are_known_until_their_room_is_needed() {
        let service =
            |n: u32| ServiceSpec::simple([10, 96, 0, 1].into(), 80, Protocol::Tcp, [backend(n).into()].into());
        let mut filter = of(&[service(0)], None, 1);
        let mut forgotten_after = None;
        for n in 1..1000 {
            filter = of(&[service(n)], Some(&filter), 1);
            assert!(filter.may_contain(0x0af4_0000 + n, 8080, 6), "{n}");
            if !filter.may_contain(0x0af4_0000, 8080, 6) {
                forgotten_after.get_or_insert(n);
            }
        }
        let room = (LEAST_WORDS * PER_WORD) as u32;
        assert!(forgotten_after.is_some_and(|n| (room..room * 2).contains(&n)), "{forgotten_after:?}");
        let other_seed = of(&[service(0)], Some(&filter), 2);
        assert!(!other_seed.may_contain(0x0af4_0000 + 999, 8080, 6));
    }
}
