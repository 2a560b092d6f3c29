//! The kernel doing the switch's work: DNAT of ClusterIPs by nftables, routing, and a VXLAN device as flannel makes it.

use std::{fs, time::Duration};

use super::{
    Running, Took,
    cluster::{
        self, NODE, OVERLAY, POD, REMOTE, REMOTE_OVERLAY, REMOTE_POD_CIDR, REMOTE_VTEP_MAC, Service, VNI, VXLAN_PORT,
    },
    nftables,
    topology::{SWITCH_CORE, Topology, nft, run},
};
use crate::Error;

/// How long a load may take.
const LOAD_LIMIT: Duration = Duration::from_secs(300);

/// The kernel's forwarding, set up. It goes with its namespace.
pub struct Kernel;

impl Running for Kernel {
    fn load(&mut self, count: u32) -> Result<Took, Error> {
        let mut taken = Duration::ZERO;
        for (at, transaction) in nftables::transactions(cluster::services(count)).enumerate() {
            if taken > LOAD_LIMIT {
                let (loaded, limit) = ((at as u32 - 1) * nftables::AT_ONCE, LOAD_LIMIT.as_secs());
                return Err(format!("nft had loaded {loaded} of {count} services after {limit} s").into());
            }
            taken += nft(&transaction)?;
        }
        Ok(taken.into())
    }

    fn change(&mut self, service: &Service) -> Result<Took, Error> {
        nft(&nftables::change(service)).map(Took::from)
    }
}

impl Kernel {
    /// `rps` hands packets over to the contender's core behind the receive side.
    pub fn start(topology: &Topology, rps: bool) -> Result<Kernel, Error> {
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
            format!("ip link add flannel.1 type vxlan id {VNI} local {NODE} dev out dstport {VXLAN_PORT} nolearning"),
            "ip link set dev flannel.1 addrgenmode none".into(),
            "ip link set dev flannel.1 mtu 1450 up".into(),
            format!("ip addr add {OVERLAY}/32 dev flannel.1"),
            format!("ip route add {REMOTE_POD_CIDR} via {REMOTE_OVERLAY} dev flannel.1 onlink"),
            format!("ip neigh replace {REMOTE_OVERLAY} lladdr {REMOTE_VTEP_MAC} dev flannel.1 nud permanent"),
            format!("bridge fdb add {REMOTE_VTEP_MAC} dev flannel.1 dst {REMOTE}"),
        ] {
            run(&command)?;
        }
        Ok(Kernel)
    }
}
