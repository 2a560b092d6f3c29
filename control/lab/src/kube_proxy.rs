//! Services as kube-proxy's nftables mode translates them: what kernel nodes do, and what others are compared with.
//!
//! A verdict map from address, protocol and port to a chain for each frontend; in it what becomes of new flows, by where they
//! come from; a chain for each endpoint; masquerade by a mark. A table for each family. Affinity and schedulers are left out.

use std::{
    fmt::{Display, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use shunt_dataplane::net::Protocol;

use crate::{
    cluster::{Endpoint, Outcome, Policy, Service, ServicePort},
    command,
    error::Result,
    family::Family,
    netns::Namespace,
};

/// Of packets whose source is to be replaced.
const MARK: &str = "meta mark set 0x4000";

/// A node, as its rules need it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// Its addresses at which node ports are had.
    pub addresses: Vec<Ipv4Addr>,
}

/// Puts the rules for `services` in force, in the place of those before.
pub fn translate(namespace: &Namespace, place: &Place, services: &[Service]) -> Result<()> {
    let rules = rules::<Ipv4Addr>(place, services) + &rules::<Ipv6Addr>(place, services);
    command::run_with(namespace.bounded("nft").args(["-f", "-"]), rules.as_bytes()).map(drop)
}

/// The rules of one family, as `nft -f` reads them.
fn rules<A: Family>(place: &Place, services: &[Service]) -> String {
    let mut chains = Chains::default();
    for service in services {
        for port in &service.ports {
            chains.add::<A>(place, service, port);
        }
    }
    let cluster_ips: Vec<_> = services.iter().filter_map(A::cluster_ip).map(|address| address.to_string()).collect();
    let elements = |list: &[String]| match list.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", list.join(", ")),
    };
    let (ip, address) = (A::NFT, A::NFT_ADDRESS);
    format!(
        "table {ip} lab\n\
        delete table {ip} lab\n\
        table {ip} lab {{\n\
        {}\
        map frontends {{ type {address} . inet_proto . inet_service : verdict; {} }}\n\
        set cluster_ips {{ type {address}; {} }}\n\
        chain services {{\n\
        {ip} daddr . meta l4proto . th dport vmap @frontends\n\
        {ip} daddr @cluster_ips reject\n\
        {ip} daddr {} drop\n\
        }}\n\
        chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
        chain output {{ type nat hook output priority -100; jump services; }}\n\
        chain postrouting {{ type nat hook postrouting priority srcnat; meta mark 0x4000 masquerade; }}\n\
        }}\n",
        chains.text,
        elements(&chains.frontends),
        elements(&cluster_ips),
        A::SERVICE_CIDR
    )
}

#[derive(Default)]
struct Chains {
    text: String,
    /// Elements of the map, and so the number of the next chain.
    frontends: Vec<String>,
    endpoints: u32,
}

impl Chains {
    fn add<A: Family>(&mut self, place: &Place, service: &Service, port: &ServicePort) {
        let [cluster, local] = [Policy::Cluster, Policy::Local].map(|policy| {
            let outcome = service.outcome::<A>(&port.name, &place.node, policy);
            self.fate(&outcome, port)
        });
        let of = |policy| if policy == Policy::Cluster { &cluster } else { &local };
        let inside = of(service.internal_traffic_policy);
        let (ip, pods) = (A::NFT, A::CLUSTER_CIDR);
        if let Some(address) = A::cluster_ip(service) {
            self.frontend(address, port.port, port, &format!("{ip} saddr != {pods} {MARK}\n{inside}"));
        }
        let Some(exposure) = A::exposure(service) else { return };
        let external = match exposure.external_traffic_policy {
            Policy::Cluster => format!("{MARK}\n{cluster}"),
            Policy::Local => {
                // Who is inside reaches all: pods, and the node with whatever address.
                let inside = |source: &str, mark: &str| {
                    cluster.lines().map(|line| format!("{source} {mark} {line}\n")).collect::<String>()
                };
                format!("{}{}{local}", inside(&format!("{ip} saddr {pods}"), ""), inside("fib saddr type local", MARK))
            }
        };
        for &address in port.node_port.iter().flat_map(|_| &place.addresses) {
            self.frontend(address, port.node_port.unwrap_or_default(), port, &external);
        }
        let sources = match exposure.load_balancer_source_ranges.as_slice() {
            [] => String::new(),
            ranges => format!("{ip} saddr != {{ {} }} drop\n", ranges.join(", ")),
        };
        for &address in &exposure.load_balancer_ips {
            self.frontend(address, port.port, port, &format!("{sources}{external}"));
        }
        for &address in &exposure.external_ips {
            self.frontend(address, port.port, port, &external);
        }
    }

    /// A chain for a frontend, and the element that leads to it.
    fn frontend(&mut self, address: impl Display, number: u16, port: &ServicePort, rules: &str) {
        let name = format!("frontend{}", self.frontends.len());
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "chain {name} {{\n{rules}\n}}");
        self.frontends.push(format!("{address} . {} . {number} : goto {name}", port.protocol));
    }

    /// What becomes of a new flow, as one statement.
    fn fate<A: Family>(&mut self, outcome: &Outcome<A>, port: &ServicePort) -> String {
        let backends = match outcome {
            Outcome::Endpoints(backends) => backends,
            Outcome::Drop => return "drop".to_owned(),
            Outcome::Refuse => return "reject".to_owned(),
        };
        let choices: Vec<_> = backends
            .iter()
            .enumerate()
            .map(|(at, backend)| format!("{at} : goto {}", self.endpoint(*backend, port.protocol)))
            .collect();
        format!("numgen random mod {} vmap {{ {} }}", backends.len(), choices.join(", "))
    }

    /// A chain that leads to an endpoint; one that reaches itself is masqueraded.
    fn endpoint<A: Family>(&mut self, (address, port): (A, u16), protocol: Protocol) -> String {
        let name = format!("endpoint{}", self.endpoints);
        self.endpoints += 1;
        let (ip, to) = (A::NFT, SocketAddr::new(address.into(), port));
        let rules = format!("{ip} saddr {address} {MARK}\nmeta l4proto {protocol} dnat to {to}");
        let _ = writeln!(self.text, "chain {name} {{\n{rules}\n}}");
        name
    }
}

impl Service {
    /// What becomes of a new flow to the service port `name` on a node under `policy`: said anew, and not by the code that is
    /// tested.
    pub fn outcome<A: Family>(&self, name: &str, node: &str, policy: Policy) -> Outcome<A> {
        let Some(target) = self.targets.iter().find(|target| target.name == name) else { return Outcome::Refuse };
        let is = |condition: Option<bool>, unset| condition.unwrap_or(unset);
        let endpoints = A::endpoints(self);
        let ready: Vec<_> = endpoints.iter().filter(|e| is(e.ready, true)).collect();
        let leaving: Vec<_> = endpoints
            .iter()
            .filter(|e| !is(e.ready, true) && is(e.serving, false) && is(e.terminating, false))
            .collect();
        let first_of = |local: bool| {
            let keep = |list: &[&Endpoint<A>]| -> Vec<_> {
                let kept = list.iter().filter(|e| !local || e.node == node);
                kept.map(|e| ((e.address, target.port), e.for_nodes.clone())).collect()
            };
            let ready = keep(&ready);
            if ready.is_empty() { keep(&leaving) } else { ready }
        };
        let mut chosen = first_of(policy == Policy::Local);
        // Where only terminating ones are left, hints do not count any more.
        let counts = policy == Policy::Cluster && !ready.is_empty();
        let hinted = |hints: &[String]| hints.iter().any(|hint| hint == node);
        let all_hint = chosen.iter().all(|(_, hints)| !hints.is_empty());
        if counts && all_hint && chosen.iter().any(|(_, hints)| hinted(hints)) {
            chosen.retain(|(_, hints)| hinted(hints));
        }
        match chosen.is_empty() {
            false => Outcome::Endpoints(chosen.into_iter().map(|(backend, _)| backend).collect()),
            true if ready.is_empty() && leaving.is_empty() => Outcome::Refuse,
            true => Outcome::Drop,
        }
    }
}
