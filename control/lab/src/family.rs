//! What differs between the two families of addresses: where a service is had and who serves it by each, how the lab numbers
//! its nodes, and the kernel's words.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    cluster::{Endpoint, Exposure, Service},
    plan,
};

/// A family of addresses, by its address type.
pub trait Family: Copy + Display + Into<IpAddr> {
    /// What nftables calls it.
    const NFT: &str;
    /// nftables' type of its addresses.
    const NFT_ADDRESS: &str;
    /// All pods' addresses.
    const CLUSTER_CIDR: &str;
    /// All ClusterIPs.
    const SERVICE_CIDR: &str;

    /// The number of the lab's node that has the address, be it a pod's or its own.
    fn node(self) -> u8;
    /// The service's ClusterIP.
    fn cluster_ip(service: &Service) -> Option<Self>;
    /// Who serves it.
    fn endpoints(service: &Service) -> &[Endpoint<Self>];
    /// Where it is had beside its ClusterIP.
    fn exposure(service: &Service) -> Option<&Exposure>;
}

impl Family for Ipv4Addr {
    const NFT: &str = "ip";
    const NFT_ADDRESS: &str = "ipv4_addr";
    const CLUSTER_CIDR: &str = plan::CLUSTER_CIDR;
    const SERVICE_CIDR: &str = plan::SERVICE_CIDR;

    fn node(self) -> u8 {
        let [first, _, network, host] = self.octets();
        if first == 10 { network } else { host }
    }

    fn cluster_ip(service: &Service) -> Option<Ipv4Addr> {
        service.cluster_ip
    }

    fn endpoints(service: &Service) -> &[Endpoint] {
        &service.endpoints
    }

    fn exposure(service: &Service) -> Option<&Exposure> {
        service.exposure.as_ref()
    }
}

impl Family for Ipv6Addr {
    const NFT: &str = "ip6";
    const NFT_ADDRESS: &str = "ipv6_addr";
    const CLUSTER_CIDR: &str = plan::IPV6_CLUSTER_CIDR;
    const SERVICE_CIDR: &str = plan::IPV6_SERVICE_CIDR;

    fn node(self) -> u8 {
        self.octets()[7]
    }

    fn cluster_ip(service: &Service) -> Option<Ipv6Addr> {
        service.ipv6_cluster_ip
    }

    fn endpoints(service: &Service) -> &[Endpoint<Ipv6Addr>] {
        &service.ipv6_endpoints
    }

    /// Node ports, load balancers' addresses and external IPs are of IPv4 in the lab.
    fn exposure(_: &Service) -> Option<&Exposure> {
        None
    }
}
