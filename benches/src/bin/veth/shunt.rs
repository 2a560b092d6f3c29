//! Shunt itself: one worker, the cluster of all contenders published as a spec.

use shunt_dataplane::{
    net::{MacAddr, Protocol},
    spec::{Backend, ForwardingSpec, PortId, PortRole, PortSpec, RouteSpec, ServiceSpec, Via, VtepSpec, VxlanSpec},
    switch::{AttachSpec, PortInfo, Switch, SwitchConfig},
    xsk::{MemoryChoice, UplinkFilter, XdpMode},
};

use crate::{
    BACKENDS, Error, FLOWS, NODE, POD, REMOTE, REMOTE_VTEP_MAC, TARGET_PORT, VIP, VIP_PORT,
    topology::{SWITCH_CORE, Topology},
};

const UPLINK: PortId = PortId(0);
const POD_PORT: PortId = PortId(1);
const FRAMES: u32 = 8192;

/// A running switch. Dropping it checks that it has lost nothing, and shuts it down.
pub struct Shunt(Option<Switch>);

impl Shunt {
    pub fn start(topology: &Topology) -> Result<Shunt, Error> {
        let switch = Switch::start(SwitchConfig {
            cores: vec![SWITCH_CORE],
            frames_per_worker: FRAMES,
            flow_capacity: 4 * FLOWS,
        })?;
        let attach = |id, role, interface: &str| {
            let classify = UplinkFilter { vxlan: Some((NODE, 8472)), native: Vec::new() };
            let (interface, xdp_mode, memory) = (interface.into(), XdpMode::Native, MemoryChoice::Shared);
            switch.attach(AttachSpec { id, interface, role, xdp_mode, classify, memory })
        };
        let uplink = attach(UPLINK, PortRole::Uplink, &topology.output.name)?;
        let pod = attach(POD_PORT, PortRole::Pod, &topology.input.name)?;
        let port = |info: &PortInfo, role| PortSpec {
            id: info.id,
            role,
            mac: info.mac,
            mtu: info.mtu,
            unfinished_checksums: true,
        };
        switch.publish(&ForwardingSpec {
            ports: vec![port(&uplink, PortRole::Uplink), port(&pod, PortRole::Pod)],
            vxlan: Some(VxlanSpec { vni: 1, udp_port: 8472, local: NODE, mac: MacAddr([0x0a, 0x58, 0, 0, 0, 1]) }),
            vteps: vec![VtepSpec {
                address: REMOTE,
                mac: REMOTE_VTEP_MAC.parse()?,
                uplink: UPLINK,
                next_hop: Some(topology.sink_mac),
            }],
            routes: vec![
                RouteSpec { prefix: "10.244.2.0/24".parse()?, via: Via::Vtep(REMOTE) },
                RouteSpec { prefix: POD.into(), via: Via::Port { port: POD_PORT, mac: topology.source_mac } },
            ],
            services: vec![ServiceSpec::simple(
                VIP,
                VIP_PORT,
                Protocol::Udp,
                BACKENDS.iter().map(|&address| Backend { address, port: TARGET_PORT }.into()).collect(),
            )],
            pod_cidrs: vec!["10.244.0.0/16".parse()?],
            service_cidrs: vec!["10.96.0.0/16".parse()?],
            ..ForwardingSpec::default()
        })?;
        Ok(Shunt(Some(switch)))
    }
}

impl Drop for Shunt {
    fn drop(&mut self) {
        let Some(switch) = self.0.take() else { return };
        let lost = switch.report().imbalances();
        if !std::thread::panicking() {
            assert!(lost.is_empty(), "the switch has lost packets or frames: {lost:?}");
        }
        if let Err(error) = switch.shutdown() {
            eprintln!("shutting the switch down: {error}");
        }
    }
}
