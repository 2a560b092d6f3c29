//! What would become of a packet, step by step.

use std::collections::BTreeMap;

use serde::Serialize;
use shunt_control_api::v1;

use super::tables::{render, table};

/// The packet and the answer to it, a table each.
pub fn text(answer: &v1::ExplainResponse) -> String {
    let packets = [("", &answer.packet), ("The answer to it: ", &answer.answer)];
    let told = packets.into_iter().filter_map(|(intro, packet)| Some(format!("{intro}{}", one(packet.as_ref()?))));
    let told: Vec<_> = told.collect();
    format!("{}\n\nBy forwarding generation {}.", told.join("\n\n"), answer.generation)
}

fn one(packet: &v1::ExplainedPacket) -> String {
    let v1::ExplainedPacket { source, destination, protocol, tcp_flags, port, vtep, .. } = packet;
    let flags = if tcp_flags.is_empty() { String::new() } else { format!(" {tcp_flags}") };
    let over = if vtep.is_empty() { String::new() } else { format!(" over the overlay from {vtep}") };
    let mut table = table(["STAGE", "FOUND"]);
    for step in &packet.steps {
        table.add_row([&step.stage, &step.sentence]);
    }
    table.add_row([fate(packet.fate()), &verdict(packet)]);
    format!("{protocol}{flags} {source} -> {destination}, in by {port}{over}\n{}", render(&table))
}

fn verdict(packet: &v1::ExplainedPacket) -> String {
    let sentence = &packet.sentence;
    if packet.reason.is_empty() { sentence.clone() } else { format!("{}: {sentence}", packet.reason) }
}

/// The name of a fate: an interface, as field names are.
fn fate(fate: v1::Fate) -> &'static str {
    match fate {
        v1::Fate::Unspecified => "unknown",
        v1::Fate::Forwarded => "forwarded",
        v1::Fate::ToHost => "to_host",
        v1::Fate::Answered => "answered",
        v1::Fate::Dropped => "dropped",
        v1::Fate::Waits => "waits",
        v1::Fate::LeftToKernel => "left_to_kernel",
    }
}

#[derive(Serialize)]
pub struct Explanation<'a> {
    generation: u64,
    packet: Option<Packet<'a>>,
    /// What its receiver answers, if it is sent on.
    answer: Option<Packet<'a>>,
}

#[derive(Serialize)]
struct Packet<'a> {
    source: &'a str,
    destination: &'a str,
    protocol: &'a str,
    tcp_flags: &'a str,
    port: &'a str,
    vtep: &'a str,
    steps: Vec<Step<'a>>,
    fate: &'static str,
    reason: &'a str,
    sentence: &'a str,
    out_port: &'a str,
    sent_source: &'a str,
    sent_destination: &'a str,
}

#[derive(Serialize)]
struct Step<'a> {
    stage: &'a str,
    sentence: &'a str,
    facts: &'a BTreeMap<String, String>,
}

impl<'a> From<&'a v1::ExplainResponse> for Explanation<'a> {
    fn from(answer: &'a v1::ExplainResponse) -> Self {
        let packet = |packet: &'a v1::ExplainedPacket| Packet {
            source: &packet.source,
            destination: &packet.destination,
            protocol: &packet.protocol,
            tcp_flags: &packet.tcp_flags,
            port: &packet.port,
            vtep: &packet.vtep,
            steps: packet.steps.iter().map(Step::from).collect(),
            fate: fate(packet.fate()),
            reason: &packet.reason,
            sentence: &packet.sentence,
            out_port: &packet.out_port,
            sent_source: &packet.sent_source,
            sent_destination: &packet.sent_destination,
        };
        Explanation {
            generation: answer.generation,
            packet: answer.packet.as_ref().map(packet),
            answer: answer.answer.as_ref().map(packet),
        }
    }
}

impl<'a> From<&'a v1::ExplainedStep> for Step<'a> {
    fn from(step: &'a v1::ExplainedStep) -> Self {
        Step { stage: &step.stage, sentence: &step.sentence, facts: &step.facts }
    }
}
