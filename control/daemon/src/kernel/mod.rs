//! What the node's kernel knows that the switch must know too: links, our address, and the way to next hops.

pub mod host_port;
mod mirror;
mod requests;
mod table;
mod vxlan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use shunt_dataplane::net::MacAddr;

pub use mirror::{Mirror, MirrorError};
pub use vxlan::{VxlanDevice, vxlan_devices};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it: another interface of the same name has another one.
    pub index: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddr>,
    /// In bytes of IP packet.
    pub mtu: u32,
    /// Packets may come from it with unfinished TCP and UDP checksums: it has no wire behind it.
    pub unfinished_checksums: bool,
}

/// The way to a station that the switch sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NextHop {
    /// The station on the uplink that leads there; `None`: the kernel has no route by the uplink.
    pub station: Option<Ipv4Addr>,
    /// Its Ethernet address; `None`: not resolved.
    pub mac: Option<MacAddr>,
}

/// The kernel's knowledge at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelView {
    /// Every interface by its name.
    pub links: BTreeMap<String, Link>,
    /// Our address on the uplink: its first global one.
    pub underlay: Option<Ipv4Addr>,
    /// All global addresses of the node, ours on the uplink among them.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The way to each station that is followed.
    pub next_hops: BTreeMap<Ipv4Addr, NextHop>,
}

/// Where the controller learns from the kernel.
pub trait Kernel: Send {
    /// Follows the ways to these stations, and no others, from now on. Returns the view with them in it.
    fn follow(&self, stations: BTreeSet<Ipv4Addr>) -> Arc<KernelView>;

    /// The latest view.
    fn view(&self) -> Arc<KernelView>;
}
