//! What stands on an interface before anything is attached to it, and what its driver can do: for those who want to know
//! beforehand.
#![allow(unsafe_code)]

use std::io;

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};

use super::{Interface, XdpMode, XskError, kernel};

/// `enum netdev_xdp_act` of linux/netdev.h.
const REDIRECT: u64 = 1 << 1;
const ZERO_COPY: u64 = 1 << 3;

/// `XDP_ATTACHED_*` of linux/if_link.h.
const IN_DRIVER: u8 = 1;

/// What was found on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The XDP program that is attached.
    pub program: Option<AttachedProgram>,
    /// Whether the driver takes an XDP program that redirects; `None`: the kernel does not say (before 6.3).
    pub native: Option<bool>,
    /// Whether AF_XDP sockets work without copying; `None` as above.
    pub zero_copy: Option<bool>,
    /// The names of others' programs attached to traffic control by `tcx`, in or out.
    pub tcx: Vec<String>,
}

/// An XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// As `bpftool prog` shows it; `?` if that cannot be read.
    pub name: String,
    /// The kernel's number of it.
    pub id: u32,
    /// Where it is attached.
    pub mode: XdpMode,
}

impl AttachedProgram {
    /// Whether a Shunt switch attached it.
    pub fn is_ours(&self) -> bool {
        is_ours(&self.name)
    }
}

fn is_ours(program: &str) -> bool {
    program.starts_with("shunt_")
}

impl Survey {
    /// Looks at an interface and changes nothing.
    ///
    /// # Errors
    /// [`XskError::Facts`] if the kernel does not answer.
    pub fn of(interface: &Interface) -> Result<Survey, XskError> {
        // SAFETY: all-zero bytes are a valid `bpf_xdp_query_opts`.
        let mut answer: libxdp_sys::bpf_xdp_query_opts = unsafe { std::mem::zeroed() };
        answer.sz = size_of_val(&answer);
        // SAFETY: asks the kernel over netlink and writes to `answer`, whose size it is told.
        let code = unsafe { libxdp_sys::bpf_xdp_query(interface.index as i32, 0, &mut answer) };
        if code < 0 {
            let source = io::Error::from_raw_os_error(-code);
            return Err(XskError::Facts { interface: interface.name.clone(), fact: "XDP state", source });
        }
        let program = (answer.prog_id != 0).then(|| AttachedProgram {
            name: program_name(answer.prog_id),
            id: answer.prog_id,
            mode: if answer.attach_mode == IN_DRIVER { XdpMode::Native } else { XdpMode::Generic },
        });
        // A device that can nothing and a kernel that says nothing look the same: of the latter no device can anything.
        let features = Some(answer.feature_flags).filter(|_| says_features());
        let can = |feature| features.map(|features| features & feature != 0);
        let tcx = [TcAttachType::Ingress, TcAttachType::Egress]
            .into_iter()
            // Kernels before 6.6 have none.
            .filter_map(|way| SchedClassifier::query_tcx(&interface.name, way).ok())
            .flat_map(|(_, programs)| programs)
            .map(|program| program.name_as_str().unwrap_or("?").to_owned())
            .filter(|name| !is_ours(name))
            .collect();
        Ok(Survey { program, native: can(REDIRECT), zero_copy: can(ZERO_COPY), tcx })
    }
}

/// Whether the kernel tells what drivers can do with XDP: its generic netlink family `netdev` came with 6.3.
fn says_features() -> bool {
    kernel::version(&kernel::release()).is_some_and(|version| version >= (6, 3))
}

/// A loaded program's name.
pub(super) fn program_name(id: u32) -> String {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| program.id() == id);
    program.and_then(|program| program.name_as_str().map(String::from)).unwrap_or_else(|| "?".into())
}
