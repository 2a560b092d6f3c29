//! The host port: a veth pair by which the node's own kernel reaches pods and services.
//!
//! The kernel's end has the node's overlay address and the routes to pods and services; the other end belongs to the
//! switch. A pair that a crashed daemon left behind is taken over as it is, so the node's connections survive.

mod keep;
mod settings;

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage},
        neighbour::NeighbourState,
        route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope},
    },
};

/// What the pair should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The kernel's end.
    pub interface: String,
    /// The switch's end.
    pub peer: String,
    /// Receive and transmit queues of each end: one for each worker.
    pub queues: u32,
    /// Longest IP packet, in bytes: the uplink's, so that whatever comes in there for a process of the node can go on here.
    pub mtu: u32,
    /// Longest IP packet that the way to pods carries, in bytes.
    pub path_mtu: u32,
    /// What is reached by it, in each family of addresses.
    pub reach: Vec<Reach>,
}

/// What is reached by the host port in one family of addresses, of which all of it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The node's own address on the overlay.
    pub address: IpAddr,
    /// Pods and services.
    pub destinations: Vec<IpNet>,
    /// The next hop of the routes there, which the switch answers for.
    pub gateway: IpAddr,
}

/// The host port cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// There is something else of that name.
    #[error("{0} exists and is not shuntd's veth pair; remove it, or name another [host] interface")]
    Foreign(String),
    /// The kernel refused.
    #[error("cannot {what}: {source}")]
    Request {
        /// What.
        what: String,
        /// Why.
        source: Error,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(Error) -> HostPortError {
    move |source| HostPortError::Request { what: what.into(), source }
}

impl HostPort {
    /// Makes the pair, or completes the one that is there. True if it was there.
    pub async fn create(&self) -> Result<bool, HostPortError> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        let ends = (find(&handle, &self.interface).await?, find(&handle, &self.peer).await?);
        let is_there = match ends {
            (None, None) => {
                self.add_pair(&handle).await?;
                false
            }
            (Some(kernel), Some(switch)) if self.is_ours(&kernel, &switch) => true,
            (Some(kernel), Some(switch)) if are_pair(&kernel, &switch) => {
                handle
                    .link()
                    .del(kernel.header.index)
                    .execute()
                    .await
                    .map_err(failed(format!("remove {}", self.interface)))?;
                self.add_pair(&handle).await?;
                false
            }
            (Some(_), _) => return Err(HostPortError::Foreign(self.interface.clone())),
            (None, Some(_)) => return Err(HostPortError::Foreign(self.peer.clone())),
        };
        self.configure(&handle).await?;
        Ok(is_there)
    }

    /// Removes the pair, and with it its address and routes.
    pub async fn remove(&self) -> Result<(), HostPortError> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        if let Some(link) = find(&handle, &self.interface).await? {
            handle
                .link()
                .del(link.header.index)
                .execute()
                .await
                .map_err(failed(format!("remove {}", self.interface)))?;
        }
        Ok(())
    }

    async fn add_pair(&self, handle: &Handle) -> Result<(), HostPortError> {
        let queues = [LinkAttribute::NumTxQueues(self.queues), LinkAttribute::NumRxQueues(self.queues)];
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new().name(self.peer.clone());
        let mut pair = LinkMessageBuilder::<LinkVeth>::new(&self.interface, &self.peer);
        for attribute in queues {
            peer = peer.append_extra_attribute(attribute.clone());
            pair = pair.append_extra_attribute(attribute);
        }
        let pair = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        let what = format!("create the veth pair {} and {}", self.interface, self.peer);
        handle.link().add(pair.build()).execute().await.map_err(failed(what))?;
        for interface in [&self.interface, &self.peer] {
            settings::without_ipv6(handle, interface).await;
        }
        Ok(())
    }

    /// True if a pair is like the one that [`HostPort::add_pair`] makes.
    fn is_ours(&self, kernel: &LinkMessage, switch: &LinkMessage) -> bool {
        let queues = |link: &LinkMessage| {
            let wanted = |a: &&LinkAttribute| matches!(a, LinkAttribute::NumTxQueues(n) | LinkAttribute::NumRxQueues(n) if *n == self.queues);
            link.attributes.iter().filter(wanted).count() == 2
        };
        are_pair(kernel, switch) && queues(kernel) && queues(switch)
    }

    async fn configure(&self, handle: &Handle) -> Result<(), HostPortError> {
        for interface in [&self.peer, &self.interface] {
            // Segments of the size of the wire: the switch takes no larger ones.
            let link = LinkMessageBuilder::<LinkUnspec>::new()
                .name(interface.clone())
                .mtu(self.mtu)
                .append_extra_attribute(LinkAttribute::GsoMaxSegs(1))
                .up();
            let what = format!("set up {interface} with an MTU of {}", self.mtu);
            handle.link().change(link.build()).execute().await.map_err(failed(what))?;
        }
        settings::for_switched_packets(handle, &self.interface).await?;
        let kernel = self.end(handle, &self.interface).await?;
        let switch = self.end(handle, &self.peer).await?;
        let mac = switch.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => Some(mac.as_slice()),
            _ => None,
        });
        for reach in &self.reach {
            self.lead(reach, kernel.header.index, mac.unwrap_or_default(), handle).await?;
        }
        Ok(())
    }

    /// Makes the link with this number lead to what is to be reached; `mac` is the switch's on it.
    async fn lead(&self, reach: &Reach, index: u32, mac: &[u8], handle: &Handle) -> Result<(), HostPortError> {
        let Reach { address, destinations, gateway } = reach;
        let what = format!("give {} the address {address}", self.interface);
        let mut request = handle.address().add(index, *address, IpNet::from(*address).prefix_len()).replace();
        if address.is_ipv6() {
            // Nobody else can have it, and until the kernel has found that out it would be of no use.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(failed(what))?;

        let neighbour = handle.neighbours().add(index, *gateway).state(NeighbourState::Permanent);
        let neighbour = neighbour.link_layer_address(mac).replace();
        neighbour.execute().await.map_err(failed(format!("enter {gateway} on {}", self.interface)))?;

        // What stands in for the source of flows to this very node: it is answered by this way too.
        let to_gateway = (IpNet::from(*gateway), None);
        for (destination, by) in [to_gateway].into_iter().chain(destinations.iter().map(|to| (*to, Some(*gateway)))) {
            let what = format!("route {destination} by {}", self.interface);
            let route = self.route(destination, by, *address, index);
            handle.route().add(route).replace().execute().await.map_err(failed(what))?;
        }
        Ok(())
    }

    /// A route by the link with this number, from an address of the node; without a gateway the destination is on the link.
    fn route(&self, destination: IpNet, gateway: Option<IpAddr>, from: IpAddr, index: u32) -> RouteMessage {
        const FAMILY: &str = "all that is reached by it is of one family";
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.network(), destination.prefix_len())
            .expect("a prefix is no longer than an address")
            .output_interface(index)
            .pref_source(from)
            .expect(FAMILY);
        let route = match gateway {
            Some(gateway) => route.gateway(gateway).expect(FAMILY).onlink(),
            None => route.scope(RouteScope::Link),
        };
        let mut route = route.build();
        route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(self.path_mtu)]));
        route
    }

    async fn end(&self, handle: &Handle, name: &str) -> Result<LinkMessage, HostPortError> {
        find(handle, name).await?.ok_or_else(|| HostPortError::Foreign(name.to_owned()))
    }
}

/// A link by its name.
async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, HostPortError> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(Error::NetlinkError(e)) if e.raw_code() == -NO_SUCH_DEVICE => Ok(None),
        Err(e) => Err(failed(format!("look for {name}"))(e)),
    }
}

/// Linux `ENODEV`.
const NO_SUCH_DEVICE: i32 = 19;

/// True if the two are the ends of one veth.
fn are_pair(one: &LinkMessage, other: &LinkMessage) -> bool {
    let is_veth = |link: &LinkMessage| {
        link.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
            _ => false,
        })
    };
    is_veth(one) && is_veth(other) && one.attributes.contains(&LinkAttribute::Link(other.header.index))
}
