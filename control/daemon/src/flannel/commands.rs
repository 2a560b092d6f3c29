//! The commands that take off what flannel and the bridge plugin made, and those that put it back.

use std::process::{Command, Stdio};

use super::{FlannelError, FlannelNode};

/// Takes pods off the bridge, with its MAC address at the node's end of their veths, and removes what would lead the node's
/// own packets past the switch.
pub(super) fn detach(node: &FlannelNode) -> Vec<String> {
    let mut lines = Vec::new();
    for pod in &node.pods {
        lines.push(format!("ip link set {} nomaster", pod.interface));
        lines.push(format!("ip link set {} address {}", pod.interface, node.bridge.mac));
    }
    lines.push(format!("ip link del {}", node.bridge.name));
    lines.extend(node.device.iter().map(|device| format!("ip link del {}", device.name)));
    lines.extend(node.routes.iter().map(|route| format!("ip route del {} via {}", route.prefix, route.via)));
    lines
}

/// Makes the device and the bridge anew as they were, with all that led to other nodes.
pub(super) fn restore(node: &FlannelNode) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(device) = &node.device {
        let name = &device.name;
        lines.push(format!(
            "ip link add {name} address {} mtu {} type vxlan id {} local {} dev {} dstport {} nolearning",
            device.mac, device.mtu, device.vni, device.local, node.uplink, device.port
        ));
        lines.push(format!("ip addr add {}/32 dev {name}", node.subnet.network()));
        lines.push(format!("ip link set {name} up"));
        for peer in &node.peers {
            lines.push(format!("ip neigh replace {} lladdr {} dev {name} nud permanent", peer.gateway, peer.mac));
            lines.push(format!("bridge fdb append {} dev {name} dst {}", peer.mac, peer.address));
            lines.push(format!("ip route replace {} via {} dev {name} onlink", peer.prefix, peer.gateway));
        }
    }
    for route in &node.routes {
        lines.push(format!("ip route replace {} via {} dev {}", route.prefix, route.via, node.uplink));
    }
    let bridge = &node.bridge;
    lines.push(format!("ip link add {} address {} mtu {} type bridge", bridge.name, bridge.mac, bridge.mtu));
    lines.push(format!("ip addr add {} dev {}", node.subnet, bridge.name));
    lines.push(format!("ip link set {} up", bridge.name));
    for pod in &node.pods {
        lines.push(format!("ip link set {} address {}", pod.interface, pod.interface_mac));
        lines.push(format!("ip link set {} master {}", pod.interface, bridge.name));
    }
    lines
}

/// Runs the lines one after the other and stops at the first that fails; or only says them.
pub(super) fn run(lines: &[String], dry_run: bool) -> Result<String, FlannelError> {
    for line in lines.iter().filter(|_| !dry_run) {
        let failed = |problem: String| FlannelError::Command { command: line.clone(), problem };
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap_or_default()).args(words).stdin(Stdio::null()).output();
        let output = output.map_err(|e| failed(format!("{e}; install iproute2")))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}
