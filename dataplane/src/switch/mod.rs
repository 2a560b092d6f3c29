//! The switch as control sees it: workers, ports, snapshots, and what it can tell about itself.
//!
//! Calls may come from any thread. They block the caller, never a worker.

mod report;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam::channel::{Sender, bounded, unbounded};

pub use self::report::{FlowRecord, PortReport, SwitchReport, WorkerReport};
use crate::{
    counters::WorkerCounters,
    flow::FlowSeed,
    io::PacketIo,
    net::MacAddr,
    publish::{Lagging, Publisher},
    snapshot::{CompileError, Snapshot},
    spec::{ForwardingSpec, MAX_PORTS, PortId, PortRole},
    stages::{fragments::DATAGRAMS, select::CLIENTS},
    tables::{Conntrack, Recent, conntrack::Flow},
    worker::{Alarm, Command, Inbox, Owners, Shared, Worker},
    xsk::{Classifier, Interface, UplinkFilter, WorkerMemory, XdpMode, XskError},
};

/// How long a worker may take to adopt a snapshot or to answer: it does both between two bursts.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a switch is made with.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// The processors to pin workers to, one each. At least one.
    pub cores: Vec<usize>,
    /// Frames of [`FRAME_SIZE`](crate::io::FRAME_SIZE) bytes every worker has.
    pub frames_per_worker: u32,
    /// Flows the connection table holds.
    pub flow_capacity: u32,
}

/// A port to attach.
#[derive(Clone, Debug)]
pub struct AttachSpec {
    /// Its number.
    pub id: PortId,
    /// The interface, in the network namespace of the calling thread.
    pub interface: String,
    /// What stands behind it.
    pub role: PortRole,
    /// How to attach the classifier.
    pub xdp_mode: XdpMode,
    /// What the classifier takes, if it is an uplink.
    pub classify: UplinkFilter,
}

/// A port as attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its number.
    pub id: PortId,
    /// Its interface.
    pub interface: String,
    /// The interface's address.
    pub mac: MacAddr,
    /// Longest IP packet it carries, in bytes.
    pub mtu: u16,
    /// Receive queues.
    pub queues: u32,
    /// How the classifier is attached: native or generic.
    pub xdp_mode: XdpMode,
    /// Whether every queue works without copying.
    pub zero_copy: bool,
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
}

struct AttachedPort {
    info: PortInfo,
    classifier: Classifier,
}

impl Switch {
    /// Starts the workers. They forward nothing until ports are attached and a spec is published.
    pub fn start(config: SwitchConfig) -> Result<Switch, SwitchError> {
        if config.cores.is_empty() {
            return Err(SwitchError::NoWorkers);
        }
        // The standard library's source of per-process randomness.
        let seed = RandomState::new().hash_one("flows");
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
        let mut switch = Switch {
            workers: Vec::new(),
            shared,
            publisher,
            seed,
            state: Mutex::new(State { ports: HashMap::new(), current }),
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

    /// Attaches a port while traffic flows. Its frames are dropped until a published spec names it.
    pub fn attach(&self, spec: AttachSpec) -> Result<PortInfo, SwitchError> {
        let mut state = self.state();
        if usize::from(spec.id.0) >= MAX_PORTS {
            return Err(SwitchError::PortNumber(spec.id));
        }
        if let Some(port) = state.ports.get(&spec.id) {
            return Err(SwitchError::PortInUse(spec.id, port.info.interface.clone()));
        }
        if let Some(port) = state.ports.values().find(|port| port.info.interface == spec.interface) {
            return Err(SwitchError::InterfaceInUse(port.info.id, spec.interface));
        }
        let interface = Interface::query(&spec.interface)?;
        let mut classifier = Classifier::attach(&interface, spec.role, spec.xdp_mode, &spec.classify)?;
        let mut zero_copy = true;
        for queue in 0..interface.queues {
            let worker = queue as usize % self.workers.len();
            let opened = self.workers[worker].memory.open(&spec.interface, queue).and_then(|device| {
                classifier.register(queue, &device)?;
                Ok(device)
            });
            let device = match opened {
                Ok(device) => device,
                Err(error) => {
                    drop(classifier);
                    self.take_back(spec.id)?;
                    return Err(error.into());
                }
            };
            zero_copy &= device.zero_copy();
            self.command(worker, Command::Attach(spec.id, Box::new(device)))?;
        }
        let info = PortInfo {
            id: spec.id,
            interface: spec.interface,
            mac: interface.mac,
            mtu: interface.mtu,
            queues: interface.queues,
            xdp_mode: classifier.mode(),
            zero_copy,
        };
        state.ports.insert(spec.id, AttachedPort { info: info.clone(), classifier });
        Ok(info)
    }

    /// Changes what an uplink's classifier takes.
    pub fn classify(&self, port: PortId, filter: &UplinkFilter) -> Result<(), SwitchError> {
        let mut state = self.state();
        let attached = state.ports.get_mut(&port).ok_or(SwitchError::NoSuchPort(port))?;
        Ok(attached.classifier.set_filter(filter)?)
    }

    /// Detaches a port while traffic flows; what was in its rings is lost. The interface itself may be gone already.
    pub fn detach(&self, port: PortId) -> Result<(), SwitchError> {
        let mut state = self.state();
        let attached = state.ports.remove(&port).ok_or(SwitchError::NoSuchPort(port))?;
        // First the program, so that no more frames come.
        drop(attached.classifier);
        self.take_back(port)
    }

    /// Takes a port's devices from the workers, closes them, and returns their frames.
    fn take_back(&self, port: PortId) -> Result<(), SwitchError> {
        for worker in 0..self.workers.len() {
            let (reply, devices) = bounded(1);
            self.command(worker, Command::Detach(port, reply))?;
            let devices = devices.recv_timeout(PATIENCE).map_err(|_| SwitchError::WorkerGone(worker))?;
            let frames: Vec<_> = devices.into_iter().flat_map(<dyn PacketIo>::close).collect();
            self.command(worker, Command::Return(frames))?;
        }
        Ok(())
    }

    /// Compiles a spec and makes every worker forward by it. Returns its generation once all do.
    pub fn publish(&self, spec: &ForwardingSpec) -> Result<u64, SwitchError> {
        let mut state = self.state();
        let generation = state.current.generation.wrapping_add(1);
        let snapshot = Arc::new(Snapshot::compile(spec, Some(&state.current), generation, self.seed)?);
        state.current = snapshot.clone();
        let sequence = self.publisher.publish(snapshot);
        drop(state);
        self.shared.inboxes.iter().for_each(|inbox| inbox.alarm().ring());
        self.publisher.wait_adopted(sequence, PATIENCE)?;
        Ok(sequence)
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
        conntrack.flows().filter(is_chosen).filter(|flow| conntrack.forget(flow)).count() as u64
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
        self.state().ports.clear();
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
