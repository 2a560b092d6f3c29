//! A daemon without packets: the real controller, store and API over an engine and a kernel in memory.

#![allow(dead_code, reason = "shuntctl's tests use a part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

use shunt_control_api::v1::{self, switch_client::SwitchClient};
use shunt_control_daemon::{
    api::{
        SwitchApi,
        server::{Socket, services},
    },
    compile::{Identity, services::Services},
    config::Config,
    controller::{Controller, ControllerHandle, StartError},
    desired::Store,
    engine::{Engine, EngineError},
    health::HealthServer,
    kernel::{Kernel, KernelView, Link, NextHop},
};
use shunt_dataplane::{
    counters::WorkerCounters,
    explain::{Comes, DryRun, Explanation, FRAMES, Question, QuestionError},
    flow::FlowSeed,
    io::FramePool,
    net::MacAddr,
    pipeline::Env,
    record::Off,
    snapshot::Snapshot,
    spec::{ForwardingSpec, PortId},
    switch::{AttachSpec, FlowRecord, PortInfo, PortReport, SwitchReport, WorkerReport},
    tables::{Conntrack, Recent},
    time::Now,
    worker::MemoryCensus,
    xsk::{MemoryChoice, UplinkFilter, XdpMode},
};
use tokio::sync::oneshot;
use tonic::transport::Channel;

/// An engine that forwards nothing, and holds the controller to the engine's rules.
#[derive(Default)]
pub struct MemoryEngine {
    state: Mutex<EngineState>,
    /// So many of the next publications are refused.
    pub refuse: AtomicU32,
}

#[derive(Default)]
struct EngineState {
    ports: BTreeMap<PortId, AttachSpec>,
    published: ForwardingSpec,
    generation: u64,
    busy: BTreeSet<String>,
    flows: Vec<FlowRecord>,
    reports: Vec<PortReport>,
}

impl MemoryEngine {
    pub fn published(&self) -> ForwardingSpec {
        self.state.lock().unwrap().published.clone()
    }

    pub fn generation(&self) -> u64 {
        self.state.lock().unwrap().generation
    }

    /// The interfaces that are attached.
    pub fn interfaces(&self) -> Vec<String> {
        self.state.lock().unwrap().ports.values().map(|port| port.interface.clone()).collect()
    }

    pub fn port(&self, interface: &str) -> Option<AttachSpec> {
        self.state.lock().unwrap().ports.values().find(|port| port.interface == interface).cloned()
    }

    /// Whether attaching `interface` fails from now on.
    pub fn set_busy(&self, interface: &str, busy: bool) {
        let mut state = self.state.lock().unwrap();
        if busy {
            state.busy.insert(interface.into())
        } else {
            state.busy.remove(interface)
        };
    }

    pub fn set_flows(&self, flows: Vec<FlowRecord>) {
        self.state.lock().unwrap().flows = flows;
    }

    pub fn set_reports(&self, reports: Vec<PortReport>) {
        self.state.lock().unwrap().reports = reports;
    }
}

fn error(text: String) -> EngineError {
    EngineError::new(&std::io::Error::other(text))
}

impl Engine for MemoryEngine {
    fn attach(&self, spec: AttachSpec) -> Result<PortInfo, EngineError> {
        let mut state = self.state.lock().unwrap();
        assert!(!state.ports.contains_key(&spec.id), "{:?} is in use", spec.id);
        if state.busy.contains(&spec.interface) || state.ports.values().any(|port| port.interface == spec.interface) {
            return Err(error(format!("{} is busy", spec.interface)));
        }
        let info = PortInfo {
            id: spec.id,
            interface: spec.interface.clone(),
            mac: MacAddr([2, 0, 0, 0, 9, spec.id.0 as u8]),
            mtu: 1450,
            queues: 1,
            xdp_mode: XdpMode::Native,
            zero_copy: false,
            why_copy: (spec.memory == MemoryChoice::ZeroCopy).then(|| "the driver cannot".into()),
            not_led: None,
        };
        state.ports.insert(spec.id, spec);
        Ok(info)
    }

    fn detach(&self, port: PortId) -> Result<(), EngineError> {
        let mut state = self.state.lock().unwrap();
        assert!(!state.published.ports.iter().any(|p| p.id == port), "{port:?} is still forwarded to");
        assert!(state.ports.remove(&port).is_some(), "{port:?} is not attached");
        Ok(())
    }

    fn classify(&self, port: PortId, filter: &UplinkFilter) -> Result<(), EngineError> {
        self.state.lock().unwrap().ports.get_mut(&port).expect("is attached").classify = filter.clone();
        Ok(())
    }

    fn publish(&self, spec: &ForwardingSpec) -> Result<u64, EngineError> {
        if self.refuse.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(error("no room".into()));
        }
        let mut state = self.state.lock().unwrap();
        for port in &spec.ports {
            assert!(state.ports.contains_key(&port.id), "{:?} is not attached", port.id);
        }
        state.published = spec.clone();
        state.generation += 1;
        Ok(state.generation)
    }

    fn publish_services(&self, services: &Services) -> Result<u64, EngineError> {
        let mut spec = self.published();
        services.put_into(&mut spec);
        self.publish(&spec)
    }

    fn report(&self) -> SwitchReport {
        let state = self.state.lock().unwrap();
        let worker = WorkerReport {
            core: 0,
            memories: vec![MemoryCensus {
                port: None,
                capacity: 8192,
                free: 8000,
                in_hand: 2,
                receive: 180,
                transmit: 10,
            }],
            bursts: 5,
            packets: 7,
            sleeps: 3,
            ..WorkerReport::default()
        };
        SwitchReport {
            generation: state.generation,
            ports: state.reports.clone(),
            removed: PortReport::default(),
            workers: vec![worker],
            flow_capacity: 1 << 20,
            flows_in_use: state.flows.len() as u32,
        }
    }

    fn flows(&self, limit: usize, keep: &mut dyn FnMut(&FlowRecord) -> bool) -> Vec<FlowRecord> {
        self.state.lock().unwrap().flows.iter().filter(|flow| keep(flow)).take(limit).cloned().collect()
    }

    fn flush_flows(&self, chosen: &mut dyn FnMut(&FlowRecord) -> bool) -> u64 {
        self.state.lock().unwrap().flows.extract_if(.., |flow| chosen(flow)).count() as u64
    }

    /// By the real stages: no flow is known, and every port takes everything.
    fn explain(&self, question: Question) -> Result<Result<Explanation, QuestionError>, EngineError> {
        let state = self.state.lock().unwrap();
        let seed = FlowSeed::from_number(7);
        let snapshot = &Snapshot::compile(&state.published, None, state.generation as u32, 7).unwrap();
        let (conntrack, fragments, clients) = (&Conntrack::new(16, seed), &Recent::new(4, seed), &Recent::new(4, seed));
        let (counters, now) = (&WorkerCounters::default(), Now(10_000_000_000));
        let live = Env { snapshot, conntrack, fragments, clients, counters, now, recorder: Off };
        Ok(DryRun::new(live, &mut FramePool::on_heap(FRAMES)).explain(question, |_, _, _| Ok(Comes::Yes)))
    }
}

/// A kernel that says what the test wants.
#[derive(Clone, Default)]
pub struct MemoryKernel {
    view: Arc<Mutex<Arc<KernelView>>>,
}

impl MemoryKernel {
    /// Changes what the kernel says.
    pub fn change(&self, change: impl FnOnce(&mut KernelView)) {
        let mut view = self.view.lock().unwrap();
        change(Arc::make_mut(&mut view));
    }

    /// Makes an interface appear, as another one than any before.
    pub fn add_link(&self, name: &str) {
        static NUMBER: AtomicU32 = AtomicU32::new(10);
        let (index, mac) = (NUMBER.fetch_add(1, SeqCst), Some(MacAddr([2, 0, 0, 0, 0, 1])));
        let link = Link { index, mac, mtu: 1450, unfinished_checksums: true };
        self.change(|view| _ = view.links.insert(name.to_owned(), link));
    }

    pub fn remove_link(&self, name: &str) {
        self.change(|view| _ = view.links.remove(name));
    }
}

impl Kernel for MemoryKernel {
    fn follow(&self, stations: BTreeSet<Ipv4Addr>) -> Arc<KernelView> {
        let hop = |station| (station, NextHop { station: Some(station), mac: Some(MacAddr([2, 0, 0, 0, 5, 5])) });
        self.change(|view| view.next_hops = stations.into_iter().map(hop).collect());
        self.view()
    }

    fn view(&self) -> Arc<KernelView> {
        self.view.lock().unwrap().clone()
    }
}

/// A daemon that serves on a unix socket in `dir`.
pub struct TestDaemon {
    pub engine: Arc<MemoryEngine>,
    pub kernel: MemoryKernel,
    pub controller: ControllerHandle,
    pub client: SwitchClient<Channel>,
    thread: JoinHandle<()>,
    server: tokio::task::JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

/// How the configuration of a node `node-a` begins.
pub const NODE: &str = r#"
    [node]
    name = "node-a"
    pod_cidr = "10.244.1.0/24"
    cluster_cidr = "10.244.0.0/16"
    service_cidr = "10.96.0.0/16"
    [uplink]
    interface = "eth0"
"#;

/// The configuration of such a node that keeps everything in `dir`.
pub fn config(dir: &Path) -> Config {
    let text = format!(
        r#"{NODE}
        [ipv6]
        pod_cidr = "fd00:10:244:1::/64"
        cluster_cidr = "fd00:10:244::/48"
        service_cidr = "fd00:10:96::/112"
        [vxlan]
        mac = "0a:58:00:00:00:01"
        [workers]
        cores = [0]
        [api]
        socket = "{0}/run/shuntd.sock"
        [state]
        dir = "{0}/state"
        "#,
        dir.display()
    );
    let path = dir.join("shuntd.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path).unwrap()
}

/// A kernel with the uplink, the host port and two pods' interfaces.
pub fn kernel() -> MemoryKernel {
    let kernel = MemoryKernel::default();
    for link in ["eth0", "shunt0", "shunt0p", "va1", "va2"] {
        kernel.add_link(link);
    }
    kernel.change(|view| view.underlay = Some(Ipv4Addr::new(192, 168, 50, 1)));
    kernel
}

/// Starts the controller alone.
pub fn start_controller(dir: &Path, engine: Arc<MemoryEngine>, kernel: MemoryKernel) -> Result<Controller, StartError> {
    let config = config(dir);
    let store = Store::open(&config.state_dir)?;
    let identity = Identity { config, vtep_mac: MacAddr([0x0a, 0x58, 0, 0, 0, 1]) };
    let health = HealthServer::new(tokio::runtime::Handle::current(), identity.config.node.name.clone());
    Controller::start(identity, engine, Box::new(kernel), store, health)
}

impl TestDaemon {
    pub async fn start(dir: &Path) -> TestDaemon {
        TestDaemon::start_with(dir, kernel()).await
    }

    pub async fn start_with(dir: &Path, kernel: MemoryKernel) -> TestDaemon {
        let engine = Arc::new(MemoryEngine::default());
        let controller = start_controller(dir, engine.clone(), kernel.clone()).unwrap();
        let (controller, thread) = ControllerHandle::spawn(controller).unwrap();
        let (routes, _health) =
            services(SwitchApi::new(controller.clone(), tokio::sync::watch::channel(None).1)).await.unwrap();
        let path = config(dir).socket;
        let socket = Socket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            socket.serve(routes, async { drop(stopped.await) }).await.unwrap();
        });
        let client = SwitchClient::connect(format!("unix://{}", path.display())).await.unwrap();
        TestDaemon { engine, kernel, controller, client, thread, server, stop }
    }

    /// Stops as the daemon does on SIGTERM.
    pub async fn stop(self) {
        let TestDaemon { controller, client, thread, server, stop, .. } = self;
        controller.feed().close();
        drop(client);
        stop.send(()).unwrap();
        server.await.unwrap();
        controller.stop();
        drop(controller);
        // Not by blocking here: what the controller ends runs on this runtime.
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    }

    pub async fn apply(&mut self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, tonic::Status> {
        self.client.apply(request).await.map(tonic::Response::into_inner)
    }

    /// Waits until what the controller was told before is done.
    pub async fn settle(&mut self) {
        self.apply(v1::ApplyRequest::default()).await.unwrap();
    }
}

pub fn vtep(n: u8) -> v1::Vtep {
    v1::Vtep {
        node: format!("node-{n}"),
        address: format!("192.168.50.{n}"),
        mac: format!("0a:58:00:00:00:{n:02x}"),
        pod_cidr: format!("10.244.{n}.0/24"),
        ..Default::default()
    }
}

pub fn port(name: &str, interface: &str, n: u8) -> v1::Port {
    v1::Port {
        name: name.into(),
        interface: interface.into(),
        address: format!("10.244.1.{n}"),
        mac: format!("0a:58:0a:f4:01:{n:02x}"),
        ..Default::default()
    }
}

pub fn service(name: &str, n: u8) -> v1::Service {
    v1::Service {
        namespace: "default".into(),
        name: name.into(),
        cluster_ip: format!("10.96.0.{n}"),
        ports: vec![v1::ServicePort {
            name: "http".into(),
            protocol: v1::Protocol::Tcp.into(),
            port: 80,
            node_port: 0,
        }],
        internal_traffic_policy: v1::TrafficPolicy::Cluster.into(),
        ..Default::default()
    }
}

/// A slice of `service` with one endpoint.
pub fn slice(service: &str, name: &str, n: u8) -> v1::EndpointSlice {
    v1::EndpointSlice {
        namespace: "default".into(),
        service: service.into(),
        name: name.into(),
        ports: vec![v1::EndpointPort { name: "http".into(), port: 8080 }],
        endpoints: vec![v1::Endpoint { address: format!("10.244.1.{n}"), ..Default::default() }],
    }
}

pub fn key(kind: v1::Kind, name: &str) -> v1::Key {
    v1::Key { kind: kind.into(), name: name.into() }
}
