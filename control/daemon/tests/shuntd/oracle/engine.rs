//! The compiler and the engine, in memory.

use std::sync::Arc;

use shunt_control_api::{Resource, v1};
use shunt_control_daemon::{
    compile::services::{compile_all, selection},
    desired::State,
};
use shunt_control_lab::cluster::{self, Policy};
use shunt_dataplane::{
    io::{MemoryDevice, MemoryWire},
    net::MacAddr,
    service_set::ServiceSet,
    spec::{FamilySpec, ForwardingSpec, MasqueradeSpec, PortId, PortRole, PortSpec, RouteSpec, Via},
    time::Now,
    worker::Stepped,
};

use super::{
    NAME, NODE, OVERLAY,
    packet::{Fate, From, Link, Packet, read},
};

const PODS: PortId = PortId(0);
const HOST: PortId = PortId(1);
const UPLINK: PortId = PortId(2);
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);

fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 2, port.0 as u8])
}

/// A node with some services, stepped by hand.
pub struct Engine {
    switch: Stepped,
    wires: [MemoryWire; 3],
    now: u64,
}

impl Engine {
    pub fn new(services: &[cluster::Service]) -> Engine {
        let mut switch = Stepped::new(1, 256, 4096, 1).expect("descriptors");
        switch.publish(&spec(compile(services))).expect("the spec is sound");
        let wires = [PODS, HOST, UPLINK].map(|port| {
            let (device, wire) = MemoryDevice::new(64);
            switch.attach(0, port, device);
            wire
        });
        Engine { switch, wires, now: 10_000_000_000 }
    }

    pub fn fate(&mut self, packet: &Packet) -> Fate {
        let port = match packet.from {
            From::Pod => PODS,
            From::Node => HOST,
            From::RemotePod | From::Outside => UPLINK,
        };
        self.wires[usize::from(port.0)].send(packet.frame(mac(port).0));
        // Slow enough for the limit of ICMP errors.
        self.now += 10_000_000;
        for _ in 0..2 {
            self.switch.step(0, Now(self.now));
        }
        let links = [Link::Pods, Link::Pods, Link::Uplink];
        let mut left = self.wires.iter().zip(links).filter_map(|(wire, link)| Some((wire.recv()?, link)));
        let Some((frame, link)) = left.next() else { return Fate::Lost };
        assert!(left.next().is_none(), "one packet in, one out");
        let is_to_host = frame[6..12] == mac(HOST).0;
        let (id, fate) = read(link, &frame).expect("it is the packet, or about it");
        assert_eq!(id, packet.id);
        match fate {
            Fate::Sent(sent) if is_to_host => {
                assert_eq!((sent.src, sent.dst), (packet.src, (packet.dst, packet.dport)), "as it was");
                Fate::ToNode
            }
            fate => fate,
        }
    }
}

/// Through the API's types, as they come from a caller.
fn compile(services: &[cluster::Service]) -> ServiceSet {
    let resources = services.iter().flat_map(|service| {
        let message = Resource::Service(message(service).try_into().expect("it is valid"));
        [message, Resource::EndpointSlice(slice(service).try_into().expect("it is valid"))]
    });
    let resources = resources.map(|resource| (resource.key(), Arc::new(resource))).collect();
    let place = selection::Place { node: NAME, zone: "", addresses: &[NODE], underlay: Some(NODE), isolated: false };
    compile_all(&State { version: 1, resources }, place).ipv4
}

fn message(service: &cluster::Service) -> v1::Service {
    let policy = |policy| match policy {
        Policy::Cluster => v1::TrafficPolicy::Cluster.into(),
        Policy::Local => v1::TrafficPolicy::Local.into(),
    };
    let ports = service.ports.iter().map(|port| v1::ServicePort {
        name: port.name.clone(),
        protocol: v1::Protocol::from(port.protocol).into(),
        port: port.port.into(),
        node_port: port.node_port.unwrap_or_default().into(),
    });
    let message = v1::Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        cluster_ip: service.cluster_ip.map(|address| address.to_string()).unwrap_or_default(),
        ports: ports.collect(),
        internal_traffic_policy: policy(service.internal_traffic_policy),
        ..v1::Service::default()
    };
    let Some(exposure) = &service.exposure else { return message };
    let text = |addresses: &[std::net::Ipv4Addr]| addresses.iter().map(ToString::to_string).collect();
    v1::Service {
        r#type: v1::ServiceType::LoadBalancer.into(),
        external_ips: text(&exposure.external_ips),
        load_balancer_ips: text(&exposure.load_balancer_ips),
        load_balancer_source_ranges: exposure.load_balancer_source_ranges.clone(),
        external_traffic_policy: policy(exposure.external_traffic_policy),
        ..message
    }
}

fn slice(service: &cluster::Service) -> v1::EndpointSlice {
    let endpoint = |endpoint: &cluster::Endpoint| v1::Endpoint {
        address: endpoint.address.to_string(),
        conditions: Some(v1::EndpointConditions {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        }),
        node: endpoint.node.clone(),
        hints: Some(v1::EndpointHints { for_nodes: endpoint.for_nodes.clone(), for_zones: Vec::new() }),
        ..v1::Endpoint::default()
    };
    let port = |port: &cluster::EndpointPort| v1::EndpointPort { name: port.name.clone(), port: port.port.into() };
    v1::EndpointSlice {
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        name: "all".into(),
        ports: service.targets.iter().map(port).collect(),
        endpoints: service.endpoints.iter().map(endpoint).collect(),
    }
}

/// The node as the kernel's is set up: pods of other nodes are behind the uplink, as they are.
fn spec(services: ServiceSet) -> ForwardingSpec {
    let port = |id, role| PortSpec { id, role, mac: mac(id), mtu: 1500, unfinished_checksums: false, station: None };
    let route = |prefix: &str, via| RouteSpec { prefix: prefix.parse().expect("a prefix"), via };
    let to = |port| Via::Port { port, mac: STATION };
    ForwardingSpec {
        ports: vec![port(PODS, PortRole::Pod), port(HOST, PortRole::Host), port(UPLINK, PortRole::Uplink)],
        ipv4: FamilySpec {
            routes: vec![
                route("10.244.1.0/24", to(PODS)),
                route("10.244.1.0/32", to(HOST)),
                route("192.168.50.1/32", to(HOST)),
                route("0.0.0.0/0", Via::Gateway { port: UPLINK, mac: Some(STATION) }),
            ],
            services,
            gateway: Some([169, 254, 1, 1].into()),
            router: Some(OVERLAY),
            masquerade: Some(MasqueradeSpec {
                overlay: OVERLAY,
                underlay: NODE,
                ports: 61_000..=65_535,
                egress: None,
                answers_led: true,
            }),
            pod_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a prefix")],
            ..FamilySpec::default()
        },
        ..ForwardingSpec::default()
    }
}
