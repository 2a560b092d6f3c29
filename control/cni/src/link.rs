//! A pod's veth: one end in its namespace, the other on the node.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    path::Path,
};

use futures_util::TryStreamExt;
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
};
use rtnetlink::{
    Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::{
        address::{AddressAttribute, AddressHeaderFlags},
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope},
    },
};

use crate::{
    addresses::Addresses,
    daemon::Node,
    environment::Attachment,
    error::{CniError, Code, Result},
};

/// The gateway that all pods use; the switch answers for it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same over IPv6, on each pod's link.
const IPV6_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The gateway of the family that an address is of.
pub fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv6() { IPV6_GATEWAY.into() } else { GATEWAY.into() }
}

/// What the pod's end is to be.
#[derive(Debug)]
pub struct PodEnd<'a> {
    pub interface: &'a str,
    pub addresses: Addresses,
    pub mac: [u8; 6],
}

/// The name of the node's end: `pod` and a number that follows from the attachment, so that whoever has to remove it
/// needs no record.
pub fn node_end(attachment: &Attachment) -> String {
    // FNV-1a, 64 bits.
    let bytes = attachment.container.bytes().chain([0]).chain(attachment.interface.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("pod{:012x}", hash >> 16)
}

/// Whether a name is one of [`node_end`]'s.
fn is_node_end(name: &str) -> bool {
    name.strip_prefix("pod").is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Longest alias of a link, in bytes (Linux `IFALIASZ` less the final zero).
const MAX_ALIAS: usize = 255;

/// The alias of the node's end of the port called `port`: it says whose it is.
pub fn alias(port: &str) -> &str {
    &port[..port.len().min(MAX_ALIAS)]
}

/// The MAC address that goes with an address, as flannel's and the bridge plugin's pods have it.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// As text.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A container's network namespace.
pub struct Namespace(File);

impl Namespace {
    /// # Errors
    /// [`Code::BadNamespace`] if it is none.
    pub fn open(path: &Path) -> Result<Namespace> {
        let bad = |why: String| {
            let message = format!("CNI_NETNS: {} is no network namespace", path.display());
            CniError::new(Code::BadNamespace, message, why)
        };
        let namespace = Namespace(File::open(path).map_err(|e| bad(e.to_string()))?);
        namespace.netlink().map_err(|e| bad(e.to_string()))?;
        Ok(namespace)
    }

    /// A netlink socket inside: it stays in the namespace that it was opened in.
    fn netlink(&self) -> io::Result<Handle> {
        self.within(netlink)
    }

    /// Does something inside; the thread comes back.
    fn within<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let own = File::open("/proc/thread-self/ns/net")?;
        setns(&self.0, CloneFlags::CLONE_NEWNET)?;
        let done = work();
        setns(&own, CloneFlags::CLONE_NEWNET)?;
        done
    }

    /// Lets an interface have IPv6, which runtimes switch off where they know no use for it. What it routes by is given, so it
    /// solicits no routers: the switch is none of the kind that answers.
    fn enable_ipv6(&self, interface: &str) -> Result<()> {
        let set = |key: &str, value: &str| fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/{key}"), value);
        self.within(|| set("accept_ra", "0").and_then(|()| set("disable_ipv6", "0")))
            .map_err(|e| CniError::io(format_args!("enable IPv6 on {interface} in CNI_NETNS"), e))
    }
}

fn netlink() -> io::Result<Handle> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(Error) -> CniError {
    move |e| CniError::io(what, e)
}

/// Makes the pair for the port called `port`, gives the pod's end its addresses and routes, and brings both ends up.
///
/// # Errors
/// If an interface of one of these names exists already, among others. What was made is not undone: see [`remove`].
pub async fn create(node_end: &str, port: &str, pod: &PodEnd<'_>, namespace: &Namespace, node: &Node) -> Result<()> {
    let outside = netlink().map_err(|e| CniError::io("open a netlink socket", e))?;
    let inside = namespace.netlink().map_err(|e| CniError::io("open a netlink socket in CNI_NETNS", e))?;
    add_pair(&outside, node_end, pod, namespace, node).await?;
    if pod.addresses.ipv6.is_some() {
        namespace.enable_ipv6(pod.interface)?;
    }

    // No IPv6 neighbour and router discovery into the switch. Where the kernel lacks IPv6 there is nothing to set.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{node_end}/disable_ipv6"), "1");
    let alias = LinkAttribute::IfAlias(alias(port).to_owned());
    let up = LinkMessageBuilder::<LinkUnspec>::new().name(node_end.to_owned()).append_extra_attribute(alias).up();
    outside.link().change(up.build()).execute().await.map_err(failed(format_args!("bring {node_end} up")))?;

    let up = LinkMessageBuilder::<LinkUnspec>::new().name(pod.interface.to_owned()).up().build();
    inside.link().change(up).execute().await.map_err(failed(format_args!("bring {} up", pod.interface)))?;
    let link =
        find(&inside, pod.interface).await?.ok_or_else(|| CniError::io("find the pod's interface", "it is gone"))?;
    let index = link.header.index;
    for address in pod.addresses.iter() {
        add_address(&inside, index, address)
            .await
            .map_err(failed(format_args!("give {} the address {address}", pod.interface)))?;
    }
    let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(index)
        .scope(RouteScope::Link);
    inside.route().add(to_gateway.build()).execute().await.map_err(failed("route the gateway"))?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(GATEWAY).output_interface(index);
    inside.route().add(default.build()).execute().await.map_err(failed("add the default route"))?;
    if pod.addresses.ipv6.is_some() {
        let default = RouteMessageBuilder::<Ipv6Addr>::new().gateway(IPV6_GATEWAY).output_interface(index);
        inside.route().add(default.build()).execute().await.map_err(failed("add the default route of IPv6"))?;
    }
    Ok(())
}

/// As the only one of its prefix. One of IPv6 is usable at once: whoever gave it knows that nobody else has it.
async fn add_address(inside: &Handle, index: u32, address: IpAddr) -> std::result::Result<(), Error> {
    let mut request = inside.address().add(index, address, if address.is_ipv6() { 128 } else { 32 });
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await
}

async fn add_pair(
    outside: &Handle,
    node_end: &str,
    pod: &PodEnd<'_>,
    namespace: &Namespace,
    node: &Node,
) -> Result<()> {
    // Segments of the size of the wire: the switch takes no larger ones, and a pod's kernel finds out too late where the
    // driver has no native XDP.
    let attributes = || {
        [LinkAttribute::NumTxQueues(node.queues), LinkAttribute::NumRxQueues(node.queues), LinkAttribute::GsoMaxSegs(1)]
    };
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(pod.interface.to_owned())
        .mtu(node.mtu)
        .address(pod.mac.to_vec())
        .setns_by_fd(namespace.0.as_raw_fd());
    let mut pair = LinkMessageBuilder::<LinkVeth>::new(node_end, pod.interface).mtu(node.mtu);
    for attribute in attributes() {
        peer = peer.append_extra_attribute(attribute.clone());
        pair = pair.append_extra_attribute(attribute);
    }
    let pair = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    let what = format!("create the veth pair {node_end} and {} in CNI_NETNS", pod.interface);
    outside.link().add(pair.build()).execute().await.map_err(failed(what))
}

/// Removes the pair by its end on the node. It is no error if there is none.
pub async fn remove(node_end: &str) -> Result<()> {
    let handle = netlink().map_err(|e| CniError::io("open a netlink socket", e))?;
    let Some(link) = find(&handle, node_end).await? else { return Ok(()) };
    match handle.link().del(link.header.index).execute().await {
        Err(Error::NetlinkError(e)) if e.raw_code() == -NO_SUCH_DEVICE => Ok(()),
        outcome => outcome.map_err(failed(format_args!("remove {node_end}"))),
    }
}

/// Whether there is no interface of this name on the node.
pub fn is_gone(name: &str) -> bool {
    if_nametoindex(name) == Err(Errno::ENODEV)
}

/// All node's ends that were ever made and are still there, with their aliases. One without was left by a plugin that did
/// not get far.
pub async fn node_ends() -> Result<Vec<(String, Option<String>)>> {
    let handle = netlink().map_err(|e| CniError::io("open a netlink socket", e))?;
    let mut links = handle.link().get().execute();
    let mut ends = Vec::new();
    while let Some(link) = links.try_next().await.map_err(failed("read the node's interfaces"))? {
        let (mut name, mut alias) = (None, None);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text),
                LinkAttribute::IfAlias(text) => alias = Some(text),
                _ => {}
            }
        }
        ends.extend(name.filter(|name| is_node_end(name)).map(|name| (name, alias)));
    }
    Ok(ends)
}

/// The MAC address of an interface on the node.
pub async fn node_mac(name: &str) -> Result<Option<String>> {
    let handle = netlink().map_err(|e| CniError::io("open a netlink socket", e))?;
    Ok(find(&handle, name).await?.map(|link| mac(&link)))
}

/// Checks that the pod's end is as ADD made it.
///
/// # Errors
/// [`Code::Changed`]: says what is missing.
pub async fn check(namespace: &Namespace, interface: &str, wanted_mac: &str, wanted: Addresses) -> Result<()> {
    let changed = |what: String| CniError::new(Code::Changed, what, "DEL the container and ADD it again");
    let handle = namespace.netlink().map_err(|e| CniError::io("open a netlink socket in CNI_NETNS", e))?;
    let link = find(&handle, interface).await?.ok_or_else(|| changed(format!("interface {interface} is gone")))?;
    if !wanted_mac.is_empty() && !mac(&link).eq_ignore_ascii_case(wanted_mac) {
        return Err(changed(format!("interface {interface} has the MAC address {}, not {wanted_mac}", mac(&link))));
    }
    let index = link.header.index;
    let mut addresses = handle.address().get().set_link_index_filter(index).execute();
    let mut found = Vec::new();
    while let Some(message) = addresses.try_next().await.map_err(failed("read addresses"))? {
        found.extend(message.attributes);
    }
    for address in wanted.iter() {
        if !found.contains(&AddressAttribute::Address(address)) {
            return Err(changed(format!("interface {interface} has lost its address {address}")));
        }
        let (all, by) = match gateway(address) {
            IpAddr::V4(by) => (RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteAddress::Inet(by)),
            IpAddr::V6(by) => (RouteMessageBuilder::<Ipv6Addr>::new().build(), RouteAddress::Inet6(by)),
        };
        if !has_default_route(&handle, index, all, by).await? {
            return Err(changed(format!("the default route by {} is gone", gateway(address))));
        }
    }
    Ok(())
}

/// Whether one of `all` routes leads everywhere by this gateway and interface.
async fn has_default_route(handle: &Handle, index: u32, all: RouteMessage, by: RouteAddress) -> Result<bool> {
    let (by, interface) = (RouteAttribute::Gateway(by), RouteAttribute::Oif(index));
    let mut routes = handle.route().get(all).execute();
    let mut found = false;
    while let Some(route) = routes.try_next().await.map_err(failed("read routes"))? {
        let leads = route.attributes.contains(&by) && route.attributes.contains(&interface);
        found |= route.header.destination_prefix_length == 0 && leads;
    }
    Ok(found)
}

fn mac(link: &LinkMessage) -> String {
    let address = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => Some(mac_text(mac)),
        _ => None,
    });
    address.unwrap_or_default()
}

/// A link by its name.
async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(Error::NetlinkError(e)) if e.raw_code() == -NO_SUCH_DEVICE => Ok(None),
        Err(e) => Err(failed(format_args!("look for {name}"))(e)),
    }
}

/// Linux `ENODEV`.
const NO_SUCH_DEVICE: i32 = 19;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ends_are_names_that_linux_takes_and_differ() {
        let of = |container: &str, interface: &str| {
            node_end(&Attachment { container: container.into(), interface: interface.into() })
        };
        assert_eq!(of("a", "eth0").len(), 15);
        assert!(is_node_end(&of("a", "eth0")) && !is_node_end("pod0") && !is_node_end("podman-default"));
        let all = [of("a", "eth0"), of("b", "eth0"), of("a", "eth1"), of("aeth", "0")];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert_eq!(of("a", "eth0"), of("a", "eth0"));
    }
}
