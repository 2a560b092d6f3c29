//! Flows, filtered while the table is walked.

use std::net::Ipv4Addr;

use shunt_control_api::{FieldError, field, v1};
use shunt_dataplane::{net::Protocol, switch::FlowRecord};

use crate::engine::Engine;

/// Which flows are wanted; `None`: any.
#[derive(Debug)]
pub(super) struct Filter {
    protocol: Option<Protocol>,
    client: Option<Ipv4Addr>,
    vip: Option<Ipv4Addr>,
    backend: Option<Ipv4Addr>,
}

impl TryFrom<v1::ListFlowsRequest> for Filter {
    type Error = FieldError;

    fn try_from(request: v1::ListFlowsRequest) -> Result<Self, FieldError> {
        let address = |name: &str, text: &str| {
            if text.is_empty() { Ok(None) } else { field::address(name, text).map(Some) }
        };
        Ok(Filter {
            protocol: match request.protocol {
                0 => None,
                _ => Some(request.protocol().try_into()?),
            },
            client: address("client", &request.client)?,
            vip: address("vip", &request.vip)?,
            backend: address("backend", &request.backend)?,
        })
    }
}

impl Filter {
    fn passes(&self, flow: &FlowRecord) -> bool {
        self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.client.is_none_or(|client| client == *flow.client.ip())
            && self.vip.is_none_or(|vip| vip == *flow.vip.ip())
            && self.backend.is_none_or(|backend| backend == *flow.backend.ip())
    }
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
