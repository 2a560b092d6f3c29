//! A station on an engine in this process: a stepped switch between two wires in memory. No kernel, no root.

use std::net::Ipv4Addr;

use shunt_dataplane::{
    io::{MAX_FRAME_LEN, MemoryDevice, MemoryWire},
    net::MacAddr,
    spec::{FamilySpec, ForwardingSpec, PortId, PortRole, PortSpec, RouteSpec, Via, VtepSpec, VxlanSpec},
    time::Now,
    worker::Stepped,
};

use super::{EngineError, Station};
use crate::{
    clock,
    packet::Stations,
    profile::{MemoryPort, Profile},
};

const UPLINK: PortId = PortId(0);
const POD: PortId = PortId(1);
const UPLINK_MAC: MacAddr = MacAddr([2, 0x70, 0x67, 0, 0, 1]);
const POD_MAC: MacAddr = MacAddr([2, 0x70, 0x67, 0, 0, 2]);
/// Whoever stands behind both ports: us.
const OUR_MAC: MacAddr = MacAddr([2, 0x70, 0x67, 0, 0, 3]);
const VTEP_MAC: MacAddr = MacAddr([2, 0x70, 0x67, 0, 0, 4]);

/// The engine's own address on the underlay, where no stream says otherwise.
const UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);

const POD_MTU: u16 = 1500;
/// Leaves room for VXLAN around a pod's longest packet.
const UPLINK_MTU: u16 = (MAX_FRAME_LEN - 14) as u16;

/// Packets on a wire at most: a sender waits for the switch.
const WIRE: usize = 64;
const FRAMES: u32 = 2048;
const LEAST_FLOWS: u32 = 1 << 16;

/// A stepped switch, and the far ends of its two ports.
pub struct MemoryStation {
    switch: Stepped,
    input: MemoryWire,
    outputs: [MemoryWire; 2],
    waiting: usize,
}

impl MemoryStation {
    /// A switch that knows what the profile's `[memory]` says.
    ///
    /// # Errors
    /// [`EngineError::Memory`] if that contradicts itself.
    pub fn new(profile: &Profile) -> Result<MemoryStation, EngineError> {
        let fail = |error: &dyn std::fmt::Display| EngineError::Memory(error.to_string());
        let flows: u64 = profile.streams.iter().map(|stream| u64::from(stream.flows)).sum();
        let flows = u32::try_from(flows * 2).unwrap_or(u32::MAX).max(LEAST_FLOWS);
        let mut switch = Stepped::new(1, FRAMES, flows, profile.seed).map_err(|error| fail(&error))?;
        switch.publish(&spec(profile)).map_err(|error| fail(&error))?;
        let (uplink, uplink_wire) = MemoryDevice::new(FRAMES as usize);
        let (pod, pod_wire) = MemoryDevice::new(FRAMES as usize);
        switch.attach(0, UPLINK, uplink);
        switch.attach(0, POD, pod);
        let input = match profile.memory.input {
            MemoryPort::Pod => pod_wire.clone(),
            MemoryPort::Uplink => uplink_wire.clone(),
        };
        Ok(MemoryStation { switch, input, outputs: [uplink_wire, pod_wire], waiting: 0 })
    }

    /// The Ethernet addresses on the wire that test packets go into.
    pub fn stations(profile: &Profile) -> Stations {
        let to = match profile.memory.input {
            MemoryPort::Pod => POD_MAC,
            MemoryPort::Uplink => UPLINK_MAC,
        };
        Stations { from: OUR_MAC, to }
    }
}

fn spec(profile: &Profile) -> ForwardingSpec {
    let memory = &profile.memory;
    let port = |id, role, mac, mtu| PortSpec { id, role, mac, mtu, unfinished_checksums: false, station: None };
    let outer = profile.streams.iter().find_map(|stream| stream.vxlan);
    let vxlan = outer.map_or(VxlanSpec { vni: 1, udp_port: 8472, local: UNDERLAY, mac: VTEP_MAC }, |outer| VxlanSpec {
        vni: outer.vni,
        udp_port: outer.port,
        local: outer.to,
        mac: outer.ethernet.1,
    });
    let mut peers: Vec<Ipv4Addr> = memory.remote.iter().filter_map(|remote| remote.vtep).collect();
    peers.extend(profile.streams.iter().filter_map(|stream| stream.vxlan).map(|outer| outer.from));
    peers.sort();
    peers.dedup();
    let vteps = peers.iter().map(|&address| VtepSpec {
        address,
        mac: OUR_MAC,
        uplink: UPLINK,
        next_hop: Some(OUR_MAC),
        direct: false,
        native: false,
    });
    let natively = Via::Gateway { port: UPLINK, mac: Some(OUR_MAC) };
    let to_pod = Via::Port { port: POD, mac: OUR_MAC };
    let mut routes: Vec<_> = memory
        .remote
        .iter()
        .map(|remote| RouteSpec { prefix: remote.prefix, via: remote.vtep.map_or(natively.clone(), Via::Vtep) })
        .collect();
    routes.extend(memory.pods.iter().map(|&prefix| RouteSpec { prefix, via: to_pod.clone() }));
    if routes.is_empty() {
        // Whatever goes in comes out on the other side.
        let via = if memory.input == MemoryPort::Pod { natively } else { to_pod };
        routes.push(RouteSpec { prefix: ipnet::Ipv4Net::default(), via });
    }
    ForwardingSpec {
        ports: vec![port(UPLINK, PortRole::Uplink, UPLINK_MAC, UPLINK_MTU), port(POD, PortRole::Pod, POD_MAC, POD_MTU)],
        vxlan: (!peers.is_empty()).then_some(vxlan),
        vteps: vteps.collect(),
        ipv4: FamilySpec { routes, services: memory.services.iter().cloned().collect(), ..FamilySpec::default() },
        ..ForwardingSpec::default()
    }
}

impl Station for MemoryStation {
    fn push(&mut self, len: usize, write: &mut dyn FnMut(&mut [u8])) -> bool {
        if self.waiting >= WIRE {
            return false;
        }
        let mut packet = vec![0; len];
        write(&mut packet);
        self.input.send(packet);
        self.waiting += 1;
        true
    }

    fn flush(&mut self) {
        while self.switch.step(0, Now(clock::now())) {
            self.waiting = 0;
        }
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        let mut taken = 0;
        for wire in &self.outputs {
            while let Some(packet) = wire.recv() {
                take(&packet);
                taken += 1;
            }
        }
        taken
    }

    fn missed(&self) -> u64 {
        0
    }
}
