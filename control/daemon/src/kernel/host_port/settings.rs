//! Settings of interfaces, by netlink: in a container /proc/sys is read-only, and there is nothing else to write there for.

use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec,
    packet_core::DefaultNla,
    packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute},
};

use super::{HostPortError, failed};

/// `IFLA_INET_CONF` of linux/if_link.h: settings by their numbers, which are nested in it.
const IFLA_INET_CONF: u16 = 1;
/// Of linux/ip.h.
const IPV4_DEVCONF_RP_FILTER: u16 = 8;
const IPV4_DEVCONF_ACCEPT_LOCAL: u16 = 23;
/// What `rp_filter` is if a source must have a route, by whichever interface.
const LOOSE: u32 = 2;

/// Lets the kernel take what comes from the switch by `interface`: answers from where it has another route to (other nodes'
/// pods that are routed natively), and masqueraded flows that it is to forward, whose source is one of its own addresses.
pub(super) async fn for_switched_packets(handle: &Handle, interface: &str) -> Result<(), HostPortError> {
    let settings = [(IPV4_DEVCONF_RP_FILTER, LOOSE), (IPV4_DEVCONF_ACCEPT_LOCAL, 1)];
    let settings = settings.into_iter().flat_map(|(number, value)| attribute(number, value)).collect();
    let inet = AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF, settings))]);
    let link = LinkMessageBuilder::<LinkUnspec>::new().name(interface.to_owned());
    let link = link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![inet]));
    let what = format!("set rp_filter and accept_local of {interface}");
    handle.link().change(link.build()).execute().await.map_err(failed(what))
}

/// `interface`, which is down, will have no IPv6 address of its own, and send no neighbour and router discovery into the switch.
/// A kernel without IPv6 refuses, and need not be told.
pub(super) async fn without_ipv6(handle: &Handle, interface: &str) {
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let link = LinkMessageBuilder::<LinkUnspec>::new().name(interface.to_owned());
    let link = link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![inet6]));
    if let Err(e) = handle.link().change(link.build()).execute().await {
        tracing::debug!(interface, "its IPv6 addresses are not switched off: {e}");
    }
}

/// A netlink attribute of four bytes (linux/netlink.h, `struct nlattr`): length, type, value.
fn attribute(number: u16, value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&8u16.to_ne_bytes());
    bytes[2..4].copy_from_slice(&number.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    bytes
}
