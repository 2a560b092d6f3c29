//! What resources are called.

use std::fmt;

use crate::{
    FieldError,
    field::{name, prefix},
    v1,
};

/// The kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A remote node on the overlay.
    Vtep,
    /// A local pod.
    Port,
    /// A native route.
    Route,
    /// A Kubernetes Service.
    Service,
    /// Some of a service's endpoints.
    EndpointSlice,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Vtep => "vtep",
            Kind::Port => "port",
            Kind::Route => "route",
            Kind::Service => "service",
            Kind::EndpointSlice => "endpoint slice",
        })
    }
}

impl From<Kind> for v1::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Vtep => v1::Kind::Vtep,
            Kind::Port => v1::Kind::Port,
            Kind::Route => v1::Kind::Route,
            Kind::Service => v1::Kind::Service,
            Kind::EndpointSlice => v1::Kind::EndpointSlice,
        }
    }
}

impl TryFrom<v1::Kind> for Kind {
    type Error = FieldError;

    fn try_from(kind: v1::Kind) -> Result<Self, FieldError> {
        match kind {
            v1::Kind::Vtep => Ok(Kind::Vtep),
            v1::Kind::Port => Ok(Kind::Port),
            v1::Kind::Route => Ok(Kind::Route),
            v1::Kind::Service => Ok(Kind::Service),
            v1::Kind::EndpointSlice => Ok(Kind::EndpointSlice),
            v1::Kind::Unspecified => Err(FieldError::new(
                "kind",
                "is missing or unknown; use KIND_VTEP, KIND_PORT, KIND_ROUTE, KIND_SERVICE or KIND_ENDPOINT_SLICE",
            )),
        }
    }
}

/// The key of a resource; it never changes while the resource exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// A VTEP's node, a port's name, a route's prefix, a service's `namespace/name`, an endpoint slice's
    /// `namespace/service/name`.
    pub name: String,
}

impl Key {
    /// The key of the `kind` resource called `name`.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Key { kind, name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl From<&Key> for v1::Key {
    fn from(key: &Key) -> Self {
        v1::Key { kind: v1::Kind::from(key.kind).into(), name: key.name.clone() }
    }
}

impl TryFrom<v1::Key> for Key {
    type Error = FieldError;

    fn try_from(key: v1::Key) -> Result<Self, FieldError> {
        let kind = Kind::try_from(key.kind())?;
        let name = match kind {
            Kind::Route => prefix("name", &key.name)?.to_string(),
            Kind::Vtep | Kind::Port | Kind::Service | Kind::EndpointSlice => name("name", &key.name)?,
        };
        Ok(Key { kind, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_journey() {
        for key in
            [Key::new(Kind::Vtep, "node-b"), Key::new(Kind::Route, "10.245.0.0/24"), Key::new(Kind::Service, "a/b")]
        {
            assert_eq!(Key::try_from(v1::Key::from(&key)), Ok(key));
        }
    }

    #[test]
    fn unknown_kinds_and_bad_names_are_refused() {
        let error =
            |kind, name: &str| Key::try_from(v1::Key { kind, name: name.into() }).unwrap_err().path().to_owned();
        assert_eq!(error(0, "x"), "kind");
        assert_eq!(error(99, "x"), "kind");
        assert_eq!(error(v1::Kind::Port.into(), ""), "name");
        assert_eq!(error(v1::Kind::Route.into(), "10.245.0.1/24"), "name");
    }
}
