//! Services as the node sees them, as tables.

use shunt_control_api::v1;

use super::tables::{or_none, render, some, table};
use crate::{
    cluster::{ServiceType, TrafficPolicy},
    protocol,
};

/// One line for each place where a service is had.
pub fn list(services: &[v1::ServiceStatus]) -> String {
    let mut table = table(["NAMESPACE", "NAME", "KIND", "FRONTEND", "PROTOCOL", "PODS", "NODE", "OUTSIDE", "SOURCES"]);
    for service in services {
        for port in &service.ports {
            for frontend in &port.frontends {
                let [kind, address, pods, node, outside, sources] = cells(frontend);
                let (namespace, name) = (service.namespace.clone(), service.name.clone());
                let protocol = protocol::name(port.protocol()).to_owned();
                table.add_row([namespace, name, kind, address, protocol, pods, node, outside, sources]);
            }
        }
    }
    render(&table)
}

/// Every port with its frontends and endpoints.
pub fn details(services: &[v1::ServiceStatus]) -> String {
    services.iter().map(detail).collect::<Vec<_>>().join("\n\n")
}

fn detail(service: &v1::ServiceStatus) -> String {
    let mut head = format!("{}/{}, {}", service.namespace, service.name, type_name(service.r#type()));
    head += &format!(", internal policy {}", policy(service.internal_traffic_policy()));
    if is_exposed(service) {
        head += &format!(", external policy {}", policy(service.external_traffic_policy()));
    }
    if let Some(check) = &service.health_check {
        head += &match check.problem.as_str() {
            "" => format!("\nhealth check port {}: {} ready here", check.port, check.local_endpoints),
            problem => format!("\nhealth check: {problem}"),
        };
    }
    let ports = service.ports.iter().map(|port| format!("\n\n{}", port_detail(service, port)));
    ports.fold(head, |text, port| text + &port)
}

fn port_detail(service: &v1::ServiceStatus, port: &v1::ServicePortStatus) -> String {
    let name = if port.name.is_empty() { String::new() } else { format!("{} ", port.name) };
    let mut frontends = table(["KIND", "FRONTEND", "PODS", "NODE", "OUTSIDE", "SOURCES"]);
    frontends.add_rows(port.frontends.iter().map(cells));
    let head = format!("{name}({}):\n{}", protocol::name(port.protocol()), render(&frontends));
    if port.endpoints.is_empty() { head } else { format!("{head}\n\n{}", endpoints(port, is_exposed(service))) }
}

/// Why each is chosen, or not: for who comes from inside, and from outside if that may be another matter.
fn endpoints(port: &v1::ServicePortStatus, is_exposed: bool) -> String {
    let mut header = vec!["ENDPOINT", "NODE", "ZONE", "READY", "SERVING", "TERMINATING", "CHOSEN", "WHY"];
    header.extend(if is_exposed { &["OUTSIDE", "WHY"][..] } else { &[] });
    let mut table = table(header);
    for endpoint in &port.endpoints {
        let [ready, serving, terminating, chosen, outside] =
            [endpoint.ready, endpoint.serving, endpoint.terminating, endpoint.chosen, endpoint.chosen_outside]
                .map(yes_or_no);
        let (node, zone) = (or_none(&endpoint.node), or_none(&endpoint.zone));
        let mut row = vec![&endpoint.endpoint, node, zone, ready, serving, terminating, chosen, &endpoint.reason];
        if is_exposed {
            row.extend([outside, &endpoint.reason_outside]);
        }
        table.add_row(row);
    }
    render(&table)
}

/// Whether it is had elsewhere than at its ClusterIPs.
fn is_exposed(service: &v1::ServiceStatus) -> bool {
    let mut frontends = service.ports.iter().flat_map(|port| &port.frontends);
    frontends.any(|frontend| frontend.kind() != v1::FrontendKind::ClusterIp)
}

/// Kind, address, what becomes of new flows by where they come from, and who may come.
fn cells(frontend: &v1::FrontendStatus) -> [String; 6] {
    let rule = |rule: Option<&v1::RuleStatus>| match rule {
        None => "unknown".to_owned(),
        Some(rule) if rule.chosen == 0 => otherwise(rule.otherwise()).to_owned(),
        Some(rule) => {
            let masquerade = match (rule.masquerade, rule.direct) {
                (true, true) => ", direct or masqueraded",
                (true, false) => ", masqueraded",
                (false, _) => "",
            };
            format!("{} of {}{masquerade}", rule.chosen, frontend.known)
        }
    };
    let [pods, node, outside] =
        [&frontend.from_pods, &frontend.from_node, &frontend.from_outside].map(|of| rule(of.as_ref()));
    let sources = if frontend.source_ranges.is_empty() { "all".to_owned() } else { some(&frontend.source_ranges) };
    [kind(frontend.kind()).to_owned(), frontend.address.clone(), pods, node, outside, sources]
}

fn yes_or_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

pub(super) fn type_name(service_type: v1::ServiceType) -> &'static str {
    ServiceType::from(service_type).name()
}

pub(super) fn policy(policy: v1::TrafficPolicy) -> &'static str {
    TrafficPolicy::from(policy).name()
}

pub(super) fn kind(kind: v1::FrontendKind) -> &'static str {
    match kind {
        v1::FrontendKind::ClusterIp => "cluster-ip",
        v1::FrontendKind::NodePort => "node-port",
        v1::FrontendKind::LoadBalancer => "load-balancer",
        v1::FrontendKind::ExternalIp => "external-ip",
        v1::FrontendKind::Unspecified => "unknown",
    }
}

pub(super) fn otherwise(otherwise: v1::Otherwise) -> &'static str {
    match otherwise {
        v1::Otherwise::Refuse => "refused",
        v1::Otherwise::Drop => "dropped",
        v1::Otherwise::Unspecified => "unknown",
    }
}
