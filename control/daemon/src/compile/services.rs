//! Services and endpoint slices, and pods' published ports, compiled to what the engine calls services: one for each address and
//! port.

pub mod frontends;
pub mod published;
pub mod selection;

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use shunt_control_api::{EndpointSlice, Key, Kind, Service, TrafficPolicy};
use shunt_dataplane::{
    service_set::ServiceSet,
    spec::{Affinity, Otherwise, Rule, ServiceSpec},
};

use self::{
    frontends::{Frontend, Treatment},
    selection::{Place, Selection},
};
use crate::desired::{Change, State};

/// What `before`, compiled from the state `from`, becomes when `change` makes `to` of that state. Costs in proportion
/// to the services and pods that the change touches.
pub fn update(before: &ServiceSet, from: &State, to: &State, change: &Change, place: Place<'_>) -> ServiceSet {
    let mut services = before.clone();
    let touched = touched(change);
    // All go before the first one comes: an address may move from service to service.
    for service in touched.iter().filter_map(|name| from.service(name)) {
        for port in &service.ports {
            for frontend in Frontend::of(service, port, place.addresses) {
                services.remove(frontend.key());
            }
        }
    }
    let pods: Vec<_> = change.keys().filter(|key| key.kind == Kind::Port).map(|key| key.name).collect();
    for pod in pods.iter().filter_map(|name| from.port(name)) {
        published::keys(pod, place.addresses).for_each(|key| drop(services.remove(key)));
    }
    for (name, service) in touched.iter().filter_map(|name| Some((name, to.service(name)?))) {
        let slices: Vec<_> = to.slices(name).collect();
        services.extend(compile(service, &slices, place));
    }
    services.extend(pods.iter().filter_map(|name| to.port(name)).flat_map(|pod| published::compile(pod, place)));
    services
}

/// `namespace/name` of the services that `change` touches, themselves or by their endpoints.
pub fn touched(change: &Change) -> BTreeSet<String> {
    change.keys().filter_map(service_name).collect()
}

/// All services and published ports of `state`.
pub fn compile_all(state: &State, place: Place<'_>) -> ServiceSet {
    let mut services = ServiceSet::default();
    for service in state.services() {
        let slices: Vec<_> = state.slices(&service.full_name()).collect();
        services.extend(compile(service, &slices, place));
    }
    services.extend(state.ports().flat_map(|pod| published::compile(pod, place)));
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

/// One for each frontend of each port.
fn compile<'a>(
    service: &'a Service,
    slices: &'a [&EndpointSlice],
    place: Place<'a>,
) -> impl Iterator<Item = ServiceSpec> + use<'a> {
    service.ports.iter().flat_map(move |port| {
        let selection = Selection::new(slices, &port.name, place);
        let leaving = selection.leaving();
        let mut rules = Rules::new(selection);
        let affinity = service.affinity.map(|timeout| Affinity { timeout, group: group(service, &port.name) });
        let spec = move |frontend: Frontend| {
            let [from_pods, from_node, mut from_outside] =
                frontend.treatments(service).map(|treatment| rules.of(treatment));
            if place.isolated {
                from_outside = shut_out();
            }
            let relayed = frontend.is_direct(service, place).then(|| rules.of_relayed());
            ServiceSpec {
                vip: frontend.address,
                port: frontend.port,
                protocol: frontend.protocol,
                from_pods,
                from_node,
                from_outside,
                relayed,
                sources: frontend.source_ranges(service),
                affinity,
                scheduler: service.scheduler,
                leaving: leaving.clone(),
            }
        };
        Frontend::of(service, port, place.addresses).into_iter().map(spec)
    })
}

/// The rule for who is outside of an isolated node's cluster.
fn shut_out() -> Rule {
    Rule { otherwise: Otherwise::Drop, ..Rule::default() }
}

/// The rules of a service's port, each list of endpoints made once and only if it is needed.
struct Rules<'a> {
    selection: Selection<'a>,
    made: Vec<(TrafficPolicy, Rule)>,
}

impl<'a> Rules<'a> {
    fn new(selection: Selection<'a>) -> Rules<'a> {
        Rules { selection, made: Vec::new() }
    }

    fn of(&mut self, Treatment { policy, masquerade }: Treatment) -> Rule {
        if !self.made.iter().any(|(known, _)| *known == policy) {
            self.made.push((policy, self.selection.rule(policy)));
        }
        let (_, rule) = self.made.iter().find(|(known, _)| *known == policy).expect("just made");
        Rule { masquerade, ..rule.clone() }
    }
}

impl Rules<'_> {
    /// Of what other nodes relay to this one for the sake of its endpoints. If they have gone meanwhile, answers come back
    /// here.
    fn of_relayed(&mut self) -> Rule {
        let here = self.of(Treatment { policy: TrafficPolicy::Local, masquerade: false });
        let anywhere = Treatment { policy: TrafficPolicy::Cluster, masquerade: true };
        if here.endpoints.is_empty() { self.of(anywhere) } else { here }
    }
}

/// Kube-proxy, too, remembers a client for each port of a service, whatever address it came by.
fn group(service: &Service, port: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&service.namespace, &service.name, port).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
