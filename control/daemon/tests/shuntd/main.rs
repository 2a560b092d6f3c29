//! The daemon's tests: its API, ports and metrics over an engine and a kernel in memory, and its life, its doctor and what it
//! reads of kernels in network namespaces, which need root. One program, for each would have to be linked.

mod api;
mod doctor;
mod dual_stack;
mod explain;
mod kernel;
mod life;
mod metrics;
mod oracle;
mod ports;
mod services;
mod support;
mod tls;
mod watch;
