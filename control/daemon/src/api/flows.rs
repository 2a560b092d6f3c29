//! Flows, listed and flushed by a filter that is applied while the table is walked.

use std::net::{IpAddr, SocketAddr};

use shunt_control_api::{FieldError, field, v1};
use shunt_dataplane::{net::Protocol, switch::FlowRecord, tables::conntrack::FlowState};

use crate::engine::Engine;

/// Which flows are wanted; `None`: any.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Filter {
    protocol: Option<Protocol>,
    client: Side,
    vip: Side,
    backend: Side,
    state: Option<&'static str>,
}

#[derive(Debug, Default, PartialEq)]
struct Side {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Side {
    fn new(name: &str, address: &str, port: u32) -> Result<Side, FieldError> {
        Ok(Side {
            address: if address.is_empty() { None } else { Some(field::ip_address(name, address)?) },
            port: if port == 0 { None } else { Some(field::transport_port(&format!("{name}_port"), port)?) },
        })
    }

    fn passes(&self, socket: SocketAddr) -> bool {
        self.address.is_none_or(|address| address == socket.ip()) && self.port.is_none_or(|port| port == socket.port())
    }
}

impl TryFrom<v1::FlowFilter> for Filter {
    type Error = FieldError;

    fn try_from(filter: v1::FlowFilter) -> Result<Self, FieldError> {
        Ok(Filter {
            protocol: match filter.protocol {
                0 => None,
                _ => Some(filter.protocol().try_into()?),
            },
            client: Side::new("client", &filter.client, filter.client_port)?,
            vip: Side::new("vip", &filter.vip, filter.vip_port)?,
            backend: Side::new("backend", &filter.backend, filter.backend_port)?,
            state: if filter.state.is_empty() { None } else { Some(state(&filter.state)?) },
        })
    }
}

fn state(name: &str) -> Result<&'static str, FieldError> {
    let names = FlowState::ALL.map(FlowState::name);
    let known = names.into_iter().find(|known| *known == name);
    known.ok_or_else(|| FieldError::new("state", format!("{name:?} is none; use one of {}", names.join(", "))))
}

impl Filter {
    /// What a request wants flushed. A filter that every flow passes must be meant.
    pub(super) fn to_flush(request: v1::FlushFlowsRequest) -> Result<Filter, FieldError> {
        let filter = Filter::try_from(request.filter.unwrap_or_default()).map_err(|e| e.within("filter"))?;
        match (request.all, filter == Filter::default()) {
            (false, true) => Err(FieldError::new("filter", "is missing; say which flows to flush, or set all")),
            (true, false) => Err(FieldError::new("all", "contradicts filter; give one of them")),
            _ => Ok(filter),
        }
    }

    fn passes(&self, flow: &FlowRecord) -> bool {
        self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.client.passes(flow.client)
            && self.vip.passes(flow.vip)
            && self.backend.passes(flow.backend)
            && self.state.is_none_or(|state| state == flow.state)
    }
}

/// Flushes the flows that pass.
pub(super) fn flush(engine: &dyn Engine, filter: &Filter) -> v1::FlushFlowsResponse {
    v1::FlushFlowsResponse { flushed: engine.flush_flows(&mut |flow| filter.passes(flow)) }
}

/// Up to `limit` flows that pass, and whether there are more.
pub(super) fn list(engine: &dyn Engine, filter: &Filter, limit: usize) -> v1::ListFlowsResponse {
    let mut flows = engine.flows(limit + 1, &mut |flow| filter.passes(flow));
    let more = flows.len() > limit;
    flows.truncate(limit);
    let flow = |flow: FlowRecord| v1::Flow {
        protocol: v1::Protocol::from(flow.protocol).into(),
        client: flow.client.to_string(),
        vip: flow.vip.to_string(),
        backend: flow.backend.to_string(),
        state: flow.state.to_owned(),
        idle_ms: flow.idle.as_millis().try_into().unwrap_or(u64::MAX),
        generation: flow.generation,
    };
    v1::ListFlowsResponse { flows: flows.into_iter().map(flow).collect(), more }
}
