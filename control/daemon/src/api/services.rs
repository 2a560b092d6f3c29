//! Answers about services: the selection that compiled them, told.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt_control_api::{EndpointSlice, Service, ServicePort, TrafficPolicy, v1};
use shunt_dataplane::spec::{Otherwise, Rule};

use crate::{
    compile::services::{
        family::Family,
        frontends::{Frontend, FrontendKind, Treatment},
        selection::{Candidate, Place, Selection, Standing},
    },
    desired::State,
    health::{self, Problems},
};

/// What services are told from.
pub(super) struct Node<'a> {
    pub state: &'a State,
    pub place: Place<'a>,
    pub problems: &'a Problems,
}

impl Node<'_> {
    /// The service as this node sees it, with its endpoints if they are asked for.
    pub(super) fn status(&self, service: &Service, endpoints: bool) -> v1::ServiceStatus {
        let slices: Vec<_> = self.state.slices(&service.full_name()).collect();
        let health_check = service.health_check_node_port();
        v1::ServiceStatus {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            r#type: v1::ServiceType::from(service.service_type()).into(),
            internal_traffic_policy: v1::TrafficPolicy::from(service.internal_traffic_policy).into(),
            external_traffic_policy: v1::TrafficPolicy::from(service.external_traffic_policy()).into(),
            ports: service.ports.iter().map(|port| self.port(service, port, &slices, endpoints)).collect(),
            health_check: health_check.map(|port| v1::HealthCheckStatus {
                port: port.into(),
                local_endpoints: health::local_endpoints(&slices, self.place.node),
                problem: self.problems.get(&service.full_name()).cloned().unwrap_or_default(),
            }),
        }
    }

    fn port(
        &self,
        service: &Service,
        port: &ServicePort,
        slices: &[&EndpointSlice],
        endpoints: bool,
    ) -> v1::ServicePortStatus {
        let mut status = v1::ServicePortStatus {
            name: port.name.clone(),
            protocol: v1::Protocol::from(port.protocol).into(),
            ..Default::default()
        };
        self.add_family::<Ipv4Addr>(&mut status, service, port, slices, endpoints);
        self.add_family::<Ipv6Addr>(&mut status, service, port, slices, endpoints);
        // The ClusterIPs first.
        status.frontends.sort_by_key(|frontend| frontend.kind() != v1::FrontendKind::ClusterIp);
        status
    }

    /// What of a service's port is of one family, if it has that.
    fn add_family<A: Family>(
        &self,
        status: &mut v1::ServicePortStatus,
        service: &Service,
        port: &ServicePort,
        slices: &[&EndpointSlice],
        endpoints: bool,
    ) {
        let frontends = Frontend::<A>::of(service, port, self.place.addresses);
        if frontends.is_empty() {
            return;
        }
        let selection = Selection::new(slices, &port.name, self.place);
        let told = frontends.iter().map(|frontend| frontend_status(service, frontend, &selection, self.place));
        status.frontends.extend(told);
        status.known += selection.candidates.len() as u32;
        if endpoints {
            let told = selection.candidates.iter().map(|candidate| endpoint(service, &selection, candidate));
            status.endpoints.extend(told);
        }
    }
}

fn frontend_status<A: Family>(
    service: &Service,
    frontend: &Frontend<A>,
    selection: &Selection<'_, A>,
    place: Place<'_>,
) -> v1::FrontendStatus {
    let rule = |treatment: Treatment| {
        let Rule { endpoints, otherwise, .. } = selection.rule(treatment.policy);
        v1::RuleStatus {
            chosen: endpoints.len() as u32,
            masquerade: treatment.masquerade,
            otherwise: match otherwise {
                Otherwise::Refuse => v1::Otherwise::Refuse.into(),
                Otherwise::Drop => v1::Otherwise::Drop.into(),
            },
            policy: v1::TrafficPolicy::from(treatment.policy).into(),
            direct: false,
        }
    };
    let [from_pods, from_node, from_outside] = frontend.treatments(service).map(rule);
    let from_outside = v1::RuleStatus { direct: frontend.is_direct(service, place), ..from_outside };
    let [from_pods, from_node, from_outside] = [from_pods, from_node, from_outside].map(Some);
    let ranges = frontend.source_ranges(service).iter().map(ToString::to_string).collect();
    let kind = match frontend.kind {
        FrontendKind::ClusterIp => v1::FrontendKind::ClusterIp,
        FrontendKind::NodePort => v1::FrontendKind::NodePort,
        FrontendKind::LoadBalancer => v1::FrontendKind::LoadBalancer,
        FrontendKind::ExternalIp => v1::FrontendKind::ExternalIp,
    };
    let address = SocketAddr::new(frontend.address.into(), frontend.port).to_string();
    v1::FrontendStatus {
        kind: kind.into(),
        address,
        from_pods,
        from_node,
        from_outside,
        source_ranges: ranges,
        known: selection.candidates.len() as u32,
    }
}

fn endpoint<A: Family>(
    service: &Service,
    selection: &Selection<'_, A>,
    candidate: &Candidate<'_, A>,
) -> v1::EndpointStatus {
    let (endpoint, conditions) = (candidate.endpoint, candidate.endpoint.conditions);
    let standing = |policy: TrafficPolicy| selection.standing(candidate, policy);
    let inside = standing(service.internal_traffic_policy);
    // What is had outside is of IPv4.
    let exposure = service.exposure.as_ref().filter(|_| candidate.backend.address.into().is_ipv4());
    let outside = exposure.map(|exposure| standing(exposure.traffic_policy));
    v1::EndpointStatus {
        endpoint: SocketAddr::new(candidate.backend.address.into(), candidate.backend.port).to_string(),
        node: endpoint.node.to_string(),
        zone: endpoint.zone.to_string(),
        ready: conditions.is_ready(),
        serving: conditions.is_serving(),
        terminating: conditions.is_terminating(),
        chosen: inside.is_chosen(),
        reason: inside.sentence().to_owned(),
        chosen_outside: outside.is_some_and(Standing::is_chosen),
        reason_outside: outside.map_or("", Standing::sentence).to_owned(),
    }
}
