//! Both sides from their first connection to their last.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use shunt_dataplane::net::MacAddr;

use super::{
    Link, Profile,
    arp::Neighbours,
    conversation::{Role, Side},
    crowd::Crowd,
    link::EthernetHeader,
    message::Extent,
};
use crate::{
    clock,
    profile::AddressField,
    progress::Progress,
    report::model::{Counts, Sample, Trial},
};

/// Time between samples, in ns.
const SAMPLE: u64 = 500_000_000;

/// How long neighbours are asked for, and how often, in ns.
const ASK_FOR: u64 = 3_000_000_000;
const ASK_EVERY: u64 = 200_000_000;

/// Connections opened before what has come is looked at again.
const BURST: usize = 16;

/// Addresses that are asked for one by one, if there is no gateway.
const NEIGHBOURS: u64 = 1024;

/// Connections cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionsError {
    /// Nobody is there.
    #[error(
        "{0} does not answer ARP: is it up, and on this link? Otherwise name the gateway to it (connections.gateway)"
    )]
    Silent(Ipv4Addr),
    /// There are too many to ask.
    #[error(
        "connections.to: {0} addresses are too many to ask for one by one: name the gateway to them (connections.gateway)"
    )]
    Many(u64),
}

/// What a side did.
pub struct Outcome {
    /// The figures.
    pub trial: Trial,
    /// False if it was stopped before its time.
    pub complete: bool,
    /// What a reader must know.
    pub warnings: Vec<String>,
}

/// Makes connections as the profile says, for its duration or until `stop`.
///
/// # Errors
/// [`ConnectionsError`] if the servers, or the gateway to them, are not found.
pub fn connect(
    profile: &Profile,
    link: Link,
    mac: MacAddr,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<Outcome, ConnectionsError> {
    let role = Role {
        side: Side::Client,
        says: profile.request.clone(),
        hears: profile.answer,
        hold: nanoseconds(profile.hold),
        timeout: nanoseconds(profile.timeout),
    };
    let ours = holds(&profile.from);
    let crowd = Crowd::new(link, Neighbours::new(mac), role, profile.concurrent, profile.seed, ours);
    let label = profile.rate.map_or(format!("{} at once", profile.concurrent), |rate| {
        format!("{rate} connections/s, {} at once at most", profile.concurrent)
    });
    progress.begin_with(&label, profile.duration.as_secs_f64());
    let mut run = Run::new(crowd, progress);
    let mut source = Source::new(profile, run.find(profile)?);
    run.begin();
    while run.elapsed() < nanoseconds(profile.duration) && !stop.load(Ordering::Relaxed) {
        let worked = run.step();
        let wanted = profile.rate.map_or(u64::MAX, |rate| (run.elapsed() as f64 * rate / 1e9) as u64);
        if run.open(&mut source, wanted) == 0 && !worked {
            thread::yield_now();
        }
    }
    let seconds = run.elapsed() as f64 / 1e9;
    // No more are opened; those that are open may end.
    while run.crowd.meter.open > 0 && !stop.load(Ordering::Relaxed) {
        if !run.step() {
            thread::yield_now();
        }
    }
    let mut warnings = Vec::new();
    let opened = run.crowd.meter.counts.opened;
    if let Some(rate) = profile.rate
        && (opened as f64) < 0.99 * rate * seconds
    {
        warnings.push(format!(
            "{opened} connections were opened where {rate}/s ask for {:.0}: the limit was {}",
            rate * seconds,
            if run.full { "connections.concurrent" } else { "this side of the path" }
        ));
    }
    Ok(run.outcome(label, seconds, warnings, stop))
}

/// Answers connections as the profile says, until `stop` or for `duration`.
pub fn serve(
    profile: &Profile,
    link: Link,
    mac: MacAddr,
    duration: Option<Duration>,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Outcome {
    let hears = if profile.answer == Extent::Http { Extent::Http } else { Extent::Bytes(profile.request.len() as u64) };
    let role = Role {
        side: Side::Server,
        says: profile.answer_text.clone(),
        hears,
        hold: 0,
        timeout: nanoseconds(profile.timeout + profile.hold),
    };
    let ours = holds(&profile.to);
    let crowd = Crowd::new(link, Neighbours::new(mac), role, profile.concurrent, profile.seed, ours);
    let label = format!("serving port {}", profile.to_port.value(0));
    progress.begin_with(&label, duration.map_or(0.0, |duration| duration.as_secs_f64()));
    let mut run = Run::new(crowd, progress);
    run.begin();
    let end = duration.map_or(u64::MAX, nanoseconds);
    while run.elapsed() < end && !stop.load(Ordering::Relaxed) {
        if !run.step() {
            thread::yield_now();
        }
    }
    let seconds = run.elapsed() as f64 / 1e9;
    let mut outcome = run.outcome(label, seconds, Vec::new(), stop);
    outcome.complete = true;
    outcome
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Whether an address is among a field's.
fn holds(field: &AddressField) -> impl Fn(Ipv4Addr) -> bool + Send + 'static {
    let mut addresses: Vec<u32> = (0..field.count()).map(|i| field.value(i)).collect();
    addresses.sort_unstable();
    move |address| addresses.binary_search(&address.into()).is_ok()
}

/// Where the next connection comes from and goes to: all pairs of a client's address and port in turn, so that each rests
/// for as long as possible.
struct Source<'p> {
    profile: &'p Profile,
    headers: HashMap<Ipv4Addr, EthernetHeader>,
    next: u64,
}

impl<'p> Source<'p> {
    fn new(profile: &'p Profile, headers: HashMap<Ipv4Addr, EthernetHeader>) -> Source<'p> {
        Source { profile, headers, next: 0 }
    }

    fn next(&mut self) -> ((SocketAddrV4, SocketAddrV4), EthernetHeader) {
        let p = self.profile;
        let n = self.next;
        self.next += 1;
        let client = n % p.tuples();
        let from = p.from.value(client % p.from.count());
        let from_port = p.from_port.value(client / p.from.count());
        let to = Ipv4Addr::from(p.to.value(n % p.to.count()));
        let to_port = p.to_port.value(n / p.to.count() % p.to_port.count());
        let ends = (SocketAddrV4::new(from.into(), from_port as u16), SocketAddrV4::new(to, to_port as u16));
        (ends, self.headers[&p.gateway.unwrap_or(to)])
    }
}

/// A side at work.
struct Run<'p> {
    crowd: Crowd,
    progress: &'p mut Progress,
    start: u64,
    now: u64,
    samples: Vec<Sample>,
    /// Whether the limit of open connections kept one from being opened.
    full: bool,
}

impl<'p> Run<'p> {
    fn new(crowd: Crowd, progress: &'p mut Progress) -> Run<'p> {
        let now = clock::now();
        Run { crowd, progress, start: now, now, samples: Vec::new(), full: false }
    }

    /// Finds where packets to the servers go first.
    fn find(&mut self, profile: &Profile) -> Result<HashMap<Ipv4Addr, EthernetHeader>, ConnectionsError> {
        let wanted: Vec<Ipv4Addr> = match profile.gateway {
            Some(gateway) => vec![gateway],
            None if profile.to.count() > NEIGHBOURS => return Err(ConnectionsError::Many(profile.to.count())),
            None => (0..profile.to.count()).map(|i| profile.to.value(i).into()).collect(),
        };
        let own = profile.from.value(0).into();
        let mut ask_at = clock::now();
        let give_up = ask_at + ASK_FOR;
        loop {
            self.step();
            let missing: Vec<Ipv4Addr> =
                wanted.iter().copied().filter(|address| self.crowd.neighbours.header(*address).is_none()).collect();
            let Some(first) = missing.first() else { break };
            if self.now > give_up {
                return Err(ConnectionsError::Silent(*first));
            }
            if self.now >= ask_at {
                ask_at += ASK_EVERY;
                for address in missing {
                    self.crowd.neighbours.ask(&mut self.crowd.link, own, address);
                }
            }
            thread::yield_now();
        }
        let header = |address| self.crowd.neighbours.header(address).expect("none is missing");
        Ok(wanted.into_iter().map(|address| (address, header(address))).collect())
    }

    /// From here on time is counted.
    fn begin(&mut self) {
        self.start = clock::now();
        self.now = self.start;
        // Sets what the first sample is measured from.
        (self.crowd.link.sent, self.crowd.link.received) = Default::default();
    }

    fn elapsed(&self) -> u64 {
        self.now - self.start
    }

    /// Does what there is to do. False if there was nothing.
    fn step(&mut self) -> bool {
        self.now = clock::now();
        let worked = self.crowd.work(self.now);
        if self.elapsed() >= SAMPLE * (self.samples.len() as u64 + 1) {
            self.sample();
        }
        worked
    }

    fn sample(&mut self) {
        let link = &self.crowd.link;
        let sample = self.crowd.meter.sample(self.elapsed() as f64 / 1e9, link.sent, link.received);
        self.progress.sample(&sample);
        self.samples.push(sample);
    }

    /// Opens connections until `wanted` have been, as far as there is room. Returns how many.
    fn open(&mut self, source: &mut Source<'_>, wanted: u64) -> usize {
        let mut opened = 0;
        while opened < BURST && self.crowd.meter.counts.opened < wanted {
            if !self.crowd.has_room() {
                self.full = true;
                break;
            }
            let (ends, header) = source.next();
            opened += usize::from(self.crowd.connect(ends, header, clock::now()));
        }
        if opened > 0 {
            self.crowd.link.flush();
        }
        opened
    }

    fn outcome(mut self, label: String, seconds: f64, mut warnings: Vec<String>, stop: &AtomicBool) -> Outcome {
        let complete = !stop.load(Ordering::Relaxed);
        self.crowd.abort(self.now);
        let link = &self.crowd.link;
        if link.missed() > 0 {
            warnings.push(format!("{} frames came faster than they were taken, and were sent again", link.missed()));
        }
        if link.refused > 0 {
            warnings.push(format!("{} frames found the transmit ring full, and were sent again", link.refused));
        }
        let total = Counts {
            offered: link.sent.packets,
            sent: link.sent.packets,
            sent_bytes: link.sent.bytes,
            received: link.received.packets,
            received_bytes: link.received.bytes,
            ..Counts::default()
        };
        let trial = Trial {
            label,
            seconds,
            offered_pps: None,
            total,
            streams: Default::default(),
            latency: None,
            latency_uncorrected: None,
            departures: None,
            connections: Some(self.crowd.meter.result(seconds)),
            samples: self.samples,
        };
        Outcome { trial, complete, warnings }
    }
}
