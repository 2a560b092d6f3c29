//! What differs between the families of addresses, for tables and stages that are written once.

use std::sync::Arc;

use super::{Masquerade, Snapshot};
use crate::{
    flow::Packed,
    net::Address,
    tables::{Endpoints, Fib, Fib6, Prefixes, ServiceIndex, ServiceTable, fib},
    wire::{ethernet, icmpv4, icmpv6, ipv4, ipv6},
};

/// The prefixes of a family.
pub type Net<N> = <<N as crate::net::Number>::Address as Address>::Net;

/// A family of addresses, by its addresses' type as numbers.
pub trait Family: Packed {
    /// Its forwarding table.
    type Fib: Send + Sync;
    /// Where that lies.
    type View<'a>: Copy;
    /// What announces its packets in the Ethernet header.
    const ETHERTYPE: u16;
    /// Bytes of its IP header, without options or extension headers.
    const HEADER_LEN: usize;
    /// The number of its ICMP in the IP header.
    const ICMP: u8;
    /// What that has as the type of an echo request, where other protocols have the destination port.
    const ECHO_REQUEST: u16;
    /// Nodes relay flows of it to one another (direct server return).
    const RELAYS: bool;

    /// Its part of a snapshot.
    fn tables(snapshot: &Snapshot) -> &Tables<Self>;

    /// A forwarding table; addresses that no route covers lead to `default`.
    fn build_fib(routes: &[(Net<Self>, u32)], default: u32) -> Self::Fib;

    /// Where a forwarding table lies.
    fn view(fib: &Self::Fib) -> Self::View<'_>;

    /// The next hop for an address.
    fn look_up(view: Self::View<'_>, address: Self) -> u32;

    /// Whether a VTEP, ours or another, listens for VXLAN there.
    fn is_vtep(snapshot: &Snapshot, address: Self, port: u16, protocol: u8) -> bool;

    /// The service here of what another node relays for one of its own addresses.
    fn relayed(snapshot: &Snapshot, vip: Self, port: u16, protocol: u8) -> Option<ServiceIndex>;
}

/// What a snapshot has once for each family.
pub struct Tables<N: Family> {
    /// Destination to index into the snapshot's next hops.
    pub fib: Arc<N::Fib>,
    /// The services.
    pub services: Arc<ServiceTable<N::Address>>,
    /// Where they lead.
    pub endpoints: Arc<Endpoints<N::Address>>,
    /// The address answered for on pod and host ports; 0: none.
    pub gateway: N,
    /// Other addresses answered for on pod ports; `None`: none.
    pub on_link: Option<Net<N>>,
    /// The source of ICMP errors; 0: none are sent.
    pub router: N,
    /// How sources are replaced; `None`: they cannot be.
    pub masquerade: Option<Masquerade<N>>,
    /// Whether new flows may have to be tracked.
    pub tracks: bool,
    /// Where pods are.
    pub(super) pods: Prefixes<N>,
    /// What the FIB was built from, to know whether the next snapshot can share it.
    pub(super) routes: Arc<[(Net<N>, u32)]>,
}

impl<N: Family> Clone for Tables<N> {
    fn clone(&self) -> Self {
        Tables {
            fib: self.fib.clone(),
            services: self.services.clone(),
            endpoints: self.endpoints.clone(),
            masquerade: self.masquerade.clone(),
            pods: self.pods.clone(),
            routes: self.routes.clone(),
            ..*self
        }
    }
}

impl Family for u32 {
    type Fib = Fib;
    type View<'a> = fib::View<'a>;
    const ETHERTYPE: u16 = ethernet::IPV4;
    const HEADER_LEN: usize = ipv4::HEADER_LEN;
    const ICMP: u8 = ipv4::ICMP;
    const ECHO_REQUEST: u16 = icmpv4::ECHO_REQUEST as u16;
    const RELAYS: bool = true;

    #[inline(always)]
    fn tables(snapshot: &Snapshot) -> &Tables<u32> {
        &snapshot.ipv4
    }

    fn build_fib(routes: &[(Net<u32>, u32)], default: u32) -> Fib {
        Fib::build(routes.iter().copied(), default)
    }

    #[inline(always)]
    fn view(fib: &Fib) -> fib::View<'_> {
        fib.view()
    }

    #[inline(always)]
    fn look_up(view: fib::View<'_>, address: u32) -> u32 {
        view.lookup(address)
    }

    #[inline]
    fn is_vtep(snapshot: &Snapshot, address: u32, port: u16, protocol: u8) -> bool {
        let Some(overlay) = &snapshot.overlay else { return false };
        let is_of_one = || overlay.local == address || snapshot.vteps.contains(address);
        overlay.udp_port == port && protocol == ipv4::UDP && is_of_one()
    }

    fn relayed(snapshot: &Snapshot, vip: u32, port: u16, protocol: u8) -> Option<ServiceIndex> {
        let ours = snapshot.overlay.filter(|_| snapshot.vteps.contains(vip))?.local;
        snapshot.ipv4.services.lookup(ours, port, protocol)
    }
}

impl Family for u128 {
    type Fib = Fib6;
    type View<'a> = &'a Fib6;
    const ETHERTYPE: u16 = ethernet::IPV6;
    const HEADER_LEN: usize = ipv6::HEADER_LEN;
    const ICMP: u8 = ipv6::ICMPV6;
    const ECHO_REQUEST: u16 = icmpv6::ECHO_REQUEST as u16;
    const RELAYS: bool = false;

    #[inline(always)]
    fn tables(snapshot: &Snapshot) -> &Tables<u128> {
        &snapshot.ipv6
    }

    fn build_fib(routes: &[(Net<u128>, u32)], default: u32) -> Fib6 {
        Fib6::build(routes.iter().copied(), default)
    }

    #[inline(always)]
    fn view(fib: &Fib6) -> &Fib6 {
        fib
    }

    #[inline]
    fn look_up(fib: &Fib6, address: u128) -> u32 {
        fib.lookup(address)
    }

    fn is_vtep(_: &Snapshot, _: u128, _: u16, _: u8) -> bool {
        false
    }

    fn relayed(_: &Snapshot, _: u128, _: u16, _: u8) -> Option<ServiceIndex> {
        None
    }
}
