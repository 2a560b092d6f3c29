//! What services cost control: the real controller, journal and workers; only ports and the kernel's view are made up.
//! Prints a table. `cargo bench -p shunt-control-daemon --bench scale [-- SERVICES]`; needs root for the workers'
//! memory.
//!
//! *Adopted* is when every worker forwards by it; the caller is answered once it is on disk, too.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prost::Message;
use shunt_control_api::v1;
use shunt_control_daemon::{
    compile::{
        Identity, NodeAddresses,
        services::{self, Services},
    },
    config::{Config, Node},
    controller::{Controller, ControllerHandle, Times},
    desired::{Store, Transaction},
    engine::{Engine, EngineError},
    health::HealthServer,
    kernel::{Kernel, KernelView, Link},
};
use shunt_control_lab::{error::LabError, memory};
use shunt_dataplane::{
    explain::{Explanation, Question, QuestionError},
    net::MacAddr,
    spec::{ForwardingSpec, PortId},
    switch::{AttachSpec, FlowRecord, PortInfo, Switch, SwitchConfig, SwitchReport},
    xsk::{UplinkFilter, XdpMode},
};

/// Endpoints of each service.
const ENDPOINTS: u32 = 10;
const NODES: u32 = 5000;
const ZONES: u32 = 3;
/// Changes of one endpoint that are timed.
const CHANGES: u32 = 1000;

/// Workers without ports, and when they adopted what was published last.
struct Workers {
    switch: Switch,
    adopted: Mutex<Instant>,
    /// By how much memory grew while services were published first, in MiB.
    tables: AtomicU64,
}

impl Workers {
    fn adopted(&self, generation: Result<u64, EngineError>) -> Result<u64, EngineError> {
        *self.adopted.lock().unwrap() = Instant::now();
        generation
    }
}

impl Engine for Workers {
    fn attach(&self, spec: AttachSpec) -> Result<PortInfo, EngineError> {
        let mac = MacAddr([2, 0, 0, 0, 0, spec.id.0 as u8]);
        let AttachSpec { id, interface, .. } = spec;
        Ok(PortInfo {
            id,
            interface,
            mac,
            mtu: 1500,
            queues: 1,
            xdp_mode: XdpMode::Native,
            zero_copy: false,
            why_copy: None,
            not_led: None,
        })
    }

    fn classify(&self, _: PortId, _: &UplinkFilter) -> Result<(), EngineError> {
        Ok(())
    }

    fn detach(&self, _: PortId) -> Result<(), EngineError> {
        Ok(())
    }

    fn publish(&self, spec: &ForwardingSpec) -> Result<u64, EngineError> {
        self.adopted(Engine::publish(&self.switch, spec))
    }

    fn publish_services(&self, services: &Services) -> Result<u64, EngineError> {
        if self.tables.load(Ordering::Relaxed) > 0 {
            return self.adopted(Engine::publish_services(&self.switch, services));
        }
        let before = mebibytes(memory::resident);
        let generation = self.adopted(Engine::publish_services(&self.switch, services));
        self.tables.store(mebibytes(memory::resident).saturating_sub(before), Ordering::Relaxed);
        generation
    }

    fn report(&self) -> SwitchReport {
        self.switch.report()
    }

    fn flows(&self, limit: usize, keep: &mut dyn FnMut(&FlowRecord) -> bool) -> Vec<FlowRecord> {
        self.switch.flows(limit, keep)
    }

    fn flush_flows(&self, flush: &mut dyn FnMut(&FlowRecord) -> bool) -> u64 {
        Engine::flush_flows(&self.switch, flush)
    }

    fn explain(&self, question: Question) -> Result<Result<Explanation, QuestionError>, EngineError> {
        Engine::explain(&self.switch, question)
    }
}

/// A kernel with an uplink and the host port, whose news are none.
struct Still(Arc<KernelView>);

impl Still {
    fn new() -> Still {
        let link =
            |index| Link { index, mac: Some(MacAddr([2, 0, 0, 0, 1, 1])), mtu: 1500, unfinished_checksums: false };
        let links = ["eth0", "shunt0", "shunt0p"].iter().zip(1..).map(|(name, n)| ((*name).into(), link(n))).collect();
        let underlay = Some(Ipv4Addr::new(172, 16, 0, 1));
        Still(Arc::new(KernelView { links, underlay, ..KernelView::default() }))
    }
}

impl Kernel for Still {
    fn follow(&self, _: BTreeSet<Ipv4Addr>) -> Arc<KernelView> {
        self.0.clone()
    }

    fn view(&self) -> Arc<KernelView> {
        self.0.clone()
    }
}

fn identity(dir: &Path) -> Identity {
    let text = format!(
        "[node]\nname = \"node-0\"\npod_cidr = \"10.128.0.0/24\"\ncluster_cidr = \"10.128.0.0/9\"\n\
         service_cidr = \"10.96.0.0/12\"\nzone = \"zone-0\"\n[uplink]\ninterface = \"eth0\"\n[vxlan]\n\
         [state]\ndir = \"{}/state\"\n",
        dir.display()
    );
    let file = dir.join("shuntd.toml");
    fs::write(&file, text).unwrap();
    let config = Config::load(&file).unwrap();
    assert!(matches!(&config.node, Node { zone, .. } if zone == "zone-0"));
    Identity { config, vtep_mac: MacAddr([0x0a, 0x58, 0xff, 0, 0, 0]) }
}

fn vtep(n: u32) -> v1::Vtep {
    let [_, a, b, c] = n.to_be_bytes();
    v1::Vtep {
        node: format!("node-{n}"),
        address: Ipv4Addr::from(0xac10_0001 + n).to_string(),
        mac: format!("0a:58:00:{a:02x}:{b:02x}:{c:02x}"),
        pod_cidr: format!("{}/24", Ipv4Addr::from(0x0a80_0000 + (n << 8))),
        ..Default::default()
    }
}

fn service(n: u32) -> v1::Service {
    v1::Service {
        namespace: format!("team-{}", n % 100),
        name: format!("service-{n}"),
        cluster_ip: Ipv4Addr::from(0x0a60_0001 + n).to_string(),
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

/// The only slice of service `n`; `unready` of its endpoints is not ready.
fn slice(n: u32, unready: Option<u32>) -> v1::EndpointSlice {
    let endpoint = |i: u32| {
        let node = (n * 7 + i * 501) % NODES;
        v1::Endpoint {
            address: Ipv4Addr::from(0x0a80_0000 + (node << 8) + 1 + n % 254).to_string(),
            conditions: (unready == Some(i))
                .then_some(v1::EndpointConditions { ready: Some(false), ..Default::default() }),
            node: format!("node-{node}"),
            zone: format!("zone-{}", node % ZONES),
            ..Default::default()
        }
    };
    v1::EndpointSlice {
        namespace: format!("team-{}", n % 100),
        service: format!("service-{n}"),
        name: format!("service-{n}-x7k2p"),
        ports: vec![v1::EndpointPort { name: "http".into(), port: 8080 }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
    }
}

/// Of this process, in MiB.
fn mebibytes(figure: fn(&str) -> Result<u64, LabError>) -> u64 {
    figure("self").unwrap() >> 20
}

fn row(what: &str, figure: impl std::fmt::Display) {
    println!("{what:<58}{figure:>12}");
}

fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

fn main() {
    let count: u32 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100_000);
    let dir = tempfile::tempdir().unwrap();
    let config = SwitchConfig { cores: vec![0, 1], frames_per_worker: 1024, flow_capacity: 1024, hash_seed: 1 };
    let adopted = Mutex::new(Instant::now());
    let workers = Arc::new(Workers { switch: Switch::start(config).unwrap(), adopted, tables: AtomicU64::new(0) });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let start = |workers: &Arc<Workers>| {
        let store = Store::open(&identity(dir.path()).config.state_dir).unwrap();
        let health = HealthServer::new(runtime.handle().clone(), "node-0".into());
        Controller::start(identity(dir.path()), workers.clone(), Box::new(Still::new()), store, health).unwrap()
    };
    let (controller, thread) = ControllerHandle::spawn(start(&workers)).unwrap();
    // How long until it was adopted, and until it was answered, and what the controller says of its steps.
    let apply = |controller: &ControllerHandle, transaction: Transaction| {
        let begin = Instant::now();
        let applied = runtime.block_on(controller.apply(transaction)).unwrap();
        let answered = begin.elapsed();
        (workers.adopted.lock().unwrap().duration_since(begin), answered, applied.times)
    };

    let nodes = v1::ApplyRequest { vteps: (1..NODES).map(vtep).collect(), ..Default::default() };
    apply(&controller, nodes.try_into().unwrap());
    let before = mebibytes(memory::resident);
    let request = v1::ApplyRequest {
        services: (0..count).map(service).collect(),
        endpoint_slices: (0..count).map(|n| slice(n, None)).collect(),
        ..Default::default()
    };
    let bytes = request.encode_to_vec();
    drop(request);
    println!("{count} services, {} endpoints, {NODES} nodes, 2 workers\n", count * ENDPOINTS);
    let begin = Instant::now();
    let request = v1::ApplyRequest::decode(bytes.as_slice()).unwrap();
    row(&format!("a request of {} MB decoded", bytes.len() / 1_000_000), millis(begin.elapsed()));
    drop(bytes);
    let begin = Instant::now();
    let transaction = Transaction::try_from(request).unwrap();
    row("its fields checked", millis(begin.elapsed()));
    let (adopted, answered, times) = apply(&controller, transaction);
    row("all in one transaction, from taken to adopted", millis(adopted));
    row("  until answered (written to disk)", millis(answered));
    row("  of it: rules checked", millis(times.checked));
    row("  of it: compiled", millis(times.compiled));
    row("  of it: published", millis(times.published));
    row("  of it: written", millis(times.written));
    let state = controller.feed().state();
    let begin = Instant::now();
    let set = services::compile_all(&state, controller.identity().place(&NodeAddresses::default()));
    row("all services compiled anew", millis(begin.elapsed()));
    let begin = Instant::now();
    Engine::publish_services(&workers.switch, &Services::default()).unwrap();
    row("none published", millis(begin.elapsed()));
    let begin = Instant::now();
    Engine::publish_services(&workers.switch, &set).unwrap();
    row("all published anew, until adopted", millis(begin.elapsed()));
    drop((state, set));

    let change = |i: u32| {
        let slice = slice((i * 7919) % count, Some(i % ENDPOINTS));
        let request = v1::ApplyRequest { endpoint_slices: vec![slice], ..Default::default() };
        apply(&controller, request.try_into().unwrap())
    };
    // The first finds published what the controller has not compiled itself, and nothing to share with that.
    change(CHANGES);
    let mut times: Vec<_> = (0..CHANGES).map(change).collect();
    let at = |share: f64| (f64::from(CHANGES - 1) * share) as usize;
    for (what, of) in [("adopted", 0), ("answered", 1)] {
        let time = |times: &(Duration, Duration, Times)| if of == 0 { times.0 } else { times.1 };
        times.sort_by_key(time);
        for (name, share) in [("median", 0.5), ("99 of 100", 0.99), ("greatest", 1.0)] {
            row(&format!("one endpoint changed, from taken to {what}, {name}"), millis(time(&times[at(share)])));
        }
    }
    row("memory of all of it", format!("{} MiB", mebibytes(memory::resident).saturating_sub(before)));
    row("  of it tables", format!("{} MiB", workers.tables.load(Ordering::Relaxed)));
    row(
        "  at most at any time, the request included",
        format!("{} MiB", mebibytes(memory::peak).saturating_sub(before)),
    );

    controller.stop();
    drop(controller);
    thread.join().unwrap();
    let begin = Instant::now();
    let controller = start(&workers);
    row("restart: read from disk, compiled, adopted", millis(begin.elapsed()));
    drop(controller);
}
