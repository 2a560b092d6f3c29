//! The daemon's life: everything up in order, and down in the reverse order.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use shunt_control_api::v1::switch_server::SwitchServer;
use shunt_dataplane::switch::{Switch, SwitchConfig, SwitchError};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{self, JoinSet},
    time::timeout,
};
use tonic_health::server::HealthReporter;

use crate::{
    api::{
        SwitchApi,
        server::{ServeError, Socket, TlsPort, services},
    },
    compile::{GATEWAY, Identity, ipv6},
    config::Config,
    controller::{Controller, ControllerHandle, StartError},
    desired::{Store, StoreError},
    engine::Engine,
    health::HealthServer,
    kernel::{
        Kernel, Mirror, MirrorError,
        host_port::{HostPort, HostPortError, Reach},
    },
    metrics::Metrics,
};

/// Longest that open calls may take once the daemon is to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Netlink.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The uplink is not there.
    #[error("the uplink {0} does not exist; correct [uplink] interface")]
    NoUplink(String),
    /// The host port.
    #[error(transparent)]
    HostPort(#[from] HostPortError),
    /// The engine.
    #[error("the switch does not start: {0}")]
    Switch(#[from] SwitchError),
    /// The controller.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The API.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The metrics endpoint.
    #[error("cannot listen on {address} ([metrics] listen): {source}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread, a signal handler.
    #[error("the operating system refused: {0}")]
    Os(#[from] io::Error),
    /// A part of the daemon ended by itself.
    #[error("{0} ended unexpectedly; the log says why")]
    Died(&'static str),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: stopping"),
            _ = int.recv() => tracing::info!("SIGINT: stopping"),
        }
    };
    let store = Store::open(&config.state_dir)?;
    let vtep_mac = match config.vxlan.as_ref().and_then(|vxlan| vxlan.mac) {
        Some(mac) => mac,
        None => store.vtep_mac(&config.node.name)?,
    };
    let (mirror, following) = Mirror::start(config.uplink.clone()).await?;
    let host_port = host_port(&config, &mirror)?;
    let switch = Arc::new(Switch::start(SwitchConfig {
        cores: config.cores.clone(),
        frames_per_worker: config.frames_per_worker,
        flow_capacity: config.flow_capacity,
        hash_seed: store.hash_seed()?,
    })?);
    let identity = Identity { config, vtep_mac };
    let outcome = match host_port.create().await {
        Ok(was_there) => {
            if was_there {
                tracing::info!(interface = host_port.interface, "taking over the host port of a former shuntd");
            }
            let (problem, host_problem) = watch::channel(None);
            let keeping = task::spawn(host_port.clone().keep(problem));
            let outcome = drive(identity, switch.clone(), mirror.clone(), store, host_problem, stop).await;
            // Only then can it be removed.
            keeping.abort();
            let _ = keeping.await;
            outcome
        }
        Err(e) => Err(e.into()),
    };

    // However it ended, nothing of ours stays in the kernel.
    match Arc::into_inner(switch) {
        Some(switch) => match task::spawn_blocking(|| switch.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!("the switch did not stop cleanly: {e}"),
            Err(e) => tracing::error!("the switch did not stop: {e}"),
        },
        None => tracing::warn!("a call is still open: the switch ends with the process"),
    }
    if let Err(e) = host_port.remove().await {
        tracing::error!("{e}");
    }
    mirror.stop();
    // It ends once the neighbours are left to the kernel, or has failed and said so.
    let _ = timeout(GRACE, following).await;
    outcome
}

fn host_port(config: &Config, mirror: &Mirror) -> Result<HostPort, DaemonError> {
    let view = mirror.view();
    let uplink = view.links.get(&config.uplink).ok_or_else(|| DaemonError::NoUplink(config.uplink.clone()))?;
    Ok(HostPort {
        interface: config.host.clone(),
        peer: config.host_peer(),
        queues: config.cores.len() as u32,
        mtu: uplink.mtu,
        path_mtu: config.pod_mtu(uplink.mtu),
        reach: reach(config),
    })
}

/// What the node's kernel reaches by the host port.
fn reach(config: &Config) -> Vec<Reach> {
    let ipv4 = Reach {
        address: config.node.overlay_address().into(),
        destinations: vec![config.node.cluster_cidr.into(), config.node.service_cidr.into()],
        gateway: GATEWAY.into(),
    };
    let ipv6 = config.ipv6.as_ref().map(|ipv6| Reach {
        address: ipv6.overlay_address().into(),
        destinations: vec![ipv6.cluster_cidr.into(), ipv6.service_cidr.into()],
        gateway: ipv6::GATEWAY.into(),
    });
    [ipv4].into_iter().chain(ipv6).collect()
}

/// Runs the controller on `engine`, and the API in front of it.
async fn drive(
    identity: Identity,
    engine: Arc<dyn Engine>,
    mirror: Mirror,
    store: Store,
    mut host_problem: watch::Receiver<Option<String>>,
    stop: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let mut news = mirror.subscribe();
    let config = identity.config.clone();
    let kernel = Box::new(mirror);
    let health = HealthServer::new(Handle::current(), config.node.name.clone());
    let controller = task::spawn_blocking(move || Controller::start(identity, engine, kernel, store, health));
    let controller = controller.await.map_err(|_| DaemonError::Died("the controller"))??;
    let (controller, thread) = ControllerHandle::spawn(controller)?;
    let mut thread = task::spawn_blocking(move || thread.join());

    let serving = serve(&config, &controller, host_problem.clone()).await;
    let outcome = match serving {
        Ok(mut serving) => {
            let follow = async {
                while news.changed().await.is_ok() {
                    controller.kernel_changed();
                }
            };
            let keep = async { while host_problem.changed().await.is_ok() {} };
            if let Err(e) = sd_notify::notify(&[NotifyState::Ready]) {
                tracing::warn!("systemd does not listen: {e}");
            }
            tracing::info!(socket = %config.socket.display(), "ready");
            let outcome = tokio::select! {
                () = stop => Ok(()),
                () = follow => Err(DaemonError::Died("the kernel mirror")),
                () = keep => Err(DaemonError::Died("the keeper of the host port")),
                _ = &mut thread => Err(DaemonError::Died("the controller")),
                _ = serving.calls.join_next() => Err(DaemonError::Died("the API")),
            };
            // If systemd does not listen it need not be told.
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            controller.feed().close();
            serving.stop().await;
            outcome
        }
        Err(e) => Err(e),
    };
    controller.stop();
    drop(controller);
    if !thread.is_finished() {
        let _ = thread.await;
    }
    outcome
}

/// Everything that answers callers.
struct Serving {
    calls: JoinSet<()>,
    stop: watch::Sender<bool>,
    health: HealthReporter,
}

impl Serving {
    async fn stop(mut self) {
        self.health.set_not_serving::<SwitchServer<SwitchApi>>().await;
        self.stop.send_replace(true);
        let ended = async { while self.calls.join_next().await.is_some() {} };
        if timeout(GRACE, ended).await.is_err() {
            tracing::warn!("some calls are still open and are cut off");
        }
    }
}

async fn serve(
    config: &Config,
    controller: &ControllerHandle,
    host_problem: watch::Receiver<Option<String>>,
) -> Result<Serving, DaemonError> {
    let (routes, health) = services(SwitchApi::new(controller.clone(), host_problem)).await?;
    let stop = watch::Sender::new(false);
    let stopped = || {
        let mut stop = stop.subscribe();
        async move {
            // An error means that the sender is gone, and so is the daemon.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    };
    let log = |outcome: Result<(), ServeError>| {
        if let Err(e) = outcome {
            tracing::error!("{e}");
        }
    };
    let mut calls = JoinSet::new();
    let socket = Socket::bind(&config.socket)?;
    if let Some(tcp) = &config.tcp {
        let (port, routes, stopped) = (TlsPort::bind(tcp).await?, routes.clone(), stopped());
        calls.spawn(async move { log(port.serve(routes, stopped).await) });
    }
    if let Some(address) = config.metrics {
        let metrics = Metrics::bind(address).await.map_err(|source| DaemonError::Metrics { address, source })?;
        calls.spawn(metrics.serve(controller.clone(), stopped()));
    }
    let stopped = stopped();
    calls.spawn(async move { log(socket.serve(routes, stopped).await) });
    Ok(Serving { calls, stop, health })
}
