//! One resource of any kind.

use crate::{EndpointSlice, FieldError, Key, Kind, Port, Route, Service, Vtep, v1};

/// One resource of the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A remote node on the overlay.
    Vtep(Vtep),
    /// A local pod.
    Port(Port),
    /// A native route.
    Route(Route),
    /// A Kubernetes Service.
    Service(Service),
    /// Some of a service's endpoints.
    EndpointSlice(EndpointSlice),
}

impl Resource {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Resource::Vtep(_) => Kind::Vtep,
            Resource::Port(_) => Kind::Port,
            Resource::Route(_) => Kind::Route,
            Resource::Service(_) => Kind::Service,
            Resource::EndpointSlice(_) => Kind::EndpointSlice,
        }
    }

    /// What it is called.
    pub fn key(&self) -> Key {
        match self {
            Resource::Vtep(vtep) => Key::new(Kind::Vtep, &vtep.node),
            Resource::Port(port) => Key::new(Kind::Port, &port.name),
            Resource::Route(route) => Key::new(Kind::Route, route.prefix.to_string()),
            Resource::Service(service) => Key::new(Kind::Service, service.full_name()),
            Resource::EndpointSlice(slice) => {
                let EndpointSlice { namespace, service, name, .. } = slice;
                Key::new(Kind::EndpointSlice, [&**namespace, "/", service, "/", name].concat())
            }
        }
    }
}

impl From<&Resource> for v1::Resource {
    fn from(resource: &Resource) -> Self {
        use v1::resource::Kind;
        v1::Resource {
            kind: Some(match resource {
                Resource::Vtep(vtep) => Kind::Vtep(vtep.into()),
                Resource::Port(port) => Kind::Port(port.into()),
                Resource::Route(route) => Kind::Route(route.into()),
                Resource::Service(service) => Kind::Service(service.into()),
                Resource::EndpointSlice(slice) => Kind::EndpointSlice(slice.into()),
            }),
        }
    }
}

impl TryFrom<v1::Resource> for Resource {
    type Error = FieldError;

    fn try_from(resource: v1::Resource) -> Result<Self, FieldError> {
        use v1::resource::Kind;
        match resource.kind.ok_or_else(|| {
            let problem = "is missing or unknown; set one of vtep, port, route, service, endpoint_slice";
            FieldError::new("kind", problem)
        })? {
            Kind::Vtep(vtep) => Vtep::try_from(vtep).map(Resource::Vtep).map_err(|e| e.within("vtep")),
            Kind::Port(port) => Port::try_from(port).map(Resource::Port).map_err(|e| e.within("port")),
            Kind::Route(route) => Route::try_from(route).map(Resource::Route).map_err(|e| e.within("route")),
            Kind::Service(service) => {
                Service::try_from(service).map(Resource::Service).map_err(|e| e.within("service"))
            }
            Kind::EndpointSlice(slice) => {
                EndpointSlice::try_from(slice).map(Resource::EndpointSlice).map_err(|e| e.within("endpoint_slice"))
            }
        }
    }
}
