//! The kernel as the oracle: thousands of random pairs of a set of services and a packet, through kube-proxy's nftables rules
//! in a namespace and through the compiler and the engine in memory. Both must come to the same verdict, to an endpoint that
//! may be chosen, and to the same source. Needs root.

mod cases;
mod engine;
mod kernel;
mod packet;

use std::{collections::BTreeMap, net::Ipv4Addr};

use shunt_control_lab::{
    cluster::{Outcome, Policy, Service},
    kube_proxy::Place,
};

use self::{
    cases::Random,
    engine::Engine,
    kernel::Kernel,
    packet::{Fate, From, Packet},
};

/// The node on the underlay and on the overlay.
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
const NAME: &str = "node-a";

const SETS: usize = 80;
const PACKETS: usize = 80;

/// Who may serve a packet's frontend by the policy that holds for its source; `None`: it is not to a frontend.
fn outcome(services: &[Service], packet: &Packet) -> Option<Outcome> {
    let inside = packet.from != From::Outside;
    services.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port))).find_map(
        |(service, port)| {
            if port.protocol != packet.protocol {
                return None;
            }
            let of = |policy| service.outcome(&port.name, NAME, policy);
            if (Some(packet.dst), packet.dport) == (service.cluster_ip, port.port) {
                return Some(of(service.internal_traffic_policy));
            }
            let exposure = service.exposure.as_ref()?;
            let external = if inside { Policy::Cluster } else { exposure.external_traffic_policy };
            let is_node_port = packet.dst == NODE && Some(packet.dport) == port.node_port;
            let addresses = [&exposure.load_balancer_ips[..], &exposure.external_ips].concat();
            let is_address = packet.dport == port.port && addresses.contains(&packet.dst);
            (is_node_port || is_address).then(|| of(external))
        },
    )
}

/// Panics unless the two agree.
fn compare(services: &[Service], packet: &Packet, kernel: &Fate, engine: &Fate) {
    let context = || format!("{packet:?}\nkernel {kernel:?}\nengine {engine:?}\n{services:#?}");
    let (Fate::Sent(by_kernel), Fate::Sent(by_engine)) = (kernel, engine) else {
        assert_eq!(kernel, engine, "{}", context());
        return;
    };
    match outcome(services, packet) {
        Some(Outcome::Endpoints(endpoints)) => {
            for sent in [by_kernel, by_engine] {
                assert!(endpoints.contains(&sent.dst), "not to be chosen: {}", context());
            }
        }
        Some(_) => panic!("nobody serves: {}", context()),
        None => {
            for sent in [by_kernel, by_engine] {
                assert_eq!(sent.dst, (packet.dst, packet.dport), "no frontend: {}", context());
            }
        }
    }
    // Each may have chosen another endpoint: one on another link, where another address stands in, or one that reaches itself.
    if by_kernel.dst == by_engine.dst {
        assert_eq!((by_kernel.link, by_kernel.src), (by_engine.link, by_engine.src), "{}", context());
    } else if packet.from != From::Node && by_kernel.dst.0 != packet.src && by_engine.dst.0 != packet.src {
        let masqueraded = [by_kernel, by_engine].map(|sent| sent.src != packet.src);
        assert_eq!(masqueraded[0], masqueraded[1], "{}", context());
    }
}

#[test]
fn kube_proxy_s_rules_and_the_engine_agree() {
    let mut random = Random::new(0x5eed);
    let mut kernel = Kernel::new();
    let place = Place { node: NAME.into(), addresses: vec![NODE] };
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for set in 0..SETS {
        let services = random.services();
        let packets: Vec<_> = (0..PACKETS).map(|n| random.packet(&services, (set * PACKETS + n) as u16)).collect();
        let by_kernel = kernel.fates(&place, &services, &packets);
        let mut engine = Engine::new(&services);
        for packet in &packets {
            let (by_kernel, by_engine) = (&by_kernel[&packet.id], engine.fate(packet));
            compare(&services, packet, by_kernel, &by_engine);
            *seen.entry(by_engine.kind(packet)).or_default() += 1;
        }
    }
    // What never happens is not compared.
    let kinds = ["translated", "masqueraded", "forwarded", "refused", "lost", "to the node"];
    for kind in kinds {
        assert!(seen.get(kind).is_some_and(|count| *count > 100), "too few are {kind}: {seen:?}");
    }
    println!("{} pairs: {seen:?}", SETS * PACKETS);
}
