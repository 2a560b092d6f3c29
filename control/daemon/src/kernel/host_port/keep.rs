//! Keeps the host port as it was made: what somebody else takes away is put back.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use futures_util::{FutureExt, StreamExt};
use ipnet::IpNet;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{HostPort, HostPortError};

/// What goes at one time is put back at one time.
const GATHER: Duration = Duration::from_millis(10);
/// The pause between two repairs, should somebody keep on taking away, and before a failed one is tried again.
const PAUSE: Duration = Duration::from_secs(1);

impl HostPort {
    /// Puts back what is taken from the port, for ever. `problem` says what cannot be put back.
    pub async fn keep(self, problem: watch::Sender<Option<String>>) -> Result<Infallible, HostPortError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _, mut news) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let mut not_before = Instant::now();
        loop {
            let broken = problem.borrow().is_some();
            let damage = tokio::select! {
                message = news.next() => match message {
                    Some((message, _)) => self.damage(&message),
                    None => return Err(HostPortError::Socket(std::io::ErrorKind::UnexpectedEof.into())),
                },
                () = sleep(PAUSE), if broken => Some("it could not be put back before"),
            };
            let Some(damage) = damage else { continue };
            sleep_until(not_before.max(Instant::now() + GATHER)).await;
            while let Some(Some(_)) = news.next().now_or_never() {}
            not_before = Instant::now() + PAUSE;
            match self.create().await {
                Ok(_) => {
                    tracing::warn!(interface = self.interface, "the host port was changed ({damage}) and put back");
                    problem.send_replace(None);
                }
                Err(e) => {
                    tracing::error!(interface = self.interface, "the host port was changed ({damage}): {e}");
                    problem.send_replace(Some(e.to_string()));
                }
            }
        }
    }

    /// What a message takes away of the port.
    fn damage(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<&'static str> {
        let message = match &message.payload {
            NetlinkPayload::InnerMessage(message) => message,
            // There was more news than the kernel kept: any of it may have been ours.
            NetlinkPayload::Overrun(_) => return Some("perhaps"),
            _ => return None,
        };
        match message {
            RouteNetlinkMessage::DelLink(link) if self.has(link) => Some("an interface was removed"),
            RouteNetlinkMessage::NewLink(link) if self.has(link) && !link.header.flags.contains(LinkFlags::Up) => {
                Some("an interface was set down")
            }
            RouteNetlinkMessage::DelAddress(address) if self.has_address(address) => Some("its address was removed"),
            RouteNetlinkMessage::DelRoute(route) if self.leads_here(route) => Some("a route was removed"),
            // Ours is the one with this gateway.
            RouteNetlinkMessage::NewRoute(route) if self.leads_here(route) && !self.is_gateway(route) => {
                Some("a route was replaced")
            }
            RouteNetlinkMessage::DelNeighbour(neighbour) if self.is_neighbour(neighbour) => {
                Some("the gateway's neighbour entry was removed")
            }
            _ => None,
        }
    }

    fn has(&self, link: &LinkMessage) -> bool {
        let ours = |name: &String| *name == self.interface || *name == self.peer;
        link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if ours(name)))
    }

    fn has_address(&self, address: &AddressMessage) -> bool {
        // The kernel tells of IPv6 addresses that are no peer's by another attribute.
        let is_ours = |address: &IpAddr| self.reach.iter().any(|reach| reach.address == *address);
        address.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => is_ours(address),
            _ => false,
        })
    }

    /// True for a route with the destination of one of ours.
    fn leads_here(&self, route: &RouteMessage) -> bool {
        let to = |prefix: IpNet| {
            route.header.destination_prefix_length == prefix.prefix_len()
                && route.attributes.contains(&RouteAttribute::Destination(route_address(prefix.network())))
        };
        self.reach.iter().any(|reach| to(reach.gateway.into()) || reach.destinations.iter().copied().any(to))
    }

    /// True for a route by the switch, or to it.
    fn is_gateway(&self, route: &RouteMessage) -> bool {
        let is_gateway = |address: &RouteAddress| self.reach.iter().any(|it| route_address(it.gateway) == *address);
        route.attributes.iter().any(|attribute| {
            matches!(attribute, RouteAttribute::Gateway(a) | RouteAttribute::Destination(a) if is_gateway(a))
        })
    }

    fn is_neighbour(&self, neighbour: &NeighbourMessage) -> bool {
        let entry = |gateway| {
            NeighbourAttribute::Destination(match gateway {
                IpAddr::V4(gateway) => NeighbourAddress::Inet(gateway),
                IpAddr::V6(gateway) => NeighbourAddress::Inet6(gateway),
            })
        };
        self.reach.iter().any(|reach| neighbour.attributes.contains(&entry(reach.gateway)))
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
