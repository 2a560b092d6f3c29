//! What else on this node wants the packets that are to be the switch's: VXLAN devices and sockets.

use std::fs;

use super::Diagnosis;
use crate::{
    config::Config,
    kernel::{VxlanDevice, vxlan_devices},
};

pub(super) async fn examine(diagnosis: &mut Diagnosis, config: &Config) {
    if let Some(vxlan) = &config.vxlan {
        let devices = match vxlan_devices().await {
            Ok(devices) => devices,
            Err(e) => return diagnosis.unknown("vxlan", format!("the kernel's devices cannot be read: {e}"), ""),
        };
        let (port, vni) = (vxlan.udp_port, vxlan.vni);
        match devices.iter().find(|device| device.port == port) {
            Some(VxlanDevice { name, vni: theirs, .. }) => diagnosis.err(
                "vxlan",
                format!("the kernel's device {name} (VNI {theirs}) has UDP port {port}, as has the switch (VNI {vni})"),
                format!("stop who made it and remove it: ip link del {name}. A flannel node: shuntd flannel import"),
            ),
            None if bound_ports("udp").contains(&port) => diagnosis.err(
                "vxlan",
                format!("a program has a socket on UDP port {port}"),
                format!(
                    "find it with ss -ulnp sport = :{port} and stop it, or choose another [vxlan] port on all nodes"
                ),
            ),
            None => diagnosis.ok("vxlan", format!("UDP port {port} is nobody else's, VNI {vni}")),
        }
    }
    let ports = &config.masquerade.ports;
    let taken: Vec<_> = ["tcp", "udp"]
        .iter()
        .flat_map(|protocol| bound_ports(protocol))
        .filter(|port| ports.contains(port))
        .map(|port| port.to_string())
        .collect();
    if taken.is_empty() {
        diagnosis.ok("masquerade", format!("ports {}-{} are nobody else's", ports.start(), ports.end()));
    } else {
        let advice = "answers to these ports of the node are the switch's: move the programs, or choose other [masquerade] ports";
        diagnosis.err("masquerade", format!("programs of this node use ports {}", taken.join(", ")), advice);
    }
}

/// Ports of this network namespace's sockets, IPv4 and IPv6.
fn bound_ports(protocol: &str) -> Vec<u16> {
    let read =
        |family: &str| fs::read_to_string(format!("/proc/thread-self/net/{protocol}{family}")).unwrap_or_default();
    let mut ports: Vec<_> = ["", "6"].iter().flat_map(|family| local_ports(&read(family))).collect();
    ports.sort();
    ports.dedup();
    ports
}

/// The local ports in a table of /proc/net.
fn local_ports(table: &str) -> Vec<u16> {
    let port = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_sockets_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
                     12: 00000000:2118 00000000:0000 07 00000000:00000000\n    3: 0100007F:0035 00000000:0000 07 0:0\n";
        assert_eq!(local_ports(table), [8472, 53]);
    }
}
