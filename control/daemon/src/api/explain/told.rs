//! What the stages found out, in sentences and in facts.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use shunt_control_api::v1;
use shunt_dataplane::{
    flow::FiveTuple,
    next_hop::Kind,
    record::{Frontend, Known, Step, Way, Why},
    spec::{Backend, Otherwise, Rate, Scheduler},
    tables::{Origin, conntrack::Direction},
    wire::{ipv4, ipv6, tcp},
};

use super::names::Names;
use crate::compile::services::frontends::FrontendKind;

/// A sentence and the facts in it.
struct Told {
    sentence: String,
    facts: BTreeMap<String, String>,
}

/// A sentence.
fn told(sentence: impl Into<String>) -> Told {
    Told { sentence: sentence.into(), facts: BTreeMap::new() }
}

impl Told {
    fn fact(mut self, name: &str, value: impl ToString) -> Told {
        self.facts.insert(name.to_owned(), value.to_string());
        self
    }

    /// Only if there is one.
    fn maybe(self, name: &str, value: Option<impl ToString>) -> Told {
        match value {
            Some(value) => self.fact(name, value),
            None => self,
        }
    }

    /// One more sentence.
    fn and(mut self, sentence: &str) -> Told {
        self.sentence = format!("{} {sentence}", self.sentence);
        self
    }
}

/// What a stage found, for the caller. `packet` is who sends it to whom.
pub(super) fn step(step: &Step, packet: FiveTuple<IpAddr>, names: &Names) -> v1::ExplainedStep {
    let Told { sentence, facts } = tell(step, packet, names);
    v1::ExplainedStep { stage: step.stage().into(), sentence, facts }
}

fn tell(step: &Step, packet: FiveTuple<IpAddr>, names: &Names) -> Told {
    match *step {
        Step::Outer { vtep, vni } => {
            let from = node(vtep, names);
            told(format!("It came over the overlay from {from}, VNI {vni}."))
                .fact("vtep", address(vtep))
                .fact("vni", vni)
        }
        Step::Headers { tuple, tcp_flags, fragment } => headers(tuple, tcp_flags, fragment),
        Step::Led => told(
            "On its way past the switch, out of the uplink or by lo, it is led to the host port: it is to a service.",
        ),
        Step::FragmentPorts { ports: (source, destination) } => {
            told(format!("A fragment of a datagram from port {source} to port {destination}."))
                .fact("source_port", source)
                .fact("destination_port", destination)
        }
        Step::Quoted { about } => {
            let [source, destination] = ends(about);
            told(format!("An ICMP error about a packet from {source} to {destination}: it follows that flow."))
                .fact("source", source)
                .fact("destination", destination)
        }
        Step::Known(known) => flow(&known),
        Step::BegunAnew { state, backend } => {
            let why = if state.is_unanswered() {
                format!("{} did not answer it before: another endpoint may be chosen", endpoint(backend))
            } else {
                format!("Its flow was over ({})", state.name())
            };
            told(format!("{why}; it begins anew.")).fact("state", state.name()).fact("backend", endpoint(backend))
        }
        Step::EndpointGone { direction, backend } => {
            let then = match direction {
                Direction::Forward => "its flow is forgotten, and it begins anew",
                Direction::Reply => "what it still says belongs to no flow",
            };
            let backend = endpoint(backend);
            told(format!("{backend} serves no longer: {then}.")).fact("backend", backend)
        }
        Step::Unknown => told("No flow has its addresses and ports."),
        Step::Service(frontend) => service(&frontend, packet, names),
        Step::Leaves => told("It leaves the cluster, so its source is to become the node's."),
        Step::MayBeMistaken => {
            told("No service has its destination, but answers to it could be taken for another flow's: it is tracked.")
        }
        Step::Endpoint { backend, why, avoided } => chosen(backend, why, avoided, packet, names),
        Step::Masqueraded { address: source, port, other_port } => {
            let source = socket(source, port);
            let told = told(format!("Its source becomes {source}.")).fact("source", source);
            let other = "The port that the client's other flows leave by is taken towards this destination.";
            if other_port { told.and(other) } else { told }
        }
        Step::AnswersAlike { answers } => {
            let [source, destination] = ends(answers);
            told(format!("Another flow has answers from {source} to {destination}: its source is to be replaced."))
        }
        Step::Relayed => told("The endpoint's node answers the client itself: it is relayed there as it is."),
        Step::SourceKept => told("The endpoint is here: the client's address is kept all the same."),
        Step::GaveWay => told("The connection table is full: a half open flow gives way."),
        Step::Opened { forward, reply } => {
            let ([client, vip], [backend, stand_in]) = (ends(forward), ends(reply));
            told(format!("It opens a flow; its answers are those from {backend} to {stand_in}."))
                .fact("client", client)
                .fact("vip", vip)
                .fact("backend", backend)
                .fact("answered_to", stand_in)
        }
        Step::Route { destination, prefix, by_flow, way } => {
            let told = route(destination, &way, names).maybe("prefix", prefix);
            let told = match prefix {
                Some(prefix) => Told { sentence: format!("{prefix} {}", told.sentence), ..told },
                None => told,
            };
            told.fact("destination", destination).fact("decided_by", if by_flow { "flow" } else { "fib" })
        }
        Step::Cut { mtu, fragments } => {
            told(format!("It is longer than the {mtu} bytes that may go there: it is cut into {fragments} fragments."))
                .fact("mtu", mtu)
                .fact("fragments", fragments)
        }
        Step::Rewritten { to } => {
            let [source, destination] = ends(to);
            told(format!("It leaves as a packet from {source} to {destination}."))
                .fact("source", source)
                .fact("destination", destination)
        }
        Step::Encapsulated { vtep, port } => {
            let to = node(vtep, names);
            told(format!("It is put into a VXLAN packet to {to}, from UDP port {port}."))
                .fact("vtep", address(vtep))
                .fact("udp_source_port", port)
        }
        Step::EgressLimit(rate) => limit("Its sender may send", rate),
        Step::IngressLimit(rate) => limit("Its receiver may receive", rate),
        Step::Answered(answer) => told(answer.sentence()).fact("answer", answer.name()),
    }
}

fn limit(who: &str, Rate { bits_per_second, burst_bits }: Rate) -> Told {
    told(format!("{who} {bits_per_second} bits a second, {burst_bits} at once: what is beyond that is dropped."))
        .fact("bits_per_second", bits_per_second)
        .fact("burst_bits", burst_bits)
}

fn headers(tuple: FiveTuple<IpAddr>, tcp_flags: u8, fragment: bool) -> Told {
    let ([source, destination], protocol) = (ends(tuple), protocol(tuple.protocol));
    let what = match (fragment, tuple.protocol) {
        (true, _) => format!("A fragment ({protocol})"),
        (false, ipv4::TCP) => format!("TCP ({})", flags(tcp_flags)),
        (false, ipv4::SCTP) => format!("SCTP ({})", flags(tcp_flags)),
        (false, ipv4::UDP) => "UDP".into(),
        (false, ipv4::ICMP) => "ICMP".into(),
        (false, ipv6::ICMPV6) => "ICMPv6".into(),
        (false, other) => format!("Protocol {other}"),
    };
    told(format!("{what} from {source} to {destination}."))
        .fact("source", source)
        .fact("destination", destination)
        .fact("protocol", protocol)
        .maybe("tcp_flags", (tcp_flags != 0).then(|| flags(tcp_flags)))
        .maybe("fragment", fragment.then_some(true))
}

fn flow(known: &Known) -> Told {
    let Known { direction, before, after, idle, generation, forward, reply } = *known;
    let ([client, vip], [backend, _]) = (ends(forward), ends(reply));
    let who = match direction {
        Direction::Forward => "The client's packet",
        Direction::Reply => "An answer",
    };
    let state = if before == after { before.name().into() } else { format!("{} until now", before.name()) };
    let served = if vip == backend { String::new() } else { format!(", served by {backend}") };
    told(format!("{who} of the flow from {client} to {vip}{served} ({state}, idle for {idle} s)."))
        .fact("direction", if direction == Direction::Forward { "forward" } else { "reply" })
        .fact("state", before.name())
        .fact("state_after", after.name())
        .fact("idle_seconds", idle)
        .fact("generation", generation)
        .fact("client", client)
        .fact("vip", vip)
        .fact("backend", backend)
}

fn service(frontend: &Frontend, packet: FiveTuple<IpAddr>, names: &Names) -> Told {
    let Frontend { origin, source_range, endpoints, masquerade, otherwise, scheduler, affinity } = *frontend;
    let place = socket(packet.dst, packet.dst_port);
    let found = names.service(packet.dst, packet.dst_port, packet.protocol);
    let name = found.map(|found| found.service.full_name());
    let pod = match found {
        None => names.pod(packet.dst, packet.dst_port, packet.protocol).map(|pod| pod.name.clone()),
        Some(_) => None,
    };
    let port = found.map(|found| found.port.name.clone()).filter(|name| !name.is_empty());
    let (at, kind) = match (found, &pod) {
        (Some(found), _) => kind(found.kind),
        (None, Some(_)) => (", its published port", Some("published_port")),
        (None, None) => ("", None),
    };
    let (from, origin) = match origin {
        Origin::Pod => ("a pod", "pod"),
        Origin::Node => ("this node", "node"),
        Origin::Outside => ("outside", "outside"),
        Origin::Relayed => ("outside, by way of another node", "relayed"),
    };
    let what = match (&name, &port) {
        (Some(name), Some(port)) => format!("{name}, port {port}"),
        (Some(name), None) => name.clone(),
        (None, _) => pod.clone().unwrap_or("a service".into()),
    };
    let many = match (endpoints, otherwise) {
        (0, Otherwise::Refuse) => "there are no endpoints: it is refused".into(),
        (0, Otherwise::Drop) => "no endpoint is for that: it is dropped".into(),
        (1, _) => "there is one endpoint for that".into(),
        (n, _) => format!("there are {n} endpoints for that"),
    };
    let mut told = told(format!("It is for {what} at {place}{at}, and from {from}; {many}."));
    match source_range {
        Some(Some(range)) => told = told.and(&format!("Its source is in {range}, which may use it.")),
        Some(None) => told = told.and("Its source is in none of the ranges that may use it."),
        None => {}
    }
    if masquerade {
        told = told.and("The policy asks for its source to be replaced.");
    }
    told.maybe("service", name)
        .maybe("pod", pod)
        .maybe("port", port)
        .fact("frontend", format!("{place}/{}", protocol(packet.protocol)))
        .maybe("frontend_kind", kind)
        .fact("origin", origin)
        .fact("endpoints", endpoints)
        .fact("otherwise", if otherwise == Otherwise::Refuse { "refuse" } else { "drop" })
        .fact("masquerade", masquerade)
        .fact("scheduler", scheduler_name(scheduler))
        .maybe("source_range", source_range.map(|range| range.map_or("none".into(), |range| range.to_string())))
        .maybe("affinity_seconds", affinity)
}

fn chosen(
    backend: Backend<IpAddr>,
    why: Why,
    avoided: Option<Backend<IpAddr>>,
    packet: FiveTuple<IpAddr>,
    names: &Names,
) -> Told {
    let service = names.service(packet.dst, packet.dst_port, packet.protocol).map(|found| found.service);
    let place = names.place(backend, service);
    let (because, by) = match why {
        Why::FlowHash => ("the flow's hash names it".into(), "flow_hash"),
        Why::ClientHash => ("the hash of the client's address names it".into(), "client_hash"),
        Why::Turn => ("it is its turn".into(), "turn"),
        Why::FewestFlows => ("it has the fewest flows for its weight".into(), "fewest_flows"),
        Why::Named => ("the node that relayed it names it".into(), "named"),
        Why::Affinity(age) => (format!("the client's last flow went there, {age} s ago"), "affinity"),
    };
    let whose = place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
    let endpoint = endpoint(backend);
    let told = told(format!("{endpoint}{whose} is chosen: {because}.")).fact("endpoint", endpoint);
    let told = told.fact("by", by).maybe("place", place);
    match avoided.map(self::endpoint) {
        Some(avoided) => told.and(&format!("{avoided}, which did not answer, is avoided.")).fact("avoided", avoided),
        None => told,
    }
}

/// Where a next hop leads, without the prefix: the sentence begins with what the prefix does.
fn route(destination: IpAddr, way: &Way, names: &Names) -> Told {
    let Way { kind, port, station, vtep, mtu } = *way;
    match kind {
        Kind::Plain | Kind::Overlay | Kind::Relay => {
            let port = names.port(port);
            let (over, kind) = match vtep {
                Some(vtep) => {
                    let name = if kind == Kind::Relay { "relay" } else { "overlay" };
                    (format!("over the overlay to {}, by {port}", node(vtep, names)), name)
                }
                None => (format!("to {station} at {port}"), "plain"),
            };
            told(format!("leads {over} (MTU {mtu})."))
                .fact("next_hop", kind)
                .maybe("vtep", vtep.map(address))
                .fact("station", station)
                .fact("port", port)
                .fact("mtu", mtu)
        }
        Kind::Local => told("is the switch's own.").fact("next_hop", "local"),
        Kind::Unreachable => {
            told(format!("leads nowhere: {destination} cannot be reached.")).fact("next_hop", "unreachable")
        }
        Kind::ServiceRange => told("is a range of services.").fact("next_hop", "service_range"),
        Kind::Unresolved => {
            told("leads to a station whose MAC address is not known yet.").fact("next_hop", "unresolved")
        }
    }
}

/// What a frontend is: for people, and for machines.
fn kind(kind: FrontendKind) -> (&'static str, Option<&'static str>) {
    match kind {
        FrontendKind::ClusterIp => (", its ClusterIP", Some("cluster_ip")),
        FrontendKind::NodePort => (", its node port", Some("node_port")),
        FrontendKind::LoadBalancer => (", its load balancer's address", Some("load_balancer")),
        FrontendKind::ExternalIp => (", an external IP of it", Some("external_ip")),
    }
}

fn scheduler_name(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Maglev => "maglev",
        Scheduler::RoundRobin => "round-robin",
        Scheduler::LeastConnections => "least-connections",
        Scheduler::SourceHash => "source-hash",
    }
}

/// A VTEP, by its node's name if it is known.
fn node(vtep: u32, names: &Names) -> String {
    let address = address(vtep);
    names.node(vtep.into()).map_or_else(|| address.clone(), |node| format!("{node} ({address})"))
}

/// A VTEP's address, given as a number.
pub(super) fn address(address: u32) -> String {
    Ipv4Addr::from(address).to_string()
}

fn socket(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn endpoint(backend: Backend<IpAddr>) -> String {
    socket(backend.address, backend.port)
}

/// Who sends to whom, with ports if there are any. Of an ICMP echo, the port of the one who asks is its identifier.
pub(super) fn ends(tuple: FiveTuple<IpAddr>) -> [String; 2] {
    let FiveTuple { src, dst, src_port, dst_port, .. } = tuple;
    let has_ports = matches!(tuple.protocol, ipv4::TCP | ipv4::UDP | ipv4::SCTP) && (src_port, dst_port) != (0, 0);
    if has_ports { [socket(src, src_port), socket(dst, dst_port)] } else { [src.to_string(), dst.to_string()] }
}

/// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or the number.
pub(super) fn protocol(number: u8) -> String {
    match number {
        ipv4::TCP => "tcp".into(),
        ipv4::UDP => "udp".into(),
        ipv4::SCTP => "sctp".into(),
        ipv4::ICMP => "icmp".into(),
        ipv6::ICMPV6 => "icmpv6".into(),
        other => other.to_string(),
    }
}

/// The names of a TCP header's flags.
pub(super) fn flags(flags: u8) -> String {
    let known = [
        (tcp::FIN, "FIN"),
        (tcp::SYN, "SYN"),
        (tcp::RST, "RST"),
        (tcp::PSH, "PSH"),
        (tcp::ACK, "ACK"),
        (tcp::URG, "URG"),
    ];
    let set: Vec<_> = known.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| name).collect();
    set.join(" ")
}
