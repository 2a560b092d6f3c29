//! Counters for Prometheus (text exposition format 0.0.4) at `GET /metrics`.

use std::{fmt::Write, future::Future, io, net::SocketAddr};

use hyper::{Method, StatusCode};
use shunt_dataplane::{
    switch::{PortReport, SwitchReport, WorkerReport},
    verdict::{Answer, DropReason},
};
use tokio::net::TcpListener;

use crate::{
    controller::ControllerHandle,
    http::{self, Asked},
    names::port_names,
};

/// An endpoint that listens.
#[derive(Debug)]
pub struct Metrics {
    listener: TcpListener,
}

impl Metrics {
    /// Listens at `address`.
    pub async fn bind(address: SocketAddr) -> io::Result<Metrics> {
        Ok(Metrics { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers scrapes until `stop`.
    pub async fn serve(self, controller: ControllerHandle, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = http::serve(self.listener, move |asked| respond(asked, controller.clone())) => {}
            () = stop => {}
        }
    }
}

async fn respond(asked: Asked, controller: ControllerHandle) -> http::Answer {
    const TEXT: &str = "text/plain; version=0.0.4";
    if asked.method() != Method::GET {
        return http::answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered here\n".to_owned());
    }
    if asked.uri().path() != "/metrics" {
        return http::answer(StatusCode::NOT_FOUND, TEXT, "there is only /metrics here\n".to_owned());
    }
    match tokio::task::spawn_blocking(move || render(&controller)).await {
        Ok(page) => http::answer(StatusCode::OK, TEXT, page),
        Err(e) => http::answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{e}\n")),
    }
}

fn render(controller: &ControllerHandle) -> String {
    let report = controller.engine().report();
    let (observed, state) = (controller.observed(), controller.feed().state());
    let names = port_names(&controller.identity().config, &state);
    let label = |interface: &str| {
        let name = names.get(interface).map_or("", String::as_str);
        format!("port=\"{}\",interface=\"{}\"", escape(name), escape(interface))
    };
    let labels: Vec<(&PortReport, String)> = report
        .ports
        .iter()
        .map(|port| {
            let attached = observed.attachments.iter().find(|(_, a)| a.info().is_some_and(|info| info.id == port.id));
            (port, label(attached.map_or("", |(interface, _)| interface)))
        })
        .collect();
    let pending = observed.attachments.iter().filter(|(_, attachment)| attachment.pending().is_some()).count();

    let mut page = Page::default();
    page.ports(&labels);
    page.workers(&report.workers);
    page.switch(&report);
    page.one("shunt_state_version", "counter", "Version of the desired state.", state.version);
    page.one("shunt_services", "gauge", "Services of the desired state.", state.services().count() as u64);
    let checks = observed.health_problems.len() as u64;
    page.one("shunt_health_checks_failing", "gauge", "Health check node ports at which nobody answers.", checks);
    page.one("shunt_ports_pending", "gauge", "Ports that should be attached and are not.", pending as u64);
    page.text
}

/// A label's value (exposition format: backslash, quote and line feed are escaped).
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: impl Iterator<Item = (String, u64)>) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
        }
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }

    fn ports(&mut self, ports: &[(&PortReport, String)]) {
        type Field = fn(&PortReport) -> u64;
        let families: [(&str, &str, Field); 11] = [
            ("received_packets", "Packets received.", |p| p.rx_packets),
            ("received_bytes", "Bytes received.", |p| p.rx_bytes),
            ("missed_packets", "Packets the device dropped before the switch saw them.", |p| p.missed),
            ("transmitted_packets", "Packets transmitted.", |p| p.tx_packets),
            ("transmitted_bytes", "Bytes transmitted.", |p| p.tx_bytes),
            ("transmit_dropped_packets", "Packets to this port for which its device had no room.", |p| p.tx_dropped),
            ("transmit_no_frame_packets", "Packets to this port for which its memory had no frame.", |p| p.tx_no_frame),
            ("transmit_limited_packets", "Packets to this port beyond its bandwidth limit.", |p| p.tx_limited),
            ("forwarded_packets", "Packets received here and sent out of another port.", |p| p.forwarded),
            ("fragments", "Fragments beyond the first that packets received here were cut into.", |p| p.fragments),
            ("to_host_packets", "Packets received here and delivered to the host.", |p| p.to_host),
        ];
        for (name, help, field) in families {
            let samples = ports.iter().map(|(port, labels)| (labels.clone(), field(port)));
            self.family(&format!("shunt_port_{name}_total"), "counter", help, samples);
        }
        let answers = ports.iter().flat_map(|(port, labels)| {
            let sample =
                move |(answer, packets): &(Answer, u64)| (format!("{labels},answer=\"{}\"", answer.name()), *packets);
            port.answers.iter().map(sample)
        });
        let help = "Packets received here and turned into an answer of the switch's own.";
        self.family("shunt_port_answered_packets_total", "counter", help, answers);
        let drops = ports.iter().flat_map(|(port, labels)| {
            let sample = move |(reason, packets): &(DropReason, u64)| {
                (format!("{labels},reason=\"{}\"", reason.name()), *packets)
            };
            port.drops.iter().map(sample)
        });
        self.family("shunt_port_dropped_packets_total", "counter", "Packets received here and dropped.", drops);
        let held = ports.iter().map(|(port, labels)| (labels.clone(), port.held));
        let help = "Fragments received here that wait for the first one of their datagram.";
        self.family("shunt_port_held_packets", "gauge", help, held);
    }

    fn workers(&mut self, workers: &[WorkerReport]) {
        type Field = fn(&WorkerReport) -> u64;
        let families: [(&str, &str, Field); 8] = [
            ("packets", "Packets a worker has taken in.", |w| w.packets),
            ("bursts", "Bursts a worker has taken in.", |w| w.bursts),
            ("sleeps", "Times a worker went to sleep.", |w| w.sleeps),
            ("flows_opened", "Flows a worker put into the connection table.", |w| w.flows_opened),
            ("flows_expired", "Flows a worker expired.", |w| w.flows_expired),
            ("flows_gave_way", "Half open flows a worker removed from a full table.", |w| w.flows_gave_way),
            ("flows_unanswered", "Connections begun anew: their backend did not answer.", |w| w.flows_unanswered),
            ("clients_forgotten", "Clients with session affinity forgotten for want of room.", |w| w.clients_forgotten),
        ];
        for (name, help, field) in families {
            let samples = workers.iter().map(|w| (format!("core=\"{}\"", w.core), field(w)));
            self.family(&format!("shunt_worker_{name}_total"), "counter", help, samples);
        }
        let memories = workers.iter().flat_map(|w| w.memories.iter().map(move |memory| (w.core, memory)));
        let frames = memories.flat_map(|(core, m)| {
            let port = m.port.map(|port| port.to_string()).unwrap_or_default();
            let places = [("free", m.free), ("in_hand", m.in_hand), ("receive", m.receive), ("transmit", m.transmit)];
            places.map(|(place, frames)| {
                (format!("core=\"{core}\",own_port_id=\"{port}\",place=\"{place}\""), u64::from(frames))
            })
        });
        let help =
            "Frames of a worker's memories, by where they are; own_port_id: of the one that this port has for itself.";
        self.family("shunt_worker_frames", "gauge", help, frames);
    }

    fn switch(&mut self, report: &SwitchReport) {
        self.one(
            "shunt_generation",
            "counter",
            "Forwarding generation that every worker has adopted.",
            report.generation,
        );
        self.one("shunt_flows", "gauge", "Flows in the connection table.", report.flows_in_use.into());
        self.one(
            "shunt_flow_capacity",
            "gauge",
            "Flows the connection table has room for.",
            report.flow_capacity.into(),
        );
        let imbalances = report.imbalances().len() as u64;
        self.one("shunt_imbalances", "gauge", "Accounts that do not add up (packets in flight may show).", imbalances);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }

    #[test]
    fn families_have_help_type_and_samples() {
        let mut page = Page::default();
        page.family("f", "counter", "Help.", [("a=\"b\"".to_owned(), 7)].into_iter());
        page.one("g", "gauge", "One.", 1);
        assert_eq!(page.text, "# HELP f Help.\n# TYPE f counter\nf{a=\"b\"} 7\n# HELP g One.\n# TYPE g gauge\ng 1\n");
    }
}
