//! What a daemon counts, as `shuntctl counters -o json` tells it.

use serde::Deserialize;

/// Packets by port, frames by worker.
#[derive(Clone, Debug, Deserialize)]
pub struct Counters {
    /// By port.
    pub ports: Vec<PortCounters>,
    /// All removed ports together.
    pub removed: PortCounters,
    /// By worker.
    pub workers: Vec<WorkerCounters>,
}

/// One port's packets.
#[derive(Clone, Debug, Deserialize)]
pub struct PortCounters {
    /// `uplink`, `host` or the pod's name.
    pub name: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets to this port for which its device had no room.
    pub tx_dropped: u64,
    /// Packets to this port for which its memory had no frame.
    pub tx_no_frame: u64,
    /// Of those received: sent out of another port.
    pub forwarded: u64,
    /// Of those received: given to the node's kernel.
    pub to_host: u64,
    /// Of those received: answered by the switch itself.
    pub answered: u64,
    /// Of those received: dropped.
    pub dropped: u64,
    /// Of those received: fragments that wait for the first one of their datagram.
    pub held: u64,
    /// Fragments beyond the first that those received were cut into.
    pub fragments: u64,
}

/// Packets dropped at one port for one reason.
#[derive(Clone, Debug, Deserialize)]
pub struct Drop {
    /// The port they came in on.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// One worker's frames and work.
#[derive(Clone, Debug, Deserialize)]
pub struct WorkerCounters {
    /// The core it runs on.
    pub core: u32,
    /// Its memories.
    pub memories: Vec<MemoryCounters>,
    /// Packets it handled.
    pub packets: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Connections begun anew because their backend did not answer.
    pub flows_unanswered: u64,
}

/// One memory's frames.
#[derive(Clone, Debug, Deserialize)]
pub struct MemoryCounters {
    /// All frames.
    pub capacity: u32,
    /// In no ring and no hand.
    pub free: u32,
    /// With the worker.
    pub in_hand: u32,
    /// In fill and receive rings.
    pub receive: u32,
    /// In transmit and completion rings.
    pub transmit: u32,
}

impl Counters {
    /// What does not add up, counted here again; empty if all does.
    pub fn imbalances(&self) -> Vec<String> {
        let mut found = Vec::new();
        let (mut to_send, mut sent) = (0, 0);
        for port in self.ports.iter().chain([&self.removed]) {
            let left = port.forwarded + port.to_host + port.answered;
            let (received, gone) = (port.rx_packets + port.fragments, left + port.dropped + port.held);
            if received != gone {
                found.push(format!("port {}: {received} packets received or made, {gone} accounted for", port.name));
            }
            to_send += left;
            sent += port.tx_packets + port.tx_dropped + port.tx_no_frame;
        }
        if to_send != sent {
            found.push(format!("{to_send} packets were to leave by some port, {sent} left or found no room"));
        }
        for (worker, memory) in self.workers.iter().flat_map(|worker| worker.memories.iter().map(move |m| (worker, m)))
        {
            let (all, seen) = (memory.capacity, memory.free + memory.in_hand + memory.receive + memory.transmit);
            if all != seen {
                found.push(format!("worker on core {}: {all} frames, {seen} accounted for", worker.core));
            }
        }
        found
    }

    /// Packets received on all ports.
    pub fn received(&self) -> u64 {
        self.ports.iter().chain([&self.removed]).map(|port| port.rx_packets).sum()
    }

    /// Frames of all memories.
    pub fn frames(&self) -> u32 {
        self.workers.iter().flat_map(|worker| &worker.memories).map(|memory| memory.capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALANCED: &str = r#"{
        "ports": [{"name": "uplink", "rx_packets": 10, "fragments": 1, "tx_packets": 7, "tx_dropped": 1, "tx_no_frame": 1,
                   "forwarded": 5, "to_host": 3, "answered": 1, "dropped": 1, "held": 1}],
        "removed": {"name": "removed", "rx_packets": 1, "fragments": 0, "tx_packets": 1, "tx_dropped": 0, "tx_no_frame": 0,
                    "forwarded": 1, "to_host": 0, "answered": 0, "dropped": 0, "held": 0},
        "workers": [{"core": 0, "packets": 10, "sleeps": 2, "flows_unanswered": 0, "memories": [
            {"capacity": 100, "free": 40, "in_hand": 0, "receive": 50, "transmit": 10}]}]
    }"#;

    #[test]
    fn imbalances_are_found() {
        let balanced: Counters = serde_json::from_str(BALANCED).unwrap();
        assert_eq!(balanced.imbalances(), Vec::<String>::new());
        let mut forgotten = balanced.clone();
        forgotten.ports[0].dropped = 0;
        let mut unsent = balanced.clone();
        unsent.ports[0].tx_packets = 6;
        let mut leaked = balanced.clone();
        leaked.workers[0].memories[0].free = 39;
        for broken in [forgotten, unsent, leaked] {
            assert_eq!(broken.imbalances().len(), 1, "{:?}", broken.imbalances());
        }
    }
}
