//! Services and endpoint slices, compiled to what the engine calls services: one for each address and port.

pub mod selection;

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use shunt_control_api::{EndpointSlice, Key, Kind, Service};
use shunt_dataplane::{
    service_set::ServiceSet,
    spec::{Affinity, ServiceSpec},
};

use self::selection::{Place, Selection};
use crate::desired::{Change, State};

/// What `before`, compiled from the state `from`, becomes when `change` makes `to` of that state. Costs in proportion
/// to the services that the change touches.
pub fn update(before: &ServiceSet, from: &State, to: &State, change: &Change, place: Place<'_>) -> ServiceSet {
    let mut services = before.clone();
    let touched: BTreeSet<String> = change.keys().filter_map(service_name).collect();
    // All go before the first one comes: an address may move from service to service.
    for service in touched.iter().filter_map(|name| from.service(name)) {
        for port in &service.ports {
            services.remove((service.cluster_ip, port.port, port.protocol));
        }
    }
    for (name, service) in touched.iter().filter_map(|name| Some((name, to.service(name)?))) {
        let slices: Vec<_> = to.slices(name).collect();
        services.extend(compile(service, &slices, place));
    }
    services
}

/// All services of `state`.
pub fn compile_all(state: &State, place: Place<'_>) -> ServiceSet {
    let mut services = ServiceSet::default();
    for service in state.services() {
        let slices: Vec<_> = state.slices(&service.full_name()).collect();
        services.extend(compile(service, &slices, place));
    }
    services
}

/// `namespace/name` of the service that a resource is or belongs to.
fn service_name(key: Key) -> Option<String> {
    match key.kind {
        Kind::Service => Some(key.name),
        Kind::EndpointSlice => key.name.rsplit_once('/').map(|(service, _)| service.to_owned()),
        Kind::Vtep | Kind::Port | Kind::Route => None,
    }
}

/// One for each port.
fn compile(service: &Service, slices: &[&EndpointSlice], place: Place<'_>) -> impl Iterator<Item = ServiceSpec> {
    service.ports.iter().map(move |port| {
        let rule = Selection::new(slices, &port.name, place).rule(service.internal_traffic_policy);
        ServiceSpec {
            affinity: service.affinity.map(|timeout| Affinity { timeout, group: group(service, &port.name) }),
            scheduler: service.scheduler,
            ..ServiceSpec::of_rule(service.cluster_ip, port.port, port.protocol, rule)
        }
    })
}

/// Kube-proxy, too, remembers a client for each port of a service, whatever address it came by.
fn group(service: &Service, port: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&service.namespace, &service.name, port).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
