//! The end-to-end tests: each makes a lab, nodes and pods in network namespaces, does something in it and judges what comes
//! of it. Needs root. One program, for each would have to be linked.

mod change;
mod docs;
mod dual_stack;
mod ecn;
mod endpoints;
mod flannel;
mod flows;
mod frontends;
mod host_network;
mod idle;
mod intruders;
mod ip;
mod masquerade;
mod models;
mod native;
mod node;
mod own_processes;
mod reach;
mod refusal;
mod selection;
mod service;
mod wire;
