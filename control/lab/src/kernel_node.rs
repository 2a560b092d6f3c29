//! A node forwarded by the Linux kernel, set up as flannel does it with its VXLAN or host-gw backend.

use crate::{
    error::Result,
    kube_proxy::{self, Place},
    netns::Namespace,
    plan::{
        GATEWAY, IPV6_GATEWAY, IPV6_SERVICE_CIDR, NodePlan, POD_MTU, Plan, PodPlan, Routing, SERVICE_CIDR, VNI,
        VXLAN_PORT,
    },
};

/// Makes the node's namespace forward, and leads it to each other node's pods.
pub fn set_up(namespace: &Namespace, node: &NodePlan, plan: &Plan) -> Result<()> {
    namespace.sysctl("net.ipv4.ip_forward", "1")?;
    if node.ipv6 {
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    }
    if !plan.kernel_unfinished_checksums {
        namespace.run("ethtool -K eth0 tx off")?;
    }
    match plan.routing {
        Routing::Overlay => overlay(namespace, node, plan),
        Routing::Native => flat(namespace, node, plan),
    }
}

/// Gives the node its address, and a route to each other node's pods by that node's underlay address.
fn flat(namespace: &Namespace, node: &NodePlan, plan: &Plan) -> Result<()> {
    namespace.ip(&format!("addr add {}/32 dev lo", node.overlay()))?;
    for other in plan.nodes.iter().filter(|other| other.letter != node.letter) {
        let (prefix, gateway, source) = (other.pod_cidr(), other.underlay(), node.overlay());
        namespace.ip(&format!("route replace {prefix} via {gateway} dev eth0 src {source}"))?;
    }
    Ok(())
}

/// Makes flannel.1, and the entries that lead to each other node: the route to its pods, the neighbour entry for the
/// route's next hop and the forwarding entry for that neighbour's MAC address.
fn overlay(namespace: &Namespace, node: &NodePlan, plan: &Plan) -> Result<()> {
    let checksum = if plan.kernel_udp_checksum { "udpcsum" } else { "noudpcsum" };
    namespace.ip(&format!(
        "link add flannel.1 address {} mtu {POD_MTU} type vxlan id {VNI} local {} dev eth0 dstport {VXLAN_PORT} nolearning {checksum}",
        node.vtep_mac(),
        node.underlay()
    ))?;
    namespace.ip(&format!("addr add {}/32 dev flannel.1", node.overlay()))?;
    namespace.ip("link set flannel.1 up")?;
    for other in plan.nodes.iter().filter(|other| other.letter != node.letter) {
        let (mac, gateway) = (other.vtep_mac(), other.overlay());
        namespace.ip(&format!("neigh replace {gateway} lladdr {mac} dev flannel.1 nud permanent"))?;
        namespace.run(&format!("bridge fdb append {mac} dev flannel.1 dst {}", other.underlay()))?;
        namespace.ip(&format!("route replace {} via {gateway} dev flannel.1 onlink", other.pod_cidr()))?;
    }
    // Without any route to a ClusterIP the node's own packets to it would not get as far as their translation.
    namespace.ip(&format!("route add {SERVICE_CIDR} dev flannel.1 src {}", node.overlay()))?;
    ipv6_overlay(namespace, node, plan)?;
    let place = Place { node: node.name(), addresses: vec![node.underlay()] };
    kube_proxy::translate(namespace, &place, &plan.services)
}

/// Leads to the other nodes' IPv6 pods as to the others, through the same device: its outer headers are of IPv4.
fn ipv6_overlay(namespace: &Namespace, node: &NodePlan, plan: &Plan) -> Result<()> {
    let Some(own) = node.ipv6_pod_cidr() else { return Ok(()) };
    namespace.ip(&format!("addr add {}/128 dev flannel.1 nodad", own.addr()))?;
    let others = plan.nodes.iter().filter(|other| other.letter != node.letter);
    for (other, prefix) in others.filter_map(|other| Some((other, other.ipv6_pod_cidr()?))) {
        let (mac, gateway) = (other.vtep_mac(), prefix.addr());
        namespace.ip(&format!("neigh replace {gateway} lladdr {mac} dev flannel.1 nud permanent"))?;
        namespace.ip(&format!("route replace {prefix} via {gateway} dev flannel.1 onlink"))?;
    }
    namespace.ip(&format!("route add {IPV6_SERVICE_CIDR} dev flannel.1 src {}", own.addr()))?;
    Ok(())
}

/// Leads the pod's addresses to its veth, and answers for the pods' gateway on it.
pub fn add_pod(namespace: &Namespace, pod: &PodPlan) -> Result<()> {
    let interface = &pod.interface;
    namespace.ip(&format!("addr add {GATEWAY}/32 dev {interface} scope link"))?;
    namespace.ip(&format!("route add {}/32 dev {interface}", pod.address))?;
    if let Some(address) = pod.ipv6 {
        namespace.ip(&format!("addr add {IPV6_GATEWAY}/64 dev {interface} nodad"))?;
        namespace.ip(&format!("route add {address}/128 dev {interface}"))?;
    }
    Ok(())
}
