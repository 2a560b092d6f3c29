//! What the switch takes of the packets that arrive natively for the node: those to frontends of services, and answers
//! to masqueraded flows. All else that is addressed to the node is its kernel's.

use std::{collections::HashSet, net::Ipv4Addr, ops::RangeInclusive};

use aya::maps::{Array, HashMap, MapData, MapError};

use crate::spec::ForwardingSpec;

/// `struct frontend` of the classifier, as it lies in memory.
type Key = u64;

/// What is the switch's.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeTraffic {
    frontends: HashSet<Key>,
    masquerade: Option<(Ipv4Addr, RangeInclusive<u16>)>,
}

impl NodeTraffic {
    /// What `spec` asks for: all services but those at ClusterIPs, which nobody outside knows the way to.
    pub fn of(spec: &ForwardingSpec) -> NodeTraffic {
        let is_cluster_ip = |vip: Ipv4Addr| spec.service_cidrs.iter().any(|range| range.contains(&vip));
        let frontends = spec.services.iter().filter(|service| !is_cluster_ip(service.vip));
        let key = |vip: Ipv4Addr, port: u16, protocol: u8| {
            let ([a, b, c, d], [high, low]) = (vip.octets(), port.to_be_bytes());
            Key::from_ne_bytes([a, b, c, d, high, low, protocol, 0])
        };
        NodeTraffic {
            frontends: frontends.map(|service| key(service.vip, service.port, service.protocol as u8)).collect(),
            masquerade: spec.masquerade.as_ref().map(|wanted| (wanted.underlay, wanted.ports.clone())),
        }
    }

    /// `struct masquerade` of the classifier, written in one piece.
    fn masquerade_value(&self) -> u64 {
        let (address, first, last) = match &self.masquerade {
            Some((address, ports)) => (*address, *ports.start(), *ports.end()),
            None => (Ipv4Addr::UNSPECIFIED, 1, 0),
        };
        let ([a, b, c, d], [e, f], [g, h]) = (address.octets(), first.to_ne_bytes(), last.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The classifier's maps of it, and what is in them.
pub(super) struct Taken {
    frontends: HashMap<MapData, Key, u8>,
    masquerade: Array<MapData, u64>,
    present: HashSet<Key>,
}

impl Taken {
    pub(super) fn new(frontends: HashMap<MapData, Key, u8>, masquerade: Array<MapData, u64>) -> Taken {
        Taken { frontends, masquerade, present: HashSet::new() }
    }

    /// Makes the maps say `wanted`. An error comes with the map's name; what was done until then stays.
    pub(super) fn update(&mut self, wanted: &NodeTraffic) -> Result<(), (&'static str, MapError)> {
        let masquerade = wanted.masquerade_value();
        self.masquerade.set(0, masquerade, 0).map_err(|e| ("masquerade", e))?;
        for key in &wanted.frontends - &self.present {
            self.frontends.insert(key, 1, 0).map_err(|e| ("frontends", e))?;
            self.present.insert(key);
        }
        for key in &self.present - &wanted.frontends {
            self.frontends.remove(&key).map_err(|e| ("frontends", e))?;
            self.present.remove(&key);
        }
        Ok(())
    }
}
