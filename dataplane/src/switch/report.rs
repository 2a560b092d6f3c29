//! What the switch tells about itself: counters, frames, flows, and whether they add up.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use crossbeam::channel::bounded;

use super::{PATIENCE, Switch};
use crate::{
    counters::PortCounters,
    flow::FiveTuple,
    net::Protocol,
    spec::PortId,
    tables::conntrack::Flow,
    verdict::{Answer, DropReason},
    wire::ipv4,
    worker::{Census, Command},
};

/// Everything counted, at about the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchReport {
    /// Generation of the snapshot published last.
    pub generation: u64,
    /// Every attached port, and removed ones that carried packets.
    pub ports: Vec<PortReport>,
    /// Every worker.
    pub workers: Vec<WorkerReport>,
    /// Flows the connection table holds at most.
    pub flow_capacity: u32,
    /// Flows it holds now.
    pub flows_in_use: u32,
}

/// One port's counters, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortReport {
    /// Its number.
    pub id: PortId,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets the device or the kernel dropped before the switch saw them.
    pub missed: u64,
    /// Packets handed to the device.
    pub tx_packets: u64,
    /// Bytes handed to the device.
    pub tx_bytes: u64,
    /// Packets to this port for which there was no room.
    pub tx_dropped: u64,
    /// Of those received here: left by another port.
    pub forwarded: u64,
    /// Of those received here: left by the host port.
    pub to_host: u64,
    /// Of those received here: turned into an answer of the switch's own. All kinds, also those at 0.
    pub answers: Vec<(Answer, u64)>,
    /// Of those received here: fragments that wait now for the first one of their datagram.
    pub held: u64,
    /// Of those received here: dropped. All reasons, also those at 0.
    pub drops: Vec<(DropReason, u64)>,
}

/// One worker's frames and work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// The processor it is pinned to.
    pub core: usize,
    /// Its frames.
    pub capacity: u32,
    /// Free ones.
    pub free: u32,
    /// Neither free nor in a device.
    pub in_hand: u32,
    /// In fill and RX rings.
    pub receive: u32,
    /// In TX and completion rings.
    pub transmit: u32,
    /// Bursts with at least one packet.
    pub bursts: u64,
    /// Packets.
    pub packets: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Flows it put into the connection table.
    pub flows_opened: u64,
    /// Flows it expired.
    pub flows_expired: u64,
    /// Half open flows it removed from the full table to make room.
    pub flows_gave_way: u64,
}

/// One flow, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who opened it.
    pub client: SocketAddrV4,
    /// What it was opened to.
    pub vip: SocketAddrV4,
    /// Who serves it.
    pub backend: SocketAddrV4,
    /// How far it has come.
    pub state: &'static str,
    /// Since its last packet, in whole seconds.
    pub idle: Duration,
    /// Snapshot generation its forward direction was last decided under.
    pub generation: u32,
}

impl Switch {
    /// Counts everything. Consistent at a quiet point; under traffic, packets in flight show up as small differences.
    pub fn report(&self) -> SwitchReport {
        let censuses: Vec<Census> = (0..self.workers.len()).map(|worker| self.census(worker)).collect();
        let workers = self.workers.iter().zip(&censuses).map(|(worker, census)| WorkerReport {
            core: worker.core,
            capacity: census.capacity,
            free: census.free,
            in_hand: census.in_hand,
            receive: census.receive,
            transmit: census.transmit,
            bursts: worker.counters.bursts.get(),
            packets: worker.counters.packets.get(),
            sleeps: worker.counters.sleeps.get(),
            flows_opened: worker.counters.flows_opened.get(),
            flows_expired: worker.counters.flows_expired.get(),
            flows_gave_way: worker.counters.flows_gave_way.get(),
        });
        let state = self.state();
        let ports = (0..crate::spec::MAX_PORTS as u16).map(PortId).filter_map(|id| {
            let mut port = PortReport::new(id);
            self.workers.iter().for_each(|worker| port.add(worker.counters.port(id)));
            let missed = censuses.iter().flat_map(|census| &census.missed).filter(|(port, _)| *port == id);
            port.missed = missed.map(|(_, missed)| missed).sum();
            (state.ports.contains_key(&id) || port.rx_packets + port.tx_packets > 0).then_some(port)
        });
        SwitchReport {
            generation: state.current.generation.into(),
            ports: ports.collect(),
            workers: workers.collect(),
            flow_capacity: self.shared.conntrack.capacity(),
            flows_in_use: self.shared.conntrack.in_use(),
        }
    }

    /// A worker's census; all zero if it has ended.
    fn census(&self, worker: usize) -> Census {
        let (reply, census) = bounded(1);
        let asked = self.command(worker, Command::Census(reply));
        asked.ok().and_then(|()| census.recv_timeout(PATIENCE).ok()).unwrap_or_default()
    }
}

impl SwitchReport {
    /// What does not add up, a sentence each; empty when packets and frames are conserved. Meaningful at a quiet point.
    pub fn imbalances(&self) -> Vec<String> {
        let mut found = Vec::new();
        for port in &self.ports {
            let (received, accounted) = (port.rx_packets, port.accounted());
            if received != accounted {
                found.push(format!(
                    "Port {} received {received} packets, but {accounted} were forwarded, answered or dropped, or wait.",
                    port.id
                ));
            }
        }
        let left: u64 = self.ports.iter().map(|port| port.forwarded + port.to_host + port.answered()).sum();
        let sent: u64 = self.ports.iter().map(|port| port.tx_packets + port.tx_dropped).sum();
        if left != sent {
            found.push(format!("{left} packets were to leave, but {sent} were handed to a device or found no room."));
        }
        for worker in &self.workers {
            let accounted = worker.free + worker.in_hand + worker.receive + worker.transmit;
            if worker.capacity == 0 {
                found.push(format!("The worker on core {} has ended.", worker.core));
            } else if worker.capacity != accounted {
                found.push(format!(
                    "The worker on core {} has {} frames, but {accounted} are free, in hand or in a device.",
                    worker.core, worker.capacity
                ));
            }
        }
        found
    }
}

impl PortReport {
    fn new(id: PortId) -> PortReport {
        PortReport {
            id,
            answers: Answer::ALL.map(|answer| (answer, 0)).into(),
            drops: DropReason::ALL.map(|reason| (reason, 0)).into(),
            ..PortReport::default()
        }
    }

    fn add(&mut self, counters: &PortCounters) {
        self.rx_packets += counters.rx_packets.get();
        self.rx_bytes += counters.rx_bytes.get();
        self.tx_packets += counters.tx_packets.get();
        self.tx_bytes += counters.tx_bytes.get();
        self.tx_dropped += counters.tx_dropped.get();
        self.forwarded += counters.forwarded.get();
        self.to_host += counters.to_host.get();
        self.held += counters.held.get();
        for ((_, total), counter) in self.answers.iter_mut().zip(&counters.answers) {
            *total += counter.get();
        }
        for ((_, total), counter) in self.drops.iter_mut().zip(&counters.drops) {
            *total += counter.get();
        }
    }

    /// Packets the switch answered.
    pub fn answered(&self) -> u64 {
        self.answers.iter().map(|(_, n)| n).sum()
    }

    /// Packets dropped.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, n)| n).sum()
    }

    fn accounted(&self) -> u64 {
        self.forwarded + self.to_host + self.answered() + self.dropped() + self.held
    }
}

impl FlowRecord {
    /// A table's flow as people read it; `now` in the table's ticks. `None` for protocols services do not have.
    pub(super) fn new(flow: &Flow, now: u32) -> Option<FlowRecord> {
        let protocol = match flow.forward.protocol {
            ipv4::TCP => Protocol::Tcp,
            ipv4::UDP => Protocol::Udp,
            _ => return None,
        };
        let FiveTuple { src, dst, src_port, dst_port, .. } = flow.forward;
        let socket = |address: u32, port| SocketAddrV4::new(Ipv4Addr::from(address), port);
        Some(FlowRecord {
            protocol,
            client: socket(src, src_port),
            vip: socket(dst, dst_port),
            backend: socket(flow.reply.src, flow.reply.src_port),
            state: flow.state.name(),
            idle: Duration::from_secs(u64::from(now.saturating_sub(flow.last_seen))),
            generation: flow.generation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> SwitchReport {
        let port = |id| PortReport { rx_packets: 5, forwarded: 3, tx_packets: 5, ..PortReport::new(PortId(id)) };
        let mut report = SwitchReport { ports: vec![port(0), port(1)], ..SwitchReport::default() };
        for port in &mut report.ports {
            port.drops[0].1 = 1;
            port.answers[0].1 = 1;
            port.tx_packets = 3;
            port.tx_dropped = 1;
        }
        report.workers.push(WorkerReport {
            capacity: 9,
            free: 4,
            in_hand: 0,
            receive: 3,
            transmit: 2,
            ..Default::default()
        });
        report
    }

    #[test]
    fn a_balanced_report_has_no_imbalance_and_every_lost_thing_is_one() {
        assert_eq!(report().imbalances(), Vec::<String>::new());
        let mut lost_packet = report();
        lost_packet.ports[0].rx_packets += 1;
        let mut lost_on_the_way_out = report();
        lost_on_the_way_out.ports[1].tx_packets -= 1;
        let mut lost_frame = report();
        lost_frame.workers[0].free -= 1;
        for broken in [lost_packet, lost_on_the_way_out, lost_frame] {
            assert_eq!(broken.imbalances().len(), 1, "{:?}", broken.imbalances());
        }
    }
}
