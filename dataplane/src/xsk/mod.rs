//! AF_XDP through xsk-rs: a port's queue as a [`PacketIo`](crate::io::PacketIo), and the XDP classifier that feeds it.
//!
//! # Who owns a frame
//!
//! A worker has one UMEM that its ports share, and its [`FramePool`](crate::io::FramePool) hands out the UMEM's chunks, so
//! a frame goes from any port to any port as a number. A port whose driver works without copying has a UMEM of its own
//! beside that one ([`PortMemory`]). A chunk is always in exactly one place:
//!
//! ```text
//!                      take_index            kernel writes a packet
//!   FramePool.free  ------------->  fill ring ------------------->  RX ring
//!        ^                                                             | rx_burst: becomes a Frame
//!        | reclaim                          tx_burst: dissolved        v
//!   completion ring <-- kernel sent it -- TX ring <------------ worker's hands
//! ```
//!
//! While a chunk is in one of the four rings no [`Frame`](crate::io::Frame) of it exists; the device knows it by a bit
//! in `Held`, set and cleared where a chunk crosses the seam. The bit is what makes it sound to turn a number from the
//! kernel into a `Frame`, and what [`close`](crate::io::PacketIo::close) returns once the kernel has let go.
//!
//! # What else the kernel asks for
//!
//! - The socket on which a UMEM is registered must stay bound, or no other can join: see `anchor`.
//! - All sockets of a UMEM are in copy mode, or all are in zero-copy mode (`xp_assign_dev_shared` in the kernel's
//!   `net/xdp/xsk_buff_pool.c`). veth knows copy mode only, so an uplink in zero-copy mode has a memory of its own.
//! - A descriptor cannot be moved to another start by xsk-rs's interface: see `starts`.

mod anchor;
mod classifier;
mod device;
mod error;
mod guard;
mod held;
mod interface;
pub mod kernel;
mod memory;
mod node_traffic;
mod port_memory;
mod registered;
mod starts;
mod survey;
mod traffic_control;

pub use classifier::{Classifier, UplinkFilter, XdpMode};
pub use device::XskDevice;
pub use error::{XskError, with_sources};
pub use interface::Interface;
pub use memory::{RING_SIZE, WorkerMemory};
pub use node_traffic::NodeTraffic;
pub use port_memory::{MemoryChoice, PortMemory};
pub use registered::Transfer;
pub use survey::{AttachedProgram, Survey};
pub use traffic_control::HostPort;
