//! The one thread that changes things.
//!
//! Requests and news from the kernel come in order through a channel. Each is brought to an end (attach, compile,
//! publish, adopted by every worker, written down) before the next one begins, so nothing here needs a lock.

mod handle;

use std::{
    sync::{Arc, PoisonError, RwLock, mpsc},
    time::{Duration, Instant},
};

use shunt_control_api::{FieldError, Kind, Service};
use shunt_dataplane::spec::{ForwardingSpec, PortId};
use tokio::sync::oneshot;

pub use handle::{ControllerHandle, Observed};

use crate::{
    attachments::{Attachments, wanted},
    compile::{
        self, Identity, NodeAddresses,
        services::{self, Services},
        stations,
    },
    desired::{Change, Claims, Counts, Feed, Place, Rules, State, Store, StoreError, Transaction},
    engine::{Engine, EngineError},
    health::HealthServer,
    kernel::{Kernel, KernelView},
};

/// How long an interface that could not be attached is left alone.
const RETRY: Duration = Duration::from_secs(2);

/// What the controller is asked to do.
pub(crate) enum Command {
    /// Change the desired state.
    Apply(Transaction, oneshot::Sender<Result<Applied, ApplyError>>),
    /// The kernel's state has changed. Which way is asked when it is this command's turn, so that a request in between
    /// is never undone by older news.
    KernelChanged,
    /// Empty the switch and end.
    Stop,
}

/// A transaction that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The state's version with it.
    pub version: u64,
    /// The generation that every worker has adopted.
    pub generation: u64,
    /// What it did.
    pub counts: Counts,
    /// What it asked for and is not there yet.
    pub warnings: Vec<String>,
    /// Where the time went.
    pub times: Times,
}

/// How long the steps of a transaction took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Its rules were checked.
    pub checked: Duration,
    /// The services were compiled.
    pub compiled: Duration,
    /// Tables were built and adopted by every worker; if more than services changed, ports attached.
    pub published: Duration,
    /// It was written to disk.
    pub written: Duration,
}

/// The time since `since`, which is now from now on.
fn lap(since: &mut Instant) -> Duration {
    let now = Instant::now();
    now.duration_since(std::mem::replace(since, now))
}

/// A transaction of which nothing is in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It breaks a rule.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// The state has moved on.
    #[error("expected_version: the state has version {actual}, not {expected}; read it again, then retry")]
    Conflict {
        /// The version that was expected.
        expected: u64,
        /// The version there is.
        actual: u64,
    },
    /// It could not be written down.
    #[error("{0}; the former state is in force")]
    Store(#[from] StoreError),
    /// The engine did not take it.
    #[error("the switch refused: {0}; the former state is in force")]
    Engine(#[from] EngineError),
    /// The daemon is on its way out.
    #[error("shuntd is stopping; try again when it is back")]
    Stopping,
}

/// The daemon cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kept state and the configuration contradict each other.
    #[error(
        "the state in {dir} does not fit the configuration: {source}; correct that, or move the file desired-state away"
    )]
    Misfit {
        /// The state directory.
        dir: String,
        /// The resource and what is wrong with it.
        source: FieldError,
    },
    /// The uplink or the host port is not usable.
    #[error("{0}")]
    Port(String),
    /// The engine did not take the first forwarding state.
    #[error("the switch refused its first forwarding state: {0}")]
    Engine(#[from] EngineError),
}

/// Whether the change is of services and their endpoints, and of nothing else.
fn only_services(change: &Change) -> bool {
    change.kinds().all(|kind| matches!(kind, Kind::Service | Kind::EndpointSlice))
}

/// Everything the controller owns.
pub struct Controller {
    identity: Identity,
    engine: Arc<dyn Engine>,
    kernel: Box<dyn Kernel>,
    store: Store,
    state: Arc<State>,
    claims: Claims,
    view: Arc<KernelView>,
    /// At which node ports are had: for these the services are compiled.
    addresses: NodeAddresses,
    attachments: Attachments,
    health: HealthServer,
    /// What the workers forward by now.
    published: ForwardingSpec,
    generation: u64,
    feed: Arc<Feed>,
    observed: Arc<RwLock<Arc<Observed>>>,
    /// When to try again what could not be attached.
    retry_at: Option<Instant>,
}

/// A forwarding state that the workers have, and what it takes to go on or back.
struct Staged {
    attachments: Attachments,
    /// Attached for it.
    fresh: Vec<PortId>,
    /// Not needed with it.
    gone: Vec<PortId>,
    /// What the workers forwarded by before.
    before: ForwardingSpec,
    /// At which node ports are had with it.
    addresses: NodeAddresses,
}

impl Controller {
    /// Puts the kept state in force.
    pub fn start(
        identity: Identity,
        engine: Arc<dyn Engine>,
        kernel: Box<dyn Kernel>,
        mut store: Store,
        health: HealthServer,
    ) -> Result<Controller, StartError> {
        let state = Arc::new(store.load()?);
        let view = kernel.follow(stations(&state));
        let mut controller = Controller {
            feed: Arc::new(Feed::new(state.clone())),
            observed: Arc::default(),
            identity,
            engine,
            kernel,
            store,
            state: state.clone(),
            claims: Claims::default(),
            addresses: NodeAddresses::default(),
            view,
            attachments: Attachments::default(),
            health,
            published: ForwardingSpec::default(),
            generation: 0,
            retry_at: None,
        };
        let misfit = |source| {
            let dir = controller.identity.config.state_dir.display().to_string();
            StartError::Misfit { dir, source }
        };
        controller.addresses = controller.identity.addresses(&controller.view);
        controller.claims = state.claims(&controller.rules()).map_err(misfit)?;
        let services = services::compile_all(&state, controller.identity.place(&controller.addresses));
        let staged = controller.stage(&state, services)?;
        let asked = state.services().filter(|service| service.health_check_node_port().is_some());
        controller.health.update(&state, asked.map(Service::full_name));
        controller.settle(staged);
        let own = [controller.identity.config.uplink.clone(), controller.identity.config.host_peer()];
        for interface in own {
            if let Some(why) = controller.attachments.get(&interface).and_then(|a| a.pending()) {
                return Err(StartError::Port(why.to_owned()));
            }
        }
        Ok(controller)
    }

    /// Serves commands until told to stop or nobody is left to send any.
    pub(crate) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            let command = match self.retry_at {
                None => commands.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(at) => commands.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match command {
                // The caller may have gone; the state is in force all the same.
                Ok(Command::Apply(transaction, answer)) => drop(answer.send(self.apply(&transaction))),
                Ok(Command::KernelChanged) => {
                    let view = self.kernel.view();
                    if !Arc::ptr_eq(&view, &self.view) {
                        self.view = view;
                        self.follow_kernel();
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.health.retry(&self.state);
                    self.follow_kernel();
                }
                Ok(Command::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.stop();
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, ApplyError> {
        let actual = self.state.version;
        if let Some(expected) = transaction.expected_version.filter(|&expected| expected != actual) {
            return Err(ApplyError::Conflict { expected, actual });
        }
        let (mut times, mut since) = (Times::default(), Instant::now());
        let plan = transaction.plan(&self.state, &self.claims, &self.rules())?;
        times.checked = lap(&mut since);
        if let Some(change) = plan.change {
            let state = Arc::new(plan.state);
            let place = self.identity.place(&self.addresses);
            let services = services::update(&Services::of(&self.published), &self.state, &state, &change, place);
            times.compiled = lap(&mut since);
            if only_services(&change) {
                self.apply_services(&state, &change, services, &mut times)?;
            } else {
                self.view = self.kernel.follow(stations(&state));
                let staged = self.stage(&state, services)?;
                times.published = lap(&mut since);
                if let Err(e) = self.store.commit(&state, &change) {
                    self.revert(&staged);
                    return Err(e.into());
                }
                times.written = lap(&mut since);
                self.state = state.clone();
                self.health.follow(&state, &change);
                self.settle(staged);
            }
            self.claims = plan.claims;
            tracing::info!(version = state.version, generation = self.generation, counts = ?plan.counts, "applied");
            self.feed.push(state, change);
        } else if self.something_waits() {
            // Asked for again what waits: whoever asks has perhaps removed the obstacle.
            self.health.retry(&self.state);
            self.view = self.kernel.follow(stations(&self.state));
            self.follow_kernel();
        }
        let port = |(place, interface): (Place, &str)| {
            let why = self.attachments.get(interface)?.pending()?;
            Some(format!("{place}.interface: {why}"))
        };
        let service = |(place, name): (Place, &str)| {
            let why = self.health.problems().get(name)?;
            Some(format!("{place}.health_check_node_port: {why}"))
        };
        let warnings = transaction.ports().filter_map(port).chain(transaction.services().filter_map(service));
        Ok(Applied {
            version: self.state.version,
            generation: self.generation,
            counts: plan.counts,
            warnings: warnings.collect(),
            times,
        })
    }

    /// Puts a state in force that differs from the former one in its services only. The rest is not looked at: it may
    /// be large.
    fn apply_services(
        &mut self,
        state: &Arc<State>,
        change: &Change,
        services: Services,
        times: &mut Times,
    ) -> Result<(), ApplyError> {
        let mut since = Instant::now();
        let before = Services::of(&self.published);
        services.put_into(&mut self.published);
        if before != services {
            match self.engine.publish_services(&services) {
                Ok(generation) => self.generation = generation,
                Err(e) => {
                    before.put_into(&mut self.published);
                    // It may have got further than some worker.
                    self.publish_again(&self.published.clone());
                    return Err(e.into());
                }
            }
        }
        times.published = lap(&mut since);
        if let Err(e) = self.store.commit(state, change) {
            before.put_into(&mut self.published);
            self.publish_again(&self.published.clone());
            return Err(e.into());
        }
        times.written = lap(&mut since);
        self.state = state.clone();
        self.health.follow(state, change);
        self.plan_retry();
        self.observe();
        Ok(())
    }

    /// Brings the workers up to what the kernel says now.
    fn follow_kernel(&mut self) {
        let state = self.state.clone();
        match self.stage(&state, Services::of(&self.published)) {
            Ok(staged) => self.settle(staged),
            Err(e) => tracing::error!("the switch refused to follow the kernel: {e}"),
        }
    }

    /// Attaches what `state` needs and makes the workers forward by it. On an error everything is as before.
    fn stage(&mut self, state: &State, services: Services) -> Result<Staged, EngineError> {
        let wanted = wanted(&self.identity.config, state, &self.view);
        let mut attachments = self.attachments.clone();
        let gone = attachments.retain(&wanted, &self.view);
        let mode = self.identity.config.xdp_mode;
        let fresh = attachments.attach(&*self.engine, mode, &wanted, &self.view, &gone);
        let before = self.published.clone();
        let addresses = self.identity.addresses(&self.view);
        let services = match addresses == self.addresses {
            true => services,
            false => services::compile_all(state, self.identity.place(&addresses)),
        };
        if let Err(e) = self.publish(state, &attachments, services) {
            // It may have got further than some worker.
            self.publish_again(&before);
            self.detach(&fresh);
            return Err(e);
        }
        attachments.classify(&*self.engine, &wanted);
        Ok(Staged { attachments, fresh, gone, before, addresses })
    }

    /// Goes on with a staged state: lets go of what it does not need.
    fn settle(&mut self, staged: Staged) {
        let Staged { attachments, gone, addresses, .. } = staged;
        (self.attachments, self.addresses) = (attachments, addresses);
        if !gone.is_empty() {
            self.detach(&gone);
            // What could not be attached before may have waited for just that: a pod's new veth of the same name.
            if self.attachments.worth_retrying(&self.view) {
                return self.follow_kernel();
            }
        }
        self.plan_retry();
        self.observe();
    }

    /// Whether something is not in force that was asked for.
    fn something_waits(&self) -> bool {
        let is_pending = self.attachments.iter().any(|(_, attachment)| attachment.pending().is_some());
        is_pending || !self.health.problems().is_empty()
    }

    /// What did not work is tried again some time later.
    fn plan_retry(&mut self) {
        let something = self.attachments.worth_retrying(&self.view) || !self.health.problems().is_empty();
        self.retry_at = something.then(|| Instant::now() + RETRY);
    }

    /// Lets others see what is in force.
    fn observe(&self) {
        let observed = Observed {
            attachments: self.attachments.clone(),
            view: self.view.clone(),
            generation: self.generation,
            health_problems: self.health.problems().clone(),
        };
        *self.observed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(observed);
    }

    /// Goes back from a staged state to the one that is written down.
    fn revert(&mut self, staged: &Staged) {
        self.publish_again(&staged.before);
        self.detach(&staged.fresh);
    }

    /// Makes the workers forward by what they forwarded by before.
    fn publish_again(&mut self, before: &ForwardingSpec) {
        match self.engine.publish(before) {
            Ok(generation) => {
                self.generation = generation;
                self.published = before.clone();
            }
            // What the workers do would not be what callers were told: stop rather than pretend.
            Err(e) => panic!("the switch refused to go back to the state it had: {e}"),
        }
    }

    fn publish(&mut self, state: &State, attachments: &Attachments, services: Services) -> Result<(), EngineError> {
        let spec = compile::compile(&self.identity, state, &self.view, &attachments.attached(), services);
        if self.generation == 0 || spec != self.published {
            self.generation = self.engine.publish(&spec)?;
            self.published = spec;
        }
        Ok(())
    }

    fn detach(&mut self, ports: &[PortId]) {
        for &id in ports {
            match self.engine.detach(id) {
                Ok(()) => tracing::info!(id = id.0, "detached"),
                Err(e) => {
                    tracing::error!(id = id.0, "cannot detach, its number is not used again: {e}");
                    self.attachments.abandon(id);
                }
            }
        }
    }

    fn rules(&self) -> Rules {
        let config = &self.identity.config;
        Rules {
            node: config.node.clone(),
            ipv6: config.ipv6.clone(),
            vtep_mac: config.vxlan.as_ref().map(|_| self.identity.vtep_mac),
            underlay: self.view.underlay,
            node_port_addresses: self.addresses.node_ports.clone(),
            masquerade_ports: config.masquerade.ports.clone(),
            own_interfaces: [config.uplink.clone(), config.host.clone(), config.host_peer()],
        }
    }

    fn stop(mut self) {
        self.feed.close();
        // Load balancers should look elsewhere first.
        self.health.stop();
        if let Err(e) = self.engine.publish(&ForwardingSpec::default()) {
            tracing::error!("the switch refused to be emptied: {e}");
        }
        let ports: Vec<_> = self.attachments.iter().filter_map(|(_, a)| a.info().map(|info| info.id)).collect();
        self.detach(&ports);
    }
}
