//! What the workers forward IPv6 by: pods here and behind VTEPs, the node itself, and ClusterIPs. There is no way out of the
//! cluster.

use std::{collections::BTreeMap, net::Ipv6Addr};

use ipnet::Ipv6Net;
use shunt_dataplane::{
    service_set::ServiceSet,
    spec::{FamilySpec, MasqueradeSpec, RouteSpec, Via},
};

use super::{AttachedPorts, Identity, over_overlay, to_kernel, to_pod};
use crate::{config::Ipv6, desired::State, kernel::KernelView};

/// The pods' gateway, answered by the switch itself on every pod's port.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Nothing if the configuration has no `[ipv6]`.
pub(super) fn compile(
    identity: &Identity,
    state: &State,
    view: &KernelView,
    ports: &AttachedPorts<'_>,
    overlay: bool,
    services: ServiceSet<Ipv6Addr>,
) -> FamilySpec<Ipv6Addr> {
    let Some(ipv6) = &identity.config.ipv6 else { return FamilySpec::default() };
    let own = ipv6.overlay_address();
    FamilySpec {
        routes: routes(ipv6, state, to_kernel(identity, view, ports), ports, overlay),
        services,
        gateway: Some(GATEWAY),
        on_link: None,
        router: Some(own),
        masquerade: Some(MasqueradeSpec {
            overlay: own,
            underlay: own,
            ports: identity.config.masquerade.ports.clone(),
            egress: None,
            answers_led: false,
        }),
        pod_cidrs: vec![ipv6.cluster_cidr],
        service_cidrs: vec![ipv6.service_cidr],
    }
}

fn routes(
    ipv6: &Ipv6,
    state: &State,
    to_kernel: Option<Via>,
    ports: &AttachedPorts<'_>,
    overlay: bool,
) -> Vec<RouteSpec<Ipv6Addr>> {
    let mut routes = BTreeMap::from([
        (Ipv6Net::default(), Via::Unreachable),
        // Pods that do not exist.
        (ipv6.pod_cidr, Via::Unreachable),
    ]);
    // Without, the switch answers for itself.
    routes.extend(to_kernel.map(|via| (ipv6.overlay_address().into(), via)));
    let to_vteps = state.vteps().filter_map(|vtep| Some((vtep.ipv6_pod_cidr?, vtep.address)));
    routes.extend(to_vteps.map(|(prefix, vtep)| (prefix, over_overlay(overlay, vtep))));
    routes.extend(state.ports().filter_map(|port| Some((port.ipv6?.into(), to_pod(ports, port)?))));
    routes.into_iter().map(|(prefix, via)| RouteSpec { prefix, via }).collect()
}
