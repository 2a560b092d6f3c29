//! What a flannel node is in Shunt's words: a configuration and a cluster file.

use super::{FlannelNode, More};

/// `shuntd.toml`.
pub(super) fn config(node: &FlannelNode, more: &More) -> String {
    let mut text = format!(
        "# Written by `shuntd flannel import`; configs/shuntd.toml has every key.\n\n[node]\nname = \"{}\"\npod_cidr = \"{}\"\n\
         cluster_cidr = \"{}\"\nservice_cidr = \"{}\"\n\n[uplink]\ninterface = \"{}\"\n",
        more.node,
        node.subnet.trunc(),
        node.network,
        more.service_cidr,
        node.uplink
    );
    if let Some(device) = &node.device {
        // The same MAC address as flannel.1 had: what peers know of this node stays true.
        text += &format!("\n[vxlan]\nvni = {}\nport = {}\nmac = \"{}\"\n", device.vni, device.port, device.mac);
        if node.direct_routing {
            text += "direct_routing = true\n";
        }
    }
    if node.masquerades {
        text += "\n[masquerade]\negress = true\n";
    }
    text
}

/// `cluster.toml`. Flannel knows neither nodes nor pods by name: they are called by their addresses.
pub(super) fn cluster(node: &FlannelNode) -> String {
    let mut text = "# Written by `shuntd flannel import`, for `shuntctl apply -f`.\n".to_owned();
    for peer in &node.peers {
        text += &format!(
            "\n[[vtep]]\nnode = \"{0}\"\naddress = \"{0}\"\nmac = \"{1}\"\npod_cidr = \"{2}\"\n",
            peer.address, peer.mac, peer.prefix
        );
    }
    for route in &node.routes {
        text += &format!("\n[[route]]\nprefix = \"{}\"\nvia = \"{}\"\n", route.prefix, route.via);
    }
    for pod in &node.pods {
        text += &format!(
            "\n[[port]]\nname = \"flannel/{0}\"\ninterface = \"{1}\"\naddress = \"{0}\"\nmac = \"{2}\"\n",
            pod.address, pod.interface, pod.mac
        );
    }
    text
}
