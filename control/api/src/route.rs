//! Native routes beside the overlay.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{FieldError, field, v1};

/// A native route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub prefix: Ipv4Net,
    /// The next hop.
    pub via: Ipv4Addr,
}

impl TryFrom<v1::Route> for Route {
    type Error = FieldError;

    fn try_from(route: v1::Route) -> Result<Self, FieldError> {
        Ok(Route { prefix: field::prefix("prefix", &route.prefix)?, via: field::address("via", &route.via)? })
    }
}

impl From<&Route> for v1::Route {
    fn from(route: &Route) -> Self {
        v1::Route { prefix: route.prefix.to_string(), via: route.via.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat() -> v1::Route {
        v1::Route { prefix: "10.245.0.0/24".into(), via: "192.168.50.7".into() }
    }

    #[test]
    fn a_route_survives_the_journey() {
        assert_eq!(v1::Route::from(&Route::try_from(flat()).unwrap()), flat());
    }

    #[test]
    fn each_field_is_checked() {
        let path = |route: v1::Route| Route::try_from(route).unwrap_err().path().to_owned();
        assert_eq!(path(v1::Route { prefix: "10.245.0.0".into(), ..flat() }), "prefix");
        assert_eq!(path(v1::Route { via: String::new(), ..flat() }), "via");
    }
}
