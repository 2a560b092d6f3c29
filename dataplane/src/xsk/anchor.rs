//! Keeps a worker's UMEM registered while its ports come and go.
//!
//! A socket joins a UMEM through the socket on which it was registered, and only while that one is bound to a device.
//! libxdp binds it to the first port that is opened, never closes it with that port, and when that port's device is
//! removed nobody can join any more. So the first "port" is a TAP device of our own, which no packet ever passes: it is
//! never up, lives as long as its file descriptor, and so leaves nothing behind however the process ends.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
    sync::Mutex,
};

use xsk_rs::{
    CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig},
};

use super::{
    error::{XskError, os_error, socket_hint},
    interface::close_on_exec,
};

/// The kernel numbers the devices. Seen in `ip link`, always down.
const NAME: &[u8] = b"shunt-mem%d\0";

/// What [`Socket::new`] returns.
type Queues = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

/// The socket on which a UMEM is registered, and the device it is bound to.
pub(super) struct Anchor {
    // Dropped in this order: the socket leaves the device, then the device goes.
    _socket: Mutex<Queues>,
    _tap: File,
}

impl Anchor {
    /// Binds `umem`'s own socket. Must come before any other socket of this UMEM.
    pub(super) fn new(umem: &Umem) -> Result<Anchor, XskError> {
        let (tap, name) = tap().map_err(|source| {
            let hint = match source.raw_os_error() {
                Some(libc::EPERM) => "the capability CAP_NET_ADMIN is missing: run as root or grant it",
                _ => "load the module (modprobe tun), and in a container make /dev/net/tun available",
            };
            XskError::Anchor { hint, source }
        })?;
        let ring = QueueSize::new(64).expect("a power of two");
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            // Every socket that joins inherits these.
            .bind_flags(BindFlags::XDP_COPY)
            .build();
        // SAFETY: no program is loaded, so none can be detached twice.
        let socket = unsafe { Socket::new(config, umem, &name, 0) }.map_err(|error| {
            let source = os_error(&error);
            XskError::Anchor { hint: socket_hint(&source), source }
        })?;
        close_on_exec(socket.0.fd());
        Ok(Anchor { _socket: Mutex::new(socket), _tap: tap })
    }
}

/// Makes a TAP device; it goes when the file is closed.
fn tap() -> io::Result<(File, Interface)> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name: Vec<u8> = request.ifr_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    Ok((file, Interface::try_from(name).map_err(io::Error::other)?))
}
