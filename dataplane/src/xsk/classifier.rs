//! Loads the XDP classifier (`bpf/classifier.bpf.c`) and attaches it to an interface.
//!
//! The program hangs on a `bpf_link` whose only holder is this process: when the process ends, however it ends, the
//! program is gone and the kernel sees all frames again. A new daemon then attaches to a clean interface.
#![allow(unsafe_code)]

use std::{
    fmt,
    net::Ipv4Addr,
    os::fd::AsRawFd,
    sync::{LazyLock, Mutex, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, LpmTrie, Map, MapData, XskMap, lpm_trie::Key},
    programs::{ProgramError, TestRun, TestRunOptions, Xdp, links::FdLink, xdp},
};
use ipnet::Ipv4Net;

use super::{
    HostPort, Interface, NodeTraffic, XskDevice, XskError, error::bpf_hint, node_traffic::Taken, survey::program_name,
    traffic_control::TrafficControl, with_sources,
};
use crate::spec::PortRole;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/classifier.bpf.o"));

/// Made once: it reads all types that the kernel has, also for programs like ours that ask for none of them, and that takes
/// longer than attaching.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

/// The program of an uplink.
const UPLINK_PROGRAM: &str = "shunt_uplink";

/// Frontends of services that an uplink can take.
const MAX_FRONTENDS: u32 = 1 << 18;

/// Flows to the node's own processes whose answers an uplink leads to the switch.
const MAX_LED: u32 = 1 << 17;

/// Datagrams in fragments, of translated flows, that an uplink can follow at a time.
const MAX_FRAGMENTED: u32 = 1 << 13;

/// How the classifier is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// [`XdpMode::Native`] if the driver can, else [`XdpMode::Generic`].
    #[default]
    Auto,
    /// In the driver, before the kernel makes a socket buffer of the frame.
    Native,
    /// In the kernel's stack: works on every interface, and costs a socket buffer and a copy more. A pod's segmentation
    /// offload stays on and makes frames that fit no frame of ours: switch it off in the pod (`ethtool -K eth0 tso off`).
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpMode::Auto => "auto",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        })
    }
}

/// What the switch takes from an uplink; all else goes to the kernel. Ignored on other ports, where it takes every frame.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UplinkFilter {
    /// Our address on the underlay and the UDP port on which VXLAN to it is the switch's.
    pub vxlan: Option<(Ipv4Addr, u16)>,
    /// Destinations to which IPv4 packets are the switch's without encapsulation. At most 4096.
    pub native: Vec<Ipv4Net>,
}

/// The classifier on one interface. Dropping it detaches it.
pub struct Classifier {
    interface: String,
    mode: XdpMode,
    fallback: Option<String>,
    sockets: XskMap<MapData>,
    filter: Array<MapData, u64>,
    native: LpmTrie<MapData, u32, u8>,
    node: Taken,
    /// Of an uplink.
    beside: Option<TrafficControl>,
    _link: FdLink,
    program: Ebpf,
}

impl Classifier {
    /// Loads the classifier for `interface` and attaches it, and on an uplink the programs beside it if the kernel has what
    /// they need. Frames go to the kernel (uplink) or are dropped (other
    /// ports) until their queue's socket is registered.
    ///
    /// # Errors
    /// [`XskError::ForeignProgram`] if another XDP program is there, [`XskError::Load`], [`XskError::Attach`] or
    /// [`XskError::Map`] with the kernel's reason.
    pub fn attach(
        interface: &Interface,
        role: PortRole,
        mode: XdpMode,
        filter: &UplinkFilter,
    ) -> Result<Classifier, XskError> {
        refuse_foreign(interface)?;
        let name = &interface.name;
        let load = |reason: String, code| XskError::Load { interface: name.clone(), reason, hint: bpf_hint(code) };
        let mut program = LOADER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map_max_entries("sockets", interface.queues)
            .map_max_entries("frontends", if role == PortRole::Uplink { MAX_FRONTENDS } else { 1 })
            .map_max_entries("fragmented", if role == PortRole::Uplink { MAX_FRAGMENTED } else { 1 })
            .map_max_entries("answers", if role == PortRole::Uplink { MAX_LED } else { 1 })
            .load(OBJECT)
            .map_err(|e| load(with_sources(&e), errno(&e)))?;
        let [sockets, filters, native, frontends, masquerade, host_port] =
            ["sockets", "filter", "native", "frontends", "masquerade", "host_port"]
                .map(|map| program.take_map(map).expect("the object defines this map"));
        let classifier = |mut program: Ebpf, (mode, fallback, link)| -> Result<Classifier, XskError> {
            let host_port = map(host_port, "host_port", name)?;
            let is_uplink = role == PortRole::Uplink;
            Ok(Classifier {
                interface: name.clone(),
                mode,
                fallback,
                sockets: map(sockets, "sockets", name)?,
                filter: map(filters, "filter", name)?,
                native: map(native, "native", name)?,
                node: Taken::new(map(frontends, "frontends", name)?, map(masquerade, "masquerade", name)?),
                beside: is_uplink.then(|| TrafficControl::attach(&mut program, host_port, interface)),
                _link: link,
                program,
            })
        };
        let function = match role {
            PortRole::Uplink => UPLINK_PROGRAM,
            PortRole::Pod | PortRole::Host => "shunt_port",
        };
        let xdp: &mut Xdp = program
            .program_mut(function)
            .expect("the object defines this program")
            .try_into()
            .expect("it is in the xdp section");
        xdp.load().map_err(|e| load(with_sources(&e), errno(&e)))?;
        let attached = attach(xdp, interface, mode)?;
        let mut classifier = classifier(program, attached)?;
        classifier.set_filter(filter)?;
        Ok(classifier)
    }

    /// Whether an uplink's classifier gives a packet, from its Ethernet header on, to the switch: the kernel runs the
    /// program on it, as if it had come in on the first queue.
    ///
    /// # Errors
    /// [`XskError::TestRun`] with the kernel's reason.
    pub fn takes(&self, packet: &[u8]) -> Result<bool, XskError> {
        const XDP_REDIRECT: u32 = 4;
        let program: &Xdp = self
            .program
            .program(UPLINK_PROGRAM)
            .expect("the object defines this program")
            .try_into()
            .expect("it is in the xdp section");
        let result = program.test_run(TestRunOptions { data_in: Some(packet), ..TestRunOptions::new() });
        let failed = |e| XskError::TestRun { interface: self.interface.clone(), reason: with_sources(&e) };
        result.map(|result| result.return_value == XDP_REDIRECT).map_err(failed)
    }

    /// Whether a packet of the node's own, from its Ethernet header on, is led to the switch on its way out of an uplink or
    /// `lo`.
    ///
    /// # Errors
    /// [`XskError::TestRun`] with the kernel's reason.
    pub fn leads(&self, packet: &[u8]) -> Result<bool, XskError> {
        let failed = |e| XskError::TestRun { interface: self.interface.clone(), reason: with_sources(&e) };
        self.beside.as_ref().map_or(Ok(false), |beside| beside.leads(&self.program, packet)).map_err(failed)
    }

    /// Why what the node's own processes send to frontends, and answer to clients outside, is not led to the switch, and
    /// fragments that overtake the first one are lost: the programs that see to it are not beside an uplink's classifier.
    /// `None`: they are, or it is no uplink.
    pub fn missing(&self) -> Option<&str> {
        self.beside.as_ref().and_then(TrafficControl::missing)
    }

    /// How it is attached: [`XdpMode::Native`] or [`XdpMode::Generic`].
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Why [`XdpMode::Auto`] ended in [`XdpMode::Generic`]: the driver's answer.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Sends what is taken on receive queue `queue` to `device`, from now on. The kernel removes the entry by itself when
    /// the device is closed.
    ///
    /// # Errors
    /// [`XskError::Map`] if the interface has no such queue.
    pub fn register(&mut self, queue: u32, device: &XskDevice) -> Result<(), XskError> {
        let result = self.sockets.set(queue, device.as_raw_fd(), 0);
        result.map_err(|e| self.map_error("sockets", &e))
    }

    /// Replaces the uplink's filter while traffic flows. What is in both the old and the new one is taken throughout.
    ///
    /// # Errors
    /// [`XskError::Map`], for example if there are too many native prefixes.
    pub fn set_filter(&mut self, filter: &UplinkFilter) -> Result<(), XskError> {
        let wanted: Vec<(u32, u32)> =
            filter.native.iter().map(|net| (net.prefix_len().into(), address(net.network()))).collect();
        let present: Vec<(u32, u32)> = self
            .native
            .keys()
            .map(|key| key.map(|k| (k.prefix_len(), k.data())))
            .collect::<Result<_, _>>()
            .map_err(|e| self.map_error("native", &e))?;
        for &(length, prefix) in &wanted {
            let result = self.native.insert(&Key::new(length, prefix), 1, 0);
            result.map_err(|e| self.map_error("native", &e))?;
        }
        let result = self.filter.set(0, filter_value(filter), 0);
        result.map_err(|e| self.map_error("filter", &e))?;
        for (length, prefix) in present.into_iter().filter(|key| !wanted.contains(key)) {
            let result = self.native.remove(&Key::new(length, prefix));
            result.map_err(|e| self.map_error("native", &e))?;
        }
        Ok(())
    }

    /// Makes an uplink that was just attached take packets addressed to the node.
    ///
    /// # Errors
    /// [`XskError::Map`], for example if there are too many frontends.
    pub fn set_node_traffic(&mut self, wanted: &NodeTraffic) -> Result<(), XskError> {
        let result = self.node.fill(wanted);
        result.map_err(|(map, e)| self.map_error(map, &e))
    }

    /// Makes it follow the recent changes of what was set, while traffic flows. What stays is taken throughout.
    ///
    /// # Errors
    /// [`XskError::Map`], for example if there are too many frontends.
    pub fn follow_node_traffic(&mut self, wanted: &NodeTraffic) -> Result<(), XskError> {
        let result = self.node.follow(wanted);
        result.map_err(|(map, e)| self.map_error(map, &e))
    }

    /// Says where an uplink's programs lead what is the switch's, while traffic flows; `None`: nowhere. One of them is attached
    /// there.
    ///
    /// # Errors
    /// [`XskError::Map`] or [`XskError::AttachTraffic`] with the kernel's reason.
    pub fn lead(&mut self, to: Option<&HostPort>) -> Result<(), XskError> {
        let Some(beside) = &mut self.beside else { return Ok(()) };
        beside.lead(&mut self.program, to).map_err(|error| match (error, to) {
            (ProgramError::MapError(e), _) => self.map_error("host_port", &e),
            (e, Some(to)) => XskError::AttachTraffic { interface: to.kernel.name.clone(), reason: with_sources(&e) },
            (e, None) => self.map_error("host_port", &e),
        })
    }

    fn map_error(&self, map: &'static str, error: &dyn std::error::Error) -> XskError {
        XskError::Map { interface: self.interface.clone(), map, reason: with_sources(error) }
    }
}

/// `struct filter` of the classifier, written in one piece.
fn filter_value(filter: &UplinkFilter) -> u64 {
    let mut bytes = [0; 8];
    if let Some((vtep, port)) = filter.vxlan {
        bytes[..4].copy_from_slice(&vtep.octets());
        bytes[4..6].copy_from_slice(&port.to_be_bytes());
        bytes[6] = 1;
    }
    bytes[7] = u8::from(!filter.native.is_empty());
    u64::from_ne_bytes(bytes)
}

/// An address as it lies in a packet.
fn address(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn map<M: TryFrom<Map>>(map: Map, name: &'static str, interface: &str) -> Result<M, XskError>
where
    M::Error: std::error::Error,
{
    M::try_from(map).map_err(|e| XskError::Map { interface: interface.into(), map: name, reason: with_sources(&e) })
}

type Attached = (XdpMode, Option<String>, FdLink);

fn attach(program: &mut Xdp, interface: &Interface, mode: XdpMode) -> Result<Attached, XskError> {
    let native = match mode {
        XdpMode::Generic => None,
        XdpMode::Auto | XdpMode::Native => match attach_as(program, interface, xdp::XdpMode::Driver) {
            Ok(link) => return Ok((XdpMode::Native, None, link)),
            Err(error) if mode == XdpMode::Native => return Err(attach_error(interface, XdpMode::Native, &error)),
            Err(error) => Some(with_sources(&error)),
        },
    };
    match attach_as(program, interface, xdp::XdpMode::Skb) {
        Ok(link) => Ok((XdpMode::Generic, native, link)),
        Err(error) => {
            // Somebody may have been quicker.
            refuse_foreign(interface)?;
            Err(attach_error(interface, XdpMode::Generic, &error))
        }
    }
}

fn attach_as(program: &mut Xdp, interface: &Interface, mode: xdp::XdpMode) -> Result<FdLink, ProgramError> {
    let id = program.attach_to_if_index(interface.index, mode)?;
    let link = program.take_link(id)?;
    // A kernel that knows no XDP links (before 5.9) would leave the program behind when the process is killed.
    FdLink::try_from(link).map_err(|_| ProgramError::UnexpectedProgramType)
}

fn attach_error(interface: &Interface, mode: XdpMode, error: &ProgramError) -> XskError {
    XskError::Attach {
        interface: interface.name.clone(),
        mode,
        reason: with_sources(error),
        hint: bpf_hint(errno(error)),
    }
}

fn refuse_foreign(interface: &Interface) -> Result<(), XskError> {
    let mut id = 0;
    // SAFETY: asks the kernel over netlink and writes one number to `id`.
    let code = unsafe { libxdp_sys::bpf_xdp_query_id(interface.index as i32, 0, &mut id) };
    if code < 0 {
        let source = std::io::Error::from_raw_os_error(-code);
        return Err(XskError::Facts { interface: interface.name.clone(), fact: "XDP program", source });
    }
    if id == 0 {
        return Ok(());
    }
    Err(XskError::ForeignProgram { interface: interface.name.clone(), program: program_name(id), id })
}

/// The kernel's error code, wherever in the chain it is.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return Some(code);
        }
        next = error.source();
    }
    None
}
