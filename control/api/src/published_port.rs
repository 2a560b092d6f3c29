//! Ports of the node that lead to local pods.

use std::net::Ipv4Addr;

use shunt_dataplane::net::Protocol;

use crate::{FieldError, field, v1};

/// A port of the node that leads to a local pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// The node's port.
    pub port: u16,
    /// The pod's.
    pub container_port: u16,
    /// Where it is had; `None`: at all addresses of the node at which node ports are.
    pub address: Option<Ipv4Addr>,
}

impl PublishedPort {
    /// Whether both are had at one place: the same port, and addresses that are not different ones.
    pub fn meets(&self, other: &PublishedPort) -> bool {
        let differ = self.address.is_some() && other.address.is_some() && self.address != other.address;
        (self.port, self.protocol) == (other.port, other.protocol) && !differ
    }
}

impl TryFrom<v1::PublishedPort> for PublishedPort {
    type Error = FieldError;

    fn try_from(published_port: v1::PublishedPort) -> Result<Self, FieldError> {
        Ok(PublishedPort {
            protocol: published_port.protocol().try_into()?,
            port: field::transport_port("port", published_port.port)?,
            container_port: field::transport_port("container_port", published_port.container_port)?,
            address: match published_port.address.as_str() {
                "" => None,
                text => Some(field::address("address", text)?),
            },
        })
    }
}

impl From<&PublishedPort> for v1::PublishedPort {
    fn from(published_port: &PublishedPort) -> Self {
        v1::PublishedPort {
            protocol: v1::Protocol::from(published_port.protocol).into(),
            port: published_port.port.into(),
            container_port: published_port.container_port.into(),
            address: published_port.address.map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}
