//! Which interfaces are in the switch, which wait to be, and under which numbers.

use std::collections::BTreeMap;

use shunt_dataplane::{
    spec::{MAX_PORTS, PortId, PortRole},
    switch::{AttachSpec, PortInfo},
    xsk::{MemoryChoice, UplinkFilter, XdpMode},
};

use crate::{compile::AttachedPorts, config::Config, desired::State, engine::Engine, kernel::KernelView};

/// An interface that should be in the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    role: PortRole,
    classify: UplinkFilter,
    memory: MemoryChoice,
    /// The other end, which the kernel has, of a host port.
    kernel_end: Option<String>,
}

/// Every interface that should be in the switch, by its name.
pub fn wanted(config: &Config, state: &State, view: &KernelView) -> BTreeMap<String, Wanted> {
    let plain =
        |role| Wanted { role, classify: UplinkFilter::default(), memory: MemoryChoice::Shared, kernel_end: None };
    let udp_port = config.vxlan.as_ref().map(|vxlan| vxlan.udp_port);
    let classify = UplinkFilter {
        vxlan: view.underlay.zip(udp_port),
        native: if config.node.isolated { Vec::new() } else { vec![config.node.pod_cidr] },
    };
    let mut wanted: BTreeMap<_, _> = state.ports().map(|port| (port.interface.clone(), plain(PortRole::Pod))).collect();
    // Of an isolated node's own, only what has its overlay address is taken.
    let kernel_end = (!config.node.isolated).then(|| config.host.clone());
    wanted.insert(config.host_peer(), Wanted { kernel_end, ..plain(PortRole::Host) });
    let memory = config.uplink_memory;
    wanted.insert(config.uplink.clone(), Wanted { classify, memory, ..plain(PortRole::Uplink) });
    wanted
}

/// One interface's place in the switch, or why it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// As it was wanted.
    pub wanted: Wanted,
    /// How it fares.
    pub progress: Progress,
}

/// How an attachment fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It is in the switch.
    Attached {
        /// What the engine says of it.
        info: PortInfo,
        /// The kernel's number of the interface that was attached.
        link: u32,
    },
    /// It is not, for this reason.
    Pending(String),
}

impl Attachment {
    /// What the engine says of it; `None` while it is pending.
    pub fn info(&self) -> Option<&PortInfo> {
        match &self.progress {
            Progress::Attached { info, .. } => Some(info),
            Progress::Pending(_) => None,
        }
    }

    /// Why it is not in the switch.
    pub fn pending(&self) -> Option<&str> {
        match &self.progress {
            Progress::Attached { .. } => None,
            Progress::Pending(why) => Some(why),
        }
    }

    /// Its role.
    pub fn role(&self) -> PortRole {
        self.wanted.role
    }
}

/// All attachments by interface. A value: what it says of the engine is true for the one the controller holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachments {
    by_interface: BTreeMap<String, Attachment>,
    /// Numbers that the engine did not let go of.
    stuck: Vec<PortId>,
}

impl Attachments {
    /// All of them, by interface.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attachment)> {
        self.by_interface.iter().map(|(interface, attachment)| (interface.as_str(), attachment))
    }

    /// The one of `interface`.
    pub fn get(&self, interface: &str) -> Option<&Attachment> {
        self.by_interface.get(interface)
    }

    /// Those in the switch, as compilation needs them.
    pub fn attached(&self) -> AttachedPorts<'_> {
        let mut ports = AttachedPorts::default();
        for (interface, attachment) in self.iter() {
            let Some(info) = attachment.info() else { continue };
            match attachment.role() {
                PortRole::Uplink => ports.uplink = Some(info.id),
                PortRole::Host => ports.host = Some(info.id),
                PortRole::Pod => {}
            }
            ports.by_interface.insert(interface, (attachment.role(), info));
        }
        ports
    }

    /// Forgets what is not wanted any more, or is not the same interface any more. Returns the numbers of those that
    /// were in the switch: they are to be detached once nothing forwards to them.
    pub fn retain(&mut self, wanted: &BTreeMap<String, Wanted>, view: &KernelView) -> Vec<PortId> {
        let mut gone = Vec::new();
        self.by_interface.retain(|interface, attachment| {
            let Progress::Attached { info, link } = &attachment.progress else { return wanted.contains_key(interface) };
            let same_link = view.links.get(interface).is_some_and(|now| now.index == *link);
            let keep = same_link && wanted.get(interface).is_some_and(|wanted| wanted.role == attachment.wanted.role);
            if !keep {
                gone.push(info.id);
            }
            keep
        });
        gone
    }

    /// Attaches what is wanted and is not there; numbers in `reserved` are not given out. Returns the new numbers.
    pub fn attach(
        &mut self,
        engine: &dyn Engine,
        mode: XdpMode,
        wanted: &BTreeMap<String, Wanted>,
        view: &KernelView,
        reserved: &[PortId],
    ) -> Vec<PortId> {
        let mut fresh = Vec::new();
        for (interface, wanted) in wanted {
            if self.get(interface).is_some_and(|attachment| attachment.info().is_some()) {
                continue;
            }
            let progress = match (view.links.get(interface), self.free_number(reserved)) {
                (None, _) => {
                    Progress::Pending(format!("interface {interface} does not exist; waiting for it to appear"))
                }
                (_, None) => Progress::Pending(format!("all {MAX_PORTS} port numbers are in use; remove a port")),
                (Some(link), Some(id)) => {
                    let Wanted { role, classify, memory, kernel_end } = wanted.clone();
                    let (xdp_mode, name) = (mode, interface.clone());
                    let spec = AttachSpec { id, interface: name, role, xdp_mode, classify, memory, kernel_end };
                    match engine.attach(spec) {
                        Ok(info) => {
                            log_attached(&info, role);
                            fresh.push(id);
                            Progress::Attached { info, link: link.index }
                        }
                        Err(e) => {
                            let why = format!("{e}; it is tried again");
                            // Said once, however often it is tried.
                            if self.get(interface).and_then(Attachment::pending) != Some(&why) {
                                tracing::warn!(interface, "cannot attach: {why}");
                            }
                            Progress::Pending(why)
                        }
                    }
                }
            };
            self.by_interface.insert(interface.clone(), Attachment { wanted: wanted.clone(), progress });
        }
        fresh
    }

    /// Makes the uplink take what it should now. What fails is tried again the next time.
    pub fn classify(&mut self, engine: &dyn Engine, wanted: &BTreeMap<String, Wanted>) {
        for (interface, attachment) in &mut self.by_interface {
            let (Progress::Attached { info, .. }, Some(wanted)) = (&attachment.progress, wanted.get(interface)) else {
                continue;
            };
            if attachment.wanted.classify != wanted.classify {
                match engine.classify(info.id, &wanted.classify) {
                    Ok(()) => attachment.wanted = wanted.clone(),
                    Err(e) => tracing::error!(interface, "cannot change what is taken from the kernel: {e}"),
                }
            }
        }
    }

    /// Marks a number as never to be used again.
    pub fn abandon(&mut self, id: PortId) {
        self.stuck.push(id);
    }

    /// True if something exists and could not be attached: time may help.
    pub fn worth_retrying(&self, view: &KernelView) -> bool {
        self.iter().any(|(interface, a)| a.pending().is_some() && view.links.contains_key(interface))
    }

    fn free_number(&self, reserved: &[PortId]) -> Option<PortId> {
        let used = |id: &PortId| {
            reserved.contains(id)
                || self.stuck.contains(id)
                || self.by_interface.values().any(|a| a.info().is_some_and(|info| info.id == *id))
        };
        (0..MAX_PORTS as u16).map(PortId).find(|id| !used(id))
    }
}

fn log_attached(info: &PortInfo, role: PortRole) {
    let (interface, id, queues, mode) = (&info.interface, info.id.0, info.queues, info.xdp_mode);
    tracing::info!(interface, id, ?role, queues, ?mode, zero_copy = info.zero_copy, "attached");
    if let Some(why) = &info.why_copy {
        tracing::info!(interface, "no zero-copy mode, so the kernel copies its packets: {why}");
    }
    if let Some(why) = &info.not_led {
        tracing::warn!(
            interface,
            "the node's own processes do not reach node ports, load balancer addresses and external IPs by the switch, nor do \
             they see the addresses of clients outside, and fragments that overtake their first one on the uplink are lost: \
             no tc program is attached: {why}"
        );
    }
}
