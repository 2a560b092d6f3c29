//! Answers about packets: what would become of one, told with the names that people know.

mod names;
mod told;

use std::net::{IpAddr, Ipv6Addr};

use shunt_control_api::{FieldError, field, v1};
use shunt_dataplane::{
    explain::{Arrival, Explanation, Fate, Question, QuestionError, Walk},
    flow::FiveTuple,
    verdict::Verdict,
    wire::{icmpv4, icmpv6, ipv4, ipv6},
};

pub(super) use self::names::Names;

/// The question that a request asks.
pub(super) fn question(request: &v1::ExplainRequest, names: &Names) -> Result<Question, FieldError> {
    let protocol = small("protocol", request.protocol, u8::MAX.into())? as u8;
    if protocol == 0 {
        let problem = "is missing; use the number in the IP header: 6 is TCP, 17 UDP, 132 SCTP, 1 ICMP, 58 ICMPv6";
        return Err(FieldError::new("protocol", problem));
    }
    let (src_port, dst_port) = ports(request, protocol)?;
    let (src, dst) = (address("source", &request.source)?, address("destination", &request.destination)?);
    let tuple = FiveTuple { src, dst, src_port, dst_port, protocol };
    if src.is_ipv6() {
        only_of_ipv4(request, protocol)?;
    } else if protocol == ipv6::ICMPV6 {
        return Err(FieldError::new("protocol", "58 is ICMPv6, and the source is of IPv4; use 1, ICMP"));
    }
    let usual = Question::of(tuple);
    let is_connected = matches!(protocol, ipv4::TCP | ipv4::SCTP);
    let tcp_flags = match request.tcp_flags {
        Some(_) if !is_connected => {
            return Err(FieldError::new(
                "tcp_flags",
                "are of TCP and SCTP, and the protocol is another one; leave them out",
            ));
        }
        Some(flags) => small("tcp_flags", flags, u8::MAX.into())? as u8,
        None => usual.tcp_flags,
    };
    let ttl = small("ttl", request.ttl.unwrap_or(usual.ttl.into()), u8::MAX.into())? as u8;
    let length = request.length.map(|length| small("length", length, u16::MAX.into())).transpose()?;
    Ok(Question {
        tuple,
        tcp_flags,
        arrival: arrival(request, names)?,
        length: length.map(|length| length as u16),
        dont_fragment: request.dont_fragment.unwrap_or(usual.dont_fragment),
        ttl,
    })
}

/// Any address that a packet can carry.
fn address(path: &str, text: &str) -> Result<IpAddr, FieldError> {
    match text.parse::<Ipv6Addr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => field::any_address(path, text).map(IpAddr::V4),
    }
}

/// What an IPv6 packet cannot have.
fn only_of_ipv4(request: &v1::ExplainRequest, protocol: u8) -> Result<(), FieldError> {
    if protocol == ipv4::ICMP {
        return Err(FieldError::new("protocol", "1 is ICMP of IPv4, and the source is of IPv6; use 58, ICMPv6"));
    }
    if request.dont_fragment == Some(false) {
        let problem = "is false, and IPv6 packets are fragmented by nobody on their way; leave it out";
        return Err(FieldError::new("dont_fragment", problem));
    }
    Ok(())
}

/// What is wrong with a request that the engine cannot make a packet of.
pub(super) fn impossible(error: QuestionError, names: &Names) -> FieldError {
    let (field, problem) = match error {
        QuestionError::NoSuchPort(id) => ("port", format!("{} is not attached; see shuntctl status", names.port(id))),
        QuestionError::NotOverlay(id) => {
            ("vtep", format!("{} is no uplink with an overlay; leave it out", names.port(id)))
        }
        QuestionError::NoUplink(_) | QuestionError::NoHostPort(_) | QuestionError::NoWay(_) => {
            ("port", format!("is missing, and {error}; name the port that the packet comes in on"))
        }
        QuestionError::NeitherPodNorVtep(_) => ("port", format!("is missing, and {error}; name the port, or a VTEP")),
        QuestionError::TwoFamilies(source, destination) => {
            let family = |address: IpAddr| if address.is_ipv6() { "IPv6" } else { "IPv4" };
            let (wanted, other) = (family(source), family(destination));
            ("destination", format!("{destination} is of {other}, and the source of {wanted}; give both of one family"))
        }
        QuestionError::TooShort(..) | QuestionError::TooLong(..) => ("length", error.to_string()),
    };
    FieldError::new(field, problem)
}

/// The engine's answer, for the caller.
pub(super) fn response(explanation: &Explanation, names: &Names) -> v1::ExplainResponse {
    v1::ExplainResponse {
        generation: explanation.generation.into(),
        packet: Some(packet(&explanation.packet, names)),
        answer: explanation.answer.as_ref().map(|answer| packet(answer, names)),
    }
}

fn packet(walk: &Walk, names: &Names) -> v1::ExplainedPacket {
    let [source, destination] = told::ends(walk.question.tuple);
    let mut packet = v1::ExplainedPacket {
        source,
        destination,
        protocol: told::protocol(walk.question.tuple.protocol),
        tcp_flags: told::flags(walk.question.tcp_flags),
        port: names.port(walk.arrival.port),
        vtep: walk.arrival.vtep.map(told::address).unwrap_or_default(),
        steps: walk.steps.iter().map(|step| told::step(step, walk.question.tuple, names)).collect(),
        ..Default::default()
    };
    let (fate, reason, sentence, out) = match walk.fate {
        Fate::Waits => {
            (v1::Fate::Waits, "", "It waits for the first fragment of its datagram, which has the ports.".into(), None)
        }
        Fate::Kernel if names.is_host(walk.arrival.port) => {
            let sentence = "The node's kernel sends it past the switch: it is to no pod, and to no service.";
            (v1::Fate::LeftToKernel, "", sentence.into(), None)
        }
        Fate::Kernel if walk.question.tuple.src.is_ipv6() && walk.arrival.vtep.is_none() => {
            let sentence = "The uplink's classifier leaves it to the node's kernel: IPv6 is taken inside VXLAN only.";
            (v1::Fate::LeftToKernel, "", sentence.into(), None)
        }
        Fate::Kernel => {
            let sentence = "The uplink's classifier leaves it to the node's kernel: it is neither VXLAN for this node, nor \
                            for its pods, a service or a masqueraded flow.";
            (v1::Fate::LeftToKernel, "", sentence.into(), None)
        }
        Fate::Decided(Verdict::Tx(port)) if names.is_host(port) => {
            (v1::Fate::ToHost, "", "It is given to the node's kernel.".into(), Some(port))
        }
        Fate::Decided(Verdict::Tx(port)) => {
            (v1::Fate::Forwarded, "", format!("It is sent out of {}.", names.port(port)), Some(port))
        }
        Fate::Decided(Verdict::Answer(answer, port)) => {
            let sentence = format!("The switch answers it, out of {}: {}", names.port(port), answer.sentence());
            (v1::Fate::Answered, answer.name(), sentence, Some(port))
        }
        Fate::Decided(Verdict::Drop(reason)) => (v1::Fate::Dropped, reason.name(), reason.sentence().into(), None),
        Fate::Decided(Verdict::Pending | Verdict::Owed(_) | Verdict::Oversized | Verdict::Ipv6) => {
            unreachable!("a walk ends with a fate")
        }
    };
    if matches!(fate, v1::Fate::Forwarded | v1::Fate::ToHost) {
        [packet.sent_source, packet.sent_destination] = told::ends(walk.tuple());
    }
    packet.fate = fate.into();
    packet.reason = reason.into();
    packet.sentence = sentence;
    packet.out_port = out.map(|port| names.port(port)).unwrap_or_default();
    packet
}

/// A number up to `most`.
fn small(path: &str, number: u32, most: u32) -> Result<u32, FieldError> {
    if number <= most { Ok(number) } else { Err(FieldError::new(path, format!("{number} is above {most}"))) }
}

fn ports(request: &v1::ExplainRequest, protocol: u8) -> Result<(u16, u16), FieldError> {
    let (source, destination) = (request.source_port, request.destination_port);
    match protocol {
        ipv4::TCP | ipv4::UDP | ipv4::SCTP => {
            let port = field::transport_port;
            Ok((port("source_port", source)?, port("destination_port", destination)?))
        }
        ipv4::ICMP | ipv6::ICMPV6 if destination == 0 => {
            let asked = if protocol == ipv4::ICMP { icmpv4::ECHO_REQUEST } else { icmpv6::ECHO_REQUEST };
            Ok((small("source_port", source, u16::MAX.into())? as u16, asked.into()))
        }
        _ => {
            let wrong = [("source_port", source), ("destination_port", destination)].into_iter().find(|(_, n)| *n != 0);
            let problem =
                |(path, n)| FieldError::new(path, format!("{n} is a port, and the protocol has none; leave it out"));
            wrong.map_or(Ok((0, 0)), |wrong| Err(problem(wrong)))
        }
    }
}

fn arrival(request: &v1::ExplainRequest, names: &Names) -> Result<Option<Arrival>, FieldError> {
    let vtep = match request.vtep.as_str() {
        "" => None,
        text => Some(field::address("vtep", text)?.into()),
    };
    let name = match request.port.as_str() {
        "" if vtep.is_none() => return Ok(None),
        "" => names::UPLINK,
        name => name,
    };
    let unknown = || {
        let problem =
            format!("{name:?} is not attached; use the name of a pod's port, uplink or host (shuntctl status)");
        FieldError::new("port", problem)
    };
    let port = names.id(name).ok_or_else(unknown)?;
    Ok(Some(Arrival { port, vtep }))
}
