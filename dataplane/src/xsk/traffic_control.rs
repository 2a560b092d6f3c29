//! The programs beside an uplink's classifier, for what XDP cannot see or do (`bpf/traffic_control.h`): they lead what the
//! node's own processes send to frontends of services to the switch, and what they answer to clients that it led to them; and
//! give it copies of fragments that overtake the first one of their datagram. Why: `docs/decisions/0013-the-node-s-own-way-to-node-ports.md` and
//! `docs/decisions/0015-fragments-that-overtake-the-first-one.md`.
//!
//! As the classifier, they hang on links that end with this process. Older kernels have none for them, and then no program
//! is attached: it would outlive a process that is killed.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun, TestRunOptions, links::FdLink,
        tc::TcAttachOptions,
    },
};

use super::{
    Interface,
    guard::{self, ANSWERS, Answer, Former, GUARD},
    kernel, with_sources,
};
use crate::{net::MacAddr, stages::fragments::OVERTAKER};

const FROM_NODE: &str = "shunt_from_node";
const TO_NODE: &str = "shunt_to_node";
const OVERTAKING: &str = "shunt_overtaking";

/// `struct host_port`, as it lies in memory.
type Value = [u8; 32];

/// The node's way to the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The kernel's end.
    pub kernel: Interface,
    /// The address of the switch's end.
    pub switch: MacAddr,
}

/// The programs on one uplink, on `lo` and on the node's end of the host port. Dropping it detaches them.
pub(super) struct TrafficControl {
    host_port: Array<MapData, Value>,
    /// On the uplink and `lo`, or why they are not there.
    links: Result<Vec<FdLink>, String>,
    /// Where they lead, and the program there.
    led: Option<(HostPort, FdLink)>,
}

impl TrafficControl {
    /// Attaches the programs, if this kernel can. They let all pass until they are [led](TrafficControl::lead) somewhere.
    pub(super) fn attach(program: &mut Ebpf, host_port: Array<MapData, Value>, uplink: &Interface) -> TrafficControl {
        let links = attach_all(program, uplink).map_err(|e| refusal(&with_sources(&e), &kernel::release()));
        TrafficControl { host_port, links, led: None }
    }

    /// Why the programs are not there; `None`: they are.
    pub(super) fn missing(&self) -> Option<&str> {
        self.links.as_ref().err().map(String::as_str)
    }

    /// Leads what is the switch's to this host port, or nothing anywhere.
    pub(super) fn lead(&mut self, program: &mut Ebpf, to: Option<&HostPort>) -> Result<(), ProgramError> {
        if self.links.is_err() || self.led.as_ref().map(|(host_port, _)| host_port) == to {
            return Ok(());
        }
        self.led = None;
        let link = to.map(|to| attach(named(program, TO_NODE), &to.kernel.name, TcAttachType::Ingress)).transpose()?;
        self.host_port.set(0, to.map_or([0; 32], value), 0)?;
        self.led = to.cloned().zip(link);
        Ok(())
    }

    /// Whether a packet of the node's own, from its Ethernet header on, is led to the switch: the kernel runs the program on
    /// it.
    pub(super) fn leads(&self, program: &Ebpf, packet: &[u8]) -> Result<bool, ProgramError> {
        const TCX_REDIRECT: u32 = 7;
        if self.links.is_err() {
            return Ok(false);
        }
        let program: &SchedClassifier = program
            .program(FROM_NODE)
            .expect("the object defines this program")
            .try_into()
            .expect("it is in the classifier section");
        let result = program.test_run(TestRunOptions { data_in: Some(packet), ..TestRunOptions::new() });
        result.map(|result| result.return_value == TCX_REDIRECT)
    }
}

/// Attaches what is on the uplink and on `lo`. What a former process left there goes only then.
fn attach_all(program: &mut Ebpf, uplink: &Interface) -> Result<Vec<FdLink>, ProgramError> {
    let former = Former::on(uplink);
    [FROM_NODE, TO_NODE, OVERTAKING, GUARD].into_iter().try_for_each(|name| named(program, name).load())?;
    former.hand_over(&mut answers(program));
    let links = [
        (FROM_NODE, uplink.name.as_str(), TcAttachType::Egress),
        (FROM_NODE, "lo", TcAttachType::Egress),
        (OVERTAKING, &uplink.name, TcAttachType::Ingress),
    ]
    .into_iter()
    .map(|(name, interface, way)| attach(named(program, name), interface, way))
    .collect::<Result<_, _>>()?;
    guard::stay(named(program, GUARD), uplink)?;
    former.detach(uplink)?;
    Ok(links)
}

fn answers(program: &mut Ebpf) -> HashMap<&mut MapData, Answer, u64> {
    program.map_mut(ANSWERS).expect("the object defines this map").try_into().expect("it is a hash map")
}

fn named<'a>(program: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    program
        .program_mut(name)
        .expect("the object defines this program")
        .try_into()
        .expect("it is in the classifier section")
}

fn attach(program: &mut SchedClassifier, interface: &str, way: TcAttachType) -> Result<FdLink, ProgramError> {
    // Before others: as with kube-proxy, whose rules are met before any program.
    let id = program.attach_with_options(interface, way, TcAttachOptions::TcxOrder(LinkOrder::first()))?;
    let link = program.take_link(id)?;
    FdLink::try_from(link).map_err(|_| ProgramError::UnexpectedProgramType)
}

/// What to say of it.
fn refusal(error: &str, release: &str) -> String {
    match kernel::version(release) {
        Some(version) if version < kernel::WITH_TCX => {
            let (major, minor) = kernel::WITH_TCX;
            format!("Linux {major}.{minor} or newer is needed, and this is {release}")
        }
        _ => error.to_owned(),
    }
}

fn value(HostPort { kernel, switch }: &HostPort) -> Value {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&kernel.index.to_ne_bytes());
    bytes[4..8].copy_from_slice(&u32::from(kernel.mtu).to_ne_bytes());
    for (at, sender) in [(8, kernel.mac), (20, OVERTAKER)] {
        bytes[at..at + 6].copy_from_slice(&switch.0);
        bytes[at + 6..at + 12].copy_from_slice(&sender.0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_named_as_the_reason() {
        assert_eq!(
            refusal("Invalid argument", "6.1.0-13-amd64"),
            "Linux 6.6 or newer is needed, and this is 6.1.0-13-amd64"
        );
        assert_eq!(refusal("Operation not permitted", "6.18.4"), "Operation not permitted");
    }
}
