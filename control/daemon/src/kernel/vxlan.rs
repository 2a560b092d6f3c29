//! The VXLAN devices that the node's kernel has.

use std::{collections::HashMap, net::Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::{
    new_connection,
    packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
};
use shunt_dataplane::net::MacAddr;

use super::table::ethernet;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Its name.
    pub name: String,
    /// Its MAC address: the VTEP's.
    pub mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: u32,
    /// VXLAN network identifier; 0 if each packet says its own.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Its address on the underlay, if it is bound to one.
    pub local: Option<Ipv4Addr>,
    /// The interface it sends by, if it is bound to one.
    pub link: Option<String>,
}

/// All of this network namespace.
///
/// # Errors
/// Netlink's.
pub async fn vxlan_devices() -> Result<Vec<VxlanDevice>, Box<dyn std::error::Error>> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let name = |link: &LinkMessage| {
        link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
    };
    let names: HashMap<_, _> = links.iter().filter_map(|link| Some((link.header.index, name(link)?))).collect();
    Ok(links.iter().filter_map(|link| device(link, &names)).collect())
}

fn device(link: &LinkMessage, names: &HashMap<u32, String>) -> Option<VxlanDevice> {
    let (mut settings, mut mac, mut mtu) = (None, None, 0);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::LinkInfo(infos) => settings = infos.iter().find_map(vxlan),
            LinkAttribute::Address(bytes) => mac = ethernet(bytes),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            _ => {}
        }
    }
    let name = names.get(&link.header.index)?.clone();
    let mut device = VxlanDevice { name, mac, mtu, vni: 0, port: 0, local: None, link: None };
    for setting in settings? {
        match setting {
            InfoVxlan::Id(vni) => device.vni = *vni,
            InfoVxlan::Port(port) => device.port = *port,
            InfoVxlan::Local(address) => device.local = Some(*address),
            InfoVxlan::Link(index) => device.link = names.get(index).cloned(),
            _ => {}
        }
    }
    Some(device)
}

fn vxlan(info: &LinkInfo) -> Option<&Vec<InfoVxlan>> {
    match info {
        LinkInfo::Data(InfoData::Vxlan(settings)) => Some(settings),
        _ => None,
    }
}
