//! Answers as tables for people, or as JSON for machines.

mod json;
mod service;
mod service_json;
mod tables;

use std::io::Write;

use serde::Serialize;
use shunt_control_api::v1;

use crate::{
    args::{Kind, Output},
    cluster::Cluster,
    failure::Failure,
};

/// Where output goes, and in which form.
pub struct Show<'a> {
    pub out: &'a mut dyn Write,
    pub output: Output,
}

/// What a kind is called.
pub fn kind_name(kind: v1::Kind) -> &'static str {
    match kind {
        v1::Kind::Vtep => "vtep",
        v1::Kind::Port => "port",
        v1::Kind::Route => "route",
        v1::Kind::Service => "service",
        v1::Kind::EndpointSlice => "endpoint slice",
        v1::Kind::Unspecified => "unknown",
    }
}

impl Show<'_> {
    fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.out, value).map_err(std::io::Error::from)?;
        writeln!(self.out).map_err(Failure::from)
    }

    fn text(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(Failure::from)
    }

    /// What an `Apply` did.
    pub fn applied(&mut self, answer: &v1::ApplyResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(&json::Applied::from(answer)),
            Output::Table => self.text(tables::applied(answer)),
        }
    }

    /// Resources of one kind; as JSON, a cluster file.
    pub fn resources(&mut self, kind: Kind, cluster: &Cluster, status: &v1::GetStatusResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(cluster),
            Output::Table => self.text(tables::resources(kind, cluster, status)),
        }
    }

    /// Flows.
    pub fn flows(&mut self, answer: &v1::ListFlowsResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(&json::Flows::from(answer)),
            Output::Table => {
                self.text(tables::flows(&answer.flows))?;
                if answer.more {
                    eprintln!("shuntctl: there are more; raise --limit or filter");
                }
                Ok(())
            }
        }
    }

    /// Services as the node sees them; `endpoints`: with their endpoints.
    pub fn service_status(&mut self, services: &[v1::ServiceStatus], endpoints: bool) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(&service_json::Services::from(services)),
            Output::Table if endpoints => self.text(service::details(services)),
            Output::Table => self.text(service::list(services)),
        }
    }

    /// How many flows were flushed.
    pub fn flushed(&mut self, answer: &v1::FlushFlowsResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(&json::Flushed::from(answer)),
            Output::Table => self.text(format!("flushed {} flows", answer.flushed)),
        }
    }

    /// Counters of ports and workers.
    pub fn counters(&mut self, answer: &v1::GetCountersResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(&json::Counters::from(answer)),
            Output::Table => self.text(tables::counters(answer)),
        }
    }

    /// Drops by port and reason.
    pub fn drops(&mut self, answer: &v1::GetCountersResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(&json::Drops::from(answer)),
            Output::Table => self.text(tables::drops(answer)),
        }
    }

    /// The node.
    pub fn status(&mut self, answer: &v1::GetStatusResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(&json::Status::from(answer)),
            Output::Table => self.text(tables::status(answer)),
        }
    }

    /// Whether packets and frames add up.
    pub fn conservation(&mut self, answer: &v1::GetCountersResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(&json::Conservation::from(answer)),
            Output::Table => self.text(tables::conservation(answer)),
        }
    }

    /// One message of a watch; as JSON, one line.
    pub fn change(&mut self, message: v1::WatchResponse) -> Result<(), Failure> {
        match self.output {
            Output::Json => {
                serde_json::to_writer(&mut self.out, &json::Change::from(message)).map_err(std::io::Error::from)?;
                writeln!(self.out)?;
            }
            Output::Table => tables::change(message).iter().try_for_each(|line| writeln!(self.out, "{line}"))?,
        }
        self.out.flush().map_err(Failure::from)
    }
}
