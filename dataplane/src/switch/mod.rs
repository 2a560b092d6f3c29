//! The switch as control sees it: workers, ports, snapshots, and what it can tell about itself.
//!
//! Calls may come from any thread. They block the caller, never a worker.

mod attach;
mod report;

use std::{
    collections::HashMap,
    net::Ipv6Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam::channel::{Sender, bounded, unbounded};

use self::attach::AttachedPort;
pub use self::{
    attach::{AttachSpec, PortInfo},
    report::{FlowRecord, PortReport, SwitchReport, WorkerReport},
};
use crate::{
    counters::WorkerCounters,
    explain::{self, Comes, DryRun, Explanation, Question, QuestionError},
    flow::FlowSeed,
    io::FramePool,
    pipeline::Env,
    publish::{Lagging, Publisher},
    record::Off,
    service_set::ServiceSet,
    snapshot::{CompileError, Snapshot},
    spec::{ForwardingSpec, MAX_PORTS, PortId, PortRole},
    stages::{fragments::DATAGRAMS, lost, select::CLIENTS},
    tables::{Conntrack, Recent, conntrack::Flow},
    worker::{Alarm, Command, Inbox, Owners, Shared, Worker},
    xsk::{NodeTraffic, UplinkFilter, WorkerMemory, XskError},
};

/// How long a worker may take to adopt a snapshot or to answer: it does both between two bursts.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a switch is made with.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// The processors to pin workers to, one each. At least one.
    pub cores: Vec<usize>,
    /// Frames of [`FRAME_SIZE`](crate::io::FRAME_SIZE) bytes that the ports of a worker share.
    pub frames_per_worker: u32,
    /// Flows the connection table holds.
    pub flow_capacity: u32,
    /// Keys the hashes of flows and of the tables: who knows it can make up flows that collide. Endpoints are chosen alike
    /// by switches with the same one.
    pub hash_seed: u64,
}

/// What the switch could not do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says it")]
pub enum SwitchError {
    #[error("no cores are given: a switch needs at least one worker")]
    NoWorkers,
    #[error("a worker cannot be pinned to core {0}: this machine has no such core, or this process may not use it")]
    Pin(usize),
    #[error("cannot start a worker: {0}")]
    Start(#[source] std::io::Error),
    #[error("port number {0} is not below {MAX_PORTS}: this many ports are possible")]
    PortNumber(PortId),
    #[error("port {0} is attached already, to {1}")]
    PortInUse(PortId, String),
    #[error("interface {1} is attached already, as port {0}")]
    InterfaceInUse(PortId, String),
    #[error("port {0} is not attached")]
    NoSuchPort(PortId),
    #[error(transparent)]
    Xsk(#[from] XskError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Question(#[from] QuestionError),
    #[error(transparent)]
    Lagging(#[from] Lagging),
    #[error("worker {0} has ended")]
    WorkerGone(usize),
}

/// A running switch.
pub struct Switch {
    workers: Vec<WorkerHandle>,
    shared: Shared,
    publisher: Publisher<Arc<Snapshot>>,
    seed: u64,
    state: Mutex<State>,
    /// Frames for the packet that is being explained, and the counters of all that were.
    explainer: Mutex<(FramePool, WorkerCounters)>,
}

struct WorkerHandle {
    core: usize,
    memory: WorkerMemory,
    commands: Sender<Command>,
    counters: Arc<WorkerCounters>,
    thread: JoinHandle<()>,
}

struct State {
    ports: HashMap<PortId, AttachedPort>,
    current: Arc<Snapshot>,
    /// What uplinks take of the packets for the node, by the current snapshot's spec.
    node_traffic: NodeTraffic,
}

impl State {
    fn next_generation(&self) -> u32 {
        self.current.generation.wrapping_add(1)
    }

    /// Whether a packet of the node's own is led here, that would leave past us.
    fn leads(&self, packet: &[u8]) -> Result<Comes, SwitchError> {
        for port in self.ports.values() {
            if port.classifier.leads(packet)? {
                return Ok(Comes::Led);
            }
        }
        Ok(Comes::No)
    }
}

impl Switch {
    /// Starts the workers. They forward nothing until ports are attached and a spec is published.
    pub fn start(config: SwitchConfig) -> Result<Switch, SwitchError> {
        if config.cores.is_empty() {
            return Err(SwitchError::NoWorkers);
        }
        let seed = config.hash_seed;
        let current = Arc::new(Snapshot::empty(seed));
        let publisher = Publisher::new(current.clone());

        let polls: Vec<_> =
            config.cores.iter().map(|_| mio::Poll::new()).collect::<Result<_, _>>().map_err(SwitchError::Start)?;
        let alarms = polls.iter().map(Alarm::new).collect::<Result<Vec<_>, _>>().map_err(SwitchError::Start)?;
        let shared = Shared {
            conntrack: Arc::new(Conntrack::new(config.flow_capacity, FlowSeed::from_number(seed))),
            fragments: Arc::new(Recent::new(DATAGRAMS, FlowSeed::from_number(seed))),
            clients: Arc::new(Recent::new(CLIENTS, FlowSeed::from_number(seed))),
            owners: Arc::new(Owners::default()),
            inboxes: alarms.into_iter().map(Inbox::new).collect(),
            epoch: Instant::now(),
        };
        // There may have been a switch before.
        shared.conntrack.complete_from(crate::worker::now(shared.epoch).seconds() + lost::PATIENCE);
        let mut switch = Switch {
            workers: Vec::new(),
            shared,
            publisher,
            seed,
            state: Mutex::new(State { ports: HashMap::new(), current, node_traffic: NodeTraffic::default() }),
            explainer: Mutex::new((FramePool::on_heap(explain::FRAMES), WorkerCounters::default())),
        };
        for (core, poll) in config.cores.iter().zip(polls) {
            switch.start_worker(*core, config.frames_per_worker, poll)?;
        }
        Ok(switch)
    }

    fn start_worker(&mut self, core: usize, frames: u32, poll: mio::Poll) -> Result<(), SwitchError> {
        let index = self.workers.len();
        let (memory, pool) = WorkerMemory::new(frames)?;
        let (commands, inbox) = unbounded();
        let (pinned, is_pinned) = bounded(1);
        let counters = Arc::new(WorkerCounters::default());
        let snapshot = self.publisher.subscribe(format!("worker {index}"));
        let worker = Worker::new(index, pool, snapshot, counters.clone(), self.shared.clone(), inbox, poll);
        let thread = std::thread::Builder::new()
            .name(format!("shunt-worker-{index}"))
            .spawn(move || {
                let success = core_affinity::set_for_current(core_affinity::CoreId { id: core });
                if pinned.send(success).is_ok() && success {
                    worker.run();
                }
            })
            .map_err(SwitchError::Start)?;
        if is_pinned.recv() != Ok(true) {
            return Err(SwitchError::Pin(core));
        }
        self.workers.push(WorkerHandle { core, memory, commands, counters, thread });
        Ok(())
    }

    /// Changes what an uplink's classifier takes.
    pub fn classify(&self, port: PortId, filter: &UplinkFilter) -> Result<(), SwitchError> {
        let mut state = self.state();
        let attached = state.ports.get_mut(&port).ok_or(SwitchError::NoSuchPort(port))?;
        Ok(attached.classifier.set_filter(filter)?)
    }

    /// Compiles a spec and makes every worker forward by it. Returns its generation once all do.
    pub fn publish(&self, spec: &ForwardingSpec) -> Result<u64, SwitchError> {
        let mut state = self.state();
        let next = Snapshot::compile(spec, Some(&state.current), state.next_generation(), self.seed)?;
        let State { current, node_traffic, .. } = &mut *state;
        node_traffic.follow(current.ipv4.services.set(), spec);
        self.adopt(state, next)
    }

    /// The same with everything but the services as it is. Costs in proportion to the shards of the set that changed.
    pub fn publish_services(&self, ipv4: &ServiceSet, ipv6: &ServiceSet<Ipv6Addr>) -> Result<u64, SwitchError> {
        let mut state = self.state();
        let next = state.current.with_services(ipv4, ipv6, state.next_generation())?;
        let State { current, node_traffic, .. } = &mut *state;
        node_traffic.follow_services(current.ipv4.services.set(), ipv4);
        self.adopt(state, next)
    }

    fn adopt(&self, mut state: MutexGuard<'_, State>, next: Snapshot) -> Result<u64, SwitchError> {
        let snapshot = Arc::new(next);
        state.current = snapshot.clone();
        let sequence = self.publisher.publish(snapshot);
        drop(state);
        self.shared.inboxes.iter().for_each(|inbox| inbox.alarm().ring());
        self.publisher.wait_adopted(sequence, PATIENCE)?;
        self.take_node_traffic()?;
        Ok(sequence)
    }

    /// Makes the uplinks' classifiers take what the spec published last asks for. Every worker knows by now what to do with
    /// it; a packet to a frontend that is no more, and was taken still, goes to the kernel.
    fn take_node_traffic(&self) -> Result<(), SwitchError> {
        let mut state = self.state();
        let State { ports, node_traffic, .. } = &mut *state;
        for uplink in ports.values_mut().filter(|port| port.role == PortRole::Uplink) {
            uplink.classifier.follow_node_traffic(node_traffic)?;
        }
        node_traffic.settle();
        Ok(())
    }

    /// Reads the live flows that `keep` accepts, up to `limit`.
    pub fn flows(&self, limit: usize, keep: &mut dyn FnMut(&FlowRecord) -> bool) -> Vec<FlowRecord> {
        let now = crate::worker::now(self.shared.epoch).seconds();
        let records = self.shared.conntrack.flows().filter_map(|flow| FlowRecord::new(&flow, now));
        records.filter(|record| keep(record)).take(limit).collect()
    }

    /// Forgets the flows that `chosen` accepts. Returns how many. What follows of a connection is taken up again from the
    /// client's next packet, by the service as it is then.
    pub fn flush_flows(&self, chosen: &mut dyn FnMut(&FlowRecord) -> bool) -> u64 {
        let now = crate::worker::now(self.shared.epoch).seconds();
        let conntrack = &self.shared.conntrack;
        let is_chosen = |flow: &Flow| FlowRecord::new(flow, now).is_some_and(|record| chosen(&record));
        let flushed = conntrack.flows().filter(is_chosen).filter(|flow| conntrack.forget(flow)).count() as u64;
        if flushed > 0 {
            conntrack.complete_from(now + lost::PATIENCE);
        }
        flushed
    }

    /// What would become of a packet that came in now, and why. Nothing comes of it.
    pub fn explain(&self, question: Question) -> Result<Explanation, SwitchError> {
        let snapshot = self.state().current.clone();
        let Shared { conntrack, fragments, clients, .. } = &self.shared;
        let now = crate::worker::now(self.shared.epoch);
        let mut explainer = self.explainer.lock().unwrap_or_else(PoisonError::into_inner);
        let (pool, counters) = &mut *explainer;
        let live = Env { snapshot: &snapshot, conntrack, fragments, clients, counters, now, recorder: Off };
        DryRun::new(live, pool).explain(question, |question, port, packet| {
            let state = self.state();
            let is_guessed = question.arrival.is_none();
            match state.ports.get(&port).map(|port| (port.role, &port.classifier)) {
                Some((PortRole::Uplink, classifier)) => {
                    Ok(if classifier.takes(packet)? { Comes::Yes } else { Comes::No })
                }
                // The node has routes to pods and to services' own addresses, and no others.
                Some((PortRole::Host, _)) if is_guessed && !question.is_into_cluster(&snapshot) => state.leads(packet),
                _ => Ok(Comes::Yes),
            }
        })
    }

    /// Stops the workers and detaches all ports.
    pub fn shutdown(self) -> Result<(), SwitchError> {
        let ports: Vec<_> = self.state().ports.keys().copied().collect();
        ports.into_iter().try_for_each(|port| self.detach(port))
    }

    fn command(&self, worker: usize, command: Command) -> Result<(), SwitchError> {
        self.workers[worker].commands.send(command).map_err(|_| SwitchError::WorkerGone(worker))?;
        self.shared.inboxes[worker].alarm().ring();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the state half changed when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let ports = std::mem::take(&mut self.state().ports);
        for (id, port) in ports {
            if port.has_memory() {
                // Its queues would stay taken otherwise. If it fails, so they do.
                let _ = self.let_go(id, port);
            }
        }
        for worker in 0..self.workers.len() {
            // A worker that has ended needs no telling.
            let _ = self.command(worker, Command::Stop);
        }
        for worker in self.workers.drain(..) {
            // Its panic was reported when it happened.
            let _ = worker.thread.join();
        }
    }
}
