//! Shunt as a node runs it: the daemon with one worker, told the cluster by gRPC.

use std::time::{Duration, Instant};

use shunt_control_api::v1;

use super::{
    Running, Took,
    cluster::{self, NODE, POD, REMOTE, REMOTE_POD_CIDR, REMOTE_VTEP_MAC},
    topology::{Topology, run},
};
use crate::{Error, daemon::Daemon};

/// A running daemon that forwards.
pub struct Shunt {
    daemon: Daemon,
}

impl Shunt {
    pub fn start(topology: &Topology) -> Result<Shunt, Error> {
        // The daemon takes its own address, and the way to the other node, from the kernel.
        run(&format!("ip addr add {NODE}/24 dev out"))?;
        run(&format!("ip neigh replace {REMOTE} lladdr {} dev out nud permanent", topology.sink_mac))?;
        let mut daemon = Daemon::start("out")?;
        daemon.apply(v1::ApplyRequest {
            vteps: vec![v1::Vtep {
                node: "node-b".into(),
                address: REMOTE.to_string(),
                mac: REMOTE_VTEP_MAC.into(),
                pod_cidr: REMOTE_POD_CIDR.into(),
                ..v1::Vtep::default()
            }],
            ports: vec![v1::Port {
                name: "default/pod".into(),
                interface: "in".into(),
                address: POD.to_string(),
                mac: topology.source_mac.to_string(),
                ..v1::Port::default()
            }],
            ..v1::ApplyRequest::default()
        })?;
        Ok(Shunt { daemon })
    }

    fn timed(&mut self, request: v1::ApplyRequest) -> Result<Took, Error> {
        let start = Instant::now();
        let answer = self.daemon.apply(request)?;
        let total = start.elapsed();
        let v1::ApplyTimes { checked, compiled, published, written } =
            answer.times.ok_or("shuntd does not say how long its steps took")?;
        let steps = [("checked", checked), ("compiled and published", compiled + published), ("written", written)];
        Ok(Took { total, steps: steps.map(|(name, nanoseconds)| (name, Duration::from_nanos(nanoseconds))).into() })
    }
}

impl Running for Shunt {
    fn load(&mut self, count: u32) -> Result<Took, Error> {
        let (services, endpoint_slices) =
            cluster::services(count).map(|service| (message(&service), slice(&service))).unzip();
        self.timed(v1::ApplyRequest { services, endpoint_slices, ..v1::ApplyRequest::default() })
    }

    fn change(&mut self, service: &cluster::Service) -> Result<Took, Error> {
        self.timed(v1::ApplyRequest { endpoint_slices: vec![slice(service)], ..v1::ApplyRequest::default() })
    }

    fn resident(&self) -> Result<Option<u64>, Error> {
        self.daemon.resident().map(Some)
    }

    fn finish(&mut self) -> Result<(), Error> {
        match self.daemon.counters()?.imbalances {
            lost if lost.is_empty() => Ok(()),
            lost => Err(format!("Shunt has lost packets or frames: {}", lost.join("; ")).into()),
        }
    }
}

/// A service as the API has it.
fn message(service: &cluster::Service) -> v1::Service {
    v1::Service {
        namespace: "default".into(),
        name: format!("service-{}", service.number),
        cluster_ip: service.vip.to_string(),
        ports: vec![v1::ServicePort {
            name: String::new(),
            protocol: v1::Protocol::Udp.into(),
            port: cluster::VIP_PORT.into(),
            node_port: 0,
        }],
        ..v1::Service::default()
    }
}

/// Its endpoints, in one slice.
fn slice(service: &cluster::Service) -> v1::EndpointSlice {
    let endpoint =
        |address: &std::net::Ipv4Addr| v1::Endpoint { address: address.to_string(), ..v1::Endpoint::default() };
    v1::EndpointSlice {
        namespace: "default".into(),
        service: format!("service-{}", service.number),
        name: "all".into(),
        ports: vec![v1::EndpointPort { name: String::new(), port: cluster::TARGET_PORT.into() }],
        endpoints: service.endpoints.iter().map(endpoint).collect(),
    }
}
