//! The tables.

use comfy_table::{CellAlignment, Table, presets};
use shunt_control_api::v1;

use super::{
    json::{answered, dropped, role},
    kind_name,
};
use crate::{
    args::Kind,
    cluster::{Cluster, EndpointSlice, Port, PublishedPort, Rate, Service, ServicePort},
    failure::file_path,
    protocol,
};

/// What is shown where there is nothing.
const NONE: &str = "-";

pub(super) fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Aligns columns of numbers with their ends.
fn numbers(mut table: Table, columns: impl IntoIterator<Item = usize>) -> Table {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Lines without the padding behind the last column.
pub(super) fn render(table: &Table) -> String {
    table.trim_fmt()
}

pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

pub fn applied(answer: &v1::ApplyResponse) -> String {
    let mut text = format!(
        "version {}, generation {}: {} created, {} updated, {} unchanged, {} deleted",
        answer.version, answer.generation, answer.created, answer.updated, answer.unchanged, answer.deleted
    );
    for warning in &answer.warnings {
        text.push_str("\nwarning: ");
        text.push_str(&file_path(warning));
    }
    text
}

pub fn resources(kind: Kind, cluster: &Cluster, status: &v1::GetStatusResponse) -> String {
    match kind {
        Kind::Vtep => vteps(cluster, status),
        Kind::Port => ports(cluster, status),
        Kind::Route => routes(cluster, status),
        Kind::Service => services(&cluster.service),
        Kind::EndpointSlice => endpoint_slices(&cluster.endpoint_slice),
    }
}

/// The station and its address by which the kernel reaches `address`.
fn next_hop<'a>(status: &'a v1::GetStatusResponse, address: &str) -> [&'a str; 2] {
    match status.next_hops.iter().find(|hop| hop.address == address) {
        Some(hop) => [or_none(&hop.next_hop), if hop.mac.is_empty() { "unresolved" } else { &hop.mac }],
        None => [NONE, NONE],
    }
}

fn vteps(cluster: &Cluster, status: &v1::GetStatusResponse) -> String {
    let mut table = table(["NODE", "ADDRESS", "MAC", "POD CIDR", "DIRECT RETURN", "NEXT HOP", "NEXT HOP MAC"]);
    for vtep in &cluster.vtep {
        let [station, mac] = next_hop(status, &vtep.address);
        let direct = if vtep.direct_server_return { "yes" } else { "no" };
        let pods = both(&vtep.pod_cidr, &vtep.ipv6_pod_cidr);
        table.add_row([&vtep.node, &vtep.address, &vtep.mac, &pods, direct, station, mac]);
    }
    render(&table)
}

fn ports(cluster: &Cluster, status: &v1::GetStatusResponse) -> String {
    let mut table = table(["NAME", "INTERFACE", "ADDRESS", "MAC", "PUBLISHED", "RECEIVES", "SENDS", "ID", "STATE"]);
    for port in &cluster.port {
        let status = status.ports.iter().find(|status| status.name == port.name);
        let [id, state] = status.map_or([NONE.into(), NONE.into()], port_state);
        let published = some(&port.published.iter().map(published_port).collect::<Vec<_>>());
        let limits = port.bandwidth.as_ref().map_or([None, None], |bandwidth| [bandwidth.ingress, bandwidth.egress]);
        let [receives, sends] = limits.map(|limit| limit.map_or(NONE.into(), rate));
        let Port { name, interface, mac, .. } = port;
        let address = both(&port.address, &port.ipv6_address);
        table.add_row([name, interface, &address, mac, &published, &receives, &sends, &id, &state]);
    }
    render(&table)
}

/// A limit, in the greatest unit that it is at least one of: `1.5 Gbit/s`.
fn rate(Rate { bits_per_second, .. }: Rate) -> String {
    let units = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1000, "kbit/s")];
    match units.into_iter().find(|(unit, _)| bits_per_second >= *unit) {
        Some((unit, name)) => format!("{} {name}", bits_per_second as f64 / unit as f64),
        None => format!("{bits_per_second} bit/s"),
    }
}

/// As container runtimes write it: `192.168.50.1:8080->80/tcp`.
fn published_port(published_port: &PublishedPort) -> String {
    let PublishedPort { protocol, port, container_port, address } = published_port;
    let at = if address.is_empty() { String::new() } else { format!("{address}:") };
    format!("{at}{port}->{container_port}/{}", protocol::name((*protocol).into()))
}

/// Number and state.
fn port_state(port: &v1::PortStatus) -> [String; 2] {
    match &port.attached {
        Some(attached) => [attached.id.to_string(), "attached".into()],
        None => [NONE.into(), format!("pending: {}", port.pending)],
    }
}

fn routes(cluster: &Cluster, status: &v1::GetStatusResponse) -> String {
    let mut table = table(["PREFIX", "VIA", "NEXT HOP", "NEXT HOP MAC"]);
    for route in &cluster.route {
        let [station, mac] = next_hop(status, &route.via);
        table.add_row([&route.prefix, &route.via, station, mac]);
    }
    render(&table)
}

fn services(services: &[Service]) -> String {
    let mut table = table(["NAMESPACE", "NAME", "TYPE", "CLUSTER IP", "EXTERNAL", "PORTS"]);
    for service in services {
        let number = |port: &ServicePort| match port.node_port {
            0 => port.port.to_string(),
            node_port => format!("{}:{node_port}", port.port),
        };
        let ports =
            service.port.iter().map(|port| format!("{}/{}", number(port), protocol::name(port.protocol.into())));
        let ports: Vec<_> = ports.collect();
        let external = some(&[&service.load_balancer_ips[..], &service.external_ips].concat());
        let (namespace, name, service_type) = (&service.namespace, &service.name, service.service_type.name());
        let cluster_ips = both(&service.cluster_ip, &service.ipv6_cluster_ip);
        table.add_row([namespace, name, service_type, &cluster_ips, &external, &ports.join(",")]);
    }
    render(&table)
}

fn endpoint_slices(slices: &[EndpointSlice]) -> String {
    let mut table = table(["NAMESPACE", "SERVICE", "NAME", "PORTS", "READY", "ENDPOINTS"]);
    for slice in slices {
        let port = |port: &crate::cluster::EndpointPort| match port.name.as_str() {
            "" => port.port.to_string(),
            name => format!("{name}:{}", port.port),
        };
        let ready = slice.endpoint.iter().filter(|endpoint| endpoint.ready.unwrap_or(true)).count();
        let addresses: Vec<_> = slice.endpoint.iter().map(|endpoint| endpoint.address.as_str()).collect();
        table.add_row([
            slice.namespace.clone(),
            slice.service.clone(),
            slice.name.clone(),
            some(&slice.port.iter().map(port).collect::<Vec<_>>()),
            format!("{ready}/{}", slice.endpoint.len()),
            some(&addresses),
        ]);
    }
    render(&table)
}

/// What is had in either family or in both.
fn both(ipv4: &str, ipv6: &str) -> String {
    some(&[ipv4, ipv6].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>())
}

/// The first few, and how many more.
pub(super) fn some(list: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<_> = list.iter().take(SHOWN).map(|item| item.as_ref().to_owned()).collect();
    if list.len() > SHOWN {
        text.push(format!("and {} more", list.len() - SHOWN));
    }
    if text.is_empty() { NONE.into() } else { text.join(",") }
}

pub fn flows(flows: &[v1::Flow]) -> String {
    let mut table = table(["PROTOCOL", "CLIENT", "VIP", "BACKEND", "STATE", "IDLE", "GENERATION"]);
    for flow in flows {
        table.add_row([
            protocol::name(flow.protocol()).to_owned(),
            flow.client.clone(),
            flow.vip.clone(),
            flow.backend.clone(),
            flow.state.clone(),
            format!("{:.1}s", flow.idle_ms as f64 / 1000.0),
            flow.generation.to_string(),
        ]);
    }
    render(&numbers(table, 5..7))
}

pub fn counters(answer: &v1::GetCountersResponse) -> String {
    let mut ports = table([
        "PORT",
        "INTERFACE",
        "ID",
        "RX PACKETS",
        "RX BYTES",
        "MISSED",
        "TX PACKETS",
        "TX BYTES",
        "NO ROOM",
        "NO FRAME",
        "LIMITED",
        "FORWARDED",
        "TO HOST",
        "ANSWERED",
        "DROPPED",
        "HELD",
        "FRAGMENTS",
    ]);
    // Removed ports are shown once they have counted something.
    let removed = answer.removed.iter().filter(|port| port.rx_packets + port.tx_packets + port.tx_dropped > 0);
    for port in answer.ports.iter().chain(removed) {
        let figures = [
            port.id.into(),
            port.rx_packets,
            port.rx_bytes,
            port.missed,
            port.tx_packets,
            port.tx_bytes,
            port.tx_dropped,
            port.tx_no_frame,
            port.tx_limited,
            port.forwarded,
            port.to_host,
            answered(port),
            dropped(port),
            port.held,
            port.fragments,
        ];
        let names = [or_none(&port.name).to_owned(), or_none(&port.interface).to_owned()];
        ports.add_row(names.into_iter().chain(figures.map(|figure: u64| figure.to_string())));
    }
    let mut workers = table(["CORE", "PACKETS", "BURSTS", "SLEEPS"]);
    let mut memories = table(["CORE", "MEMORY OF", "FRAMES", "FREE", "IN HAND", "RECEIVE", "TRANSMIT"]);
    for worker in &answer.workers {
        let figures = [worker.core.into(), worker.packets, worker.bursts, worker.sleeps];
        workers.add_row(figures.map(|figure| figure.to_string()));
        for memory in &worker.memories {
            let whose = if memory.port.is_empty() { "all others" } else { &memory.port };
            let frames = [memory.capacity, memory.free, memory.in_hand, memory.receive, memory.transmit];
            let names = [worker.core.to_string(), whose.to_owned()];
            memories.add_row(names.into_iter().chain(frames.map(|figure| figure.to_string())));
        }
    }
    format!(
        "{}\n\n{}\n\n{}\n\nflows: {} of {}",
        render(&numbers(ports, 2..16)),
        render(&numbers(workers, 0..4)),
        render(&numbers(memories, 2..7)),
        answer.flows_in_use,
        answer.flow_capacity
    )
}

pub fn drops(answer: &v1::GetCountersResponse) -> String {
    let mut table = table(["PORT", "REASON", "PACKETS", "MEANING"]);
    for port in answer.ports.iter().chain(&answer.removed) {
        for drop in &port.drops {
            table.add_row([or_none(&port.name), &drop.reason, &drop.packets.to_string(), &drop.sentence]);
        }
    }
    if table.is_empty() {
        return "no packet was dropped".into();
    }
    render(&numbers(table, [2]))
}

pub fn status(answer: &v1::GetStatusResponse) -> String {
    let overlay = match &answer.local_vtep {
        Some(vtep) => {
            format!("VNI {}, {}:{}, VTEP {}", vtep.vni, or_none(&vtep.address), vtep.udp_port, vtep.mac)
        }
        None => "none: native routing only".into(),
    };
    let cores: Vec<_> = answer.cores.iter().map(u32::to_string).collect();
    let facts = [
        ("node", answer.node.clone()),
        ("shuntd", format!("{}, up {}", answer.daemon_version, duration(answer.uptime_seconds))),
        ("state", format!("version {}, generation {}", answer.version, answer.generation)),
        ("pods", format!("{}, MTU {}", both(&answer.pod_cidr, &answer.ipv6_pod_cidr), answer.pod_mtu)),
        ("address", both(&answer.overlay_address, &answer.ipv6_overlay_address)),
        ("overlay", overlay),
        ("node ports", format!("at {}", some(&answer.node_port_addresses))),
        ("workers", format!("on core {}", cores.join(", "))),
        ("flows", format!("{} of {}", answer.flows_in_use, answer.flow_capacity)),
    ];
    let facts: String = facts.iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect();

    let mut ports = table(["PORT", "INTERFACE", "ROLE", "ID", "MAC", "MTU", "QUEUES", "XDP", "STATE"]);
    for port in &answer.ports {
        let [id, state] = port_state(port);
        let [mac, mtu, queues, xdp] = match &port.attached {
            Some(a) => {
                let copy = if a.zero_copy { "zero-copy" } else { "copy" };
                [a.mac.clone(), a.mtu.to_string(), a.queues.to_string(), format!("{}, {copy}", a.xdp_mode)]
            }
            None => [NONE; 4].map(str::to_owned),
        };
        let name = or_none(&port.name).to_owned();
        table_row(
            &mut ports,
            [name, port.interface.clone(), role(port.role()).into(), id, mac, mtu, queues, xdp, state],
        );
    }
    let mut hops = table(["ADDRESS", "NEXT HOP", "MAC"]);
    for hop in &answer.next_hops {
        let mac = if hop.mac.is_empty() { "unresolved" } else { &hop.mac };
        hops.add_row([&hop.address, or_none(&hop.next_hop), mac]);
    }
    let hops = if hops.is_empty() { String::new() } else { format!("\n\n{}", render(&hops)) };
    let problems: String = answer.problems.iter().map(|problem| format!("\n\n{problem}")).collect();
    format!("{facts}\n{}{hops}{}{problems}", render(&numbers(ports, [3, 5, 6])), remarks(answer))
}

/// Why ports do not work as they were to.
fn remarks(answer: &v1::GetStatusResponse) -> String {
    let copying = answer.ports.iter().filter_map(|port| {
        let why = &port.attached.as_ref()?.why_copy;
        (!why.is_empty()).then(|| format!("\n\nno zero-copy mode on {}: {why}", port.interface))
    });
    let generic = answer.ports.iter().filter(|port| {
        port.role() == v1::PortRole::Pod
            && port.attached.as_ref().is_some_and(|attached| attached.xdp_mode == "generic")
    });
    let uncut = generic.map(|port| {
        format!(
            "\n\nwarning: {} is in generic XDP mode, in which segments longer than a frame are lost and TCP crawls; \
             in the pod, run ethtool -K eth0 tso off gso off, or use a driver with native XDP",
            port.name
        )
    });
    let problems = answer.ports.iter().filter(|port| !port.problem.is_empty());
    let problems = problems.map(|port| format!("\n\nwarning: {}: {}", port.interface, port.problem));
    copying.chain(uncut).chain(problems).collect()
}

fn table_row<const N: usize>(table: &mut Table, row: [String; N]) {
    table.add_row(row);
}

/// The two largest units.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

pub fn conservation(answer: &v1::GetCountersResponse) -> String {
    if !answer.imbalances.is_empty() {
        return answer.imbalances.join("\n");
    }
    let sum =
        |figure: fn(&v1::PortCounters) -> u64| answer.ports.iter().chain(&answer.removed).map(figure).sum::<u64>();
    let (received, forwarded, to_host) =
        (sum(|port| port.rx_packets), sum(|port| port.forwarded), sum(|port| port.to_host));
    let (answered, dropped, held) = (sum(answered), sum(dropped), sum(|port| port.held));
    let fragments = sum(|port| port.fragments);
    let memories = answer.workers.iter().flat_map(|worker| &worker.memories);
    let frames: u64 = memories.map(|memory| u64::from(memory.capacity)).sum();
    format!(
        "balanced: {received} packets received + {fragments} fragments made of them = {forwarded} forwarded + {to_host} to the host + {answered} answered + {dropped} dropped + {held} held; \
         all {frames} frames are accounted for"
    )
}

/// A line for each resource.
pub fn change(message: v1::WatchResponse) -> Vec<String> {
    use v1::resource::Kind;
    let (version, mut lines) = (message.version, Vec::new());
    for resource in message.upserts {
        let what = match resource.kind {
            Some(Kind::Vtep(vtep)) => format!("vtep {}", vtep.node),
            Some(Kind::Port(port)) => format!("port {}", port.name),
            Some(Kind::Route(route)) => format!("route {}", route.prefix),
            Some(Kind::Service(service)) => format!("service {}/{}", service.namespace, service.name),
            Some(Kind::EndpointSlice(slice)) => {
                format!("endpoint slice {}/{}/{}", slice.namespace, slice.service, slice.name)
            }
            None => "a resource of a kind unknown to this shuntctl".into(),
        };
        lines.push(format!("{version} {} {what}", if message.initial { "=" } else { "+" }));
    }
    lines.extend(message.deletes.iter().map(|key| format!("{version} - {} {}", kind_name(key.kind()), key.name)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let shown = [5, 65, 3 * 3600 + 120, 2 * 86400 + 3600].map(duration);
        assert_eq!(shown, ["5s", "1m5s", "3h2m", "2d1h"]);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some(&["a", "b", "c", "d", "e"]), "a,b,c,and 2 more");
        assert_eq!(some(&[] as &[&str]), "-");
    }

    #[test]
    fn what_ports_lack_is_said() {
        let port = |role: v1::PortRole, xdp_mode: &str, why_copy: &str| v1::PortStatus {
            name: format!("{role:?}"),
            interface: "eth7".into(),
            role: role.into(),
            attached: Some(v1::AttachedPort {
                xdp_mode: xdp_mode.into(),
                why_copy: why_copy.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut answer = v1::GetStatusResponse {
            ports: vec![port(v1::PortRole::Pod, "native", ""), port(v1::PortRole::Uplink, "generic", "")],
            ..Default::default()
        };
        assert_eq!(remarks(&answer), "");
        answer.ports[0] = port(v1::PortRole::Pod, "generic", "");
        answer.ports[1] = port(v1::PortRole::Uplink, "native", "no such mode");
        answer.ports[1].problem = "in the way".into();
        let text = remarks(&answer);
        assert!(text.contains("warning: eth7: in the way"), "{text}");
        assert!(text.contains("no zero-copy mode on eth7: no such mode"), "{text}");
        assert!(text.contains("warning: Pod is in generic XDP mode") && text.contains("tso off gso off"), "{text}");
    }

    #[test]
    fn lines_have_no_blanks_at_their_ends() {
        let drops = v1::GetCountersResponse {
            ports: vec![v1::PortCounters {
                name: "uplink".into(),
                drops: vec![v1::DropCounter { reason: "no_route".into(), sentence: "x".into(), packets: 3 }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = super::drops(&drops);
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert!(text.contains("no_route"));
    }
}
