//! Health check node ports (`Service.spec.healthCheckNodePort`): load balancers ask there over HTTP whether this node has
//! ready endpoints of a service whose external traffic policy is `Local`.
//!
//! As kube-proxy answers: 200 while there are some, else 503, and how many there are in JSON either way. Endpoints that only
//! terminate do not count: new flows should go elsewhere, though those that come are served.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
};

use hyper::{StatusCode, header::HeaderName};
use shunt_control_api::{EndpointSlice, Resource, Service};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    compile::services::{self, family::Family},
    desired::{Change, State},
    http::{self, Answer},
};

/// What kube-proxy calls the number of local endpoints in a header.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Ready IPv4 endpoints among `slices` on the node called `node`, for those are what is had at load balancers' addresses: each
/// once, whatever its ports.
pub fn local_endpoints(slices: &[&EndpointSlice], node: &str) -> u32 {
    let endpoints = slices.iter().flat_map(|slice| Ipv4Addr::endpoints(slice));
    let here = endpoints.filter(|endpoint| &*endpoint.node == node && endpoint.conditions.is_ready());
    here.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len() as u32
}

/// Why health checks of some services are not answered, by `namespace/name`.
pub type Problems = BTreeMap<String, String>;

/// What is told at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Health {
    namespace: String,
    name: String,
    local_endpoints: u32,
}

impl Health {
    fn answer(&self) -> Answer {
        let Health { namespace, name, local_endpoints } = self;
        let status = if *local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let service = serde_json::json!({ "namespace": namespace, "name": name });
        let body = serde_json::json!({ "service": service, "localEndpoints": local_endpoints });
        let mut answer = http::answer(status, "application/json", body.to_string());
        answer.headers_mut().insert(WEIGHT, (*local_endpoints).into());
        answer
    }
}

/// Answers at the health check ports of all services.
#[derive(Debug)]
pub struct HealthServer {
    runtime: Handle,
    node: String,
    /// The port of each service that has one.
    ports: BTreeMap<String, u16>,
    /// What answers there.
    listening: BTreeMap<u16, Listening>,
    problems: Problems,
}

#[derive(Debug)]
struct Listening {
    health: Arc<Mutex<Health>>,
    task: JoinHandle<()>,
}

impl HealthServer {
    /// One that runs on `runtime` and answers for the node called `node`.
    pub fn new(runtime: Handle, node: String) -> HealthServer {
        let (ports, listening) = (BTreeMap::new(), BTreeMap::new());
        HealthServer { runtime, node, ports, listening, problems: Problems::new() }
    }

    /// Why some are not answered.
    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    /// Follows `change`, which made `state`.
    pub fn follow(&mut self, state: &State, change: &Change) {
        let asked = |resource: &Arc<Resource>| match &**resource {
            Resource::Service(service) => service.health_check_node_port().map(|_| service.full_name()),
            _ => None,
        };
        let mut names: BTreeSet<String> = change.upserts.iter().filter_map(asked).collect();
        // The others matter only if they have been answered for.
        if !self.ports.is_empty() {
            names.extend(services::touched(change).into_iter().filter(|name| self.ports.contains_key(name)));
        }
        self.update(state, names);
    }

    /// Makes the answers about the services called `names` (`namespace/name`) those of `state`.
    pub fn update(&mut self, state: &State, names: impl IntoIterator<Item = String>) {
        let mut free = Vec::new();
        let mut wanted = Vec::new();
        for name in names {
            let service = state.service(&name);
            let port = service.and_then(Service::health_check_node_port);
            if let Some(known) = self.ports.get(&name).copied().filter(|known| port != Some(*known)) {
                self.ports.remove(&name);
                free.push(known);
            }
            if port.is_none() {
                self.problems.remove(&name);
            }
            wanted.extend(service.zip(port));
        }
        for (service, port) in wanted {
            let slices: Vec<_> = state.slices(&service.full_name()).collect();
            let health = Health {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                local_endpoints: local_endpoints(&slices, &self.node),
            };
            // A port may go over from one service to another.
            free.retain(|free| *free != port);
            self.tell(service.full_name(), port, health);
        }
        let gone: Vec<_> = free.iter().filter_map(|port| self.listening.remove(port)).collect();
        self.end(gone);
    }

    /// Tries again what did not work.
    pub fn retry(&mut self, state: &State) {
        self.update(state, self.problems.keys().cloned().collect::<Vec<_>>());
    }

    /// Answers nowhere any more.
    pub fn stop(&mut self) {
        let gone = std::mem::take(&mut self.listening).into_values().collect();
        self.end(gone);
    }

    fn tell(&mut self, service: String, port: u16, health: Health) {
        self.ports.insert(service.clone(), port);
        if let Some(listening) = self.listening.get(&port) {
            *listening.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
            self.problems.remove(&service);
            return;
        }
        match self.listen(port, health) {
            Ok(listening) => {
                self.listening.insert(port, listening);
                self.problems.remove(&service);
            }
            Err(e) => {
                let why = match e.kind() {
                    io::ErrorKind::AddrInUse => "another process has it".to_owned(),
                    _ => e.to_string(),
                };
                let problem = format!("nobody answers at port {port}: {why}; it is tried again");
                if self.problems.get(&service) != Some(&problem) {
                    tracing::warn!(service, "health check: {problem}");
                }
                self.problems.insert(service, problem);
            }
        }
    }

    fn listen(&self, port: u16, health: Health) -> io::Result<Listening> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        listener.set_nonblocking(true)?;
        let _in = self.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let health = Arc::new(Mutex::new(health));
        let told = health.clone();
        let respond = move |_| {
            let answer = told.lock().unwrap_or_else(PoisonError::into_inner).answer();
            async { answer }
        };
        Ok(Listening { health, task: self.runtime.spawn(http::serve(listener, respond)) })
    }

    /// Returns once the ports are free: the next change may want them.
    fn end(&self, gone: Vec<Listening>) {
        if gone.is_empty() {
            return;
        }
        self.runtime.block_on(async {
            for Listening { task, .. } in gone {
                task.abort();
                // Cancelled, as it was asked to be.
                let _ = task.await;
            }
        });
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.listening.values().for_each(|listening| listening.task.abort());
    }
}
