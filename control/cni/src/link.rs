//! A pod's veth: one end in its namespace, the other on the node.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr},
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
        address::AddressAttribute,
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteScope},
    },
};

use crate::{
    daemon::Node,
    environment::Attachment,
    error::{CniError, Code, Result},
};

/// The gateway that all pods use; the switch answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What the pod's end is to be.
#[derive(Debug)]
pub struct PodEnd<'a> {
    pub interface: &'a str,
    pub address: Ipv4Addr,
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

    /// A netlink socket inside. A socket stays in the namespace that it was opened in; the thread comes back.
    fn netlink(&self) -> io::Result<Handle> {
        let own = File::open("/proc/thread-self/ns/net")?;
        setns(&self.0, CloneFlags::CLONE_NEWNET)?;
        let handle = netlink();
        setns(&own, CloneFlags::CLONE_NEWNET)?;
        handle
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

/// Makes the pair for the port called `port`, gives the pod's end its address and routes, and brings both ends up.
///
/// # Errors
/// If an interface of one of these names exists already, among others. What was made is not undone: see [`remove`].
pub async fn create(node_end: &str, port: &str, pod: &PodEnd<'_>, namespace: &Namespace, node: &Node) -> Result<()> {
    let outside = netlink().map_err(|e| CniError::io("open a netlink socket", e))?;
    let inside = namespace.netlink().map_err(|e| CniError::io("open a netlink socket in CNI_NETNS", e))?;
    add_pair(&outside, node_end, pod, namespace, node).await?;

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
    let address = inside.address().add(index, IpAddr::V4(pod.address), 32).execute();
    address.await.map_err(failed(format_args!("give {} the address {}", pod.interface, pod.address)))?;
    let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(index)
        .scope(RouteScope::Link);
    inside.route().add(to_gateway.build()).execute().await.map_err(failed("route the gateway"))?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(GATEWAY).output_interface(index);
    inside.route().add(default.build()).execute().await.map_err(failed("add the default route"))
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
pub async fn check(namespace: &Namespace, interface: &str, wanted_mac: &str, address: Ipv4Addr) -> Result<()> {
    let changed = |what: String| CniError::new(Code::Changed, what, "DEL the container and ADD it again");
    let handle = namespace.netlink().map_err(|e| CniError::io("open a netlink socket in CNI_NETNS", e))?;
    let link = find(&handle, interface).await?.ok_or_else(|| changed(format!("interface {interface} is gone")))?;
    if !wanted_mac.is_empty() && !mac(&link).eq_ignore_ascii_case(wanted_mac) {
        return Err(changed(format!("interface {interface} has the MAC address {}, not {wanted_mac}", mac(&link))));
    }
    let index = link.header.index;
    let mut addresses = handle.address().get().set_link_index_filter(index).execute();
    let mut found = false;
    while let Some(message) = addresses.try_next().await.map_err(failed("read addresses"))? {
        found |= message.attributes.contains(&AddressAttribute::Address(IpAddr::V4(address)));
    }
    if !found {
        return Err(changed(format!("interface {interface} has lost its address {address}")));
    }
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let mut found = false;
    while let Some(route) = routes.try_next().await.map_err(failed("read routes"))? {
        let by_gateway = route.attributes.contains(&RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY)));
        let by_interface = route.attributes.contains(&RouteAttribute::Oif(index));
        found |= route.header.destination_prefix_length == 0 && by_gateway && by_interface;
    }
    if found { Ok(()) } else { Err(changed(format!("the default route by {GATEWAY} is gone"))) }
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
