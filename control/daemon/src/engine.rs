//! The seam between control and the engine.
//!
//! The controller drives an [`Engine`]; [`Switch`] is the one that moves packets. Tests of the API drive one in memory
//! and so need no privileges.

use std::{error::Error, fmt};

use shunt_dataplane::{
    explain::{Explanation, Question, QuestionError},
    spec::{ForwardingSpec, PortId},
    switch::{AttachSpec, FlowRecord, PortInfo, Switch, SwitchError, SwitchReport},
    xsk::UplinkFilter,
};

use crate::compile::services::Services;

/// Why the engine refused, in one line with its causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineError(String);

impl EngineError {
    /// `error` and its causes, joined by colons; a cause that its effect already spells out is not repeated.
    pub fn new(error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let part = error.to_string();
            if !text.contains(&part) {
                text = format!("{text}: {part}");
            }
            cause = error.source();
        }
        EngineError(text)
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for EngineError {}

/// What the controller asks of the engine. Every call may block.
pub trait Engine: Send + Sync {
    /// Takes an interface into the switch, while traffic flows.
    fn attach(&self, spec: AttachSpec) -> Result<PortInfo, EngineError>;
    /// Changes what an uplink takes from the kernel.
    fn classify(&self, port: PortId, filter: &UplinkFilter) -> Result<(), EngineError>;
    /// Lets an interface go; the forwarding state must not name it any more.
    fn detach(&self, port: PortId) -> Result<(), EngineError>;
    /// Puts a forwarding state in force. Returns its generation once every worker forwards by it.
    fn publish(&self, spec: &ForwardingSpec) -> Result<u64, EngineError>;
    /// The same, with other services and everything else as it is.
    fn publish_services(&self, services: &Services) -> Result<u64, EngineError>;
    /// Counters.
    fn report(&self) -> SwitchReport;
    /// Up to `limit` flows that `keep` lets pass.
    fn flows(&self, limit: usize, keep: &mut dyn FnMut(&FlowRecord) -> bool) -> Vec<FlowRecord>;
    /// Forgets the flows that `chosen` lets pass; returns how many.
    fn flush_flows(&self, chosen: &mut dyn FnMut(&FlowRecord) -> bool) -> u64;
    /// What would become of a packet that came in now, or why there can be no such packet.
    fn explain(&self, question: Question) -> Result<Result<Explanation, QuestionError>, EngineError>;
}

impl Engine for Switch {
    fn attach(&self, spec: AttachSpec) -> Result<PortInfo, EngineError> {
        Switch::attach(self, spec).map_err(|e| EngineError::new(&e))
    }

    fn classify(&self, port: PortId, filter: &UplinkFilter) -> Result<(), EngineError> {
        Switch::classify(self, port, filter).map_err(|e| EngineError::new(&e))
    }

    fn detach(&self, port: PortId) -> Result<(), EngineError> {
        Switch::detach(self, port).map_err(|e| EngineError::new(&e))
    }

    fn publish(&self, spec: &ForwardingSpec) -> Result<u64, EngineError> {
        Switch::publish(self, spec).map_err(|e| EngineError::new(&e))
    }

    fn publish_services(&self, services: &Services) -> Result<u64, EngineError> {
        Switch::publish_services(self, &services.ipv4, &services.ipv6).map_err(|e| EngineError::new(&e))
    }

    fn report(&self) -> SwitchReport {
        Switch::report(self)
    }

    fn flows(&self, limit: usize, keep: &mut dyn FnMut(&FlowRecord) -> bool) -> Vec<FlowRecord> {
        Switch::flows(self, limit, keep)
    }

    fn flush_flows(&self, chosen: &mut dyn FnMut(&FlowRecord) -> bool) -> u64 {
        Switch::flush_flows(self, chosen)
    }

    fn explain(&self, question: Question) -> Result<Result<Explanation, QuestionError>, EngineError> {
        match Switch::explain(self, question) {
            Err(SwitchError::Question(error)) => Ok(Err(error)),
            explained => explained.map(Ok).map_err(|e| EngineError::new(&e)),
        }
    }
}
