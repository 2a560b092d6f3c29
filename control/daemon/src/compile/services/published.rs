//! Ports of the node that lead to its pods: each is a service with one endpoint.
//!
//! The pod is on this node, so answers come back by the switch whoever asked: sources are kept, but for the pod's own, whose
//! answers would not leave it.

use std::{net::Ipv4Addr, slice};

use shunt_control_api::{Port, PublishedPort};
use shunt_dataplane::{
    service_set::ServiceKey,
    spec::{Backend, Rule, ServiceSpec},
};

use super::{selection::Place, shut_out};

/// Where the published ports of a pod are had, on a node that has node ports at `addresses`.
pub fn keys<'a>(pod: &'a Port, addresses: &'a [Ipv4Addr]) -> impl Iterator<Item = ServiceKey> + use<'a> {
    frontends(pod, addresses).map(|(_, key)| key)
}

/// One service for each place where a published port of the pod is had.
pub fn compile<'a>(pod: &'a Port, place: Place<'a>) -> impl Iterator<Item = ServiceSpec> + use<'a> {
    frontends(pod, place.addresses).map(move |(published_port, (vip, port, protocol))| {
        let backend = Backend { address: pod.address, port: published_port.container_port };
        let rule = Rule { endpoints: [backend.into()].into(), ..Rule::default() };
        let service = ServiceSpec::of_rule(vip, port, protocol, rule);
        match place.isolated {
            true => ServiceSpec { from_outside: shut_out(), ..service },
            false => service,
        }
    })
}

fn frontends<'a>(
    pod: &'a Port,
    addresses: &'a [Ipv4Addr],
) -> impl Iterator<Item = (&'a PublishedPort, ServiceKey)> + use<'a> {
    pod.published.iter().flat_map(move |published_port| {
        let addresses = published_port.address.as_ref().map_or(addresses, slice::from_ref);
        addresses.iter().map(move |&address| (published_port, (address, published_port.port, published_port.protocol)))
    })
}
