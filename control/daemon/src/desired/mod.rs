//! Desired state: what callers of the API want of this node, versioned.

mod claims;
mod feed;
mod journal;
mod overlap;
mod rules;
mod store;
mod transaction;

use std::sync::Arc;

use imbl::OrdMap;
use shunt_control_api::{EndpointSlice, FieldError, Key, Kind, Port, Resource, Route, Service, Vtep};

pub use claims::Claims;
pub use feed::{Feed, Tick};
pub use rules::Rules;
pub use store::{Store, StoreError};
pub use transaction::{Counts, Place, Plan, Transaction};

/// All resources, at one version. Cheap to clone, and to change a clone: what stays as it was is shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Grows by one with each change; 0 is the empty state of a fresh daemon.
    pub version: u64,
    /// Every resource by its key, and so kind by kind.
    pub resources: OrdMap<Key, Arc<Resource>>,
}

impl State {
    /// Checks all of it, as when it comes from disk and the configuration may have changed since. Returns what its
    /// resources have taken; an error names the resource.
    pub fn claims(&self, rules: &Rules) -> Result<Claims, FieldError> {
        let mut claims = Claims::default();
        for (key, resource) in &self.resources {
            rules.admit(resource, &mut claims).map_err(|e| e.within(key))?;
        }
        Ok(claims)
    }

    /// The resources of one kind, in the order of their names.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.range(Key::new(kind, "")..).take_while(move |(key, _)| key.kind == kind).map(|(_, r)| r)
    }

    /// All VTEPs.
    pub fn vteps(&self) -> impl Iterator<Item = &Vtep> {
        self.of_kind(Kind::Vtep).filter_map(|r| if let Resource::Vtep(vtep) = &**r { Some(vtep) } else { None })
    }

    /// All local pods.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.of_kind(Kind::Port).filter_map(|r| if let Resource::Port(port) = &**r { Some(port) } else { None })
    }

    /// The local pod called `name`.
    pub fn port(&self, name: &str) -> Option<&Port> {
        match &**self.resources.get(&Key::new(Kind::Port, name))? {
            Resource::Port(port) => Some(port),
            _ => None,
        }
    }

    /// All native routes.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.of_kind(Kind::Route).filter_map(|r| if let Resource::Route(route) = &**r { Some(route) } else { None })
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.of_kind(Kind::Service).filter_map(|r| if let Resource::Service(s) = &**r { Some(s) } else { None })
    }

    /// The service called `name` (`namespace/name`).
    pub fn service(&self, name: &str) -> Option<&Service> {
        match &**self.resources.get(&Key::new(Kind::Service, name))? {
            Resource::Service(service) => Some(service),
            _ => None,
        }
    }

    /// All endpoint slices, those of one service in a row.
    pub fn all_slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.of_kind(Kind::EndpointSlice)
            .filter_map(|r| if let Resource::EndpointSlice(slice) = &**r { Some(slice) } else { None })
    }

    /// The endpoint slices of the service called `name` (`namespace/name`).
    pub fn slices(&self, name: &str) -> impl Iterator<Item = &EndpointSlice> {
        let prefix = format!("{name}/");
        self.resources
            .range(Key::new(Kind::EndpointSlice, prefix.as_str())..)
            .take_while(move |(key, _)| key.kind == Kind::EndpointSlice && key.name.starts_with(&prefix))
            .filter_map(|(_, r)| if let Resource::EndpointSlice(slice) = &**r { Some(slice) } else { None })
    }
}

/// What one version changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The version it made.
    pub version: u64,
    /// New resources, and those that took the place of others.
    pub upserts: Vec<Arc<Resource>>,
    /// What went.
    pub deletes: Vec<Key>,
}

impl Change {
    /// Of which kinds the resources are that it brought, took away or changed.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.upserts.iter().map(|resource| resource.kind()).chain(self.deletes.iter().map(|key| key.kind))
    }
}
