//! Links and neighbours, kept up to date from rtnetlink messages.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState},
};
use shunt_dataplane::net::MacAddr;

use super::Link;

/// What a message may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that the switch needs.
    None,
    /// A link or a neighbour, which the table has now.
    Table,
    /// An address: to be read again.
    Addresses,
    /// A route: to be looked up again.
    Routes,
}

/// A neighbour's entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Its Ethernet address, if the kernel would use it now.
    pub mac: Option<MacAddr>,
    /// Somebody set it by hand; the kernel does not resolve it, and neither should we make it.
    pub is_static: bool,
    /// The kernel resolves it and keeps it fresh by itself.
    pub is_managed: bool,
}

/// Links and neighbours by the kernel's numbers.
#[derive(Debug, Default)]
pub(super) struct Table {
    links: HashMap<u32, (String, Link)>,
    /// Links with a carrier.
    carriers: HashSet<u32>,
    neighbours: HashMap<(u32, Ipv4Addr), Neighbour>,
}

impl Table {
    /// Every link by its name.
    pub fn links(&self) -> BTreeMap<String, Link> {
        self.links.values().cloned().collect()
    }

    /// The number of the link called `name`.
    pub fn link_number(&self, name: &str) -> Option<u32> {
        self.links.values().find(|(other, _)| other == name).map(|(_, link)| link.index)
    }

    /// A neighbour's entry; an empty one if there is none.
    pub fn neighbour(&self, link: u32, station: Ipv4Addr) -> Neighbour {
        self.neighbours.get(&(link, station)).copied().unwrap_or_default()
    }

    /// Takes in one message: news, or an answer to a dump.
    pub fn take(&mut self, message: &RouteNetlinkMessage) -> Effect {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            // A port that leaves a bridge is reported gone in that family only.
            RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
                self.links.remove(&link.header.index);
                self.carriers.remove(&link.header.index);
                self.neighbours.retain(|(on, _), _| *on != link.header.index);
                Effect::Routes
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => self.new_neighbour(neighbour),
            RouteNetlinkMessage::DelNeighbour(neighbour) => match destination(neighbour) {
                // As when the link lost its carrier: the kernel forgets even those that it manages.
                Some(station) => {
                    let known = self.neighbours.remove(&(neighbour.header.ifindex, station));
                    if known.is_some_and(|entry| entry.is_managed) { Effect::Routes } else { Effect::Table }
                }
                None => Effect::None,
            },
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Effect::Addresses,
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Effect::Routes,
            _ => Effect::None,
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Effect {
        if message.header.interface_family != AddressFamily::Unspec {
            return Effect::None;
        }
        let index = message.header.index;
        let (mut name, mut mac, mut mtu, mut unfinished_checksums) = (None, None, 0, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.clone()),
                LinkAttribute::Address(bytes) => mac = ethernet(bytes),
                LinkAttribute::Mtu(bytes) => mtu = *bytes,
                // Devices made of software have a kind (veth, tun); cards have none.
                LinkAttribute::LinkInfo(infos) => {
                    unfinished_checksums |= infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)));
                }
                // Paravirtual cards pass on what a neighbour on the same machine left unfinished.
                LinkAttribute::ParentDevBusName(bus) => {
                    unfinished_checksums |= matches!(bus.as_str(), "virtio" | "xen")
                }
                _ => {}
            }
        }
        let Some(name) = name else { return Effect::None };
        let link = Link { index, mac, mtu, unfinished_checksums };
        let has_carrier = message.header.flags.contains(LinkFlags::LowerUp);
        let same_carrier = if has_carrier { !self.carriers.insert(index) } else { !self.carriers.remove(&index) };
        match self.links.insert(index, (name.clone(), link.clone())) {
            Some(before) if before == (name, link) && same_carrier => Effect::None,
            // With a carrier come answers. And which link the uplink's name means may be another one now, and with it every route.
            _ => Effect::Routes,
        }
    }

    fn new_neighbour(&mut self, message: &NeighbourMessage) -> Effect {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        let Some(station) = destination(message) else { return Effect::None };
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => ethernet(bytes),
            _ => None,
        });
        let state = message.header.state;
        let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
        let now = Neighbour {
            mac: mac.filter(|_| matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp)),
            is_static: matches!(state, Permanent | Noarp),
            is_managed: message.attributes.contains(&managed),
        };
        let before = self.neighbours.insert((message.header.ifindex, station), now);
        if before == Some(now) { Effect::None } else { Effect::Table }
    }
}

pub(super) fn ethernet(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}

fn destination(message: &NeighbourMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATION: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);

    fn neighbour(state: NeighbourState, last_byte: u8) -> RouteNetlinkMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 2;
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(STATION)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last_byte]));
        RouteNetlinkMessage::NewNeighbour(message)
    }

    fn link(family: AddressFamily, name: &str) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 2;
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::Mtu(1500));
        message
    }

    fn mac(table: &Table) -> Option<u8> {
        table.neighbour(2, STATION).mac.map(|mac| mac.0[5])
    }

    #[test]
    fn neighbours_count_while_the_kernel_would_use_them() {
        use NeighbourState::{Delay, Failed, Incomplete, Probe, Reachable, Stale};
        let mut table = Table::default();
        table.take(&neighbour(Incomplete, 9));
        assert_eq!(mac(&table), None);
        assert_eq!(table.take(&neighbour(Reachable, 9)), Effect::Table);
        for state in [Stale, Delay, Probe, Reachable] {
            assert_eq!(table.take(&neighbour(state, 9)), Effect::None, "{state:?}: the same address");
        }
        assert_eq!(table.take(&neighbour(Reachable, 7)), Effect::Table);
        assert_eq!(mac(&table), Some(7), "it has moved");
        assert_eq!(table.take(&neighbour(Failed, 7)), Effect::Table);
        assert_eq!(mac(&table), None);
    }

    #[test]
    fn a_managed_neighbour_that_goes_is_to_be_managed_again() {
        let RouteNetlinkMessage::NewNeighbour(mut message) = neighbour(NeighbourState::Reachable, 9) else { panic!() };
        let mut table = Table::default();
        table.take(&RouteNetlinkMessage::NewNeighbour(message.clone()));
        assert!(!table.neighbour(2, STATION).is_managed);
        assert_eq!(table.take(&RouteNetlinkMessage::DelNeighbour(message.clone())), Effect::Table);

        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        table.take(&RouteNetlinkMessage::NewNeighbour(message.clone()));
        assert!(table.neighbour(2, STATION).is_managed);
        assert_eq!(table.take(&RouteNetlinkMessage::DelNeighbour(message)), Effect::Routes);
    }

    #[test]
    fn a_carrier_is_news() {
        let mut table = Table::default();
        let mut message = link(AddressFamily::Unspec, "eth0");
        table.take(&RouteNetlinkMessage::NewLink(message.clone()));
        message.header.flags |= LinkFlags::LowerUp;
        assert_eq!(table.take(&RouteNetlinkMessage::NewLink(message.clone())), Effect::Routes);
        assert_eq!(table.take(&RouteNetlinkMessage::NewLink(message)), Effect::None);
    }

    #[test]
    fn links_come_change_and_go_with_their_neighbours() {
        let mut table = Table::default();
        let new = |name| RouteNetlinkMessage::NewLink(link(AddressFamily::Unspec, name));
        assert_eq!(table.take(&new("eth0")), Effect::Routes);
        assert_eq!(table.take(&new("eth0")), Effect::None);
        assert_eq!((table.link_number("eth0"), table.links()["eth0"].mtu), (Some(2), 1500));
        table.take(&new("wan"));
        assert_eq!((table.link_number("eth0"), table.link_number("wan")), (None, Some(2)));
        table.take(&neighbour(NeighbourState::Reachable, 9));
        let bridge = RouteNetlinkMessage::DelLink(link(AddressFamily::Bridge, "wan"));
        assert_eq!(table.take(&bridge), Effect::None, "left a bridge, and is still there");
        table.take(&RouteNetlinkMessage::DelLink(link(AddressFamily::Unspec, "wan")));
        assert_eq!((table.links().len(), mac(&table)), (0, None));
    }
}
