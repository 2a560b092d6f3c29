//! The cluster that all contenders serve: a pod here, services whose endpoints are all on one other node.

use std::net::Ipv4Addr;

/// The pod that sends.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
/// This node's and the other node's pods.
pub const POD_CIDR: &str = "10.244.1.0/24";
pub const REMOTE_POD_CIDR: &str = "10.244.2.0/24";
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// Room for 262,144 services.
pub const SERVICE_CIDR: &str = "10.96.0.0/14";
/// The first service's ClusterIP; the others follow.
pub const FIRST_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Port of every service, UDP.
pub const VIP_PORT: u16 = 80;
/// Port of every endpoint.
pub const TARGET_PORT: u16 = 8080;
/// Endpoints of a service.
pub const ENDPOINTS: u32 = 10;
/// The two nodes on the underlay.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
/// The two nodes' addresses on the overlay.
pub const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
pub const REMOTE_OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 0);
pub const VTEP_MAC: &str = "0a:58:00:00:00:01";
pub const REMOTE_VTEP_MAC: &str = "0a:58:00:00:00:02";
pub const VNI: u32 = 1;
pub const VXLAN_PORT: u16 = 8472;
/// Pods behind the other node, each an endpoint of many services.
const REMOTE_PODS: u32 = 240;

/// A service with its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub number: u32,
    pub vip: Ipv4Addr,
    pub endpoints: Vec<Ipv4Addr>,
}

impl Service {
    /// Service number `number`, from 0.
    pub fn new(number: u32) -> Service {
        let pod = |at: u32| Ipv4Addr::from(u32::from(REMOTE_OVERLAY) + 2 + (number * ENDPOINTS + at) % REMOTE_PODS);
        let vip = Ipv4Addr::from(u32::from(FIRST_VIP) + number);
        Service { number, vip, endpoints: (0..ENDPOINTS).map(pod).collect() }
    }

    /// The same service after `change` rollouts, each of which puts another pod in the place of its first endpoint.
    pub fn changed(number: u32, change: u32) -> Service {
        let mut service = Service::new(number);
        let taken = (number * ENDPOINTS + ENDPOINTS + change % (REMOTE_PODS - ENDPOINTS)) % REMOTE_PODS;
        service.endpoints[0] = Ipv4Addr::from(u32::from(REMOTE_OVERLAY) + 2 + taken);
        service
    }
}

/// The first `count` services.
pub fn services(count: u32) -> impl Iterator<Item = Service> {
    (0..count).map(Service::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_replaces_one_endpoint_by_one_that_was_none() {
        for number in [0, 23, 99_999] {
            for change in 0..500 {
                let (before, after) = (Service::new(number), Service::changed(number, change));
                assert_eq!(before.endpoints[1..], after.endpoints[1..]);
                assert!(!before.endpoints.contains(&after.endpoints[0]), "{number} {change}");
            }
        }
    }
}
