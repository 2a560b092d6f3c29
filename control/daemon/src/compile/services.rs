//! Services and endpoint slices, and pods' published ports, compiled to what the engine calls services: one for each address and
//! port, in each family of addresses.

pub mod family;
pub mod frontends;
pub mod published;
pub mod selection;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::Ipv6Addr,
    sync::Arc,
};

use shunt_control_api::{EndpointSlice, Key, Kind, Resource, Service, TrafficPolicy};
use shunt_dataplane::{
    service_set::ServiceSet,
    spec::{Affinity, Endpoint, ForwardingSpec, Otherwise, Rule, ServiceSpec},
};

use self::{
    family::Family,
    frontends::{Frontend, Treatment},
    selection::{Place, Selection},
};
use crate::desired::{Change, State};

/// The services of both families. Cheap to clone, and to change a clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// IPv4.
    pub ipv4: ServiceSet,
    /// IPv6.
    pub ipv6: ServiceSet<Ipv6Addr>,
}

impl Services {
    /// Those of a forwarding state.
    pub fn of(spec: &ForwardingSpec) -> Services {
        Services { ipv4: spec.ipv4.services.clone(), ipv6: spec.ipv6.services.clone() }
    }

    /// Puts them in the place of a forwarding state's.
    pub fn put_into(&self, spec: &mut ForwardingSpec) {
        spec.ipv4.services.clone_from(&self.ipv4);
        spec.ipv6.services.clone_from(&self.ipv6);
    }

    fn add(&mut self, service: &Service, slices: &[&EndpointSlice], place: Place<'_>) {
        compile(service, slices, place, &mut self.ipv4);
        compile(service, slices, place, &mut self.ipv6);
    }

    fn remove(&mut self, service: &Service, place: Place<'_>) {
        remove(service, place, &mut self.ipv4);
        remove(service, place, &mut self.ipv6);
    }
}

/// What `before`, compiled from the state `from`, becomes when `change` makes `to` of that state. Costs in proportion
/// to the services and pods that the change touches.
pub fn update(before: &Services, from: &State, to: &State, change: &Change, place: Place<'_>) -> Services {
    // To go through all is cheaper than to look up most.
    if change.upserts.len() + change.deletes.len() > to.resources.len() / 2 {
        return compile_all(to, place);
    }
    step(before, from, to, change, place)
}

fn step(before: &Services, from: &State, to: &State, change: &Change, place: Place<'_>) -> Services {
    let mut services = before.clone();
    let touched = touched(change);
    // All go before the first one comes: an address may move from service to service.
    for service in touched.iter().filter_map(|name| from.service(name)) {
        services.remove(service, place);
    }
    let pods = pods(change);
    for pod in pods.iter().filter_map(|name| from.port(name)) {
        published::keys(pod, place.addresses).for_each(|key| drop(services.ipv4.remove(key)));
    }
    for (name, service) in touched.iter().filter_map(|name| Some((name, to.service(name)?))) {
        let slices: Vec<_> = to.slices(name).collect();
        services.add(service, &slices, place);
    }
    let pods = pods.into_iter().filter_map(|name| to.port(name));
    services.ipv4.extend(pods.flat_map(|pod| published::compile(pod, place)));
    services
}

/// `namespace/name` of the services that `change` touches, themselves or by their endpoints: each once, ascending.
pub fn touched(change: &Change) -> Vec<String> {
    let upserts = change.upserts.iter().filter_map(|resource| match &**resource {
        Resource::Service(service) => Some(service.full_name()),
        Resource::EndpointSlice(slice) => Some(slice.service_name()),
        Resource::Vtep(_) | Resource::Port(_) | Resource::Route(_) => None,
    });
    let mut names: Vec<_> = upserts.chain(change.deletes.iter().filter_map(service_name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The names of the pods that `change` touches.
fn pods(change: &Change) -> Vec<&str> {
    let upserts = change.upserts.iter().filter_map(|resource| match &**resource {
        Resource::Port(port) => Some(port.name.as_str()),
        _ => None,
    });
    let deletes = change.deletes.iter().filter(|key| key.kind == Kind::Port).map(|key| key.name.as_str());
    upserts.chain(deletes).collect()
}

/// All services and published ports of `state`.
pub fn compile_all(state: &State, place: Place<'_>) -> Services {
    let mut services = Services::default();
    // Those of one service are in a row.
    let slices: Vec<_> = state.all_slices().collect();
    let rows = slices.chunk_by(|a, b| (&a.namespace, &a.service) == (&b.namespace, &b.service));
    let rows: HashMap<_, _> = rows.map(|row| ((row[0].namespace.as_str(), row[0].service.as_str()), row)).collect();
    for service in state.services() {
        let row = rows.get(&(service.namespace.as_str(), service.name.as_str())).copied().unwrap_or_default();
        services.add(service, row, place);
    }
    services.ipv4.extend(state.ports().flat_map(|pod| published::compile(pod, place)));
    services
}

/// `namespace/name` of the service that a resource is or belongs to.
fn service_name(key: &Key) -> Option<String> {
    match key.kind {
        Kind::Service => Some(key.name.clone()),
        Kind::EndpointSlice => key.name.rsplit_once('/').map(|(service, _)| service.to_owned()),
        Kind::Vtep | Kind::Port | Kind::Route => None,
    }
}

/// Removes from `services` each frontend of each port of `service`.
fn remove<A: Family>(service: &Service, place: Place<'_>, services: &mut ServiceSet<A>) {
    for port in &service.ports {
        for frontend in Frontend::of(service, port, place.addresses) {
            services.remove(frontend.key());
        }
    }
}

/// Adds one to `services` for each frontend of each port of `service`.
fn compile<A: Family>(service: &Service, slices: &[&EndpointSlice], place: Place<'_>, services: &mut ServiceSet<A>) {
    let mut lists = Vec::new();
    for port in &service.ports {
        let frontends = Frontend::of(service, port, place.addresses);
        // Most services are of one family: the other costs nothing.
        if frontends.is_empty() {
            continue;
        }
        let selection = Selection::new(slices, &port.name, place);
        let leaving = selection.leaving();
        let mut rules = Rules { selection, made: Vec::new(), lists: &mut lists };
        let affinity = service.affinity.map(|timeout| Affinity { timeout, group: group::<A>(service, &port.name) });
        for frontend in frontends {
            let [from_pods, from_node, mut from_outside] =
                frontend.treatments(service).map(|treatment| rules.of(treatment));
            if place.isolated {
                from_outside = shut_out();
            }
            let relayed = frontend.is_direct(service, place).then(|| rules.of_relayed());
            services.insert(ServiceSpec {
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
            });
        }
    }
}

/// The rule for who is outside of an isolated node's cluster.
fn shut_out<A>() -> Rule<A> {
    Rule { otherwise: Otherwise::Drop, ..Rule::default() }
}

/// The rules of a service's port, each list of endpoints made once and only if it is needed.
struct Rules<'a, A> {
    selection: Selection<'a, A>,
    made: Vec<(TrafficPolicy, Rule<A>)>,
    /// The different lists of the service's ports. Who has one and the same has its table, too.
    lists: &'a mut Vec<Arc<[Endpoint<A>]>>,
}

impl<A: Family> Rules<'_, A> {
    fn of(&mut self, Treatment { policy, masquerade }: Treatment) -> Rule<A> {
        if let Some((_, rule)) = self.made.iter().find(|(known, _)| *known == policy) {
            return Rule { masquerade, ..rule.clone() };
        }
        let mut rule = self.selection.rule(policy);
        match self.lists.iter().find(|list| **list == rule.endpoints) {
            Some(list) => rule.endpoints = list.clone(),
            None => self.lists.push(rule.endpoints.clone()),
        }
        self.made.push((policy, rule.clone()));
        Rule { masquerade, ..rule }
    }

    /// Of what other nodes relay to this one for the sake of its endpoints. If they have gone meanwhile, answers come back
    /// here.
    fn of_relayed(&mut self) -> Rule<A> {
        let here = self.of(Treatment { policy: TrafficPolicy::Local, masquerade: false });
        let anywhere = Treatment { policy: TrafficPolicy::Cluster, masquerade: true };
        if here.endpoints.is_empty() { self.of(anywhere) } else { here }
    }
}

/// Kube-proxy, too, remembers a client for each port of a service, whatever address of its family it came by.
fn group<A: Family>(service: &Service, port: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&service.namespace, &service.name, port, size_of::<A>()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
