//! The rtnetlink requests of the mirror, one function each.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressScope},
        neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteType},
    },
};

use super::table::Table;

/// The kernel's way to a station: the link it leaves by, and the neighbour on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub link: u32,
    pub neighbour: Ipv4Addr,
}

/// A table of all links and IPv4 neighbours.
pub(super) async fn read_table(handle: &Handle) -> Result<Table, Error> {
    let mut table = Table::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        table.take(&RouteNetlinkMessage::NewLink(link));
    }
    let mut neighbours = handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
    while let Some(neighbour) = neighbours.try_next().await? {
        table.take(&RouteNetlinkMessage::NewNeighbour(neighbour));
    }
    Ok(table)
}

/// Asks the kernel for something small and waits until it has answered.
pub(super) async fn await_answer(handle: &Handle) -> Result<(), Error> {
    const LOOPBACK: u32 = 1;
    handle.link().get().match_index(LOOPBACK).execute().try_next().await.map(drop)
}

/// All global IPv4 addresses, with the link that each is of. Those of one link are in the kernel's order.
pub(super) async fn read_addresses(handle: &Handle) -> Result<Vec<(u32, Ipv4Addr)>, Error> {
    let mut messages = handle.address().get().execute();
    let mut addresses = Vec::new();
    while let Some(message) = messages.try_next().await? {
        if message.header.scope != AddressScope::Universe {
            continue;
        }
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
        addresses.extend(local.map(|address| (message.header.index, address)));
    }
    Ok(addresses)
}

/// The kernel's way to a station; `None` if it has none, or if the station is this node itself.
pub(super) async fn look_up(handle: &Handle, station: Ipv4Addr) -> Result<Option<Way>, Error> {
    let request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(station, 32).build();
    let route = match handle.route().get(request).execute().try_next().await {
        Ok(Some(route)) => route,
        Ok(None) => return Ok(None),
        // ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL: what kinds of routes answer that lead nowhere.
        Err(Error::NetlinkError(_)) => return Ok(None),
        Err(e) => return Err(e),
    };
    if route.header.kind != RouteType::Unicast {
        return Ok(None);
    }
    let (mut link, mut neighbour) = (None, station);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => neighbour = *gateway,
            // An IPv6 next hop of an IPv4 route: nothing that is followed here.
            RouteAttribute::Via(_) => return Ok(None),
            _ => {}
        }
    }
    Ok(link.map(|link| Way { link, neighbour }))
}

/// Makes the kernel resolve a neighbour now and keep it fresh, or not any longer.
pub(super) async fn set_managed(handle: &Handle, way: Way, managed: bool) -> Result<(), Error> {
    let mut request = handle
        .neighbours()
        .add(way.link, IpAddr::V4(way.neighbour))
        .state(NeighbourState::None)
        // Leaves an entry that is there in its state.
        .flags(NeighbourFlags::Use)
        .replace();
    if managed {
        let flags = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
        request.message_mut().attributes.push(flags);
    }
    request.execute().await
}
