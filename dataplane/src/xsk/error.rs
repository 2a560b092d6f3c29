//! What can go wrong when ports are attached, each with what to do about it.

use std::{error::Error, io};

use xsk_rs::{socket::SocketCreateError, umem::UmemCreateError};

/// Why a worker's memory, a socket or the classifier could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// The worker's memory could not be registered.
    #[error("cannot register {frames} frames as AF_XDP memory: {source}; {hint}")]
    Memory {
        /// Frames asked for.
        frames: u32,
        /// What to do.
        hint: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device that keeps a worker's memory registered could not be made.
    #[error("cannot create the TAP device that keeps AF_XDP memory registered: {source}; {hint}")]
    Anchor {
        /// What to do.
        hint: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No interface of that name.
    #[error(
        "interface {interface}: not found in this network namespace; check the name (ip link), \
         and that the daemon runs in the node's network namespace"
    )]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// A fact about an interface could not be read.
    #[error("interface {interface}: cannot read its {fact}: {source}")]
    Facts {
        /// Its name.
        interface: String,
        /// What was asked.
        fact: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The interface carries packets longer than a frame holds.
    #[error(
        "interface {interface}: its MTU of {mtu} bytes does not fit a frame, which takes up to {limit}; \
         lower it (ip link set dev {interface} mtu 1500) on both ends"
    )]
    MtuTooLarge {
        /// Its name.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The longest MTU a frame takes, in bytes.
        limit: u32,
    },
    /// The interface has no such receive queue.
    #[error("interface {interface}: there is no queue {queue}, it has {queues} (ethtool -l {interface})")]
    NoQueue {
        /// Its name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// Receive queues it has.
        queues: u32,
    },
    /// So many ports share the worker's memory that none is left for another one to receive into.
    #[error(
        "interface {interface}: the worker's {frames} frames are all spoken for by its other ports; \
         give it more ([workers] frames) or use more workers"
    )]
    FramesExhausted {
        /// Its name.
        interface: String,
        /// Frames of the worker.
        frames: u32,
    },
    /// A port's own memory came back incomplete: a defect of the switch.
    #[error(
        "interface {interface}: {missing} frames of its memory are missing, so the memory and its first queue stay taken; \
         restart shuntd, and report this as a defect"
    )]
    FramesMissing {
        /// Interface.
        interface: String,
        /// Frames that are neither free nor in a device.
        missing: u32,
    },
    /// The socket could not be opened or bound.
    #[error("interface {interface} queue {queue}: cannot open an AF_XDP socket: {source}; {hint}")]
    Socket {
        /// Interface.
        interface: String,
        /// Its queue.
        queue: u32,
        /// What to do.
        hint: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else's XDP program is on the interface.
    #[error(
        "interface {interface}: XDP program '{program}' (id {id}) is already attached; \
         stop its owner or remove it (ip link set dev {interface} xdp off); \
         programs named shunt_* belong to another running shuntd"
    )]
    ForeignProgram {
        /// Interface.
        interface: String,
        /// The program's name, as `bpftool prog` shows it.
        program: String,
        /// Its kernel id.
        id: u32,
    },
    /// The classifier could not be tried on a packet.
    #[error("interface {interface}: cannot run the XDP classifier on a packet: {reason}")]
    TestRun {
        /// Interface.
        interface: String,
        /// The kernel's answer.
        reason: String,
    },
    /// The classifier could not be loaded into the kernel.
    #[error("interface {interface}: cannot load the XDP classifier: {reason}; {hint}")]
    Load {
        /// Interface.
        interface: String,
        /// What failed.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The classifier could not be attached.
    #[error("interface {interface}: cannot attach the XDP classifier in {mode} mode: {reason}; {hint}")]
    Attach {
        /// Interface.
        interface: String,
        /// The mode tried last.
        mode: super::XdpMode,
        /// What failed.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The program of the host port's other end could not be attached.
    #[error("interface {interface}: cannot attach a tc program: {reason}")]
    AttachTraffic {
        /// Interface.
        interface: String,
        /// What failed.
        reason: String,
    },
    /// One of the classifier's maps refused an entry.
    #[error("interface {interface}: cannot update the classifier's {map} map: {reason}")]
    Map {
        /// Interface.
        interface: String,
        /// The map's name, as `bpftool map` shows it.
        map: &'static str,
        /// What failed.
        reason: String,
    },
}

/// What to do about a refused AF_XDP socket.
pub(super) fn socket_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "the capability CAP_NET_RAW is missing: run as root or grant it",
        Some(libc::EBUSY) => "another AF_XDP socket has this queue: stop its owner (another running shuntd?)",
        Some(libc::EAFNOSUPPORT) => "this kernel was built without CONFIG_XDP_SOCKETS",
        Some(libc::ENOBUFS | libc::ENOMEM) => MEMORY_LIMIT,
        Some(libc::EINVAL) => {
            "this worker has the queue open already, the queue is gone, or the kernel is older than 5.10"
        }
        Some(libc::EOPNOTSUPP) => "the driver cannot do that (zero-copy mode)",
        _ => "is the interface still there?",
    }
}

/// What to do about memory that was not registered.
pub(super) fn memory_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => MEMORY_LIMIT,
        _ => socket_hint(error),
    }
}

/// What to do about a BPF system call that was refused.
pub(super) fn bpf_hint(error: Option<i32>) -> &'static str {
    match error {
        Some(libc::EPERM | libc::EACCES) => {
            "the capabilities CAP_BPF and CAP_NET_ADMIN are missing: run as root or grant them"
        }
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP: use mode auto or generic",
        Some(libc::ENOSPC) => "on veth, native XDP needs as many receive queues as the peer has transmit queues",
        Some(libc::ERANGE | libc::EINVAL) => {
            "the driver refuses native XDP at this MTU or with these offloads: use mode auto or generic"
        }
        _ => "the kernel log (dmesg) may say more",
    }
}

const MEMORY_LIMIT: &str =
    "raise the limit on locked memory (ulimit -l, LimitMEMLOCK=infinity), grant CAP_IPC_LOCK, or use fewer frames";

/// The kernel's answer inside an error of xsk-rs, whose own text does not carry it.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> io::Error {
    let code = error.source().and_then(|s| s.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    code.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

impl XskError {
    pub(super) fn memory(frames: u32, error: &UmemCreateError) -> XskError {
        let source = os_error(error);
        XskError::Memory { frames, hint: memory_hint(&source), source }
    }

    pub(super) fn socket(interface: &str, queue: u32, error: &SocketCreateError) -> XskError {
        let source = os_error(error);
        XskError::Socket { interface: interface.into(), queue, hint: socket_hint(&source), source }
    }
}

/// An error and what caused it, in one line: aya's own texts leave the cause out.
pub fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
