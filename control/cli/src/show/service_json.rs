//! Services as the node sees them, as JSON.

use serde::Serialize;
use shunt_control_api::v1;

use super::{
    json::some,
    service::{kind, otherwise, policy, type_name},
};
use crate::protocol;

#[derive(Serialize)]
pub struct Services<'a> {
    services: Vec<Service<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    namespace: &'a str,
    name: &'a str,
    #[serde(rename = "type")]
    service_type: &'static str,
    internal_traffic_policy: &'static str,
    external_traffic_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<HealthCheck<'a>>,
    ports: Vec<Port<'a>>,
}

#[derive(Serialize)]
struct HealthCheck<'a> {
    port: u32,
    local_endpoints: u32,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct Port<'a> {
    name: &'a str,
    protocol: &'static str,
    known: u32,
    frontends: Vec<Frontend<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<Endpoint<'a>>,
}

#[derive(Serialize)]
struct Frontend<'a> {
    kind: &'static str,
    address: &'a str,
    known: u32,
    from_pods: Rule,
    from_node: Rule,
    from_outside: Rule,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    source_ranges: &'a [String],
}

#[derive(Serialize)]
struct Rule {
    policy: &'static str,
    chosen: u32,
    masquerade: bool,
    direct: bool,
    otherwise: &'static str,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    endpoint: &'a str,
    node: &'a str,
    zone: &'a str,
    ready: bool,
    serving: bool,
    terminating: bool,
    chosen: bool,
    reason: &'a str,
    chosen_outside: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason_outside: &'a str,
}

impl<'a> From<&'a [v1::ServiceStatus]> for Services<'a> {
    fn from(services: &'a [v1::ServiceStatus]) -> Self {
        Services { services: services.iter().map(Service::from).collect() }
    }
}

impl<'a> From<&'a v1::ServiceStatus> for Service<'a> {
    fn from(service: &'a v1::ServiceStatus) -> Self {
        let health_check = service.health_check.as_ref().map(|check| HealthCheck {
            port: check.port,
            local_endpoints: check.local_endpoints,
            problem: some(&check.problem),
        });
        Service {
            namespace: &service.namespace,
            name: &service.name,
            service_type: type_name(service.r#type()),
            internal_traffic_policy: policy(service.internal_traffic_policy()),
            external_traffic_policy: policy(service.external_traffic_policy()),
            health_check,
            ports: service.ports.iter().map(Port::from).collect(),
        }
    }
}

impl<'a> From<&'a v1::ServicePortStatus> for Port<'a> {
    fn from(port: &'a v1::ServicePortStatus) -> Self {
        let endpoint = |endpoint: &'a v1::EndpointStatus| Endpoint {
            endpoint: &endpoint.endpoint,
            node: &endpoint.node,
            zone: &endpoint.zone,
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            chosen: endpoint.chosen,
            reason: &endpoint.reason,
            chosen_outside: endpoint.chosen_outside,
            reason_outside: &endpoint.reason_outside,
        };
        Port {
            name: &port.name,
            protocol: protocol::name(port.protocol()),
            known: port.known,
            frontends: port.frontends.iter().map(Frontend::from).collect(),
            endpoints: port.endpoints.iter().map(endpoint).collect(),
        }
    }
}

impl<'a> From<&'a v1::FrontendStatus> for Frontend<'a> {
    fn from(frontend: &'a v1::FrontendStatus) -> Self {
        let rule = |rule: &Option<v1::RuleStatus>| {
            let rule = rule.unwrap_or_default();
            let [policy, otherwise] = [policy(rule.policy()), otherwise(rule.otherwise())];
            Rule { policy, chosen: rule.chosen, masquerade: rule.masquerade, direct: rule.direct, otherwise }
        };
        Frontend {
            kind: kind(frontend.kind()),
            address: &frontend.address,
            known: frontend.known,
            from_pods: rule(&frontend.from_pods),
            from_node: rule(&frontend.from_node),
            from_outside: rule(&frontend.from_outside),
            source_ranges: &frontend.source_ranges,
        }
    }
}
