//! The real plugin on a real node: `shunt-cni` started as a runtime starts it, `shuntd`, kernel veths, and containers that
//! are network namespaces.

mod bandwidth;
mod crowd;
mod faults;
mod install;
mod ipam;
mod life;
mod port_mappings;
mod runtime;
