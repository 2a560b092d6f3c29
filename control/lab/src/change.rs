//! Changes to a running lab, and the traffic that must not notice them.

use std::{
    net::SocketAddrV4,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use shunt_dataplane::net::Protocol;

use crate::{
    cluster::{Cluster, Service},
    error::Result,
    netns::Namespace,
    plan::{DNS, TCP_PORT, UDP_PORT},
    probe::{self, hold::HoldReport, stream::StreamReport},
    report::Finding,
    tools,
    topology::Lab,
    wait,
};

/// Datagrams per second of each stream: a lost one shows a gap of a millisecond.
const RATE: u32 = 1000;
/// For how long a connection is held while a daemon ends and starts: some times as long as that takes, and until TCP tries
/// again.
const HOLD: Duration = Duration::from_secs(5);
/// Services that have nothing to do with the streams, changed at once.
const UNRELATED: u8 = 20;

/// Numbered streams across the lab: over the overlay between Shunt nodes, to the kernel's node, and through a service.
#[derive(Debug)]
pub struct Streams(Vec<(String, probe::Running)>);

static STREAMS: AtomicU32 = AtomicU32::new(0);

impl Streams {
    /// Starts them, for `seconds`.
    pub fn start(lab: &Lab, seconds: u32) -> Result<Streams> {
        let destinations = [
            ("a1", "b1", SocketAddrV4::new(lab.pod("b1")?.address(), UDP_PORT)),
            ("b2", "c1", SocketAddrV4::new(lab.pod("c1")?.address(), UDP_PORT)),
            ("a1", "dns", SocketAddrV4::new(DNS, 53)),
        ];
        let mut streams = Vec::new();
        for (from, name, to) in destinations {
            let log = lab.log(&format!("stream-{}", STREAMS.fetch_add(1, Ordering::Relaxed)));
            let (rate, count) = (RATE.to_string(), (RATE * seconds).to_string());
            let running =
                probe::start(&lab.pod(from)?.namespace, &["stream", &to.to_string(), &rate, &count, "100"], &log)?;
            streams.push((format!("{from} -> {name}"), running));
        }
        Ok(Streams(streams))
    }

    /// True when one has ended: what comes later is no longer under traffic.
    pub fn have_ended(&mut self) -> bool {
        self.0.iter_mut().any(|(_, stream)| stream.has_ended())
    }

    /// Waits for their ends; it holds if no datagram was lost, repeated or damaged.
    pub fn finish(self, patience: Duration) -> Result<Finding> {
        let mut holds = true;
        let mut seen = Vec::new();
        for (name, stream) in self.0 {
            let report: StreamReport = stream.finish(patience)?;
            holds &= report.is_complete();
            let mut line = format!("{name} lost {} of {}", report.lost(), report.sent);
            if !report.is_complete() {
                line.push_str(&format!(
                    " (first {:?}, repeated {}, damaged {})",
                    report.first_lost, report.repeated, report.damaged
                ));
            }
            seen.push(line);
        }
        Ok(Finding::of(holds, seen.join(", ")))
    }
}

/// Two updates of each Shunt node: services that no stream uses appear or go, and the service that a stream uses gets
/// another backend, or loses it again; the backends it had stay. Returns how many updates were made.
pub fn update_services(lab: &Lab, round: u32) -> Result<u32> {
    let appear = round.is_multiple_of(2);
    let own: Vec<_> =
        ["a2", "b1", "c1"].iter().map(|name| lab.pod(name).map(|pod| pod.address())).collect::<Result<_>>()?;
    let more = lab.pod("b2")?.address();
    let related = own.iter().copied().chain(appear.then_some(more));
    let dns = Service::simple("dns", DNS, Protocol::Udp, 53, UDP_PORT, related);
    let unrelated = (0..UNRELATED).map(|at| {
        let address = std::net::Ipv4Addr::new(10, 96, 7, at);
        let backends = if appear { own.clone() } else { vec![more] };
        Service::simple(&format!("unrelated-{at}"), address, Protocol::Tcp, 80, TCP_PORT, backends)
    });
    let unrelated = Cluster { services: unrelated.collect(), ..Cluster::default() };
    let related = Cluster { services: vec![dns], ..Cluster::default() };
    let mut updates = 0;
    for (_, shunt) in lab.daemons() {
        for cluster in [&unrelated, &related] {
            shunt.apply(cluster, &[])?;
            updates += 1;
        }
    }
    Ok(updates)
}

/// Pod number `number` of node-a comes, is announced, answers from another node, and goes.
pub fn pod_comes_and_goes(lab: &mut Lab, number: u8) -> Result<()> {
    let pod = lab.nodes[0].plan.pod(number);
    let name = format!("default/{}", pod.name);
    lab.plug(0, pod.clone())?;
    let cluster = Cluster { ports: vec![pod.port()], ..Cluster::default() };
    lab.nodes[0].shunt()?.apply(&cluster, &[])?;
    let from = &lab.pod("c1")?.namespace;
    wait::until(&format!("{} to answer", pod.name), Duration::from_secs(5), || {
        let ping = tools::ping(from, "-c 1", pod.address).map_err(|error| error.to_string())?;
        if ping.is_complete() { Ok(()) } else { Err(ping.text) }
    })?;
    lab.nodes[0].shunt()?.ctl(&["delete", "port", &name])?;
    lab.unplug(&pod.name)
}

/// How a daemon ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With SIGTERM, as a service manager stops it.
    Stop,
    /// With SIGKILL, as in a crash.
    Kill,
}

/// Ends and starts a daemon while a TCP connection crosses its node. It holds if the daemon still has all it was told,
/// and the connection lives on.
pub fn restart_under_a_connection(lab: &mut Lab, node: &str, end: End) -> Result<Finding> {
    let to = SocketAddrV4::new(lab.pod("b1")?.address(), TCP_PORT);
    let held = hold(lab, &lab.pod("a1")?.namespace, to, HOLD)?;
    restart_under(lab, node, end, held)
}

/// Opens a TCP connection over which messages go to and fro for `time`, and returns when it stands.
pub fn hold(lab: &Lab, from: &Namespace, to: SocketAddrV4, time: Duration) -> Result<probe::Running> {
    hold_slowly(lab, from, to, time, Duration::from_millis(5))
}

/// As [`hold`], with a `pause` between one message and the next.
pub fn hold_slowly(
    lab: &Lab,
    from: &Namespace,
    to: SocketAddrV4,
    time: Duration,
    pause: Duration,
) -> Result<probe::Running> {
    let log = lab.log(&format!("hold-{}", STREAMS.fetch_add(1, Ordering::Relaxed)));
    probe::hold::start(from, to.into(), time, pause, &log)
}

/// As [`restart_under_a_connection`], for one that is [held](hold) already.
pub fn restart_under(lab: &mut Lab, node: &str, end: End, held: probe::Running) -> Result<Finding> {
    let before = desired_state(lab, node)?;
    let start = Instant::now();
    let (shunt, namespace) = lab.node_mut(node)?.shunt_mut()?;
    match end {
        End::Stop => shunt.stop()?,
        End::Kill => shunt.kill()?,
    }
    shunt.launch(namespace)?;
    let away = start.elapsed();
    let after = desired_state(lab, node)?;
    let report: HoldReport = held.finish(Duration::from_secs(60))?;
    let state = if before == after { "state as before" } else { "state differs" };
    let seen = format!(
        "away {:.0} ms, {state}; the connection stood still for {:.0} ms at most and carried {} messages",
        away.as_secs_f64() * 1e3,
        report.longest_ms,
        report.messages
    );
    Ok(Finding::of(before == after && !before.is_empty() && report.messages > 0, seen))
}

/// All that a daemon was told, as it tells it.
fn desired_state(lab: &Lab, node: &str) -> Result<Vec<serde_json::Value>> {
    let shunt = lab.node(node)?.shunt()?;
    ["vteps", "ports", "routes", "services"].iter().map(|kind| shunt.ctl_json(&["list", kind])).collect()
}
