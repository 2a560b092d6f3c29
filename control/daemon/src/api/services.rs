//! Answers about services: the selection that compiled them, told.

use shunt_control_api::{Service, TrafficPolicy, v1};
use shunt_dataplane::spec::Otherwise;

use crate::{
    compile::services::selection::{Candidate, Place, Selection},
    desired::State,
};

/// The service as the node at `place` sees it.
pub(super) fn status(state: &State, service: &Service, place: Place<'_>, endpoints: bool) -> v1::ServiceStatus {
    let slices: Vec<_> = state.slices(&service.full_name()).collect();
    let policy = service.internal_traffic_policy;
    let port = |port: &shunt_control_api::ServicePort| {
        let selection = Selection::new(&slices, &port.name, place);
        let rule = selection.rule(policy);
        let listed = if endpoints { selection.candidates.as_slice() } else { &[] };
        v1::ServicePortStatus {
            name: port.name.clone(),
            protocol: v1::Protocol::from(port.protocol).into(),
            frontend: format!("{}:{}", service.cluster_ip, port.port),
            known: selection.candidates.len() as u32,
            chosen: rule.endpoints.len() as u32,
            otherwise: match rule.otherwise {
                Otherwise::Refuse => v1::Otherwise::Refuse.into(),
                Otherwise::Drop => v1::Otherwise::Drop.into(),
            },
            endpoints: listed.iter().map(|candidate| endpoint(&selection, candidate, policy)).collect(),
        }
    };
    v1::ServiceStatus {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        internal_traffic_policy: v1::TrafficPolicy::from(policy).into(),
        ports: service.ports.iter().map(port).collect(),
    }
}

fn endpoint(selection: &Selection<'_>, candidate: &Candidate<'_>, policy: TrafficPolicy) -> v1::EndpointStatus {
    let (endpoint, conditions) = (candidate.endpoint, candidate.endpoint.conditions);
    let standing = selection.standing(candidate, policy);
    v1::EndpointStatus {
        endpoint: format!("{}:{}", candidate.backend.address, candidate.backend.port),
        node: endpoint.node.to_string(),
        zone: endpoint.zone.to_string(),
        ready: conditions.is_ready(),
        serving: conditions.is_serving(),
        terminating: conditions.is_terminating(),
        chosen: standing.is_chosen(),
        reason: standing.sentence().to_owned(),
    }
}
