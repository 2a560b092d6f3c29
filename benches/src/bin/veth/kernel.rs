//! The kernel doing the switch's work: DNAT of a ClusterIP by nftables, routing, and a VXLAN device as flannel makes it.

use std::fs;

use crate::{
    BACKENDS, Error, NODE, POD, REMOTE, REMOTE_VTEP_MAC, TARGET_PORT, VIP, VIP_PORT,
    topology::{SWITCH_CORE, Topology, nft, run},
};

/// The kernel's forwarding, set up. Dropping it takes it down again.
pub struct Kernel;

impl Kernel {
    /// `rps` hands packets over to the contender's core behind the receive side.
    pub fn start(topology: &Topology, rps: bool) -> Result<Kernel, Error> {
        // Takes down on every way out from here on.
        let kernel = Kernel;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        for name in ["all", "in", "out"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")?;
        }
        // GRO gives a veth NAPI, without which it does not take redirected frames.
        run("ethtool -K in gro on")?;
        let mask = if rps { format!("{:x}", 1 << SWITCH_CORE) } else { "0".into() };
        fs::write("/sys/class/net/in/queues/rx-0/rps_cpus", mask)?;
        let sink = topology.sink_mac;
        for command in [
            format!("ip route add {POD} dev in"),
            format!("ip addr add {NODE}/24 dev out"),
            format!("ip neigh replace {REMOTE} lladdr {sink} dev out nud permanent"),
            format!("ip link add flannel.1 type vxlan id 1 local {NODE} dev out dstport 8472 nolearning"),
            "ip link set dev flannel.1 addrgenmode none".into(),
            "ip link set dev flannel.1 mtu 1450 up".into(),
            "ip addr add 10.244.1.0/32 dev flannel.1".into(),
            "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink".into(),
            format!("ip neigh replace 10.244.2.0 lladdr {REMOTE_VTEP_MAC} dev flannel.1 nud permanent"),
            format!("bridge fdb add {REMOTE_VTEP_MAC} dev flannel.1 dst {REMOTE}"),
        ] {
            run(&command)?;
        }
        let backends: Vec<String> =
            BACKENDS.iter().enumerate().map(|(i, backend)| format!("{i} : {backend} . {TARGET_PORT}")).collect();
        nft(&format!(
            "table ip bench {{ chain services {{ type nat hook prerouting priority dstnat; \
             ip daddr {VIP} udp dport {VIP_PORT} dnat ip to numgen random mod {} map {{ {} }}; }}; }}",
            backends.len(),
            backends.join(", ")
        ))?;
        Ok(kernel)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // What was never set up cannot be taken down; the next contender complains about what is left.
        for command in
            ["nft delete table ip bench", "ip link delete flannel.1", "ip addr flush dev out", "ip route flush dev in"]
        {
            let _ = run(command);
        }
        let _ = run("ethtool -K in gro off");
        let _ = fs::write("/sys/class/net/in/queues/rx-0/rps_cpus", "0");
        let _ = fs::write("/proc/sys/net/ipv4/ip_forward", "0");
    }
}
