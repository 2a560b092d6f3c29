//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, section 3.4): which backend a new flow goes to.
//!
//! Each backend has its own order of preference over the slots of a table, a permutation made from its hash. Backends
//! take turns, each claiming the slot it prefers among those left, so their shares differ by at most one slot. When
//! one leaves, the others' preferences stand, and few slots but its own change hands.
//!
//! For few backends there is something as good that needs no table: [`rendezvous`].

use std::{net::Ipv4Addr, sync::Arc};

use super::{
    arena::prefetch,
    hash::{Hasher, among},
    rendezvous,
};
use crate::{
    net::{Address, Number},
    spec::{Backend, Endpoint},
};

/// Backends one table can choose from.
pub const MAX_BACKENDS: usize = FREE as usize;

/// Marks a slot nobody has claimed yet.
const FREE: u16 = u16::MAX;

/// Table sizes: primes, each about twice the one before. A table takes the first with at least [`SLOTS_PER_BACKEND`]
/// slots for each backend, or the last. Sizes are few because going from one to the next moves most flows' choice.
const SIZES: [u32; 10] = [2003, 4001, 8009, 16001, 32003, 64007, 128_021, 256_019, 512_009, 1_024_021];

/// The ratio from which on the paper finds shares within one percent of each other.
const SLOTS_PER_BACKEND: usize = 100;

/// Sets the hash apart from those of other tables with the same seed.
const PURPOSE: u64 = 1;

/// A set of backends and its lookup table. Cheap to clone: clones share both.
///
/// Memory: nothing but the list for up to 16 backends of the same weight; about 100 to 200 bytes for each of up to 254,
/// twice that beyond.
#[derive(Clone)]
pub struct Maglev<A = Ipv4Addr> {
    slots: Slots,
    /// Ascending, each once.
    endpoints: Arc<[Endpoint<A>]>,
}

/// Indices into the endpoints.
#[derive(Clone)]
enum Slots {
    /// No endpoint has a weight.
    Nobody,
    /// One endpoint has a weight.
    Only(u16),
    /// Few endpoints, all of the same weight.
    Few,
    Narrow(Arc<[u8]>),
    Wide(Arc<[u16]>),
}

impl<A: Address> Maglev<A> {
    /// Endpoints in a cache line.
    const PER_LINE: usize = 64 / size_of::<Endpoint<A>>();

    /// The table of `endpoints`: the same for every order of the list; repetitions count once. A list that is in
    /// ascending order is shared instead of copied.
    ///
    /// # Panics
    /// If there are more than [`MAX_BACKENDS`].
    pub fn build(endpoints: &Arc<[Endpoint<A>]>, seed: u64) -> Maglev<A> {
        let endpoints = if is_ascending(endpoints) { endpoints.clone() } else { ascending(endpoints).into() };
        assert!(endpoints.len() <= MAX_BACKENDS, "{} endpoints are more than {MAX_BACKENDS}", endpoints.len());
        let mut weighty = (0..).zip(endpoints.iter()).filter(|(_, endpoint)| endpoint.weight > 0);
        match (weighty.next(), weighty.next()) {
            (None, _) => return Maglev { slots: Slots::Nobody, endpoints },
            (Some((only, _)), None) => return Maglev { slots: Slots::Only(only), endpoints },
            _ => {}
        }
        if endpoints.len() <= rendezvous::MOST && endpoints.iter().all(|e| e.weight == endpoints[0].weight) {
            return Maglev { slots: Slots::Few, endpoints };
        }
        let owners = populate(&mut turns(&endpoints, seed), table_size(endpoints.len()));
        let slots = if endpoints.len() < u8::MAX as usize {
            Slots::Narrow(owners.iter().map(|&owner| owner as u8).collect())
        } else {
            Slots::Wide(owners.into())
        };
        Maglev { slots, endpoints }
    }

    /// The backend for a flow; `None` if there is none. Any bits of `flow_hash` may carry the entropy.
    #[inline]
    pub fn select(&self, flow_hash: u64) -> Option<Backend<A>> {
        let index = match &self.slots {
            Slots::Nobody => return None,
            Slots::Only(index) => usize::from(*index),
            Slots::Few => rendezvous::select(&self.endpoints, flow_hash)?,
            Slots::Narrow(slots) => usize::from(*slots.get(reduce(flow_hash, slots.len()))?),
            Slots::Wide(slots) => usize::from(*slots.get(reduce(flow_hash, slots.len()))?),
        };
        self.endpoints.get(index).map(|endpoint| endpoint.backend)
    }

    /// Brings into the cache what [`Maglev::select`] reads first for this hash.
    #[inline]
    pub fn prefetch(&self, flow_hash: u64) {
        match &self.slots {
            Slots::Nobody => {}
            Slots::Only(_) => prefetch(self.endpoints.as_ptr()),
            Slots::Few => self.endpoints.chunks(Self::PER_LINE).for_each(|line| prefetch(line.as_ptr())),
            Slots::Narrow(slots) => prefetch(slots.as_ptr().wrapping_add(reduce(flow_hash, slots.len()))),
            Slots::Wide(slots) => prefetch(slots.as_ptr().wrapping_add(reduce(flow_hash, slots.len()))),
        }
    }

    /// Whether `backend` is one of ours.
    #[inline]
    pub fn contains(&self, backend: Backend<A>) -> bool {
        self.endpoints.binary_search_by_key(&backend, |endpoint| endpoint.backend).is_ok()
    }

    /// Our endpoints, ascending.
    pub fn endpoints(&self) -> &[Endpoint<A>] {
        &self.endpoints
    }

    /// Where its slots are in memory; `None`: the list of endpoints is all there is.
    pub(super) fn slots_at(&self) -> Option<*const u8> {
        match &self.slots {
            Slots::Nobody | Slots::Only(_) | Slots::Few => None,
            Slots::Narrow(slots) => Some(slots.as_ptr()),
            Slots::Wide(slots) => Some(slots.as_ptr().cast()),
        }
    }

    /// Whether a table of `endpoints` would be this one. Costs no comparison for the list this one was built from, if
    /// that was ascending.
    pub(super) fn is_of(&self, endpoints: &Arc<[Endpoint<A>]>) -> bool {
        Arc::ptr_eq(&self.endpoints, endpoints)
            || *self.endpoints == **endpoints
            || (!is_ascending(endpoints) && *self.endpoints == *ascending(endpoints))
    }
}

fn is_ascending<A: Address>(endpoints: &[Endpoint<A>]) -> bool {
    endpoints.is_sorted_by(|a, b| a.backend < b.backend)
}

fn ascending<A: Address>(endpoints: &[Endpoint<A>]) -> Vec<Endpoint<A>> {
    let mut endpoints = endpoints.to_vec();
    endpoints.sort_unstable();
    endpoints.dedup_by_key(|endpoint| endpoint.backend);
    endpoints
}

fn table_size(backends: usize) -> u32 {
    let wanted = backends * SLOTS_PER_BACKEND;
    *SIZES.iter().find(|&&size| size as usize >= wanted).unwrap_or(&SIZES[SIZES.len() - 1])
}

/// A number below `n` from a hash, without division.
#[inline(always)]
fn reduce(hash: u64, n: usize) -> usize {
    // The product carries the lower bits to the upper ones.
    among(n, hash.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A backend at its turn: the next slot it prefers and the stride to the ones after.
struct Turn {
    backend: u16,
    weight: u32,
    /// Weight saved up for a slot: one costs as much as the greatest weight.
    credit: u32,
    hash: u64,
    next: u32,
    skip: u32,
}

/// The backends in the order of their turns: that of their hashes, for no address to be first everywhere.
fn turns<A: Address>(endpoints: &[Endpoint<A>], seed: u64) -> Vec<Turn> {
    let hasher = Hasher::new(seed, PURPOSE);
    let size = u64::from(table_size(endpoints.len()));
    let turn = |(index, Endpoint { backend, weight }): (usize, &Endpoint<A>)| {
        let hash = hasher.hash(backend.address.number().word() << 16 | u64::from(backend.port));
        let (high, low) = (hash >> 32, hash & u64::from(u32::MAX));
        // Any stride but 0 visits every slot of a prime number of them.
        let (next, skip) = (((high * size) >> 32) as u32, ((low * (size - 1)) >> 32) as u32 + 1);
        Turn { backend: index as u16, weight: (*weight).into(), credit: 0, hash, next, skip }
    };
    let weighty = endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.weight > 0);
    let mut turns: Vec<_> = weighty.map(turn).collect();
    turns.sort_unstable_by_key(|turn| (turn.hash, turn.backend));
    turns
}

/// The owner of every slot. There is at least one turn, and all have a weight.
fn populate(turns: &mut [Turn], size: u32) -> Vec<u16> {
    let mut owners = vec![FREE; size as usize];
    let mut left = size;
    let price = turns.iter().map(|turn| turn.weight).max().expect("there is one");
    loop {
        for turn in &mut *turns {
            turn.credit += turn.weight;
            if turn.credit < price {
                continue;
            }
            turn.credit -= price;
            let mut slot = turn.next;
            while owners[slot as usize] != FREE {
                slot = step(slot, turn.skip, size);
            }
            owners[slot as usize] = turn.backend;
            turn.next = step(slot, turn.skip, size);
            left -= 1;
            if left == 0 {
                return owners;
            }
        }
    }
}

#[inline(always)]
fn step(slot: u32, skip: u32, size: u32) -> u32 {
    let slot = slot + skip;
    if slot >= size { slot - size } else { slot }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn backends(n: usize) -> Vec<Backend> {
        (0..n).map(|i| Backend { address: Ipv4Addr::from(0x0af4_0000 + i as u32), port: 8080 }).collect()
    }

    fn endpoints(backends: &[Backend]) -> Arc<[Endpoint]> {
        backends.iter().copied().map(Endpoint::from).collect()
    }

    fn build(backends: &[Backend], seed: u64) -> Maglev {
        Maglev::build(&endpoints(backends), seed)
    }

    /// The backend of every slot.
    fn owners(maglev: &Maglev) -> Vec<Backend> {
        let indices: Vec<usize> = match &maglev.slots {
            Slots::Nobody | Slots::Only(_) | Slots::Few => vec![],
            Slots::Narrow(slots) => slots.iter().map(|&i| i.into()).collect(),
            Slots::Wide(slots) => slots.iter().map(|&i| i.into()).collect(),
        };
        indices.into_iter().map(|i| maglev.endpoints[i].backend).collect()
    }

    #[test]
    fn table_sizes_are_ascending_primes() {
        assert!(SIZES.is_sorted());
        for size in SIZES {
            assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
    }

    #[test]
    fn every_backend_has_its_share_to_one_slot() {
        for n in [17, 20, 21, 100, 254, 255, 300, 1000] {
            let mut shares = HashMap::new();
            let owners = owners(&build(&backends(n), 1));
            assert!(owners.len() >= n * SLOTS_PER_BACKEND);
            owners.iter().for_each(|owner| *shares.entry(owner).or_insert(0) += 1);
            assert_eq!(shares.len(), n);
            assert!(shares.values().max().unwrap() - shares.values().min().unwrap() <= 1, "{n} backends");
        }
    }

    #[test]
    fn flows_spread_evenly_whichever_bits_of_their_hash_vary() {
        for n in [10, 20] {
            let maglev = build(&backends(n), 1);
            for shift in [0, 16, 32, 44] {
                let mut flows = HashMap::new();
                (0..10_000 * n as u64).for_each(|i| *flows.entry(maglev.select(i << shift)).or_insert(0) += 1);
                assert_eq!(flows.len(), n);
                assert!(flows.values().all(|share| (9_500..=10_500).contains(share)), "shift {shift}: {flows:?}");
            }
        }
    }

    #[test]
    fn when_one_leaves_little_but_its_own_changes_hands() {
        // In percent of all slots. The one's own are 5, 2.5, 0.31 and 0.1.
        for (n, most) in [(20, 8.0), (40, 5.0), (320, 1.8), (1000, 0.8)] {
            let all = backends(n);
            let before = owners(&build(&all, 3));
            for gone in [all[0], all[n / 2], all[n - 1]] {
                let stay: Vec<_> = all.iter().copied().filter(|&backend| backend != gone).collect();
                let after = owners(&build(&stay, 3));
                assert_eq!(before.len(), after.len(), "of one size, or this says nothing");
                let changed = before.iter().zip(&after).filter(|(b, a)| b != a).count();
                let percent = 100.0 * changed as f64 / before.len() as f64;
                assert!(percent <= most, "{n} backends: {percent}% of the slots");
                assert!(changed >= before.iter().filter(|&&backend| backend == gone).count());
            }
        }
    }

    #[test]
    fn the_order_of_the_list_and_repetitions_do_not_matter() {
        let all = backends(20);
        let mut other: Vec<_> = all.iter().rev().copied().collect();
        other.push(all[3]);
        let (one, two) = (build(&all, 5), build(&other, 5));
        assert_eq!(owners(&one), owners(&two));
        assert!(one.is_of(&endpoints(&other)) && two.is_of(&endpoints(&all)));
        assert!(!one.is_of(&endpoints(&all[1..])));
    }

    #[test]
    fn a_seed_gives_one_table_and_another_seed_another() {
        let all = backends(20);
        assert_eq!(owners(&build(&all, 5)), owners(&build(&all, 5)));
        assert_ne!(owners(&build(&all, 5)), owners(&build(&all, 6)));
    }

    #[test]
    fn none_and_one_need_no_table() {
        assert_eq!(build(&[], 1).select(77), None);
        let one = backends(1);
        let maglev = build(&one, 1);
        assert!((0..1000).all(|hash| maglev.select(hash) == Some(one[0])));
        assert!(matches!(maglev.slots, Slots::Only(0)));
    }

    fn weighted(weights: &[u16]) -> Vec<Endpoint> {
        backends(weights.len())
            .into_iter()
            .zip(weights)
            .map(|(backend, &weight)| Endpoint { backend, weight })
            .collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        let all = weighted(&[1, 2, 3, 10, 0, 100, 1000]);
        let owners = owners(&Maglev::build(&all.as_slice().into(), 1));
        let total: u32 = all.iter().map(|endpoint| u32::from(endpoint.weight)).sum();
        for Endpoint { backend, weight } in all {
            let share = owners.iter().filter(|owner| **owner == backend).count() as f64;
            // Each of the seven is off by less than a slot, and the greatest by what the others lack.
            let fair = owners.len() as f64 * f64::from(weight) / f64::from(total);
            assert!((share - fair).abs() <= 7.0, "weight {weight}: {share} slots, {fair:.1} are fair");
        }
    }

    #[test]
    fn without_weight_nothing_new_comes_and_the_backend_is_still_known() {
        let all = weighted(&[0, 5, 0]);
        let maglev = Maglev::build(&all.as_slice().into(), 1);
        assert!((0..100).all(|hash| maglev.select(hash) == Some(all[1].backend)));
        assert!(all.iter().all(|endpoint| maglev.contains(endpoint.backend)));
        assert_eq!(Maglev::build(&weighted(&[0, 0]).as_slice().into(), 1).select(7), None);
    }

    #[test]
    fn when_a_weight_changes_little_else_changes_hands() {
        let before = weighted(&[10; 20]);
        let mut after = before.clone();
        after[7].weight = 0;
        let [before, after] = [before, after].map(|list| owners(&Maglev::build(&list.as_slice().into(), 3)));
        let changed = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        let percent = 100.0 * changed as f64 / before.len() as f64;
        assert!((5.0..9.0).contains(&percent), "5% are its own: {percent}%");
    }

    #[test]
    fn it_knows_its_backends() {
        let all = backends(30);
        let maglev = build(&all[..29], 1);
        assert!(all[..29].iter().all(|&b| maglev.contains(b)));
        assert!(!maglev.contains(all[29]));
        assert!(!maglev.contains(Backend { port: 8081, ..all[0] }));
    }
}
