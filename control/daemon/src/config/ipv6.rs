//! `[ipv6]`: the addresses of pods and services that have IPv6 beside IPv4.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use shunt_control_api::{FieldError, field};

use super::{Prefixes, file};

/// `[ipv6]`. The underlay, and all that is had outside of the cluster, is of IPv4 all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6 {
    /// This node's pods' addresses; the first one is the node's own on the overlay.
    pub pod_cidr: Ipv6Net,
    /// All pods' addresses.
    pub cluster_cidr: Ipv6Net,
    /// Out of which ClusterIPs are given.
    pub service_cidr: Ipv6Net,
}

impl Ipv6 {
    /// The node's own address on the overlay: the first of its pod prefix, as that of IPv4.
    pub fn overlay_address(&self) -> Ipv6Addr {
        self.pod_cidr.network()
    }

    pub(crate) fn prefixes(&self) -> Prefixes {
        Prefixes { pods: self.pod_cidr.into(), cluster: self.cluster_cidr.into(), services: self.service_cidr.into() }
    }
}

/// Longest pod prefix: 16 addresses.
const LONGEST: u8 = 124;

impl TryFrom<file::Ipv6> for Ipv6 {
    type Error = FieldError;

    fn try_from(file: file::Ipv6) -> Result<Self, FieldError> {
        let read = |key: &str, text: &str| field::ipv6_prefix(&format!("ipv6.{key}"), text);
        let pod_cidr = read("pod_cidr", &file.pod_cidr)?;
        let cluster_cidr = read("cluster_cidr", &file.cluster_cidr)?;
        let service_cidr = read("service_cidr", &file.service_cidr)?;
        let ipv6 = Ipv6 { pod_cidr, cluster_cidr, service_cidr };
        ipv6.prefixes().check("ipv6", LONGEST)?;
        Ok(ipv6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pod_cidr: &str, cluster_cidr: &str, service_cidr: &str) -> Result<Ipv6, String> {
        let [pod_cidr, cluster_cidr, service_cidr] = [pod_cidr, cluster_cidr, service_cidr].map(str::to_owned);
        Ipv6::try_from(file::Ipv6 { pod_cidr, cluster_cidr, service_cidr }).map_err(|e| e.to_string())
    }

    #[test]
    fn the_first_address_is_the_node_s() {
        let ipv6 = read("fd00:10:244:1::/64", "fd00:10:244::/48", "fd00:10:96::/112").unwrap();
        assert_eq!(ipv6.overlay_address().to_string(), "fd00:10:244:1::");
        assert!(read("fd00:10:244::/124", "fd00:10:244::/48", "fd00:10:96::/112").is_ok());
    }

    #[test]
    fn prefixes_that_do_not_go_together_are_refused_by_their_key() {
        let (pods, cluster, services) = ("fd00:10:244:1::/64", "fd00:10:244::/48", "fd00:10:96::/112");
        for (list, start) in [
            ([pods, "fd00:10:245::/48", services], "ipv6.pod_cidr: fd00:10:244:1::/64 is outside ipv6.cluster_cidr"),
            (["fd00:10:244:1::/125", cluster, services], "ipv6.pod_cidr: fd00:10:244:1::/125 has no room"),
            (
                [pods, cluster, "fd00:10:244:7::/112"],
                "ipv6.service_cidr: fd00:10:244:7::/112 overlaps ipv6.cluster_cidr",
            ),
            ([pods, cluster, "fd00::/8"], "ipv6.service_cidr: fd00::/8 overlaps"),
            (["fd00:10:244:1::1/64", cluster, services], "ipv6.pod_cidr: fd00:10:244:1::1/64 has bits set"),
            (["10.244.1.0/24", cluster, services], "ipv6.pod_cidr: \"10.244.1.0/24\" is not an IPv6 prefix"),
            ([pods, "::/0", services], "ipv6.cluster_cidr: ::/0 holds addresses that no station has"),
            ([pods, cluster, "fe80::/64"], "ipv6.service_cidr: fe80::/64 holds addresses"),
            ([pods, cluster, "ff05::/112"], "ipv6.service_cidr: ff05::/112 holds addresses"),
            ([pods, cluster, "::ffff:10.96.0.0/112"], "ipv6.service_cidr: ::ffff:10.96.0.0/112 holds addresses"),
        ] {
            let [pods, cluster, services] = list;
            let problem = read(pods, cluster, services).unwrap_err();
            assert!(problem.starts_with(start), "{problem}");
        }
    }
}
