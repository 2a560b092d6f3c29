//! Addresses for pods: out of a store of our own, or from a plugin that does it.

mod delegate;
mod range;
mod store;

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;

use self::{delegate::Delegate, range::Range, store::Store};
use crate::{
    config::Config,
    environment::{Attachment, Environment},
    error::{CniError, Code, Result},
};

/// Who gives addresses.
#[derive(Debug)]
pub enum Ipam {
    /// This plugin, in the format of the host-local plugin.
    Own(Own),
    /// `ipam.type`.
    Delegated(Delegate),
}

/// The built-in one.
#[derive(Debug)]
pub struct Own {
    folder: PathBuf,
    ranges: Vec<Range>,
}

/// `ipam` as the host-local plugin has it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Shape {
    r#type: Option<String>,
    ranges: Vec<Vec<Range>>,
    data_dir: Option<PathBuf>,
}

impl Ipam {
    /// Whom `config` names.
    ///
    /// # Errors
    /// If `ipam` makes no sense, or its plugin is not on CNI_PATH.
    pub fn new(config: &Config, environment: &Environment) -> Result<Ipam> {
        match config.ipam["type"].as_str() {
            Some(plugin) => Ok(Ipam::Delegated(Delegate::find(plugin, config, environment)?)),
            None => {
                let value = if config.ipam.is_null() { Value::Object(Default::default()) } else { config.ipam.clone() };
                let shape: Shape = serde_json::from_value(value)
                    .map_err(|e| CniError::new(Code::InvalidConfig, format!("ipam: {e}"), "see host-local's keys"))?;
                let data = shape.data_dir.unwrap_or_else(|| "/var/lib/cni/networks".into());
                if shape.ranges.len() > 1 {
                    let message = "ipam.ranges: more than one set of ranges gives a pod more than one address";
                    return Err(CniError::new(Code::InvalidConfig, message, "Shunt's pods have one; use one set"));
                }
                let ranges: Vec<_> = shape.ranges.into_iter().flatten().collect();
                ranges.iter().try_for_each(Range::check)?;
                Ok(Ipam::Own(Own { folder: data.join(&config.name), ranges }))
            }
        }
    }

    /// An address for a container: one of `wanted`, if there is any.
    ///
    /// # Errors
    /// If none is left, if the wanted one is taken, or if the container has one already.
    pub fn add(&self, attachment: &Attachment, wanted: &[Ipv4Addr], pod_cidr: Ipv4Net) -> Result<Ipv4Addr> {
        match self {
            Ipam::Own(own) => Store::open(&own.folder)?.allocate(&own.ranges(pod_cidr), wanted, attachment),
            Ipam::Delegated(delegate) => delegate.add(wanted),
        }
    }

    /// Gives back what a container has, if anything.
    pub fn release(&self, attachment: &Attachment) -> Result<()> {
        match self {
            Ipam::Own(own) => Store::open(&own.folder)?.release(attachment),
            Ipam::Delegated(delegate) => delegate.call("DEL").map(drop),
        }
    }

    /// Whether a container still has its `address`.
    pub fn check(&self, attachment: &Attachment, address: Ipv4Addr) -> Result<()> {
        match self {
            Ipam::Own(own) => {
                if Store::open(&own.folder)?.owner(address)?.is_some_and(|owner| owner == *attachment) {
                    return Ok(());
                }
                let message = format!("{address} is not reserved for this container");
                Err(CniError::new(Code::Changed, message, format!("see {}", own.folder.display())))
            }
            Ipam::Delegated(delegate) => delegate.call("CHECK").map(drop),
        }
    }

    /// Gives back what others than these have.
    pub fn retain(&self, valid: &[Attachment]) -> Result<()> {
        match self {
            Ipam::Own(own) => Store::open(&own.folder)?.retain(valid),
            Ipam::Delegated(delegate) => delegate.call("GC").map(drop),
        }
    }

    /// Whether an address is left.
    pub fn status(&self, pod_cidr: Ipv4Net) -> Result<()> {
        match self {
            Ipam::Own(own) => {
                if Store::open(&own.folder)?.has_free(&own.ranges(pod_cidr)) {
                    return Ok(());
                }
                let details = format!("see {}", own.folder.display());
                Err(CniError::new(Code::Unavailable, "no address is left for another pod", details))
            }
            Ipam::Delegated(delegate) => delegate.call("STATUS").map(drop),
        }
    }
}

impl Own {
    /// Those that were configured, else all of the node's pods.
    fn ranges(&self, pod_cidr: Ipv4Net) -> Vec<Range> {
        if self.ranges.is_empty() { vec![Range::of(pod_cidr)] } else { self.ranges.clone() }
    }
}
