//! Shunt's gRPC API: the messages as they travel ([`v1`], from `proto/shunt/v1/shunt.proto`) and the validated types
//! that the daemon works with.
//!
//! A message becomes a domain type by `TryFrom`; a [`FieldError`] says which field is wrong and what to write instead.
//! What can be judged from one resource alone is judged here; conflicts between resources, and with the node's
//! configuration, are the daemon's to find.
#![deny(unsafe_code)]

mod bandwidth;
mod endpoint_slice;
mod exposure;
pub mod field;
mod key;
mod port;
mod protocol;
mod published_port;
mod resource;
mod route;
mod selection;
mod service;
mod vtep;
pub mod wire;

pub use endpoint_slice::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Endpoints};
pub use exposure::{Exposure, ServiceType};
pub use field::FieldError;
pub use key::{Key, Kind};
pub use port::Port;
pub use published_port::PublishedPort;
pub use resource::Resource;
pub use route::Route;
pub use service::{Service, ServicePort, TrafficPolicy};
pub use vtep::Vtep;

/// The messages, client and server of `shunt.v1`.
#[allow(missing_docs, reason = "generated; the .proto carries the comments")]
pub mod v1 {
    tonic::include_proto!("shunt.v1");
}

/// The encoded `FileDescriptorSet` of `shunt.v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("shunt.v1");
