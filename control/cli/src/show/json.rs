//! The JSON forms. Their field names are an interface: scripts read them.

use serde::Serialize;
use shunt_control_api::v1;

use super::kind_name;
use crate::{cluster::Cluster, protocol};

#[derive(Serialize)]
pub struct Applied<'a> {
    version: u64,
    generation: u64,
    created: u32,
    updated: u32,
    unchanged: u32,
    deleted: u32,
    warnings: &'a [String],
}

impl<'a> From<&'a v1::ApplyResponse> for Applied<'a> {
    fn from(answer: &'a v1::ApplyResponse) -> Self {
        Applied {
            version: answer.version,
            generation: answer.generation,
            created: answer.created,
            updated: answer.updated,
            unchanged: answer.unchanged,
            deleted: answer.deleted,
            warnings: &answer.warnings,
        }
    }
}

#[derive(Serialize)]
pub struct Flows<'a> {
    flows: Vec<Flow<'a>>,
    more: bool,
}

#[derive(Serialize)]
struct Flow<'a> {
    protocol: &'static str,
    client: &'a str,
    vip: &'a str,
    backend: &'a str,
    state: &'a str,
    idle_ms: u64,
    generation: u32,
}

impl<'a> From<&'a v1::ListFlowsResponse> for Flows<'a> {
    fn from(answer: &'a v1::ListFlowsResponse) -> Self {
        let flow = |flow: &'a v1::Flow| Flow {
            protocol: protocol::name(flow.protocol()),
            client: &flow.client,
            vip: &flow.vip,
            backend: &flow.backend,
            state: &flow.state,
            idle_ms: flow.idle_ms,
            generation: flow.generation,
        };
        Flows { flows: answer.flows.iter().map(flow).collect(), more: answer.more }
    }
}

#[derive(Serialize)]
pub struct Counters<'a> {
    generation: u64,
    ports: Vec<Port<'a>>,
    /// All removed ports together.
    removed: Option<Port<'a>>,
    workers: Vec<Worker<'a>>,
    flow_capacity: u32,
    flows_in_use: u32,
}

#[derive(Serialize)]
struct Port<'a> {
    name: &'a str,
    interface: &'a str,
    id: u32,
    rx_packets: u64,
    rx_bytes: u64,
    missed: u64,
    tx_packets: u64,
    tx_bytes: u64,
    tx_dropped: u64,
    tx_no_frame: u64,
    tx_limited: u64,
    forwarded: u64,
    to_host: u64,
    answered: u64,
    dropped: u64,
    held: u64,
    fragments: u64,
}

#[derive(Serialize)]
struct Memory<'a> {
    /// Who has it for itself.
    port: Option<&'a str>,
    capacity: u32,
    free: u32,
    in_hand: u32,
    receive: u32,
    transmit: u32,
}

#[derive(Serialize)]
struct Worker<'a> {
    core: u32,
    memories: Vec<Memory<'a>>,
    bursts: u64,
    packets: u64,
    sleeps: u64,
    flows_opened: u64,
    flows_expired: u64,
    flows_gave_way: u64,
    flows_unanswered: u64,
    clients_forgotten: u64,
}

#[derive(Serialize)]
pub struct Flushed {
    flushed: u64,
}

impl From<&v1::FlushFlowsResponse> for Flushed {
    fn from(answer: &v1::FlushFlowsResponse) -> Self {
        Flushed { flushed: answer.flushed }
    }
}

/// Packets answered by the switch itself, of those received on a port.
pub fn answered(port: &v1::PortCounters) -> u64 {
    port.answers.iter().map(|answer| answer.packets).sum()
}

/// Packets dropped of those received on a port.
pub fn dropped(port: &v1::PortCounters) -> u64 {
    port.drops.iter().map(|drop| drop.packets).sum()
}

impl<'a> From<&'a v1::GetCountersResponse> for Counters<'a> {
    fn from(answer: &'a v1::GetCountersResponse) -> Self {
        let port = |port: &'a v1::PortCounters| Port {
            name: &port.name,
            interface: &port.interface,
            id: port.id,
            rx_packets: port.rx_packets,
            rx_bytes: port.rx_bytes,
            missed: port.missed,
            tx_packets: port.tx_packets,
            tx_bytes: port.tx_bytes,
            tx_dropped: port.tx_dropped,
            tx_no_frame: port.tx_no_frame,
            tx_limited: port.tx_limited,
            forwarded: port.forwarded,
            to_host: port.to_host,
            answered: answered(port),
            dropped: dropped(port),
            held: port.held,
            fragments: port.fragments,
        };
        let memory = |memory: &'a v1::MemoryCounters| Memory {
            port: some(&memory.port),
            capacity: memory.capacity,
            free: memory.free,
            in_hand: memory.in_hand,
            receive: memory.receive,
            transmit: memory.transmit,
        };
        let worker = |worker: &'a v1::WorkerCounters| Worker {
            core: worker.core,
            memories: worker.memories.iter().map(memory).collect(),
            bursts: worker.bursts,
            packets: worker.packets,
            sleeps: worker.sleeps,
            flows_opened: worker.flows_opened,
            flows_expired: worker.flows_expired,
            flows_gave_way: worker.flows_gave_way,
            flows_unanswered: worker.flows_unanswered,
            clients_forgotten: worker.clients_forgotten,
        };
        Counters {
            generation: answer.generation,
            ports: answer.ports.iter().map(port).collect(),
            removed: answer.removed.as_ref().map(port),
            workers: answer.workers.iter().map(worker).collect(),
            flow_capacity: answer.flow_capacity,
            flows_in_use: answer.flows_in_use,
        }
    }
}

#[derive(Serialize)]
pub struct Drops<'a> {
    drops: Vec<Drop<'a>>,
}

#[derive(Serialize)]
struct Drop<'a> {
    port: &'a str,
    reason: &'a str,
    packets: u64,
    sentence: &'a str,
}

impl<'a> From<&'a v1::GetCountersResponse> for Drops<'a> {
    fn from(answer: &'a v1::GetCountersResponse) -> Self {
        let drops = |port: &'a v1::PortCounters| {
            port.drops.iter().map(|drop| Drop {
                port: &port.name,
                reason: &drop.reason,
                packets: drop.packets,
                sentence: &drop.sentence,
            })
        };
        Drops { drops: answer.ports.iter().chain(&answer.removed).flat_map(drops).collect() }
    }
}

#[derive(Serialize)]
pub struct Conservation<'a> {
    balanced: bool,
    imbalances: &'a [String],
}

impl<'a> From<&'a v1::GetCountersResponse> for Conservation<'a> {
    fn from(answer: &'a v1::GetCountersResponse) -> Self {
        Conservation { balanced: answer.imbalances.is_empty(), imbalances: &answer.imbalances }
    }
}

#[derive(Serialize)]
pub struct Status<'a> {
    node: &'a str,
    daemon_version: &'a str,
    uptime_seconds: u64,
    version: u64,
    generation: u64,
    pod_cidr: &'a str,
    overlay_address: &'a str,
    /// Without `[ipv6]` left out.
    #[serde(skip_serializing_if = "str::is_empty")]
    ipv6_pod_cidr: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    ipv6_overlay_address: &'a str,
    local_vtep: Option<LocalVtep<'a>>,
    ports: Vec<PortStatus<'a>>,
    next_hops: Vec<NextHop<'a>>,
    cores: &'a [u32],
    flow_capacity: u32,
    flows_in_use: u32,
    node_port_addresses: &'a [String],
    pod_mtu: u32,
    problems: &'a [String],
}

#[derive(Serialize)]
struct LocalVtep<'a> {
    address: &'a str,
    mac: &'a str,
    vni: u32,
    udp_port: u32,
}

#[derive(Serialize)]
struct PortStatus<'a> {
    name: &'a str,
    interface: &'a str,
    role: &'static str,
    attached: Option<Attached<'a>>,
    /// Why it is not attached.
    pending: Option<&'a str>,
    /// What is wrong with the interface in the kernel.
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct Attached<'a> {
    id: u32,
    mac: &'a str,
    mtu: u32,
    queues: u32,
    xdp_mode: &'a str,
    zero_copy: bool,
    /// Why not, if it was tried.
    why_copy: Option<&'a str>,
}

#[derive(Serialize)]
struct NextHop<'a> {
    address: &'a str,
    next_hop: Option<&'a str>,
    mac: Option<&'a str>,
}

/// `uplink`, `host` or `pod`.
pub fn role(role: v1::PortRole) -> &'static str {
    match role {
        v1::PortRole::Uplink => "uplink",
        v1::PortRole::Host => "host",
        v1::PortRole::Pod => "pod",
        v1::PortRole::Unspecified => "unknown",
    }
}

pub(super) fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl<'a> From<&'a v1::GetStatusResponse> for Status<'a> {
    fn from(answer: &'a v1::GetStatusResponse) -> Self {
        let port = |port: &'a v1::PortStatus| PortStatus {
            name: &port.name,
            interface: &port.interface,
            role: role(port.role()),
            attached: port.attached.as_ref().map(|attached| Attached {
                id: attached.id,
                mac: &attached.mac,
                mtu: attached.mtu,
                queues: attached.queues,
                xdp_mode: &attached.xdp_mode,
                zero_copy: attached.zero_copy,
                why_copy: some(&attached.why_copy),
            }),
            pending: some(&port.pending),
            problem: some(&port.problem),
        };
        let next_hop = |hop: &'a v1::NextHopStatus| NextHop {
            address: &hop.address,
            next_hop: some(&hop.next_hop),
            mac: some(&hop.mac),
        };
        Status {
            node: &answer.node,
            daemon_version: &answer.daemon_version,
            uptime_seconds: answer.uptime_seconds,
            version: answer.version,
            generation: answer.generation,
            pod_cidr: &answer.pod_cidr,
            overlay_address: &answer.overlay_address,
            ipv6_pod_cidr: &answer.ipv6_pod_cidr,
            ipv6_overlay_address: &answer.ipv6_overlay_address,
            local_vtep: answer.local_vtep.as_ref().map(|vtep| LocalVtep {
                address: &vtep.address,
                mac: &vtep.mac,
                vni: vtep.vni,
                udp_port: vtep.udp_port,
            }),
            ports: answer.ports.iter().map(port).collect(),
            next_hops: answer.next_hops.iter().map(next_hop).collect(),
            cores: &answer.cores,
            flow_capacity: answer.flow_capacity,
            flows_in_use: answer.flows_in_use,
            node_port_addresses: &answer.node_port_addresses,
            pod_mtu: answer.pod_mtu,
            problems: &answer.problems,
        }
    }
}

#[derive(Serialize)]
pub struct Change {
    version: u64,
    initial: bool,
    more: bool,
    upserts: Cluster,
    deletes: Vec<Key>,
}

#[derive(Serialize)]
struct Key {
    kind: &'static str,
    name: String,
}

impl From<v1::WatchResponse> for Change {
    fn from(message: v1::WatchResponse) -> Self {
        let key = |key: v1::Key| Key { kind: kind_name(key.kind()), name: key.name };
        Change {
            version: message.version,
            initial: message.initial,
            more: message.more,
            upserts: message.upserts.into_iter().collect(),
            deletes: message.deletes.into_iter().map(key).collect(),
        }
    }
}
