//! A tester: the lanes and sources of one invocation, ready for any number of trials.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use crossbeam::channel::{Receiver, RecvTimeoutError, unbounded};
use shunt_dataplane::{
    net::MacAddr,
    spec::PortRole,
    xsk::{Classifier, Interface, UplinkFilter, XdpMode},
};

use super::{
    AfXdpStation, EngineError, Kind, Load, MemoryStation, TrafficSource,
    lane::{Lane, Part, Progress, Task, drive},
    outcome::{self, Asked},
};
use crate::{
    clock,
    measure::Interval,
    packet::Stations,
    profile::Profile,
    report::model::{Sample, Trial},
    script::Script,
};

/// How long from the decision to begin until the first packet: all threads are there by then.
const LEAD: Duration = Duration::from_millis(20);

/// Lengths of a sample: so that a trial has some fifty, within bounds.
const SAMPLES: u32 = 50;
const SHORTEST_SAMPLE: Duration = Duration::from_millis(50);
const LONGEST_SAMPLE: Duration = Duration::from_secs(1);

/// The interfaces and processors of a tester.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Where test packets leave.
    pub transmit: String,
    /// Where they come back; `None`: nothing is received. May be the same.
    pub receive: Option<String>,
    /// Queues to send on, one lane each; empty: queue 0 and up, as many as there are cores.
    pub queues: Vec<u32>,
    /// Processors of the sending lanes, one each; empty: one lane, wherever the kernel puts it.
    pub cores: Vec<usize>,
    /// Processors of lanes that only receive; empty: the sending lanes receive as well.
    pub receive_cores: Vec<usize>,
    /// The first hop's Ethernet address; `None`: that of the receiving interface.
    pub to_mac: Option<MacAddr>,
    /// How the receiving interface's program is attached.
    pub xdp_mode: XdpMode,
}

/// Lanes and sources, and the script they play.
pub struct Tester {
    kind: Kind,
    script: Arc<Script>,
    streams: Vec<(String, f64)>,
    lanes: Vec<Lane>,
    sources: Vec<TrafficSource>,
    interfaces: Vec<String>,
    epoch: u8,
    missed: u64,
    _classifier: Option<Classifier>,
}

impl Tester {
    /// Opens ports to send on by AF_XDP or live frames. Nothing is sent yet; what arrives at the receiving interface is
    /// taken from now on, all of it.
    ///
    /// # Errors
    /// What is wrong with the ports, or the profile on them, and what to do about it.
    pub fn open(profile: &Profile, kind: Kind, ports: &Ports) -> Result<Tester, EngineError> {
        let transmit = Interface::query(&ports.transmit)?;
        let receive = ports.receive.as_ref().map(|name| Interface::query(name)).transpose()?;
        profile.fits(&transmit.name, transmit.mtu).map_err(EngineError::Profile)?;
        ports.cores.iter().chain(&ports.receive_cores).try_for_each(|core| check_core(*core))?;
        let to = ports.to_mac.or(receive.as_ref().filter(|port| port.index != transmit.index).map(|port| port.mac));
        let all_named = profile.streams.iter().all(|stream| stream.ethernet.1.is_some());
        let to = to.or(all_named.then_some(MacAddr::BROADCAST)).ok_or_else(|| {
            EngineError::Option(format!(
                "--to-mac: missing: the Ethernet address of what is behind {} (or ethernet.to in every stream)",
                transmit.name
            ))
        })?;
        let script = Script::compile(profile, Stations { from: transmit.mac, to }).map_err(EngineError::Profile)?;
        let mut tester = Tester::new(kind, profile, script);
        tester.interfaces.push(format!("{} (sends)", transmit.name));
        let senders = senders(ports)?;
        if kind == Kind::Live {
            for (index, (core, _)) in senders.iter().enumerate() {
                let core = core.unwrap_or(0);
                let lane = (index, senders.len());
                tester.sources.push(TrafficSource::load(&transmit, &tester.script, lane, core)?);
            }
        }
        tester.open_lanes(ports, &transmit, receive.as_ref(), if kind == Kind::Live { &[] } else { &senders })?;
        Ok(tester)
    }

    /// A tester of an engine in this process.
    ///
    /// # Errors
    /// What is wrong with the profile.
    pub fn in_memory(profile: &Profile, core: Option<usize>) -> Result<Tester, EngineError> {
        core.map_or(Ok(()), check_core)?;
        let stations = MemoryStation::stations(profile);
        let script = Script::compile(profile, stations).map_err(EngineError::Profile)?;
        let mut tester = Tester::new(Kind::Memory, profile, script);
        tester.lanes.push(Lane { station: Box::new(MemoryStation::new(profile)?), core, sends_as: Some(0) });
        Ok(tester)
    }

    fn new(kind: Kind, profile: &Profile, script: Script) -> Tester {
        Tester {
            kind,
            script: Arc::new(script),
            streams: profile.streams.iter().map(|stream| (stream.name.clone(), stream.share)).collect(),
            lanes: Vec::new(),
            sources: Vec::new(),
            interfaces: Vec::new(),
            epoch: 0,
            missed: 0,
            _classifier: None,
        }
    }

    /// Opens the sockets: each sending lane has its queue, and all of the receiving interface's queues are dealt out to
    /// those that receive.
    fn open_lanes(
        &mut self,
        ports: &Ports,
        transmit: &Interface,
        receive: Option<&Interface>,
        senders: &[(Option<usize>, u32)],
    ) -> Result<(), EngineError> {
        let mut lanes: Vec<Planned<'_>> = senders
            .iter()
            .enumerate()
            .map(|(index, (core, queue))| (*core, Some(index), vec![(transmit.name.as_str(), *queue)]))
            .collect();
        if let Some(port) = receive {
            let same = port.index == transmit.index && !senders.is_empty();
            let first = if ports.receive_cores.is_empty() && !lanes.is_empty() { 0 } else { lanes.len() };
            lanes.extend(ports.receive_cores.iter().map(|core| (Some(*core), None, Vec::new())));
            if lanes.len() == first {
                // Live frames are received where they are sent from, unless told otherwise.
                let core = ports.cores.first().copied();
                lanes.push((core, None, Vec::new()));
            }
            for queue in 0..port.queues {
                if same && senders.iter().any(|(_, sending)| *sending == queue) {
                    continue;
                }
                let receivers = lanes.len() - first;
                lanes[first + queue as usize % receivers].2.push((&port.name, queue));
            }
        }
        let mut classifier = match receive {
            Some(port) => Some(Classifier::attach(port, PortRole::Pod, ports.xdp_mode, &UplinkFilter::default())?),
            None => None,
        };
        if let (Some(port), Some(classifier)) = (receive, &classifier) {
            self.interfaces.push(format!("{} (receives, XDP {})", port.name, classifier.mode()));
        }
        for (core, sends_as, queues) in lanes.into_iter().filter(|lane| !lane.2.is_empty()) {
            let station = AfXdpStation::open(&queues, sends_as.is_some())?;
            for ((interface, queue), device) in queues.iter().zip(station.devices()) {
                if let Some(classifier) = classifier.as_mut().filter(|_| receive.is_some_and(|p| p.name == *interface))
                {
                    classifier.register(*queue, device)?;
                }
            }
            self.lanes.push(Lane { station: Box::new(station), core, sends_as });
        }
        self._classifier = classifier;
        Ok(())
    }

    /// How it sends.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its interfaces, for people.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// Whether anything can come back.
    pub fn receives(&self) -> bool {
        self.kind == Kind::Memory || self._classifier.is_some()
    }

    /// The script it plays.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Frames its own side has dropped since this was last asked: they count as lost, and it was not the path that lost
    /// them.
    pub fn missed(&mut self) -> u64 {
        let missed = self.lanes.iter().map(|lane| lane.station.missed()).sum();
        missed - std::mem::replace(&mut self.missed, missed)
    }

    /// Runs one trial. `watch` is told how it goes; `stop` ends it early, with what there is.
    ///
    /// # Errors
    /// If threads cannot be started, or live frames do not run.
    pub fn trial(
        &mut self,
        load: &Load,
        watch: &mut dyn FnMut(&Sample),
        stop: &Arc<AtomicBool>,
    ) -> Result<Trial, EngineError> {
        if !load.warm_up.is_zero() {
            let before = Load { duration: load.warm_up, packets: None, settle: Duration::ZERO, ..load.clone() };
            self.run(&before, &mut |_| (), stop)?;
        }
        self.run(load, watch, stop)
    }

    fn run(
        &mut self,
        load: &Load,
        watch: &mut dyn FnMut(&Sample),
        stop: &Arc<AtomicBool>,
    ) -> Result<Trial, EngineError> {
        self.epoch = self.epoch.wrapping_add(1);
        let senders = self.sources.len() + self.lanes.iter().filter(|lane| lane.sends_as.is_some()).count();
        let start = clock::now() + LEAD.as_nanos() as u64;
        let by_rate = load.pps.map(|pps| (pps * load.duration.as_secs_f64()).round() as u64);
        let offered = match (by_rate, load.packets) {
            (Some(by_rate), Some(packets)) => Some(by_rate.min(packets)),
            (by_rate, packets) => by_rate.or(packets),
        };
        let sample = (load.duration / SAMPLES).clamp(SHORTEST_SAMPLE, LONGEST_SAMPLE);
        let task = Task {
            script: self.script.clone(),
            epoch: self.epoch,
            senders,
            start,
            end: start + load.duration.as_nanos() as u64,
            settle: load.settle,
            pps: load.pps.map(|pps| pps / senders as f64),
            limit: offered.map_or(u64::MAX, |packets| packets.div_ceil(senders as u64)),
            sample: sample.as_nanos() as u64,
            stop: stop.clone(),
            progress: Progress::default(),
        };
        task.progress.sending.store(senders, Relaxed);
        let offered = offered.map(|_| task.limit * senders as u64);
        let mut samples = Vec::new();
        let mut sent = Vec::new();
        for source in &mut self.sources {
            source.start(&task)?;
        }
        let (parts, inbox) = unbounded();
        let (sources, lanes) = (&mut self.sources, &mut self.lanes);
        let outcomes = thread::scope(|scope| -> Result<Vec<_>, EngineError> {
            let threads = lanes.iter_mut().map(|lane| {
                let (task, parts) = (&task, parts.clone());
                thread::Builder::new().name("lane".into()).spawn_scoped(scope, move || {
                    if let Some(core) = lane.core {
                        core_affinity::set_for_current(core_affinity::CoreId { id: core });
                    }
                    drive(lane, task, &parts)
                })
            });
            let threads = threads.collect::<Result<Vec<_>, _>>()?;
            drop(parts);
            let mut mixer = Mixer { lanes: threads.len(), open: Vec::new(), sources_sent: 0, done: 0 };
            sent = mix(&mut mixer, &inbox, &task, sources, &mut |sample| {
                watch(&sample);
                samples.push(sample);
            })?;
            Ok(threads.into_iter().map(|thread| thread.join().expect("a lane does not panic")).collect())
        })?;
        let asked = Asked {
            label: &load.label,
            pps: load.pps,
            offered,
            start,
            seconds: load.pps.filter(|_| load.packets.is_none()).map(|_| load.duration.as_secs_f64()),
            streams: &self.streams,
        };
        let mut trial = outcome::trial(&asked, &outcomes, &sent);
        trial.samples = samples;
        Ok(trial)
    }
}

/// Puts together what lanes say of the same stretch of a trial.
struct Mixer {
    lanes: usize,
    /// Stretches of which some lane has not told yet: how many have, packets sent, and what was received.
    open: Vec<(usize, u64, Option<Interval>)>,
    sources_sent: u64,
    /// Stretches that are done.
    done: u64,
}

impl Mixer {
    /// A lane tells. Returns what is complete with it.
    fn add(&mut self, part: Part, task: &Task, sources: &[TrafficSource]) -> Option<Sample> {
        let at = (part.index - self.done) as usize;
        if self.open.len() <= at {
            self.open.resize_with(at + 1, || (0, 0, None));
        }
        let (told, sent, interval) = &mut self.open[at];
        *told += 1;
        *sent += part.sent;
        match interval {
            None => *interval = Some(part.interval),
            Some(interval) => interval.merge(&part.interval),
        }
        if self.open[0].0 < self.lanes {
            return None;
        }
        let (_, sent, interval) = self.open.remove(0);
        self.done += 1;
        Some(self.sample(task, sent, interval.as_ref(), sources))
    }

    fn sample(&mut self, task: &Task, sent: u64, interval: Option<&Interval>, sources: &[TrafficSource]) -> Sample {
        let by_sources = sources.iter().map(TrafficSource::sent).sum();
        let sent = sent + by_sources - std::mem::replace(&mut self.sources_sent, by_sources);
        let seconds = task.sample as f64 / 1e9;
        let index = if interval.is_some() { self.done } else { self.done + 1 };
        Sample {
            at_s: index as f64 * seconds,
            sent_pps: sent as f64 / seconds,
            received_pps: interval.map_or(0.0, |i| i.received as f64 / seconds),
            received_bps: interval.map_or(0.0, |i| i.bytes as f64 * 8.0 / seconds),
            lost: interval.map_or(0, Interval::lost),
            p50_ns: interval.and_then(|i| i.latency.at(0.5)),
            p99_ns: interval.and_then(|i| i.latency.at(0.99)),
            established_per_s: None,
            open_connections: None,
        }
    }
}

/// Follows a trial to its end: samples as they are complete, sources stopped in time.
fn mix(
    mixer: &mut Mixer,
    inbox: &Receiver<Part>,
    task: &Task,
    sources: &mut [TrafficSource],
    tell: &mut dyn FnMut(Sample),
) -> Result<Vec<super::live::Sent>, EngineError> {
    let mut finished = Vec::new();
    let mut next_sample = task.start + task.sample;
    loop {
        match inbox.recv_timeout(Duration::from_millis(10)) {
            Ok(part) => mixer.add(part, task, sources).into_iter().for_each(&mut *tell),
            Err(RecvTimeoutError::Timeout) => {}
            // No lanes, or none left.
            Err(RecvTimeoutError::Disconnected) if finished.len() == sources.len() => return Ok(finished),
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(10)),
        }
        let now = clock::now();
        if mixer.lanes == 0 && now >= next_sample {
            tell(mixer.sample(task, 0, None, sources));
            mixer.done += 1;
            next_sample += task.sample;
        }
        let over =
            now >= task.end || task.stop.load(Relaxed) || sources.iter().all(|source| source.sent() >= task.limit);
        if finished.len() < sources.len() && over {
            for source in &mut *sources {
                let sent = source.finish()?;
                task.progress.sent.fetch_add(sent.packets, Relaxed);
                task.progress.sending.fetch_sub(1, Relaxed);
                finished.push(sent);
            }
        }
    }
}

/// A lane that is to be opened: its processor, which of the senders it is, its interfaces and queues.
type Planned<'a> = (Option<usize>, Option<usize>, Vec<(&'a str, u32)>);

/// The sending lanes: each with its processor and its queue.
fn senders(ports: &Ports) -> Result<Vec<(Option<usize>, u32)>, EngineError> {
    let lanes = ports.cores.len().max(ports.queues.len()).max(1);
    let fits = |given: usize| given == 0 || given == lanes;
    if !fits(ports.cores.len()) || !fits(ports.queues.len()) {
        return Err(EngineError::Option(format!(
            "--queues: {} queues for {} cores: each lane has one of both",
            ports.queues.len(),
            ports.cores.len()
        )));
    }
    let queue = |lane: usize| ports.queues.get(lane).copied().unwrap_or(lane as u32);
    Ok((0..lanes).map(|lane| (ports.cores.get(lane).copied(), queue(lane))).collect())
}

pub(crate) fn check_core(core: usize) -> Result<(), EngineError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.iter().any(|id| id.id == core) {
        return Ok(());
    }
    let there: Vec<_> = cores.iter().map(|id| id.id.to_string()).collect();
    Err(EngineError::Option(format!("--cores: this process may not use core {core}; there are {}", there.join(", "))))
}
