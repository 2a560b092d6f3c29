//! What resources have taken of what can be had only once, and who has it.

use std::{net::Ipv4Addr, sync::Arc};

use imbl::HashMap;
use ipnet::Ipv4Net;
use shunt_control_api::Resource;
use shunt_dataplane::net::{MacAddr, Protocol};

use super::overlap::DisjointPrefixes;

/// What is taken, by whom. Cheap to clone: a transaction is tried on a copy.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    pub(super) vtep_addresses: HashMap<Ipv4Addr, Arc<str>>,
    pub(super) vtep_macs: HashMap<MacAddr, Arc<str>>,
    pub(super) pod_prefixes: DisjointPrefixes<Arc<str>>,
    /// Prefixes of the FIB: each leads to one place.
    pub(super) fib: HashMap<Ipv4Net, Arc<str>>,
    pub(super) interfaces: HashMap<Arc<str>, Arc<str>>,
    pub(super) pod_addresses: HashMap<Ipv4Addr, Arc<str>>,
    pub(super) frontends: HashMap<(Ipv4Addr, u16, Protocol), Arc<str>>,
}

impl Claims {
    /// Lets go of what `resource` has taken.
    pub fn release(&mut self, resource: &Resource) {
        match resource {
            Resource::Vtep(vtep) => {
                self.vtep_addresses.remove(&vtep.address);
                self.vtep_macs.remove(&vtep.mac);
                self.pod_prefixes.remove(vtep.pod_cidr);
                self.fib.remove(&vtep.pod_cidr);
            }
            Resource::Port(port) => {
                self.interfaces.remove(port.interface.as_str());
                self.pod_addresses.remove(&port.address);
            }
            Resource::Route(route) => {
                self.fib.remove(&route.prefix);
            }
            Resource::Service(service) => {
                for port in &service.ports {
                    self.frontends.remove(&(service.cluster_ip, port.port, port.protocol));
                }
            }
            Resource::EndpointSlice(_) => {}
        }
    }
}
