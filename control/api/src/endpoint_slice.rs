//! Kubernetes EndpointSlices: who serves a service.

use std::{
    collections::HashSet,
    fmt::Display,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{FieldError, field, selection, v1};

/// Some of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its namespace, and its service's.
    pub namespace: String,
    /// Its service's name (label `kubernetes.io/service-name`).
    pub service: String,
    /// Its name.
    pub name: String,
    /// `EndpointSlice.ports`, names unique: the ports of all its endpoints.
    pub ports: Vec<EndpointPort>,
    /// `EndpointSlice.endpoints`.
    pub endpoints: Endpoints,
}

/// `EndpointSlice.ports[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the service's port that it serves.
    pub name: String,
    /// The target port.
    pub port: u16,
}

/// The endpoints of a slice, all of one family (`EndpointSlice.addressType`). Of none, the family is not known: IPv4 is as
/// good as the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoints {
    /// `IPv4`.
    Ipv4(Vec<Endpoint>),
    /// `IPv6`.
    Ipv6(Vec<Endpoint<Ipv6Addr>>),
}

/// `EndpointSlice.endpoints[]`. There may be a million of them: names that are not given take no memory of their own, and the
/// family is the slice's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint<A = Ipv4Addr> {
    /// The pod's (or host-network) address.
    pub address: A,
    /// Its conditions.
    pub conditions: EndpointConditions,
    /// `nodeName`; empty: unknown.
    pub node: Box<str>,
    /// `zone`; empty: unknown.
    pub zone: Box<str>,
    /// `hints`, if there are any.
    pub hints: Option<Box<EndpointHints>>,
    /// Its share of new flows beside the others' weights.
    pub weight: u16,
}

/// `EndpointSlice.endpoints[].conditions`, as given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointConditions {
    /// May be chosen for new flows.
    pub ready: Option<bool>,
    /// Answers, whether or not it terminates.
    pub serving: Option<bool>,
    /// Is on its way out.
    pub terminating: Option<bool>,
}

/// `EndpointSlice.endpoints[].hints`: for whom it is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointHints {
    /// `forNodes[].name`.
    pub for_nodes: Vec<String>,
    /// `forZones[].name`.
    pub for_zones: Vec<String>,
}

impl EndpointSlice {
    /// `namespace/name` of its service.
    pub fn service_name(&self) -> String {
        [&*self.namespace, "/", &self.service].concat()
    }
}

impl EndpointConditions {
    /// Unset counts as true (EndpointSlice API).
    pub fn is_ready(self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Unset counts as [`is_ready`](Self::is_ready).
    pub fn is_serving(self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Unset counts as false.
    pub fn is_terminating(self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

impl TryFrom<v1::EndpointSlice> for EndpointSlice {
    type Error = FieldError;

    fn try_from(slice: v1::EndpointSlice) -> Result<Self, FieldError> {
        let namespace = field::name_segment("namespace", &slice.namespace)?;
        let service = field::name_segment("service", &slice.service)?;
        let name = field::name_segment("name", &slice.name)?;
        let ports = field::each("ports", slice.ports, |port: v1::EndpointPort| {
            Ok(EndpointPort { port: field::transport_port("port", port.port)?, name: port.name })
        })?;
        let mut names = HashSet::new();
        if let Some(i) = ports.iter().position(|port| !names.insert(port.name.as_str())) {
            let problem = format!("{:?} is the name of another port of this slice; use each name once", ports[i].name);
            return Err(FieldError::new(format!("ports[{i}].name"), problem));
        }
        let endpoints = Endpoints::try_from(slice.endpoints)?;
        Ok(EndpointSlice { namespace, service, name, ports, endpoints })
    }
}

impl TryFrom<Vec<v1::Endpoint>> for Endpoints {
    type Error = FieldError;

    /// The first one's family is that of all.
    fn try_from(list: Vec<v1::Endpoint>) -> Result<Self, FieldError> {
        let is_ipv6 = list.first().is_some_and(|first| first.address.parse::<Ipv6Addr>().is_ok());
        if let Some(i) = list.iter().position(|endpoint| is_of_other_family(&endpoint.address, is_ipv6)) {
            let [other, first] = if is_ipv6 { ["IPv4", "IPv6"] } else { ["IPv6", "IPv4"] };
            let problem = format!(
                "{} is an {other} address, and the slice's first is an {first} one; give each family a slice of its own",
                list[i].address
            );
            return Err(FieldError::new(format!("endpoints[{i}].address"), problem));
        }
        Ok(match is_ipv6 {
            false => Endpoints::Ipv4(field::each("endpoints", list, |e| Endpoint::read(e, field::address))?),
            true => Endpoints::Ipv6(field::each("endpoints", list, |e| Endpoint::read(e, field::ipv6_address))?),
        })
    }
}

/// Whether it is an address, but not of the family that it should be of.
fn is_of_other_family(address: &str, is_ipv6: bool) -> bool {
    match is_ipv6 {
        false => address.parse::<Ipv6Addr>().is_ok(),
        true => address.parse::<Ipv4Addr>().is_ok(),
    }
}

impl<A> Endpoint<A> {
    fn read(
        endpoint: v1::Endpoint,
        address: fn(&str, &str) -> Result<A, FieldError>,
    ) -> Result<Endpoint<A>, FieldError> {
        let conditions = endpoint.conditions.unwrap_or_default();
        let hints = endpoint.hints.filter(|hints| !hints.for_nodes.is_empty() || !hints.for_zones.is_empty());
        Ok(Endpoint {
            address: address("address", &endpoint.address)?,
            conditions: EndpointConditions {
                ready: conditions.ready,
                serving: conditions.serving,
                terminating: conditions.terminating,
            },
            node: endpoint.node.into(),
            zone: endpoint.zone.into(),
            hints: hints
                .map(|v1::EndpointHints { for_nodes, for_zones }| EndpointHints { for_nodes, for_zones }.into()),
            weight: selection::weight(endpoint.weight)?,
        })
    }
}

impl From<&EndpointSlice> for v1::EndpointSlice {
    fn from(slice: &EndpointSlice) -> Self {
        let port = |port: &EndpointPort| v1::EndpointPort { name: port.name.clone(), port: port.port.into() };
        v1::EndpointSlice {
            namespace: slice.namespace.clone(),
            service: slice.service.clone(),
            name: slice.name.clone(),
            ports: slice.ports.iter().map(port).collect(),
            endpoints: match &slice.endpoints {
                Endpoints::Ipv4(endpoints) => endpoints.iter().map(v1::Endpoint::from).collect(),
                Endpoints::Ipv6(endpoints) => endpoints.iter().map(v1::Endpoint::from).collect(),
            },
        }
    }
}

impl<A: Display> From<&Endpoint<A>> for v1::Endpoint {
    fn from(endpoint: &Endpoint<A>) -> Self {
        let EndpointConditions { ready, serving, terminating } = endpoint.conditions;
        let conditions = v1::EndpointConditions { ready, serving, terminating };
        let hints = endpoint.hints.as_deref();
        v1::Endpoint {
            address: endpoint.address.to_string(),
            conditions: (conditions != v1::EndpointConditions::default()).then_some(conditions),
            node: endpoint.node.to_string(),
            zone: endpoint.zone.to_string(),
            hints: hints.map(|EndpointHints { for_nodes, for_zones }| v1::EndpointHints {
                for_nodes: for_nodes.clone(),
                for_zones: for_zones.clone(),
            }),
            weight: selection::weight_field(endpoint.weight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice() -> v1::EndpointSlice {
        v1::EndpointSlice {
            namespace: "default".into(),
            service: "web".into(),
            name: "web-x7k2p".into(),
            ports: vec![
                v1::EndpointPort { name: "http".into(), port: 8080 },
                v1::EndpointPort { name: String::new(), port: 9090 },
            ],
            endpoints: vec![
                v1::Endpoint {
                    address: "10.244.1.10".into(),
                    conditions: Some(v1::EndpointConditions {
                        ready: Some(false),
                        serving: Some(true),
                        terminating: None,
                    }),
                    node: "node-a".into(),
                    zone: "z1".into(),
                    hints: Some(v1::EndpointHints { for_nodes: vec!["node-a".into()], for_zones: vec!["z1".into()] }),
                    weight: Some(3),
                },
                v1::Endpoint { address: "10.244.2.10".into(), ..Default::default() },
            ],
        }
    }

    fn refused(change: impl FnOnce(&mut v1::EndpointSlice)) -> String {
        let mut slice = slice();
        change(&mut slice);
        EndpointSlice::try_from(slice).unwrap_err().to_string()
    }

    #[test]
    fn a_slice_survives_the_journey() {
        assert_eq!(v1::EndpointSlice::from(&EndpointSlice::try_from(slice()).unwrap()), slice());
    }

    #[test]
    fn an_ipv6_slice_survives_the_journey() {
        let mut ipv6 = slice();
        ipv6.endpoints[0].address = "fd00:10:244:1::10".into();
        ipv6.endpoints[1].address = "fd00:10:244:2::10".into();
        let read = EndpointSlice::try_from(ipv6.clone()).unwrap();
        assert!(matches!(&read.endpoints, Endpoints::Ipv6(endpoints) if endpoints.len() == 2));
        assert_eq!(v1::EndpointSlice::from(&read), ipv6);
        ipv6.endpoints[1].address = "fe80::1".into();
        let problem = EndpointSlice::try_from(ipv6).unwrap_err().to_string();
        assert!(problem.starts_with("endpoints[1].address: fe80::1 cannot be a station's"), "{problem}");
    }

    /// There may be a million: what IPv6 adds is borne by IPv6 slices alone.
    #[test]
    fn an_endpoint_is_as_small_as_it_was() {
        assert_eq!((size_of::<Endpoint>(), size_of::<Endpoint<Ipv6Addr>>()), (56, 64));
    }

    #[test]
    fn fields_are_checked_and_named_by_their_path() {
        assert_eq!(refused(|s| s.ports[0].port = 70000), "ports[0].port: 70000 is not a port; use 1 to 65535");
        assert!(refused(|s| s.ports[1].name = "http".into()).starts_with("ports[1].name: \"http\""));
        assert!(refused(|s| s.endpoints[1].address = "127.0.0.1".into()).starts_with("endpoints[1].address: "));
        assert_eq!(
            refused(|s| s.endpoints[0].address = "fd00::1".into()),
            "endpoints[1].address: 10.244.2.10 is an IPv4 address, and the slice's first is an IPv6 one; give each family a \
             slice of its own"
        );
        let mixed = refused(|s| s.endpoints[1].address = "fd00::1".into());
        assert!(
            mixed.starts_with("endpoints[1].address: fd00::1 is an IPv6 address, and the slice's first"),
            "{mixed}"
        );
        assert!(refused(|s| s.endpoints[0].address = "web".into()).starts_with("endpoints[0].address: \"web\" is not"));
        assert!(refused(|s| s.endpoints[1].weight = Some(65_536)).starts_with("endpoints[1].weight: "));
        assert!(refused(|s| s.namespace = "a/b".into()).starts_with("namespace: "));
        assert!(refused(|s| s.service.clear()).starts_with("service: "));
        assert!(refused(|s| s.name.clear()).starts_with("name: "));
    }

    /// The line "Endpoint conditions" of what a kube-proxy replacement must do.
    #[test]
    fn endpoint_conditions_that_are_unset() {
        let unset = EndpointConditions::default();
        assert!(unset.is_ready() && unset.is_serving() && !unset.is_terminating());
        let unready = EndpointConditions { ready: Some(false), ..unset };
        assert!(!unready.is_ready() && !unready.is_serving());
        let leaving = EndpointConditions { ready: Some(false), serving: Some(true), terminating: Some(true) };
        assert!(!leaving.is_ready() && leaving.is_serving() && leaving.is_terminating());
        assert!(!EndpointConditions { serving: Some(false), ..unset }.is_serving());
    }
}
