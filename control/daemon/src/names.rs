//! What ports are called towards people.

use std::collections::HashMap;

use crate::{config::Config, desired::State};

/// The name of each interface's port: a pod's key, `uplink`, `host`.
pub fn port_names(config: &Config, state: &State) -> HashMap<String, String> {
    let pods = state.ports().map(|port| (port.interface.clone(), port.name.clone()));
    let own = [(config.uplink.clone(), "uplink".to_owned()), (config.host_peer(), "host".to_owned())];
    pods.chain(own).collect()
}
