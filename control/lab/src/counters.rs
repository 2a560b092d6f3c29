//! What a daemon counts, as `shuntctl counters -o json` tells it.

use serde::Deserialize;

/// Packets by port, frames by worker.
#[derive(Clone, Debug, Deserialize)]
pub struct Counters {
    /// By port.
    pub ports: Vec<PortCounters>,
    /// By worker.
    pub workers: Vec<WorkerCounters>,
    /// What the daemon itself finds not to add up.
    #[serde(default)]
    pub imbalances: Vec<String>,
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
    /// Of those received: sent out of another port.
    pub forwarded: u64,
    /// Of those received: given to the node's kernel.
    pub to_host: u64,
    /// Of those received: dropped, by reason.
    #[serde(default)]
    pub drops: Vec<DropCounter>,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, Deserialize)]
pub struct DropCounter {
    /// The reason's name.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// One worker's frames.
#[derive(Clone, Debug, Deserialize)]
pub struct WorkerCounters {
    /// The core it runs on.
    pub core: u32,
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
    /// Packets it handled.
    pub packets: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
}

impl Counters {
    /// What does not add up, as the daemon says and as counted again here; empty if all does.
    pub fn imbalances(&self) -> Vec<String> {
        let mut found = self.imbalances.clone();
        for port in &self.ports {
            let drops: u64 = port.drops.iter().map(|drop| drop.packets).sum();
            let (received, gone) = (port.rx_packets, port.forwarded + port.to_host + drops);
            if received != gone {
                found.push(format!(
                    "port {}: received {received}, but {gone} were forwarded, given to the host or dropped",
                    port.name
                ));
            }
        }
        for worker in &self.workers {
            let (all, seen) = (worker.capacity, worker.free + worker.in_hand + worker.receive + worker.transmit);
            if all != seen {
                found.push(format!("worker on core {}: {all} frames, but {seen} are accounted for", worker.core));
            }
        }
        found
    }

    /// Packets dropped for `reason` on all ports.
    pub fn dropped(&self, reason: &str) -> u64 {
        let drops = self.ports.iter().flat_map(|port| &port.drops);
        drops.filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum()
    }

    /// Packets received on all ports.
    pub fn received(&self) -> u64 {
        self.ports.iter().map(|port| port.rx_packets).sum()
    }

    /// The port `name`.
    pub fn port(&self, name: &str) -> Option<&PortCounters> {
        self.ports.iter().find(|port| port.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALANCED: &str = r#"{
        "ports": [{"name": "uplink", "rx_packets": 10, "tx_packets": 7, "forwarded": 6, "to_host": 3,
                   "drops": [{"reason": "unknown_vni", "packets": 1}]}],
        "workers": [{"core": 0, "capacity": 100, "free": 40, "in_hand": 0, "receive": 50, "transmit": 10,
                     "packets": 10, "sleeps": 2}]
    }"#;

    #[test]
    fn imbalances_are_found_without_the_daemon_saying_so() {
        let mut counters: Counters = serde_json::from_str(BALANCED).unwrap();
        assert_eq!(counters.imbalances(), Vec::<String>::new());
        counters.ports[0].forwarded = 5;
        counters.workers[0].free = 41;
        assert_eq!(counters.imbalances().len(), 2, "{:?}", counters.imbalances());
    }
}
