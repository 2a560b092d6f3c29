//! Measurements with a judgement: what both the demo and the tests ask of a lab.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    ops::Range,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    error::{LabError, Result},
    netns::Namespace,
    plan::{TCP_PORT, UDP_PORT},
    probe::{self, ask::Answers, backwards::BackwardsReport, stream::StreamReport, transfer::TransferReport},
    report::Finding,
    shunt_node::ShuntNode,
    tools,
    topology::Lab,
    wait,
};

/// Bytes sent over TCP, and echoed, to show that a destination is reached.
const TRANSFER: u64 = 1_000_000;
/// How long after traffic has ended packets may still be on their way.
const QUIET_LIMIT: Duration = Duration::from_secs(3);
/// How long a way that was changed may take until it is one again.
const WAY_LIMIT: Duration = Duration::from_secs(10);

/// `ping`, UDP datagrams and a TCP transfer from a namespace to an address where the lab's server runs.
pub fn reach(from: &Namespace, to: impl Into<IpAddr>) -> Result<Finding> {
    let to = to.into();
    let ping = tools::ping(from, "-c 5 -i 0.05", to)?;
    let stream = stream(from, SocketAddr::new(to, UDP_PORT), 1000, 200, 200)?;
    let (echoed, tcp) = match transfer(from, SocketAddr::new(to, TCP_PORT), TRANSFER) {
        Ok(transfer) => (transfer.echoed == TRANSFER, format!("TCP {} bytes", transfer.echoed)),
        Err(error) => (false, format!("TCP: {error}")),
    };
    let seen = format!("ping {}/{}, UDP {}/{}, {tcp}", ping.received, ping.sent, stream.received, stream.sent);
    Ok(Finding::of(ping.is_complete() && stream.is_complete() && echoed, seen))
}

/// That [`reach`] holds for each pair of stations.
///
/// # Panics
/// If it does not.
pub fn all_reach(lab: &Lab, pairs: &[(&str, &str)]) -> Result<()> {
    for (from, to) in pairs {
        reach(lab.station(from)?.0, lab.station(to)?.1)?.must_hold(&format!("{from} -> {to}"));
    }
    Ok(())
}

/// Waits until a ping from one station is answered by another one.
///
/// # Errors
/// [`LabError::Timeout`] if none is for a long time.
pub fn comes_back(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let (namespace, address) = (lab.station(from)?.0, lab.station(to)?.1);
    wait::until(&format!("{from} to reach {to}"), WAY_LIMIT, || {
        let ping = tools::ping(namespace, "-c 1 -W 0.5", address).map_err(|error| error.to_string())?;
        if ping.is_complete() { Ok(()) } else { Err("no answer".to_owned()) }
    })
}

/// `count` new flows to a service reach each of `backends`, nobody else, and none less than half as often as is fair. Chance
/// alone brings less to one of three backends in one of 27 times that 30 flows are sent, and in one of 236,000 if 150 are.
pub fn spread(
    from: &Namespace,
    protocol: &str,
    to: impl Into<SocketAddr>,
    count: u32,
    backends: &[&str],
) -> Result<Finding> {
    let answers = ask(from, protocol, to, count)?;
    let fair = count / backends.len() as u32;
    let even = backends.iter().all(|backend| answers.by_server.get(*backend).is_some_and(|seen| *seen >= fair / 2));
    let holds = even && answers.failed() == 0 && answers.by_server.len() == backends.len();
    Ok(Finding::of(holds, format!("{count} new flows: {}", answers.table())))
}

/// TCP throughput from one namespace to another; it must reach `at_least` bits per second.
pub fn throughput(from: &Namespace, to: &Namespace, address: Ipv4Addr, at_least: f64, log: &Path) -> Result<Finding> {
    let measured = tools::iperf3(from, to, SocketAddrV4::new(address, 5201), "-t 2", log)?;
    let seen = format!("{:.2} Gbit/s, {} retransmits", measured.bits_per_second / 1e9, measured.retransmits);
    Ok(Finding::of(measured.bits_per_second >= at_least, seen))
}

/// `bytes` bytes over one TCP connection come back unchanged.
pub fn echo(from: &Namespace, to: impl Into<SocketAddr>, bytes: u64) -> Result<Finding> {
    let report = transfer(from, to, bytes)?;
    let seen = format!("{} bytes echoed by {} in {:.2} s", report.echoed, report.server, report.seconds);
    Ok(Finding::of(report.echoed == bytes, seen))
}

/// The middle of the round-trip times of `count` datagrams, `rate` a second, is at most `most` microseconds.
pub fn round_trip(from: &Namespace, to: Ipv4Addr, rate: u32, count: u32, most: f64) -> Result<Finding> {
    let report = stream(from, SocketAddrV4::new(to, UDP_PORT), rate, count, 64)?;
    let [least, middle, late, greatest] = report.rtt_us;
    let seen = format!(
        "{}/{} at {rate}/s; {least:.0} us least, {middle:.0} middle, {late:.0} 99%, {greatest:.0} greatest",
        report.received, report.sent
    );
    Ok(Finding::of(report.is_complete() && middle <= most, seen))
}

/// At a quiet point, which comes soon once traffic has ended, all packets and frames of a daemon are accounted for.
pub fn conservation(shunt: &ShuntNode) -> Result<Finding> {
    let balanced = wait::until("counters to balance", QUIET_LIMIT, || {
        // Once by the daemon's own account, which fails if something is amiss, and once counted again.
        shunt.ctl(&["conservation"]).map_err(|error| error.to_string())?;
        let counters = shunt.counters().map_err(|error| error.to_string())?;
        let imbalances = counters.imbalances();
        if imbalances.is_empty() { Ok(counters) } else { Err(imbalances.join("\n")) }
    });
    let counters = match balanced {
        Ok(counters) => counters,
        Err(LabError::Timeout { last, .. }) => return Ok(Finding::of(false, last)),
        Err(other) => return Err(other),
    };
    let frames = counters.frames();
    let seen =
        format!("{} packets received, each accounted for; {frames} frames, each in its place", counters.received());
    Ok(Finding::of(frames > 0, seen))
}

/// The ports that UDP clients ask from, one after the other: one that comes again, as the kernel's choice does by chance, may be
/// of a flow that is still known.
const UDP_PORTS: Range<u32> = 10_000..30_000;
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Asks `count` times who serves, each time as a new flow.
pub fn ask(from: &Namespace, protocol: &str, to: impl Into<SocketAddr>, count: u32) -> Result<Answers> {
    let ports = UDP_PORTS.start + ASKED.fetch_add(count, Ordering::Relaxed) % (UDP_PORTS.end - UDP_PORTS.start);
    probe::run(from, &["ask", protocol, &to.into().to_string(), &count.to_string(), &ports.to_string()])
}

/// Sends a paced stream of `count` datagrams of `size` bytes, `rate` a second, to an echo server.
pub fn stream(from: &Namespace, to: impl Into<SocketAddr>, rate: u32, count: u32, size: u32) -> Result<StreamReport> {
    probe::run(from, &["stream", &to.into().to_string(), &rate.to_string(), &count.to_string(), &size.to_string()])
}

/// Sends `count` datagrams of `size` bytes in fragments, last one first, which an echo server answers in the same order.
pub fn backwards(from: &Namespace, to: SocketAddrV4, count: u32, size: u32) -> Result<BackwardsReport> {
    probe::run(from, &["backwards", &to.to_string(), &count.to_string(), &size.to_string()])
}

/// Sends bytes over TCP to an echo server and compares what comes back.
pub fn transfer(from: &Namespace, to: impl Into<SocketAddr>, bytes: u64) -> Result<TransferReport> {
    probe::run(from, &["transfer", &to.into().to_string(), &bytes.to_string()])
}
