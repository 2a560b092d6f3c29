//! The commands that take off what flannel and the bridge plugin made, and those that put it back.

use std::process::{Command, Stdio};

use super::{FlannelError, FlannelNode, read::Present};

/// Takes pods off the bridge, with its MAC address at the node's end of their veths, and removes what would lead the node's
/// own packets past the switch: all of it that is still there.
pub(super) fn detach(node: &FlannelNode, present: &Present) -> Vec<String> {
    let mut lines = Vec::new();
    for pod in node.pods.iter().filter(|pod| present.links.contains(&pod.interface)) {
        lines.push(format!("ip link set {} nomaster", pod.interface));
        lines.push(format!("ip link set {} address {}", pod.interface, node.bridge.mac));
    }
    let devices = [Some(&node.bridge.name), node.device.as_ref().map(|device| &device.name)];
    let devices = devices.into_iter().flatten().filter(|name| present.links.contains(*name));
    lines.extend(devices.map(|name| format!("ip link del {name}")));
    let routes = node.routes.iter().filter(|route| present.routes.contains(route));
    lines.extend(routes.map(|route| format!("ip route del {} via {}", route.prefix, route.via)));
    lines
}

/// Makes the device and the bridge anew as they were, with all that led to other nodes. What is there again is not made
/// twice.
pub(super) fn restore(node: &FlannelNode, present: &Present) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(device) = &node.device {
        let name = &device.name;
        if !present.links.contains(name) {
            lines.push(format!(
                "ip link add {name} address {} mtu {} type vxlan id {} local {} dev {} dstport {} nolearning",
                device.mac, device.mtu, device.vni, device.local, node.uplink, device.port
            ));
        }
        lines.push(format!("ip addr replace {}/32 dev {name}", node.subnet.network()));
        lines.push(format!("ip link set {name} up"));
        for peer in &node.peers {
            lines.push(format!("ip neigh replace {} lladdr {} dev {name} nud permanent", peer.gateway, peer.mac));
            lines.push(format!("bridge fdb replace {} dev {name} dst {}", peer.mac, peer.address));
            lines.push(format!("ip route replace {} via {} dev {name} onlink", peer.prefix, peer.gateway));
        }
    }
    for route in &node.routes {
        lines.push(format!("ip route replace {} via {} dev {}", route.prefix, route.via, node.uplink));
    }
    let bridge = &node.bridge;
    if !present.links.contains(&bridge.name) {
        lines.push(format!("ip link add {} address {} mtu {} type bridge", bridge.name, bridge.mac, bridge.mtu));
    }
    lines.push(format!("ip addr replace {} dev {}", node.subnet, bridge.name));
    lines.push(format!("ip link set {} up", bridge.name));
    // Pods that are gone meanwhile are left out.
    for pod in node.pods.iter().filter(|pod| present.links.contains(&pod.interface)) {
        lines.push(format!("ip link set {} address {}", pod.interface, pod.interface_mac));
        lines.push(format!("ip link set {} master {}", pod.interface, bridge.name));
    }
    lines
}

/// Runs the lines one after the other and stops at the first that fails; or only says them. The lines of another run are those
/// that are still to be done.
pub(super) fn run(lines: &[String], dry_run: bool) -> Result<String, FlannelError> {
    for line in lines.iter().filter(|_| !dry_run) {
        let failed = |problem: String| FlannelError::Command { command: line.clone(), problem };
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap_or_default()).args(words).stdin(Stdio::null()).output();
        let output = output.map_err(|e| failed(format!("{e}; install iproute2")))?;
        if !output.status.success() {
            let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed(format!("{problem}; see to that and run this again: it goes on from here")));
        }
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flannel::{Bridge, Device, Peer, Pod, Route};

    fn node() -> FlannelNode {
        let mac = |last: u8| format!("0a:58:0a:f4:01:{last:02x}");
        let pod = |number: u8| Pod {
            interface: format!("veth{number}"),
            interface_mac: mac(0x80 + number),
            address: [10, 244, 1, 10 + number].into(),
            mac: mac(number),
        };
        FlannelNode {
            network: "10.244.0.0/16".parse().unwrap(),
            subnet: "10.244.1.1/24".parse().unwrap(),
            masquerades: true,
            direct_routing: true,
            uplink: "eth0".into(),
            device: Some(Device {
                name: "flannel.1".into(),
                mac: mac(0xff),
                vni: 1,
                port: 8472,
                local: [192, 168, 50, 1].into(),
                mtu: 1450,
            }),
            bridge: Bridge { name: "cni0".into(), mac: mac(0xfe), mtu: 1450 },
            peers: vec![Peer {
                prefix: "10.244.2.0/24".parse().unwrap(),
                gateway: [10, 244, 2, 0].into(),
                mac: mac(0xfd),
                address: [192, 168, 60, 2].into(),
            }],
            routes: vec![Route { prefix: "10.244.3.0/24".parse().unwrap(), via: [192, 168, 50, 3].into() }],
            pods: vec![pod(1), pod(2)],
        }
    }

    fn present(links: &[&str], routes: &[Route]) -> Present {
        Present {
            links: links.iter().map(|name| (*name).to_owned()).collect(),
            routes: routes.iter().cloned().collect(),
        }
    }

    #[test]
    fn a_detachment_that_was_cut_off_goes_on_with_what_is_left() {
        let node = node();
        let all = detach(&node, &present(&["veth1", "veth2", "cni0", "flannel.1", "eth0"], &node.routes));
        assert_eq!(all.len(), 2 * 2 + 2 + 1, "{all:?}");
        // The bridge went, and one pod with its link.
        let left = detach(&node, &present(&["veth2", "flannel.1", "eth0"], &node.routes));
        let wanted = [
            "ip link set veth2 nomaster",
            "ip link set veth2 address 0a:58:0a:f4:01:fe",
            "ip link del flannel.1",
            "ip route del 10.244.3.0/24 via 192.168.50.3",
        ];
        assert_eq!(left, wanted);
        assert_eq!(detach(&node, &present(&["eth0"], &[])), Vec::<String>::new());
    }

    #[test]
    fn a_restoration_makes_nothing_twice() {
        let node = node();
        let made = |lines: &[String]| lines.iter().filter(|line| line.starts_with("ip link add")).count();
        let all = restore(&node, &present(&["veth1", "veth2", "eth0"], &[]));
        assert_eq!(made(&all), 2, "{all:?}");
        let left = restore(&node, &present(&["veth1", "veth2", "eth0", "flannel.1"], &[]));
        assert_eq!(made(&left), 1, "{left:?}");
        assert!(left.iter().any(|line| line.starts_with("ip link add cni0")));
        let again = restore(&node, &present(&["veth2", "eth0", "flannel.1", "cni0"], &node.routes));
        assert_eq!(made(&again), 0, "{again:?}");
        assert!(!again.iter().any(|line| line.contains("veth1")), "gone meanwhile: {again:?}");
    }
}
