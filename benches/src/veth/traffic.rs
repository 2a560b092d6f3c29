//! What is sent to a contender, as a profile of pktgen's, and how: XDP live frames from the source's core.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use shunt_dataplane::xsk::XdpMode;
use shunt_pktgen::{
    engine::{Kind, Load, Ports, Tester},
    packet::headers_len,
    profile::{Profile, Protocol},
};

use super::{
    cases::Case,
    cluster::{FIRST_VIP, POD, VIP_PORT},
    topology::{SOURCE_CORE, Topology},
};
use crate::Error;

/// Flows: source ports of the pod.
pub const FLOWS: u16 = 4096;
const FIRST_PORT: u16 = 1024;

/// Until when a trial sends at most that is ended by something else.
const LONGEST: Duration = Duration::from_secs(3600);

/// How fast to send.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As fast as the core can.
    Flood,
    /// So many packets per second.
    PerSecond(f64),
}

/// A trial at `pace`, of packets that are received elsewhere.
pub fn load(pace: Pace, duration: Duration) -> Load {
    Load {
        label: String::new(),
        pps: match pace {
            Pace::Flood => None,
            Pace::PerSecond(pps) => Some(pps),
        },
        packets: None,
        duration,
        warm_up: Duration::ZERO,
        settle: Duration::ZERO,
    }
}

/// A source on interface `src`. What it sends is received elsewhere.
pub struct Source(Tester);

impl Source {
    /// Gets ready to send a case's packets.
    pub fn open(topology: &Topology, case: Case) -> Result<Source, Error> {
        let profile = Profile::parse(&profile(case))?;
        let ports = Ports {
            transmit: "src".into(),
            receive: None,
            queues: Vec::new(),
            cores: vec![SOURCE_CORE],
            receive_cores: Vec::new(),
            to_mac: Some(topology.input.mac),
            xdp_mode: XdpMode::Native,
        };
        Ok(Source(Tester::open(&profile, Kind::Live, &ports)?))
    }

    /// Bytes in front of a packet's signature.
    pub fn signature_at() -> usize {
        headers_len(Protocol::Udp)
    }

    /// Sends for so long, and tells how many packets were sent.
    pub fn send(&mut self, pace: Pace, duration: Duration) -> Result<u64, Error> {
        self.trial(pace, duration, &Arc::default())
    }

    /// Sends until `meanwhile` is done.
    pub fn send_while(&mut self, pace: Pace, meanwhile: impl FnOnce() -> Result<(), Error>) -> Result<u64, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            // The thread's error may hold what must not leave it; its text may.
            let sending = scope.spawn(|| self.trial(pace, LONGEST, &stop).map_err(|error| error.to_string()));
            let done = meanwhile();
            stop.store(true, Ordering::Relaxed);
            let sent = sending.join().map_err(|_| "the source panicked")??;
            done.map(|()| sent)
        })
    }

    fn trial(&mut self, pace: Pace, duration: Duration, stop: &Arc<AtomicBool>) -> Result<u64, Error> {
        Ok(self.0.trial(&load(pace, duration), &mut |_| (), stop)?.total.sent)
    }
}

/// A pod sends to all services, as far as there are flows.
fn profile(case: Case) -> String {
    let last = Ipv4Addr::from(u32::from(FIRST_VIP) + case.services - 1);
    let frames: Vec<_> =
        case.frames.mix().iter().map(|(size, weight)| format!("{{ size = {size}, weight = {weight} }}")).collect();
    format!(
        "name = \"{}\"\n[[stream]]\nname = \"pod to services\"\nframe = [{}]\nprotocol = \"udp\"\nfrom = \"{POD}\"\n\
         from_port = \"{FIRST_PORT}-{}\"\nto = \"{FIRST_VIP}-{last}\"\nto_port = {VIP_PORT}\nflows.count = {FLOWS}\n\
         rate = \"1kpps\"\n",
        case.name(),
        frames.join(", "),
        FIRST_PORT + FLOWS - 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_a_profile_that_pktgen_takes() {
        for case in [&Case::FULL[..], &Case::QUICK].concat() {
            let profile = Profile::parse(&profile(case)).unwrap();
            assert_eq!(profile.streams[0].flows, u32::from(FLOWS), "{case:?}");
            assert_eq!(profile.streams[0].to.count(), u64::from(case.services), "{case:?}");
        }
    }
}
