//! Services as the node sees them, as tables and as JSON.

use serde::Serialize;
use shunt_control_api::v1;

use super::tables::{or_none, render, table};
use crate::protocol;

/// One line for each port of each service.
pub fn list(services: &[v1::ServiceStatus]) -> String {
    let mut table = table(["NAMESPACE", "NAME", "FRONTEND", "PROTOCOL", "INTERNAL POLICY", "CHOSEN", "IF NONE"]);
    for service in services {
        for port in &service.ports {
            table.add_row([
                &service.namespace,
                &service.name,
                &port.frontend,
                protocol::name(port.protocol()),
                policy(service.internal_traffic_policy()),
                &format!("{} of {}", port.chosen, port.known),
                otherwise(port.otherwise()),
            ]);
        }
    }
    render(&table)
}

/// Every port with its endpoints.
pub fn details(services: &[v1::ServiceStatus]) -> String {
    let port = |port: &v1::ServicePortStatus| {
        let mut table = table(["ENDPOINT", "NODE", "ZONE", "READY", "SERVING", "TERMINATING", "CHOSEN", "WHY"]);
        for endpoint in &port.endpoints {
            let [ready, serving, terminating, chosen] =
                [endpoint.ready, endpoint.serving, endpoint.terminating, endpoint.chosen].map(yes_or_no);
            let (node, zone) = (or_none(&endpoint.node), or_none(&endpoint.zone));
            table.add_row([&endpoint.endpoint, node, zone, ready, serving, terminating, chosen, &endpoint.reason]);
        }
        let (frontend, protocol, none) = (&port.frontend, protocol::name(port.protocol()), otherwise(port.otherwise()));
        let name = if port.name.is_empty() { String::new() } else { format!(" ({})", port.name) };
        let chosen = match port.chosen {
            0 => format!("no endpoint is chosen: new flows are {none}"),
            chosen => format!("{chosen} of {} endpoints chosen", port.known),
        };
        let head = format!("{frontend}/{protocol}{name}: {chosen}");
        if port.endpoints.is_empty() { head } else { format!("{head}\n{}", render(&table)) }
    };
    let service = |service: &v1::ServiceStatus| {
        let ports: Vec<_> = service.ports.iter().map(port).collect();
        let policy = policy(service.internal_traffic_policy());
        format!("{}/{}, internal policy {policy}\n\n{}", service.namespace, service.name, ports.join("\n\n"))
    };
    services.iter().map(service).collect::<Vec<_>>().join("\n\n")
}

fn yes_or_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

fn policy(policy: v1::TrafficPolicy) -> &'static str {
    match policy {
        v1::TrafficPolicy::Local => "Local",
        v1::TrafficPolicy::Cluster | v1::TrafficPolicy::Unspecified => "Cluster",
    }
}

fn otherwise(otherwise: v1::Otherwise) -> &'static str {
    match otherwise {
        v1::Otherwise::Refuse => "refused",
        v1::Otherwise::Drop => "dropped",
        v1::Otherwise::Unspecified => "unknown",
    }
}

#[derive(Serialize)]
pub struct Services<'a> {
    services: Vec<Service<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    namespace: &'a str,
    name: &'a str,
    internal_traffic_policy: &'static str,
    ports: Vec<Port<'a>>,
}

#[derive(Serialize)]
struct Port<'a> {
    name: &'a str,
    protocol: &'static str,
    frontend: &'a str,
    known: u32,
    chosen: u32,
    otherwise: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<Endpoint<'a>>,
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
}

impl<'a> From<&'a [v1::ServiceStatus]> for Services<'a> {
    fn from(services: &'a [v1::ServiceStatus]) -> Self {
        let endpoint = |endpoint: &'a v1::EndpointStatus| Endpoint {
            endpoint: &endpoint.endpoint,
            node: &endpoint.node,
            zone: &endpoint.zone,
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            chosen: endpoint.chosen,
            reason: &endpoint.reason,
        };
        let port = |port: &'a v1::ServicePortStatus| Port {
            name: &port.name,
            protocol: protocol::name(port.protocol()),
            frontend: &port.frontend,
            known: port.known,
            chosen: port.chosen,
            otherwise: otherwise(port.otherwise()),
            endpoints: port.endpoints.iter().map(endpoint).collect(),
        };
        let service = |service: &'a v1::ServiceStatus| Service {
            namespace: &service.namespace,
            name: &service.name,
            internal_traffic_policy: policy(service.internal_traffic_policy()),
            ports: service.ports.iter().map(port).collect(),
        };
        Services { services: services.iter().map(service).collect() }
    }
}
