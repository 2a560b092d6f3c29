//! Open vSwitch with its userspace datapath, ports over AF_XDP: connection tracking translates the ClusterIP, a VXLAN
//! port encapsulates, as an OVN-like node would have it.

use std::{
    fmt::Write,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use shunt_control_lab::{command, command::Background, wait};

use super::{
    Running, Took,
    cluster::{self, NODE, REMOTE, REMOTE_POD_CIDR, REMOTE_VTEP_MAC, TARGET_PORT, VIP_PORT, VNI, VTEP_MAC, VXLAN_PORT},
    topology::{SWITCH_CORE, Topology, run},
};
use crate::{Error, peers::Peers, scratch::Scratch};

const LIMIT: Duration = Duration::from_secs(20);

/// A running switch. Its processes end with the namespace.
pub struct Ovs {
    peers: Peers,
    scratch: Scratch,
    _database: Background,
    _switch: Background,
}

impl Running for Ovs {
    fn load(&mut self, count: u32) -> Result<Took, Error> {
        let (mut groups, mut flows) = (String::new(), String::new());
        for service in cluster::services(count) {
            let group = service.number + 1;
            write!(groups, "group_id={group},type=select")?;
            for endpoint in &service.endpoints {
                write!(groups, ",bucket=ct(commit,zone=1,nat(dst={endpoint}:{TARGET_PORT}),table=2)")?;
            }
            groups.push('\n');
            let vip = service.vip;
            writeln!(flows, "table=1,ct_state=+new+trk,udp,nw_dst={vip},tp_dst={VIP_PORT},actions=group:{group}")?;
        }
        let start = Instant::now();
        self.openflow("add-groups", &groups)?;
        self.openflow("add-flows", &flows)?;
        Ok(start.elapsed().into())
    }
}

impl Ovs {
    pub fn start(topology: &Topology) -> Result<Ovs, Error> {
        let peers = Peers::find()?;
        peers.hide_installed_drivers()?;
        let scratch = Scratch::create("ovs")?;
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let mut create = peers.command("ovsdb-tool", &scratch)?;
        command::run(create.args(["create", &at("conf.db")]).arg(peers.ovs_schema()))?;
        let mut serve = peers.command("ovsdb-server", &scratch)?;
        serve.args([&at("conf.db"), &format!("--remote=punix:{}", at("db.sock"))]);
        let database = Background::start(&mut serve, &scratch.path().join("ovsdb.log"))?;
        wait::until("ovsdb-server to listen", LIMIT, || fs::metadata(at("db.sock")).map_err(|e| e.to_string()))?;
        let mut start = peers.command("ovs-vswitchd-dpdk", &scratch)?;
        start.args([&format!("unix:{}", at("db.sock")), &format!("--unixctl={}", at("ctl"))]);
        start.arg("--log-file").arg("--no-chdir");
        let switch = Background::start(&mut start, &scratch.path().join("vswitchd.log"))?;
        let ovs = Ovs { peers, scratch, _database: database, _switch: switch };
        ovs.vsctl("--no-wait init")?;
        ovs.vsctl(&format!("set Open_vSwitch . other_config:pmd-cpu-mask={:x}", 1 << SWITCH_CORE))?;
        ovs.ports(topology)?;
        ovs.flows()?;
        Ok(ovs)
    }

    /// Two bridges: `underlay` has the uplink and the node's address, `pods` the pod and the tunnel.
    fn ports(&self, topology: &Topology) -> Result<(), Error> {
        let afxdp = "type=afxdp options:xdp-mode=native";
        self.vsctl("add-br underlay -- set bridge underlay datapath_type=netdev")?;
        self.vsctl(&format!("add-port underlay out -- set interface out {afxdp}"))?;
        self.vsctl("add-br pods -- set bridge pods datapath_type=netdev fail-mode=secure")?;
        self.vsctl(&format!("add-port pods in -- set interface in {afxdp} ofport_request=1"))?;
        self.vsctl(&format!(
            "add-port pods vxlan -- set interface vxlan type=vxlan ofport_request=2 options:remote_ip={REMOTE} \
             options:key={VNI} options:dst_port={VXLAN_PORT}"
        ))?;
        for interface in ["in", "out", "vxlan"] {
            let error = self.vsctl(&format!("get interface {interface} error"))?;
            if error.trim() != "[]" {
                return Err(format!("Open vSwitch cannot use interface {interface}: {}", error.trim()).into());
            }
        }
        run(&format!("ip addr add {NODE}/24 dev underlay"))?;
        run("ip link set dev underlay addrgenmode none up")?;
        self.control("ovs-appctl", &["tnl/arp/set", "underlay", &REMOTE.to_string(), &topology.sink_mac.to_string()])
    }

    /// What does not depend on the services. Open vSwitch takes a UDP connection for new until it has seen an answer, and
    /// nobody answers here: what table 0 has translated by its connection goes on, new or not.
    fn flows(&self) -> Result<(), Error> {
        self.openflow(
            "add-flows",
            &format!(
                "table=0,in_port=1,ip,actions=ct(zone=1,nat,table=1)\n\
                 table=1,ct_state=+dnat+trk,ip,actions=resubmit(,2)\n\
                 table=2,ip,nw_dst={REMOTE_POD_CIDR},\
                 actions=mod_dl_src:{VTEP_MAC},mod_dl_dst:{REMOTE_VTEP_MAC},dec_ttl,2\n"
            ),
        )
    }

    fn openflow(&self, verb: &str, text: &str) -> Result<(), Error> {
        let bridge = format!("unix:{}", self.scratch.path().join("pods.mgmt").display());
        let file = self.scratch.write(verb, text)?;
        self.control("ovs-ofctl", &["-O", "OpenFlow13", verb, &bridge, &file.to_string_lossy()])
    }

    fn control(&self, program: &str, words: &[&str]) -> Result<(), Error> {
        let mut command: Command = self.peers.command(program, &self.scratch)?;
        if program == "ovs-appctl" {
            command.arg("-t").arg(self.scratch.path().join("ctl"));
        }
        command::run(command.args(words)).map(drop).map_err(Error::from)
    }

    fn vsctl(&self, line: &str) -> Result<String, Error> {
        let mut command = self.peers.command("ovs-vsctl", &self.scratch)?;
        command.arg(format!("--db=unix:{}", self.scratch.path().join("db.sock").display())).arg("--timeout=20");
        Ok(command::run(command.args(line.split_whitespace()))?)
    }
}
