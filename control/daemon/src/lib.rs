//! shuntd: takes desired state over gRPC, keeps it on disk, and drives the engine by it.
#![deny(unsafe_code)]

pub mod api;
pub mod attachments;
pub mod compile;
pub mod config;
pub mod controller;
pub mod cores;
pub mod daemon;
pub mod desired;
pub mod doctor;
pub mod engine;
pub mod flannel;
pub mod health;
mod http;
pub mod kernel;
pub mod metrics;
pub mod names;
