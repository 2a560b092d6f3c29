//! Rendezvous hashing (Thaler and Ravishankar, IEEE/ACM Transactions on Networking 6(1), 1998): which of a few backends a
//! new flow goes to.
//!
//! Every backend bids for the flow with a hash of both, and the highest bid wins. When a backend leaves, the flows it
//! would have won go to others, and no other flow does. There is nothing to build and nothing to keep: most services
//! have few backends, and a hundred thousand of them with a table each would be the largest part of the snapshot.

use super::hash::folded_multiply;
use crate::{
    net::{Address, Number},
    spec::{Backend, Endpoint},
};

/// Up to so many, bids cost less than the cache miss of a look into a table that is seldom used.
pub(super) const MOST: usize = 16;

/// The bits of a bid that hold an index below [`MOST`].
const INDEX: u64 = MOST as u64 - 1;

/// The index of the endpoint for a flow; `None` if there are none. Any bits of `flow_hash` may carry the entropy.
#[inline]
pub(super) fn select<A: Address>(endpoints: &[Endpoint<A>], flow_hash: u64) -> Option<usize> {
    debug_assert!(endpoints.len() <= MOST);
    // The lowest bits of a bid carry the bidder's index: the highest bid then says whose it is.
    let bids = endpoints.iter().zip(0..).map(|(endpoint, at)| bid(flow_hash, endpoint.backend) & !INDEX | at);
    bids.max().map(|highest| (highest & INDEX) as usize)
}

/// Two rounds, as in [`hash`](super::hash). The words (of the digits of pi) need not be secret: the flow's hash is.
#[inline(always)]
fn bid<A: Address>(flow_hash: u64, backend: Backend<A>) -> u64 {
    let word = backend.address.number().word() << 16 | u64::from(backend.port);
    let once = folded_multiply(flow_hash ^ 0x243f_6a88_85a3_08d3, word ^ 0x1319_8a2e_0370_7345);
    folded_multiply(once ^ 0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn endpoints(n: u32) -> Vec<Endpoint> {
        (0..n).map(|i| Backend { address: Ipv4Addr::from(0x0af4_0000 + i), port: 8080 }.into()).collect()
    }

    #[test]
    fn flows_spread_evenly_whichever_bits_of_their_hash_vary() {
        for n in 2..=MOST as u32 {
            let endpoints = endpoints(n);
            for shift in [0, 16, 32, 44] {
                let mut flows = vec![0u32; n as usize];
                (0..100_000u64).for_each(|i| flows[select(&endpoints, i << shift).unwrap()] += 1);
                let fair = 100_000.0 / f64::from(n);
                // Five standard deviations.
                let most = 5.0 * (fair * (1.0 - 1.0 / f64::from(n))).sqrt();
                assert!(flows.iter().all(|&f| (f64::from(f) - fair).abs() <= most), "{n}, shift {shift}: {flows:?}");
            }
        }
    }

    #[test]
    fn when_one_leaves_nothing_but_its_own_changes_hands() {
        for n in 2..=MOST as u32 {
            let all = endpoints(n);
            for gone in 0..n as usize {
                let mut stay = all.clone();
                stay.remove(gone);
                for hash in (0..1000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                    let before = select(&all, hash).unwrap();
                    assert!(before == gone || all[before] == stay[select(&stay, hash).unwrap()]);
                }
            }
        }
        assert_eq!(select::<Ipv4Addr>(&[], 7), None);
    }
}
