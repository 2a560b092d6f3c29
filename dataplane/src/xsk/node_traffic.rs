//! What the switch takes of the packets that arrive natively for the node: those to frontends of services, and answers
//! to masqueraded flows. All else that is addressed to the node is its kernel's.

use std::{collections::HashSet, net::Ipv4Addr, ops::RangeInclusive};

use aya::maps::{Array, HashMap, MapData, MapError};
use ipnet::Ipv4Net;

use crate::{
    service_set::ServiceSet,
    spec::{ForwardingSpec, ServiceSpec},
};

/// `struct frontend` of the classifier, as it lies in memory.
type Key = u64;
/// `struct masquerade`.
type Own = [u8; 16];

/// What is the switch's.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeTraffic {
    frontends: HashSet<Key>,
    /// Those that came or went, or may have, since the uplinks were told last.
    recent: HashSet<Key>,
    masquerade: Option<(Ipv4Addr, RangeInclusive<u16>)>,
    /// The first prefix of pods.
    pods: Option<Ipv4Net>,
    /// Addresses that nobody outside knows the way to.
    cluster_ips: Vec<Ipv4Net>,
}

impl NodeTraffic {
    /// Goes over to what `spec` asks for, from a spec with the services `before`: all services but those at ClusterIPs, which
    /// nobody outside knows the way to.
    pub fn follow(&mut self, before: &ServiceSet, spec: &ForwardingSpec) {
        self.masquerade = spec.ipv4.masquerade.as_ref().map(|wanted| (wanted.underlay, wanted.ports.clone()));
        self.pods = spec.ipv4.pod_cidrs.first().copied();
        if self.cluster_ips == spec.ipv4.service_cidrs {
            return self.follow_services(before, &spec.ipv4.services);
        }
        self.cluster_ips.clone_from(&spec.ipv4.service_cidrs);
        self.recent.extend(self.frontends.drain());
        self.follow_services(&ServiceSet::default(), &spec.ipv4.services);
    }

    /// The same where only services have changed. Costs in proportion to the shards that differ.
    pub fn follow_services(&mut self, before: &ServiceSet, now: &ServiceSet) {
        for (old, new) in now.changed(before) {
            for key in old.iter().map(key) {
                if self.frontends.remove(&key) {
                    self.recent.insert(key);
                }
            }
            let is_cluster_ip = |vip| self.cluster_ips.iter().any(|range| range.contains(&vip));
            for key in new.iter().filter(|service| !is_cluster_ip(service.vip)).map(key) {
                self.frontends.insert(key);
                self.recent.insert(key);
            }
        }
    }

    /// Every uplink has been told.
    pub fn settle(&mut self) {
        self.recent.clear();
    }

    fn masquerade_value(&self) -> Own {
        let (address, first, last) = match &self.masquerade {
            Some((address, ports)) => (*address, *ports.start(), *ports.end()),
            None => (Ipv4Addr::UNSPECIFIED, 1, 0),
        };
        // No address has the ones of a prefix that there is not.
        let (pods, mask) = match self.pods {
            Some(pods) => (pods.network(), pods.netmask()),
            None => (Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED),
        };
        let mut value = [0; 16];
        value[..4].copy_from_slice(&address.octets());
        value[4..6].copy_from_slice(&first.to_ne_bytes());
        value[6..8].copy_from_slice(&last.to_ne_bytes());
        value[8..12].copy_from_slice(&pods.octets());
        value[12..].copy_from_slice(&mask.octets());
        value
    }
}

fn key(service: &ServiceSpec) -> Key {
    let ([a, b, c, d], [high, low]) = (service.vip.octets(), service.port.to_be_bytes());
    Key::from_ne_bytes([a, b, c, d, high, low, service.protocol as u8, 0])
}

/// The classifier's maps of it, and what is in them.
pub(super) struct Taken {
    frontends: HashMap<MapData, Key, u8>,
    masquerade: Array<MapData, Own>,
    present: HashSet<Key>,
}

impl Taken {
    pub(super) fn new(frontends: HashMap<MapData, Key, u8>, masquerade: Array<MapData, Own>) -> Taken {
        Taken { frontends, masquerade, present: HashSet::new() }
    }

    /// Makes maps that are empty say `wanted`. An error comes with the map's name; what was done until then stays.
    pub(super) fn fill(&mut self, wanted: &NodeTraffic) -> Result<(), (&'static str, MapError)> {
        self.update(wanted, &wanted.frontends)
    }

    /// Makes maps that say what `wanted` was before its recent changes follow them. Errors are as above.
    pub(super) fn follow(&mut self, wanted: &NodeTraffic) -> Result<(), (&'static str, MapError)> {
        self.update(wanted, &wanted.recent)
    }

    fn update(&mut self, wanted: &NodeTraffic, keys: &HashSet<Key>) -> Result<(), (&'static str, MapError)> {
        self.masquerade.set(0, wanted.masquerade_value(), 0).map_err(|e| ("masquerade", e))?;
        // There may be room for those that come only once the others have gone.
        for key in keys.iter().filter(|key| !wanted.frontends.contains(*key)) {
            if self.present.contains(key) {
                self.frontends.remove(key).map_err(|e| ("frontends", e))?;
                self.present.remove(key);
            }
        }
        for &key in keys.iter().filter(|key| wanted.frontends.contains(*key)) {
            if !self.present.contains(&key) {
                self.frontends.insert(key, 1, 0).map_err(|e| ("frontends", e))?;
                self.present.insert(key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        net::Protocol,
        spec::{Backend, FamilySpec},
    };

    fn service(vip: u32, port: u16) -> ServiceSpec {
        let backend = Backend { address: [10, 244, 0, 1].into(), port: 80 };
        ServiceSpec::simple(vip.into(), port, Protocol::Tcp, [backend.into()].into())
    }

    /// Addresses below 8 are ClusterIPs, or those below 4.
    fn spec(services: &ServiceSet, wide: bool) -> ForwardingSpec {
        let range = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, if wide { 29 } else { 30 }).unwrap();
        let ipv4 = FamilySpec { services: services.clone(), service_cidrs: vec![range], ..FamilySpec::default() };
        ForwardingSpec { ipv4, ..ForwardingSpec::default() }
    }

    proptest! {
        /// Whoever follows the recent changes of each step, or of several at once, has what one who starts at the end has.
        #[test]
        fn following_is_the_same_as_beginning(
            steps in prop::collection::vec(
                (prop::collection::vec((0u32..16, 0u16..3, any::<bool>()), 0..6), any::<bool>(), any::<bool>(), any::<bool>()),
                1..12,
            ),
        ) {
            let (mut traffic, mut services) = (NodeTraffic::default(), ServiceSet::default());
            let (mut present, mut wide) = (HashSet::new(), false);
            traffic.follow(&ServiceSet::default(), &spec(&services, wide));
            for (changes, is_wide, whole, told) in steps {
                let before = services.clone();
                for (vip, port, here) in changes {
                    if here {
                        services.insert(service(vip, port));
                    } else {
                        services.remove((vip.into(), port, Protocol::Tcp));
                    }
                }
                if whole {
                    wide = is_wide;
                    traffic.follow(&before, &spec(&services, wide));
                } else {
                    traffic.follow_services(&before, &services);
                }
                let mut fresh = NodeTraffic::default();
                fresh.follow(&ServiceSet::default(), &spec(&services, wide));
                prop_assert_eq!(&traffic.frontends, &fresh.frontends);
                if told {
                    for key in &traffic.recent {
                        if traffic.frontends.contains(key) { present.insert(*key) } else { present.remove(key) };
                    }
                    prop_assert_eq!(&present, &traffic.frontends);
                    traffic.settle();
                }
            }
        }
    }
}
