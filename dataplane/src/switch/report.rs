//! What the switch tells about itself: counters, frames, flows, and whether they add up.

use std::{net::SocketAddr, time::Duration};

use crossbeam::channel::bounded;

use super::{PATIENCE, Switch};
use crate::{
    counters::PortCounters,
    flow::FiveTuple,
    net::Protocol,
    spec::{MAX_PORTS, PortId},
    tables::conntrack::Flow,
    verdict::{Answer, DropReason},
    worker::{Census, Command, MemoryCensus},
};

/// Everything counted, at about the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchReport {
    /// Generation of the snapshot published last.
    pub generation: u64,
    /// Every attached port, counted since it was attached.
    pub ports: Vec<PortReport>,
    /// All ports that were removed, together: without them the accounts would not balance. Its number means nothing.
    pub removed: PortReport,
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
    /// Packets to this port for which its device had no room.
    pub tx_dropped: u64,
    /// Packets to this port from another memory for which its own had no free frame.
    pub tx_no_frame: u64,
    /// Packets to this port beyond its bandwidth limit: drops where they came in.
    pub tx_limited: u64,
    /// Of those received here: left by another port.
    pub forwarded: u64,
    /// Of those received here: left by the host port.
    pub to_host: u64,
    /// Of those received here: turned into an answer of the switch's own. All kinds, also those at 0.
    pub answers: Vec<(Answer, u64)>,
    /// Of those received here: fragments that wait now for the first one of their datagram.
    pub held: u64,
    /// Fragments beyond the first that packets received here, too big for their next hop, were cut into.
    pub fragments: u64,
    /// Of those received here: dropped. All reasons, also those at 0.
    pub drops: Vec<(DropReason, u64)>,
}

/// One worker's frames and work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// The processor it is pinned to.
    pub core: usize,
    /// Its memories: the one its ports share, then those of single ports. Empty if the worker has ended.
    pub memories: Vec<MemoryCensus>,
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
    /// Connections begun anew because their backend did not answer.
    pub flows_unanswered: u64,
    /// Clients of services with session affinity it forgot before their time, for want of room.
    pub clients_forgotten: u64,
}

/// One flow, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Who opened it.
    pub client: SocketAddr,
    /// What it was opened to.
    pub vip: SocketAddr,
    /// Who serves it.
    pub backend: SocketAddr,
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
            memories: census.memories.clone(),
            bursts: worker.counters.bursts.get(),
            packets: worker.counters.packets.get(),
            sleeps: worker.counters.sleeps.get(),
            flows_opened: worker.counters.flows_opened.get(),
            flows_expired: worker.counters.flows_expired.get(),
            flows_gave_way: worker.counters.flows_gave_way.get(),
            flows_unanswered: worker.counters.flows_unanswered.get(),
            clients_forgotten: worker.counters.clients_forgotten.get(),
        });
        let state = self.state();
        let (mut ports, mut removed) = (Vec::new(), PortReport::new(PortId::default()));
        for id in (0..MAX_PORTS as u16).map(PortId) {
            let mut port = self.counted(id);
            match state.ports.get(&id) {
                None => removed.change(&port, |total, part| total + part),
                Some(attached) => {
                    removed.change(&attached.before, |total, part| total + part);
                    port.change(&attached.before, |total, part| total - part);
                    let missed = censuses.iter().flat_map(|census| &census.missed).filter(|(port, _)| *port == id);
                    port.missed = missed.map(|(_, missed)| missed).sum();
                    ports.push(port);
                }
            }
        }
        SwitchReport {
            generation: state.current.generation.into(),
            ports,
            removed,
            workers: workers.collect(),
            flow_capacity: self.shared.conntrack.capacity(),
            flows_in_use: self.shared.conntrack.in_use(),
        }
    }

    /// What a port's number has counted since the switch was started, for whatever port had it.
    pub(super) fn counted(&self, id: PortId) -> PortReport {
        let mut port = PortReport::new(id);
        self.workers.iter().for_each(|worker| port.add(worker.counters.port(id)));
        port
    }

    /// A worker's census; empty if it has ended.
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
        let named = self.ports.iter().map(|port| (format!("Port {}", port.id), port));
        let all: Vec<_> = named.chain([("Removed ports".into(), &self.removed)]).collect();
        for (name, port) in &all {
            let (received, accounted) = (port.rx_packets + port.fragments, port.accounted());
            if received != accounted {
                found.push(format!(
                    "{name} received, or cut into fragments, {received} packets, but {accounted} were forwarded, answered or dropped, or wait."
                ));
            }
        }
        let left: u64 = all.iter().map(|(_, port)| port.forwarded + port.to_host + port.answered()).sum();
        let sent: u64 = all.iter().map(|(_, port)| port.tx_packets + port.tx_dropped + port.tx_no_frame).sum();
        if left != sent {
            found.push(format!("{left} packets were to leave, but {sent} were handed to a device or found no room."));
        }
        for worker in &self.workers {
            if worker.memories.is_empty() {
                found.push(format!("The worker on core {} has ended.", worker.core));
            }
            for memory in worker.memories.iter().filter(|memory| memory.capacity != memory.accounted()) {
                let whose = memory.port.map(|port| format!(" for port {port} alone")).unwrap_or_default();
                found.push(format!(
                    "The worker on core {} has {} frames{whose}, but {} are free, in hand or in a device.",
                    worker.core,
                    memory.capacity,
                    memory.accounted()
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
        self.tx_no_frame += counters.tx_no_frame.get();
        self.tx_limited += counters.tx_limited.get();
        self.forwarded += counters.forwarded.get();
        self.to_host += counters.to_host.get();
        self.held += counters.held.get();
        self.fragments += counters.fragments.get();
        for ((_, total), counter) in self.answers.iter_mut().zip(&counters.answers) {
            *total += counter.get();
        }
        for ((_, total), counter) in self.drops.iter_mut().zip(&counters.drops) {
            *total += counter.get();
        }
    }

    /// Applies `change` to every figure and the other report's same figure.
    fn change(&mut self, other: &PortReport, change: impl Fn(u64, u64) -> u64) {
        let pairs = [
            (&mut self.rx_packets, other.rx_packets),
            (&mut self.rx_bytes, other.rx_bytes),
            (&mut self.missed, other.missed),
            (&mut self.tx_packets, other.tx_packets),
            (&mut self.tx_bytes, other.tx_bytes),
            (&mut self.tx_dropped, other.tx_dropped),
            (&mut self.tx_no_frame, other.tx_no_frame),
            (&mut self.tx_limited, other.tx_limited),
            (&mut self.forwarded, other.forwarded),
            (&mut self.to_host, other.to_host),
            (&mut self.held, other.held),
            (&mut self.fragments, other.fragments),
        ];
        let answers = self.answers.iter_mut().zip(&other.answers).map(|((_, n), (_, m))| (n, *m));
        let drops = self.drops.iter_mut().zip(&other.drops).map(|((_, n), (_, m))| (n, *m));
        pairs.into_iter().chain(answers).chain(drops).for_each(|(n, m)| *n = change(*n, m));
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
        let protocol = Protocol::of(flow.forward.protocol)?;
        let FiveTuple { src, dst, src_port, dst_port, .. } = flow.forward;
        Some(FlowRecord {
            protocol,
            client: SocketAddr::new(src, src_port),
            vip: SocketAddr::new(dst, dst_port),
            backend: SocketAddr::new(flow.reply.src, flow.reply.src_port),
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
        let port =
            |id| PortReport { rx_packets: 4, fragments: 1, forwarded: 3, tx_packets: 5, ..PortReport::new(PortId(id)) };
        let mut report = SwitchReport { ports: vec![port(0), port(1)], ..SwitchReport::default() };
        for port in &mut report.ports {
            port.drops[0].1 = 1;
            port.answers[0].1 = 1;
            port.tx_packets = 3;
            port.tx_dropped = 1;
        }
        report.removed = PortReport { rx_packets: 2, forwarded: 2, tx_packets: 1, ..PortReport::new(PortId(0)) };
        report.removed.tx_no_frame = 1;
        let memory = |port| MemoryCensus { port, capacity: 9, free: 4, in_hand: 0, receive: 3, transmit: 2 };
        let memories = vec![memory(None), memory(Some(PortId(0)))];
        report.workers.push(WorkerReport { memories, ..Default::default() });
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
        lost_frame.workers[0].memories[0].free -= 1;
        let mut lost_foreign_frame = report();
        lost_foreign_frame.workers[0].memories[1].transmit -= 1;
        let mut lost_at_a_removed_port = report();
        lost_at_a_removed_port.removed.tx_no_frame = 0;
        let mut ended = report();
        ended.workers[0].memories.clear();
        for broken in [lost_packet, lost_on_the_way_out, lost_frame, lost_foreign_frame, lost_at_a_removed_port, ended]
        {
            assert_eq!(broken.imbalances().len(), 1, "{:?}", broken.imbalances());
        }
    }

    #[test]
    fn what_a_number_counted_before_can_be_taken_off_and_put_elsewhere() {
        let mut now = report().ports[0].clone();
        let before = now.clone();
        now.rx_packets += 7;
        now.drops[2].1 += 7;
        now.change(&before, |total, part| total - part);
        assert_eq!((now.rx_packets, now.accounted(), now.dropped(), now.tx_packets), (7, 7, 7, 0));
    }
}
