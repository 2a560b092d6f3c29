//! Desired state: what callers of the API want of this node, versioned.

mod feed;
mod overlap;
mod rules;
mod store;
mod transaction;

use std::{collections::BTreeMap, sync::Arc};

use shunt_control_api::{FieldError, Key, Kind, Port, Resource, Route, Service, Vtep};

pub use feed::{Feed, Tick};
pub use rules::Rules;
pub use store::{Prepared, Store, StoreError};
pub use transaction::{Counts, Plan, Transaction};

/// All resources, at one version. Cheap to clone: resources are shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Grows by one with each change; 0 is the empty state of a fresh daemon.
    pub version: u64,
    /// Every resource by its key, and so kind by kind.
    pub resources: BTreeMap<Key, Arc<Resource>>,
}

impl State {
    /// Checks all of it, as when it comes from disk and the configuration may have changed since. An error names the
    /// resource.
    pub fn check(&self, rules: &Rules) -> Result<(), FieldError> {
        rules.check(self.resources.iter().map(|(key, resource)| (key, &**resource)))
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

    /// All native routes.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.of_kind(Kind::Route).filter_map(|r| if let Resource::Route(route) = &**r { Some(route) } else { None })
    }

    /// All services, shared.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<Resource>, &Service)> {
        self.of_kind(Kind::Service).filter_map(|r| if let Resource::Service(s) = &**r { Some((r, s)) } else { None })
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
