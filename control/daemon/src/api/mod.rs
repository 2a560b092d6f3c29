//! The gRPC API: requests in, answers out. What they mean is decided elsewhere.

mod explain;
mod flows;
pub mod server;
mod services;
mod status;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shunt_control_api::{FieldError, Key, Kind, Resource, v1};
use shunt_dataplane::switch::SwitchReport;
use tokio::sync::watch::Receiver;
use tonic::{Request, Response, Status};

use crate::{
    controller::{ApplyError, ControllerHandle},
    desired::{State, Transaction},
};

/// Most resources or flows in one answer.
const PAGE: u32 = 1000;

/// The service `shunt.v1.Switch`.
#[derive(Clone)]
pub struct SwitchApi {
    controller: ControllerHandle,
    /// What is wrong with the host port.
    host_problem: Receiver<Option<String>>,
    started: Instant,
}

impl SwitchApi {
    /// The API of a running controller; its uptime is counted from now. `host_problem` says what is wrong with the host
    /// port in the kernel, if anything is.
    pub fn new(controller: ControllerHandle, host_problem: Receiver<Option<String>>) -> Self {
        SwitchApi { controller, host_problem, started: Instant::now() }
    }

    /// Counters, read on a thread that may block.
    async fn report(&self) -> Result<SwitchReport, Status> {
        let engine = self.controller.engine().clone();
        let report = tokio::task::spawn_blocking(move || engine.report()).await;
        report.map_err(|e| Status::internal(format!("the counters cannot be read: {e}")))
    }
}

/// `limit` of a request: how many are wanted, of at most a page.
fn page(limit: u32) -> usize {
    let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
    limit as usize
}

fn invalid(error: FieldError) -> Status {
    Status::invalid_argument(error.to_string())
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::Invalid(_) => Status::invalid_argument(message),
            ApplyError::Conflict { .. } => Status::aborted(message),
            ApplyError::Store(_) | ApplyError::Engine(_) => Status::internal(message),
            ApplyError::Stopping => Status::unavailable(message),
        }
    }
}

#[tonic::async_trait]
impl v1::switch_server::Switch for SwitchApi {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let begin = Instant::now();
        let transaction = Transaction::try_from(request.into_inner()).map_err(invalid)?;
        let checked = begin.elapsed();
        let applied = self.controller.apply(transaction).await?;
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Ok(Response::new(v1::ApplyResponse {
            version: applied.version,
            generation: applied.generation,
            created: applied.counts.created,
            updated: applied.counts.updated,
            unchanged: applied.counts.unchanged,
            deleted: applied.counts.deleted,
            warnings: applied.warnings,
            times: Some(v1::ApplyTimes {
                checked: nanoseconds(checked + applied.times.checked),
                compiled: nanoseconds(applied.times.compiled),
                published: nanoseconds(applied.times.published),
                written: nanoseconds(applied.times.written),
            }),
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let key = request.into_inner().key;
        let key = key.ok_or_else(|| FieldError::new("key", "is missing; give kind and name")).map_err(invalid)?;
        let key = Key::try_from(key).map_err(|e| invalid(e.within("key")))?;
        let state = self.controller.feed().state();
        match state.resources.get(&key) {
            Some(resource) => {
                Ok(Response::new(v1::GetResponse { resource: Some((&**resource).into()), version: state.version }))
            }
            None => Err(Status::not_found(format!("there is no {key}; list the kind to see what there is"))),
        }
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let request = request.into_inner();
        let kind = Kind::try_from(request.kind()).map_err(invalid)?;
        let state = self.controller.feed().state();
        Ok(Response::new(list(&state, kind, &request.after, page(request.limit))))
    }

    type WatchStream = watch::WatchStream;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        watch::watch(&self.controller, request.into_inner().after_version).map(Response::new)
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let report = self.report().await?;
        let host_problem = self.host_problem.borrow().clone().unwrap_or_default();
        Ok(Response::new(status::status(&self.controller, &report, &host_problem, self.started.elapsed())))
    }

    async fn get_counters(
        &self,
        _: Request<v1::GetCountersRequest>,
    ) -> Result<Response<v1::GetCountersResponse>, Status> {
        let report = self.report().await?;
        Ok(Response::new(status::counters(&self.controller, &report)))
    }

    async fn list_service_status(
        &self,
        request: Request<v1::ListServiceStatusRequest>,
    ) -> Result<Response<v1::ListServiceStatusResponse>, Status> {
        let v1::ListServiceStatusRequest { name, limit, after } = request.into_inner();
        let (state, identity) = (self.controller.feed().state(), self.controller.identity());
        let observed = self.controller.observed();
        let addresses = identity.addresses(&observed.view);
        let node =
            services::Node { state: &state, place: identity.place(&addresses), problems: &observed.health_problems };
        if name.is_empty() {
            return Ok(Response::new(list_service_status(&node, &after, page(limit))));
        }
        let service = state.service(&name).ok_or_else(|| {
            Status::not_found(format!("there is no service {name}; list the services to see what there is"))
        })?;
        Ok(Response::new(v1::ListServiceStatusResponse {
            services: vec![node.status(service, true)],
            version: state.version,
            next: String::new(),
        }))
    }

    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> Result<Response<v1::ListFlowsResponse>, Status> {
        let request = request.into_inner();
        let limit = page(request.limit);
        let filter = request.filter.unwrap_or_default();
        let filter = flows::Filter::try_from(filter).map_err(|e| invalid(e.within("filter")))?;
        let engine: Arc<_> = self.controller.engine().clone();
        let flows = tokio::task::spawn_blocking(move || flows::list(&*engine, &filter, limit)).await;
        flows.map(Response::new).map_err(|e| Status::internal(format!("the flows cannot be read: {e}")))
    }

    async fn flush_flows(
        &self,
        request: Request<v1::FlushFlowsRequest>,
    ) -> Result<Response<v1::FlushFlowsResponse>, Status> {
        let filter = flows::Filter::to_flush(request.into_inner()).map_err(invalid)?;
        let engine: Arc<_> = self.controller.engine().clone();
        let flushed = tokio::task::spawn_blocking(move || flows::flush(&*engine, &filter)).await;
        flushed.map(Response::new).map_err(|e| Status::internal(format!("the flows cannot be flushed: {e}")))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let names = explain::Names::new(&self.controller);
        let question = explain::question(&request.into_inner(), &names).map_err(invalid)?;
        let engine = self.controller.engine().clone();
        let explained = tokio::task::spawn_blocking(move || engine.explain(question)).await;
        let explained = explained.map_err(|e| Status::internal(format!("the packet cannot be explained: {e}")))?;
        let explained = explained.map_err(|e| Status::internal(e.to_string()))?;
        let explanation = explained.map_err(|e| invalid(explain::impossible(e, &names)))?;
        Ok(Response::new(explain::response(&explanation, &names)))
    }
}

fn list(state: &State, kind: Kind, after: &str, limit: usize) -> v1::ListResponse {
    let (page, next) = listed(state, kind, after, limit);
    v1::ListResponse { resources: page.into_iter().map(v1::Resource::from).collect(), version: state.version, next }
}

fn list_service_status(node: &services::Node<'_>, after: &str, limit: usize) -> v1::ListServiceStatusResponse {
    let (page, next) = listed(node.state, Kind::Service, after, limit);
    let services = page.into_iter().filter_map(|resource| match resource {
        Resource::Service(service) => Some(node.status(service, false)),
        _ => None,
    });
    v1::ListServiceStatusResponse { services: services.collect(), version: node.state.version, next }
}

/// Up to `limit` resources of a kind after the one called `after`, and where to go on; empty at the end.
fn listed<'a>(state: &'a State, kind: Kind, after: &str, limit: usize) -> (Vec<&'a Resource>, String) {
    let from = Key::new(kind, after);
    let mut rest = state
        .resources
        .range(from.clone()..)
        .skip_while(|(key, _)| !after.is_empty() && **key == from)
        .take_while(|(key, _)| key.kind == kind);
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let last = page.last().map(|(key, _)| key.name.clone());
    let next = last.filter(|_| rest.next().is_some()).unwrap_or_default();
    (page.into_iter().map(|(_, resource)| &**resource).collect(), next)
}
