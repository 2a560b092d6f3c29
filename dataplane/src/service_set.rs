//! The services of a [`ForwardingSpec`](crate::spec::ForwardingSpec): a set that is cheap to clone and to change.
//!
//! It is made of [shards](Shards), each shared until it is changed. Who compares two versions of a set sees which shards
//! differ, and so finds the change without looking at every service. All services of one VIP are in one shard.

use std::{net::Ipv4Addr, sync::Arc};

use crate::{
    net::{Address, Number, Protocol},
    shards::{self, Shards},
    spec::ServiceSpec,
};

/// What a service is found by: VIP, port and protocol.
pub type ServiceKey<A = Ipv4Addr> = (A, u16, Protocol);

/// Services, each key at most once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSet<A: Address = Ipv4Addr> {
    /// By [`shard_of`]. In each, ascending by key.
    shards: Shards<Shard<A>>,
    len: usize,
}

/// The services of one shard, ascending by key.
pub type Shard<A = Ipv4Addr> = Arc<Vec<ServiceSpec<A>>>;

/// The shard that services of `vip` are in.
#[inline(always)]
pub fn shard_of(vip: impl Number) -> usize {
    // Fibonacci hashing (Knuth, volume 3, 6.4): neighbouring addresses spread evenly. Nothing is gained by addresses
    // that meet in a shard: within it, services are found by a seeded hash.
    ((vip.word() as u32).wrapping_mul(0x9e37_79b9) >> (32 - shards::COUNT.trailing_zeros())) as usize
}

impl<A: Address> Default for ServiceSet<A> {
    fn default() -> Self {
        ServiceSet { shards: Shards::default(), len: 0 }
    }
}

impl<A: Address> ServiceSet<A> {
    /// The shards, by [`shard_of`]. Those of a clone are the same until they are changed.
    pub fn shards(&self) -> &Shards<Shard<A>> {
        &self.shards
    }

    /// The services, before and now, of each shard that is not that of `before`.
    pub fn changed<'a>(
        &'a self,
        before: &'a ServiceSet<A>,
    ) -> impl Iterator<Item = (&'a [ServiceSpec<A>], &'a [ServiceSpec<A>])> {
        let both = self.shards.with_other_groups(&before.shards);
        both.filter(|(new, old)| !Arc::ptr_eq(new, old)).map(|(new, old)| (old.as_slice(), new.as_slice()))
    }

    /// How many services there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All services; those of one VIP in a row.
    pub fn iter(&self) -> impl Iterator<Item = &ServiceSpec<A>> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// The service with this key.
    pub fn get(&self, key: ServiceKey<A>) -> Option<&ServiceSpec<A>> {
        let shard = self.shards.get(shard_of(key.0.number()));
        shard.binary_search_by_key(&key, ServiceSpec::key).ok().map(|at| &shard[at])
    }

    /// Adds a service. One with the same key goes, and is returned.
    pub fn insert(&mut self, service: ServiceSpec<A>) -> Option<ServiceSpec<A>> {
        let shard = self.shard_mut(service.vip);
        match shard.binary_search_by_key(&service.key(), ServiceSpec::key) {
            Ok(at) => Some(std::mem::replace(&mut shard[at], service)),
            Err(at) => {
                shard.insert(at, service);
                self.len += 1;
                None
            }
        }
    }

    /// Removes the service with this key, if there is one.
    pub fn remove(&mut self, key: ServiceKey<A>) -> Option<ServiceSpec<A>> {
        // Looked for first: what changes nothing should copy nothing.
        self.get(key)?;
        let shard = self.shard_mut(key.0);
        let at = shard.binary_search_by_key(&key, ServiceSpec::key).ok()?;
        let service = shard.remove(at);
        self.len -= 1;
        Some(service)
    }

    fn shard_mut(&mut self, vip: A) -> &mut Vec<ServiceSpec<A>> {
        Arc::make_mut(self.shards.get_mut(shard_of(vip.number())))
    }
}

impl<A: Address> FromIterator<ServiceSpec<A>> for ServiceSet<A> {
    /// Of services with one key, the last counts.
    fn from_iter<I: IntoIterator<Item = ServiceSpec<A>>>(services: I) -> Self {
        let mut set = ServiceSet::default();
        set.extend(services);
        set
    }
}

impl<A: Address> Extend<ServiceSpec<A>> for ServiceSet<A> {
    fn extend<I: IntoIterator<Item = ServiceSpec<A>>>(&mut self, services: I) {
        services.into_iter().for_each(|service| drop(self.insert(service)));
    }
}

impl<A: Address, const N: usize> From<[ServiceSpec<A>; N]> for ServiceSet<A> {
    fn from(services: [ServiceSpec<A>; N]) -> Self {
        services.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::spec::Backend;

    fn service(vip: u32, port: u16, backend: u32) -> ServiceSpec {
        let backend = Backend { address: backend.into(), port: 80 };
        ServiceSpec::simple(vip.into(), port, Protocol::Tcp, [backend.into()].into())
    }

    #[test]
    fn neighbouring_addresses_spread_evenly() {
        let mut filled = [0; shards::COUNT];
        (0..100_000u32).for_each(|n| filled[shard_of(0x0a60_0000 + n)] += 1);
        let (least, most) = (filled.iter().min().unwrap(), filled.iter().max().unwrap());
        assert!(*least > 15 && *most < 35, "{least} to {most} of 24");
    }

    #[test]
    fn a_change_leaves_all_shards_but_one_shared() {
        let before: ServiceSet = (0..10_000).map(|n| service(0x0a60_0000 + n, 80, n)).collect();
        let mut after = before.clone();
        assert_eq!(after.changed(&before).count(), 0);
        after.insert(service(0x0a60_0007, 80, 99_999));
        let changed: Vec<_> = after.changed(&before).collect();
        assert_eq!(changed.len(), 1);
        assert!(changed[0].0.len() < 10 && changed[0].0.len() == changed[0].1.len());
        assert_ne!(before, after);
        after.insert(service(0x0a60_0007, 80, 7));
        assert_eq!(before, after);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u32..60, 0u16..3, prop::option::of(0u32..9)), 0..200)) {
            let (mut set, mut model) = (ServiceSet::default(), BTreeMap::new());
            for (vip, port, backend) in steps {
                let key = (Ipv4Addr::from(vip), port, Protocol::Tcp);
                match backend {
                    Some(backend) => {
                        let service = service(vip, port, backend);
                        prop_assert_eq!(set.insert(service.clone()), model.insert(key, service));
                    }
                    None => prop_assert_eq!(set.remove(key), model.remove(&key)),
                }
                prop_assert_eq!(set.get(key), model.get(&key));
                prop_assert_eq!(set.len(), model.len());
            }
            let mut listed: Vec<_> = set.iter().cloned().collect();
            listed.sort_by_key(ServiceSpec::key);
            prop_assert_eq!(&listed, &model.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(listed.into_iter().collect::<ServiceSet>(), set);
        }
    }
}
