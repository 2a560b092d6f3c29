//! Nodes, pods and peers in network namespaces: what the demo and the end-to-end tests run on.
//!
//! | module | holds |
//! |---|---|
//! | [`plan`], [`cluster`], [`family`] | which nodes and pods there are, their addresses of both families; the cluster file |
//! | [`topology`] | the built lab |
//! | [`netns`], [`command`], [`tidy`], [`wait`] | namespaces, processes, and their removal however a run ends |
//! | [`kernel_node`], [`shunt_node`] | the two kinds of node |
//! | [`server`], [`probe`], [`tools`], [`capture`] | what runs inside: echo servers, measuring clients, real programs |
//! | [`counters`] | what a daemon counts, and whether it adds up |
//! | [`change`] | changes to a running lab, and the traffic that must not notice |
//! | [`checks`], [`report`] | measurements with a judgement, and the table they end in |
//! | [`demo`] | the guided tour that `./dev demo` shows |
//!
//! The oracle is the Linux kernel: every check that does not ask the daemon itself can be run with all nodes forwarded
//! by the kernel, and must hold there too.
#![deny(unsafe_code)]

pub mod binaries;
pub mod capability;
pub mod capture;
pub mod change;
pub mod checks;
pub mod cluster;
pub mod command;
pub mod counters;
pub mod demo;
pub mod error;
pub mod family;
pub mod idle;
pub mod kernel_node;
pub mod kube_proxy;
pub mod memory;
pub mod netns;
pub mod plan;
pub mod probe;
pub mod report;
pub mod sctp;
pub mod server;
pub mod shunt_node;
pub mod tidy;
pub mod tools;
pub mod topology;
pub mod trial;
pub mod wait;

pub use error::{LabError, Result};
