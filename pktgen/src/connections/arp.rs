//! ARP (RFC 826): answers for the addresses this side plays, and finds those that packets are to go to.

use std::{collections::HashMap, net::Ipv4Addr};

use shunt_dataplane::net::MacAddr;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};

use super::link::{ETHERNET, EthernetHeader, Link};

/// What is known about who is where.
pub struct Neighbours {
    mac: EthernetAddress,
    found: HashMap<Ipv4Addr, EthernetAddress>,
}

impl Neighbours {
    /// Nobody is known to `mac` yet.
    pub fn new(mac: MacAddr) -> Neighbours {
        Neighbours { mac: EthernetAddress(mac.0), found: HashMap::new() }
    }

    /// The header of packets to `address`, if it is known.
    pub fn header(&self, address: Ipv4Addr) -> Option<EthernetHeader> {
        self.found.get(&address).map(|mac| self.header_to(*mac))
    }

    /// The header of packets that answer a frame.
    pub fn header_back(&self, frame: &[u8]) -> EthernetHeader {
        self.header_to(EthernetFrame::new_unchecked(frame).src_addr())
    }

    fn header_to(&self, mac: EthernetAddress) -> EthernetHeader {
        let mut header = EthernetHeader::default();
        let ethernet = EthernetRepr { src_addr: self.mac, dst_addr: mac, ethertype: EthernetProtocol::Ipv4 };
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut header[..]));
        header
    }

    /// Asks for `address`, from `own`.
    pub fn ask(&self, link: &mut Link, own: Ipv4Addr, address: Ipv4Addr) {
        self.send(
            link,
            EthernetAddress::BROADCAST,
            ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Request,
                source_hardware_addr: self.mac,
                source_protocol_addr: own,
                target_hardware_addr: EthernetAddress([0; 6]),
                target_protocol_addr: address,
            },
        );
    }

    /// Takes a frame if it is ARP; answers it if it asks for an address that `ours` says yes to. False: it is something else.
    pub fn take(&mut self, link: &mut Link, frame: &[u8], ours: impl Fn(Ipv4Addr) -> bool) -> bool {
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
        if ethernet.ethertype() != EthernetProtocol::Arp {
            return false;
        }
        let Some(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = ArpPacket::new_checked(ethernet.payload()).ok().and_then(|packet| ArpRepr::parse(&packet).ok())
        else {
            return true;
        };
        self.found.insert(source_protocol_addr, source_hardware_addr);
        if operation == ArpOperation::Request && ours(target_protocol_addr) {
            self.send(
                link,
                source_hardware_addr,
                ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Reply,
                    source_hardware_addr: self.mac,
                    source_protocol_addr: target_protocol_addr,
                    target_hardware_addr: source_hardware_addr,
                    target_protocol_addr: source_protocol_addr,
                },
            );
        }
        true
    }

    fn send(&self, link: &mut Link, to: EthernetAddress, message: ArpRepr) {
        let mut frame = vec![0; ETHERNET + message.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
        EthernetRepr { src_addr: self.mac, dst_addr: to, ethertype: EthernetProtocol::Arp }.emit(&mut ethernet);
        message.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
        link.send(&frame);
    }
}
