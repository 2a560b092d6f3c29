//! Answers about the node and its counters.

use std::{collections::HashMap, time::Duration};

use shunt_control_api::v1;
use shunt_dataplane::{
    spec::{PortId, PortRole},
    switch::{PortInfo, PortReport, SwitchReport, WorkerReport},
    worker::MemoryCensus,
};

use crate::{controller::ControllerHandle, names::port_names};

/// The answer to `GetStatus`.
pub(super) fn status(
    controller: &ControllerHandle,
    report: &SwitchReport,
    host_problem: &str,
    uptime: Duration,
) -> v1::GetStatusResponse {
    let (observed, state) = (controller.observed(), controller.feed().state());
    let config = &controller.identity().config;
    let names = port_names(config, &state);
    let ports = observed.attachments.iter().map(|(interface, attachment)| v1::PortStatus {
        name: names.get(interface).cloned().unwrap_or_default(),
        interface: interface.to_owned(),
        role: role(attachment.role()).into(),
        attached: attachment.info().map(attached),
        pending: attachment.pending().unwrap_or_default().to_owned(),
        problem: if attachment.role() == PortRole::Host { host_problem } else { "" }.to_owned(),
    });
    let next_hops = observed.view.next_hops.iter().map(|(address, hop)| v1::NextHopStatus {
        address: address.to_string(),
        next_hop: hop.station.map(|station| station.to_string()).unwrap_or_default(),
        mac: hop.mac.map(|mac| mac.to_string()).unwrap_or_default(),
    });
    let addresses = controller.identity().addresses(&observed.view).node_ports;
    let local_vtep = config.vxlan.as_ref().map(|vxlan| v1::LocalVtep {
        address: observed.view.underlay.map(|address| address.to_string()).unwrap_or_default(),
        mac: controller.identity().vtep_mac.to_string(),
        vni: vxlan.vni,
        udp_port: vxlan.udp_port.into(),
    });
    v1::GetStatusResponse {
        node: config.node.name.clone(),
        daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: uptime.as_secs(),
        version: state.version,
        generation: observed.generation,
        pod_cidr: config.node.pod_cidr.to_string(),
        overlay_address: config.node.overlay_address().to_string(),
        local_vtep,
        ports: ports.collect(),
        next_hops: next_hops.collect(),
        cores: config.cores.iter().map(|&core| core as u32).collect(),
        flow_capacity: report.flow_capacity,
        flows_in_use: report.flows_in_use,
        problems: observed.health_problems.iter().map(|(name, why)| format!("service {name}: {why}")).collect(),
        pod_mtu: observed.view.links.get(&config.uplink).map_or(0, |link| config.pod_mtu(link.mtu)),
        node_port_addresses: addresses.iter().map(ToString::to_string).collect(),
        ipv6_pod_cidr: config.ipv6.as_ref().map(|ipv6| ipv6.pod_cidr.to_string()).unwrap_or_default(),
        ipv6_overlay_address: config.ipv6.as_ref().map(|ipv6| ipv6.overlay_address().to_string()).unwrap_or_default(),
    }
}

fn role(role: PortRole) -> v1::PortRole {
    match role {
        PortRole::Uplink => v1::PortRole::Uplink,
        PortRole::Host => v1::PortRole::Host,
        PortRole::Pod => v1::PortRole::Pod,
    }
}

fn attached(info: &PortInfo) -> v1::AttachedPort {
    v1::AttachedPort {
        id: info.id.0.into(),
        mac: info.mac.to_string(),
        mtu: info.mtu.into(),
        queues: info.queues,
        xdp_mode: info.xdp_mode.to_string(),
        zero_copy: info.zero_copy,
        why_copy: info.why_copy.clone().unwrap_or_default(),
    }
}

/// The answer to `GetCounters`.
pub(super) fn counters(controller: &ControllerHandle, report: &SwitchReport) -> v1::GetCountersResponse {
    let (observed, state) = (controller.observed(), controller.feed().state());
    let names = port_names(&controller.identity().config, &state);
    let interfaces: HashMap<PortId, &str> =
        observed.attachments.iter().filter_map(|(interface, a)| Some((a.info()?.id, interface))).collect();
    let name = |id: PortId| {
        let interface = interfaces.get(&id).copied().unwrap_or_default();
        (interface, names.get(interface).map_or("", String::as_str))
    };
    let port = |port: &PortReport| {
        let (interface, name) = name(port.id);
        port_counters(port, interface, name)
    };
    let name = |id| name(id).1;
    v1::GetCountersResponse {
        generation: report.generation,
        ports: report.ports.iter().map(port).collect(),
        removed: Some(port_counters(&report.removed, "", "removed")),
        workers: report.workers.iter().map(|worker| worker_counters(worker, name)).collect(),
        flow_capacity: report.flow_capacity,
        flows_in_use: report.flows_in_use,
        imbalances: report.imbalances(),
    }
}

fn port_counters(port: &PortReport, interface: &str, name: &str) -> v1::PortCounters {
    let drops = port.drops.iter().filter(|(_, packets)| *packets > 0);
    let answers = port.answers.iter().filter(|(_, packets)| *packets > 0);
    v1::PortCounters {
        name: name.to_owned(),
        interface: interface.to_owned(),
        id: port.id.0.into(),
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
        held: port.held,
        fragments: port.fragments,
        answers: answers
            .map(|(answer, packets)| v1::AnswerCounter {
                answer: answer.name().to_owned(),
                sentence: answer.sentence().to_owned(),
                packets: *packets,
            })
            .collect(),
        drops: drops
            .map(|(reason, packets)| v1::DropCounter {
                reason: reason.name().to_owned(),
                sentence: reason.sentence().to_owned(),
                packets: *packets,
            })
            .collect(),
    }
}

fn worker_counters<'a>(worker: &WorkerReport, name: impl Fn(PortId) -> &'a str) -> v1::WorkerCounters {
    let memory = |memory: &MemoryCensus| v1::MemoryCounters {
        port: memory.port.map_or("", &name).to_owned(),
        capacity: memory.capacity,
        free: memory.free,
        in_hand: memory.in_hand,
        receive: memory.receive,
        transmit: memory.transmit,
    };
    v1::WorkerCounters {
        core: worker.core as u32,
        memories: worker.memories.iter().map(memory).collect(),
        bursts: worker.bursts,
        packets: worker.packets,
        sleeps: worker.sleeps,
        flows_opened: worker.flows_opened,
        flows_expired: worker.flows_expired,
        flows_gave_way: worker.flows_gave_way,
        flows_unanswered: worker.flows_unanswered,
        clients_forgotten: worker.clients_forgotten,
    }
}
