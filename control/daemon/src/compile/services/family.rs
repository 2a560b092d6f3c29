//! What of services and endpoint slices is of one family of addresses. All else is written once, over this: no endpoint of one
//! family gets to a frontend of the other, for there is no type that could hold it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{Ipv4Net, Ipv6Net};
use shunt_control_api::{Endpoint, EndpointSlice, Endpoints, Service};
use shunt_dataplane::net::Address;

/// A family of addresses, as services have them.
pub trait Family: Address {
    /// The service's ClusterIP of this family.
    fn cluster_ip(service: &Service) -> Option<Self>;

    /// The slice's endpoints; none if it is of the other family.
    fn endpoints(slice: &EndpointSlice) -> &[Endpoint<Self>];

    /// Addresses at which a service is had beside its ClusterIPs; none if they are of the other family.
    fn addresses(ipv4: &[Ipv4Addr]) -> &[Self];

    /// Who may use it there.
    fn source_ranges(ipv4: &Arc<[Ipv4Net]>) -> Arc<[Self::Net]>;
}

impl Family for Ipv4Addr {
    fn cluster_ip(service: &Service) -> Option<Ipv4Addr> {
        service.cluster_ip
    }

    fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
        match &slice.endpoints {
            Endpoints::Ipv4(endpoints) => endpoints,
            Endpoints::Ipv6(_) => &[],
        }
    }

    fn addresses(ipv4: &[Ipv4Addr]) -> &[Ipv4Addr] {
        ipv4
    }

    fn source_ranges(ipv4: &Arc<[Ipv4Net]>) -> Arc<[Ipv4Net]> {
        ipv4.clone()
    }
}

impl Family for Ipv6Addr {
    fn cluster_ip(service: &Service) -> Option<Ipv6Addr> {
        service.ipv6_cluster_ip
    }

    fn endpoints(slice: &EndpointSlice) -> &[Endpoint<Ipv6Addr>] {
        match &slice.endpoints {
            Endpoints::Ipv4(_) => &[],
            Endpoints::Ipv6(endpoints) => endpoints,
        }
    }

    fn addresses(_: &[Ipv4Addr]) -> &[Ipv6Addr] {
        &[]
    }

    fn source_ranges(_: &Arc<[Ipv4Net]>) -> Arc<[Ipv6Net]> {
        Arc::default()
    }
}
