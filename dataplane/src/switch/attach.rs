//! Ports come and go: which memory they use, and that every frame finds its way back.

use crossbeam::channel::bounded;

use super::{PATIENCE, State, Switch, SwitchError, report::PortReport};
use crate::{
    io::{FramePool, PacketIo},
    net::MacAddr,
    spec::{MAX_PORTS, PortId, PortRole},
    worker::{Command, Detached},
    xsk::{
        Classifier, HostPort, Interface, MemoryChoice, PortMemory, Transfer, UplinkFilter, XdpMode, XskDevice, XskError,
    },
};

/// A port to attach.
#[derive(Clone, Debug)]
pub struct AttachSpec {
    /// Its number.
    pub id: PortId,
    /// The interface, in the network namespace of the calling thread.
    pub interface: String,
    /// What stands behind it.
    pub role: PortRole,
    /// How to attach the classifier.
    pub xdp_mode: XdpMode,
    /// What the classifier takes, if it is an uplink.
    pub classify: UplinkFilter,
    /// Which memory its packets are in.
    pub memory: MemoryChoice,
    /// The node's own end of a host port: uplinks lead there what its processes send to services out of them, or by `lo`.
    /// `None`: it is no host port, or nothing is to be led.
    pub kernel_end: Option<String>,
}

/// A port as attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its number.
    pub id: PortId,
    /// Its interface.
    pub interface: String,
    /// The interface's address.
    pub mac: MacAddr,
    /// Longest IP packet it carries, in bytes.
    pub mtu: u16,
    /// Receive queues.
    pub queues: u32,
    /// How the classifier is attached: native or generic.
    pub xdp_mode: XdpMode,
    /// Whether every queue works without copying.
    pub zero_copy: bool,
    /// Why not, if [`MemoryChoice::ZeroCopy`] was asked for.
    pub why_copy: Option<String>,
    /// Of an uplink: why what the node's own processes send to services by it or by `lo`, and what they answer to who came by
    /// it, is not led to the switch, and fragments that overtake their first one are lost. `None`: none of it is so.
    pub not_led: Option<String>,
}

/// A port in the switch.
pub(super) struct AttachedPort {
    pub(super) info: PortInfo,
    pub(super) role: PortRole,
    pub(super) classifier: Classifier,
    /// By which the node reaches it, if it is a host port.
    host_port: Option<HostPort>,
    /// The port's own memory at each worker that has a queue of it.
    memories: Vec<(usize, PortMemory)>,
    /// What its number had counted for others before it was attached.
    pub(super) before: PortReport,
}

impl AttachedPort {
    /// True if it has memory of its own.
    pub(super) fn has_memory(&self) -> bool {
        !self.memories.is_empty()
    }
}

/// A port's queues at one worker, opened and not yet served.
struct Opened {
    worker: usize,
    devices: Vec<XskDevice>,
    own: Option<(PortMemory, FramePool)>,
}

impl Opened {
    /// Closes what was opened: no worker has seen it.
    fn undo(self) -> Result<(), XskError> {
        match self.own {
            Some((memory, pool)) => memory.dissolve(pool, boxed(self.devices)),
            // They hold no frame yet.
            None => Ok(()),
        }
    }
}

impl Switch {
    /// Attaches a port while traffic flows. Its frames are dropped until a published spec names it.
    pub fn attach(&self, spec: AttachSpec) -> Result<PortInfo, SwitchError> {
        let mut state = self.state();
        if usize::from(spec.id.0) >= MAX_PORTS {
            return Err(SwitchError::PortNumber(spec.id));
        }
        if let Some(port) = state.ports.get(&spec.id) {
            return Err(SwitchError::PortInUse(spec.id, port.info.interface.clone()));
        }
        if let Some(port) = state.ports.values().find(|port| port.info.interface == spec.interface) {
            return Err(SwitchError::InterfaceInUse(port.info.id, spec.interface));
        }
        let interface = Interface::query(&spec.interface)?;
        let kernel_end = spec.kernel_end.as_deref().map(Interface::query).transpose()?;
        let host_port = kernel_end.map(|kernel| HostPort { kernel, switch: interface.mac });
        let mut classifier = Classifier::attach(&interface, spec.role, spec.xdp_mode, &spec.classify)?;
        if spec.role == PortRole::Uplink {
            classifier.set_node_traffic(&state.node_traffic)?;
        }
        let (opened, why_copy) = self.open(&spec, &interface, classifier.mode())?;
        let zero_copy = opened.iter().flat_map(|opened| &opened.devices).all(XskDevice::zero_copy);
        let before = self.counted(spec.id);
        let mut memories = Vec::new();
        for opened in opened {
            let worker = opened.worker;
            if let Some((memory, pool)) = opened.own {
                memories.push((worker, memory));
                self.command(worker, Command::Lend(spec.id, pool))?;
            }
            for (device, queue) in opened.devices.into_iter().zip(self.queues_at(worker, &interface)) {
                if let Err(error) = classifier.register(queue, &device) {
                    drop(classifier);
                    self.command(worker, Command::Attach(spec.id, Box::new(device)))?;
                    self.take_back(spec.id, memories)?;
                    return Err(error.into());
                }
                self.command(worker, Command::Attach(spec.id, Box::new(device)))?;
            }
        }
        let info = PortInfo {
            id: spec.id,
            interface: spec.interface,
            mac: interface.mac,
            mtu: interface.mtu,
            queues: interface.queues,
            xdp_mode: classifier.mode(),
            zero_copy,
            why_copy,
            not_led: classifier.missing().map(str::to_owned),
        };
        let port = AttachedPort { info: info.clone(), role: spec.role, classifier, host_port, memories, before };
        state.ports.insert(spec.id, port);
        if let Err(error) = lead(&mut state) {
            let port = state.ports.remove(&spec.id).expect("just put there");
            self.let_go(spec.id, port)?;
            return Err(error.into());
        }
        Ok(info)
    }

    /// Detaches a port while traffic flows; what was in its rings is lost. The interface itself may be gone already.
    pub fn detach(&self, port: PortId) -> Result<(), SwitchError> {
        let mut state = self.state();
        let attached = state.ports.remove(&port).ok_or(SwitchError::NoSuchPort(port))?;
        let led = lead(&mut state);
        self.let_go(port, attached)?;
        Ok(led?)
    }

    pub(super) fn let_go(&self, id: PortId, port: AttachedPort) -> Result<(), SwitchError> {
        // First the program, so that no more frames come.
        drop(port.classifier);
        self.take_back(id, port.memories)
    }

    /// Opens all queues of a port, on the memory it asks for or, where the driver has no zero-copy mode, on the shared
    /// one. Then the text says why.
    fn open(
        &self,
        spec: &AttachSpec,
        interface: &Interface,
        mode: XdpMode,
    ) -> Result<(Vec<Opened>, Option<String>), XskError> {
        let refusal = match spec.memory {
            MemoryChoice::Shared => None,
            MemoryChoice::OwnCopying => {
                return Ok((self.open_each(interface, |at| self.open_own(interface, at, Transfer::Copy))?, None));
            }
            MemoryChoice::ZeroCopy if mode == XdpMode::Generic => Some("the classifier is in generic mode".into()),
            MemoryChoice::ZeroCopy => {
                match self.open_each(interface, |at| self.open_own(interface, at, Transfer::ZeroCopy)) {
                    Ok(opened) => return Ok((opened, None)),
                    Err(error) => Some(error.to_string()),
                }
            }
        };
        Ok((self.open_each(interface, |at| self.open_shared(interface, spec.role, at))?, refusal))
    }

    /// Opens at every worker that serves queues of the interface, or nowhere.
    fn open_each(
        &self,
        interface: &Interface,
        mut open: impl FnMut(usize) -> Result<Opened, XskError>,
    ) -> Result<Vec<Opened>, XskError> {
        let mut all = Vec::new();
        for worker in 0..self.workers.len().min(interface.queues as usize) {
            match open(worker) {
                Ok(opened) => all.push(opened),
                Err(error) => {
                    all.into_iter().try_for_each(Opened::undo)?;
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    fn open_shared(&self, interface: &Interface, role: PortRole, worker: usize) -> Result<Opened, XskError> {
        let memory = &self.workers[worker].memory;
        let queues = self.queues_at(worker, interface).count() as u32;
        let open = |queue| memory.open(&interface.name, queue, role, queues);
        let devices = self.queues_at(worker, interface).map(open).collect::<Result<_, _>>()?;
        Ok(Opened { worker, devices, own: None })
    }

    fn open_own(&self, interface: &Interface, worker: usize, transfer: Transfer) -> Result<Opened, XskError> {
        let queues = self.queues_at(worker, interface);
        let (memory, pool) = PortMemory::new(&interface.name, queues.clone().count() as u32, transfer)?;
        let mut devices = Vec::new();
        for queue in queues {
            match memory.open(queue) {
                Ok(device) => devices.push(device),
                Err(error) => {
                    memory.dissolve(pool, boxed(devices))?;
                    return Err(error);
                }
            }
        }
        Ok(Opened { worker, devices, own: Some((memory, pool)) })
    }

    /// The queues of an interface that a worker serves: they are dealt out in turns.
    fn queues_at(&self, worker: usize, interface: &Interface) -> impl Iterator<Item = u32> + Clone + use<> {
        (worker as u32..interface.queues).step_by(self.workers.len())
    }

    /// Takes a port's devices from the workers, closes them, and returns their frames: to the shared memory, or with the
    /// port's own memory to the system.
    fn take_back(&self, port: PortId, mut memories: Vec<(usize, PortMemory)>) -> Result<(), SwitchError> {
        for worker in 0..self.workers.len() {
            let (reply, detached) = bounded(1);
            self.command(worker, Command::Detach(port, reply))?;
            let Detached { devices, own } =
                detached.recv_timeout(PATIENCE).map_err(|_| SwitchError::WorkerGone(worker))?;
            let at = memories.iter().position(|(at, _)| *at == worker);
            match (own, at) {
                (Some(pool), Some(at)) => memories.swap_remove(at).1.dissolve(pool, devices)?,
                _ => {
                    let frames = devices.into_iter().flat_map(<dyn PacketIo>::close).collect();
                    self.command(worker, Command::Return(frames))?;
                }
            }
        }
        Ok(())
    }
}

/// Makes uplinks lead the node's own packets to the host port that there is now.
fn lead(state: &mut State) -> Result<(), XskError> {
    let host_port = state.ports.values().find_map(|port| port.host_port.clone());
    state.ports.values_mut().try_for_each(|port| port.classifier.lead(host_port.as_ref()))
}

fn boxed(devices: Vec<XskDevice>) -> Vec<Box<dyn PacketIo>> {
    devices.into_iter().map(|device| Box::new(device) as Box<dyn PacketIo>).collect()
}
