//! What the kernel says about an interface, asked with ioctls: they answer for the network namespace the thread is in,
//! where /sys may show another one.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    net::UdpSocket,
    os::fd::{AsRawFd, RawFd},
};

use super::XskError;
use crate::{io::MAX_FRAME_LEN, net::MacAddr};

/// Bytes of an Ethernet header, which the MTU does not count.
pub(super) const ETHERNET_HEADER: usize = 14;

/// The longest MTU whose packets fit a frame, in bytes.
const MTU_LIMIT: u32 = (MAX_FRAME_LEN - ETHERNET_HEADER) as u32;

/// An interface as it was when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number in this network namespace.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Longest IP packet it carries, in bytes.
    pub mtu: u16,
    /// Receive queues in use (`ethtool -l`); 1 where the driver does not say.
    pub queues: u32,
}

impl Interface {
    /// Asks the kernel about interface `name` in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`XskError::NoInterface`] if there is none, [`XskError::MtuTooLarge`] if its packets do not fit a frame,
    /// [`XskError::Facts`] if the kernel does not answer.
    pub fn query(name: &str) -> Result<Interface, XskError> {
        let facts = |fact| move |source| XskError::Facts { interface: name.into(), fact, source };
        let c_name = CString::new(name).map_err(|_| XskError::NoInterface { interface: name.into() })?;
        // SAFETY: a string that ends with NUL.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 || c_name.as_bytes().len() >= libc::IFNAMSIZ {
            return Err(XskError::NoInterface { interface: name.into() });
        }
        let socket =
            UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0")).map_err(facts("address"))?;
        let mut request = request(&c_name);

        ioctl(&socket, libc::SIOCGIFHWADDR, &mut request).map_err(facts("Ethernet address"))?;
        // SAFETY: SIOCGIFHWADDR has filled `ifru_hwaddr`.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;

        ioctl(&socket, libc::SIOCGIFMTU, &mut request).map_err(facts("MTU"))?;
        // SAFETY: SIOCGIFMTU has filled `ifru_mtu`.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu } as u32;
        if mtu > MTU_LIMIT {
            return Err(XskError::MtuTooLarge { interface: name.into(), mtu, limit: MTU_LIMIT });
        }

        Ok(Interface {
            name: name.into(),
            index,
            mac: MacAddr(std::array::from_fn(|i| address[i] as u8)),
            mtu: mtu as u16,
            queues: queues(&socket, &mut request).map_err(facts("queues"))?,
        })
    }
}

/// linux/ethtool.h
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

const ETHTOOL_GCHANNELS: u32 = 0x3c;

fn queues(socket: &UdpSocket, request: &mut libc::ifreq) -> io::Result<u32> {
    let mut channels = EthtoolChannels { cmd: ETHTOOL_GCHANNELS, ..Default::default() };
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    match ioctl(socket, libc::SIOCETHTOOL, request) {
        Ok(()) => Ok((channels.rx_count + channels.combined_count).max(1)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
        Err(error) => Err(error),
    }
}

fn request(name: &CString) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request
}

fn ioctl(socket: &UdpSocket, command: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the commands used here read and write one `ifreq` and, for SIOCETHTOOL, the struct `ifru_data` points to;
    // both outlive the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), command as _, request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps a descriptor from child processes. libxdp opens its sockets without the flag, and a child that held one would
/// keep the kernel writing into frames that the pool has handed out again.
pub(super) fn close_on_exec(fd: &impl AsRawFd) {
    let fd: RawFd = fd.as_raw_fd();
    // SAFETY: changes a flag of a descriptor that is open for as long as `fd` is borrowed.
    let done = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    assert_eq!(done, 0, "F_SETFD fails on a closed descriptor only");
}
