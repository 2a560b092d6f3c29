//! IPv4 and IPv6 as far as they differ in the paths: how an address is made of numbers, and how a datagram is written and
//! read. What is outside of the overlay's packets is IPv4 in both.

use ipnet::{Ipv4Net, Ipv6Net};
use shunt_dataplane::{
    net::MacAddr,
    snapshot::{self, Net},
    spec::{FamilySpec, ForwardingSpec},
    wire::{be16, checksum, ethernet, ipv4, ipv6, udp},
};

/// Bytes of a frame without what the overlay adds: no shorter one is sent.
pub const FRAME_LEN: usize = 64;
/// The hop limit of what comes in.
const HOPS: u8 = 64;

/// What the packets of a scenario are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpVersion {
    V4,
    V6,
}

/// An address of a family, as a number.
pub trait Family: snapshot::Family {
    /// Its part of what the switch should do.
    fn part(spec: &mut ForwardingSpec) -> &mut FamilySpec<Self::Address>;

    /// An address on the overlay: of node 1, which is this one, or another.
    fn pod(node: u32, pod: u32) -> Self;

    /// An address outside of the cluster.
    fn outside(network: u32, host: u32) -> Self;

    /// A ClusterIP.
    fn service(number: u32) -> Self;

    /// The prefix that the pods of a node have, of which this is one.
    fn subnet(self) -> Net<Self>;

    /// The prefix that all pods have in common, and that of all services.
    fn cidrs() -> [Net<Self>; 2];

    /// The address that pods have as their gateway.
    fn gateway() -> Self;

    /// Writes the header of a UDP packet with so many bytes behind it.
    fn emit(packet: &mut [u8], src: Self, dst: Self, len: u16);

    /// Reads the header of a UDP packet. `None` if it is wrong in itself.
    fn header(packet: &[u8]) -> Option<Header<Self>>;

    /// The sum of the pseudo header that the checksum of a UDP datagram covers, with so many bytes.
    fn pseudo_header(src: Self, dst: Self, len: u16) -> u64;
}

/// What a header says.
pub struct Header<N> {
    pub src: N,
    pub dst: N,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// Bytes behind it.
    pub len: u16,
}

impl Family for u32 {
    fn part(spec: &mut ForwardingSpec) -> &mut FamilySpec<Self::Address> {
        &mut spec.ipv4
    }

    fn pod(node: u32, pod: u32) -> u32 {
        0x0af4_0000 + (node << 8) + pod // 10.244.0.0
    }

    fn outside(network: u32, host: u32) -> u32 {
        0x1400_0000 + (network << 8) + host // 20.0.0.0
    }

    fn service(number: u32) -> u32 {
        0x0a60_0000 + number // 10.96.0.0
    }

    fn subnet(self) -> Ipv4Net {
        Ipv4Net::new_assert(self.into(), 24)
    }

    fn cidrs() -> [Ipv4Net; 2] {
        [Ipv4Net::new_assert(u32::pod(0, 0).into(), 16), Ipv4Net::new_assert(u32::service(0).into(), 12)]
    }

    fn gateway() -> u32 {
        0xa9fe_0101 // 169.254.1.1
    }

    fn emit(packet: &mut [u8], src: u32, dst: u32, len: u16) {
        let total_len = ipv4::HEADER_LEN as u16 + len;
        ipv4::Header { tos: 0, total_len, id: 0, flags: ipv4::DF, ttl: HOPS, protocol: ipv4::UDP, src, dst }
            .emit(packet);
    }

    fn header(packet: &[u8]) -> Option<Header<u32>> {
        let bytes: &[u8; ipv4::HEADER_LEN] = packet.first_chunk()?;
        let is_sound = ipv4::checksum_holds(bytes) && bytes[ipv4::PROTOCOL] == ipv4::UDP;
        let len = be16(packet, ipv4::TOTAL_LEN).checked_sub(ipv4::HEADER_LEN as u16)?;
        is_sound.then(|| Header { src: ipv4::src(packet), dst: ipv4::dst(packet), hops: bytes[ipv4::TTL], len })
    }

    fn pseudo_header(src: u32, dst: u32, len: u16) -> u64 {
        checksum::pseudo_header(src, dst, ipv4::UDP, len)
    }
}

impl Family for u128 {
    fn part(spec: &mut ForwardingSpec) -> &mut FamilySpec<Self::Address> {
        &mut spec.ipv6
    }

    fn pod(node: u32, pod: u32) -> u128 {
        (0xfd00_0010_0244_0000 + u128::from(node)) << 64 | u128::from(pod) // fd00:10:244::
    }

    fn outside(network: u32, host: u32) -> u128 {
        (0x2001_0db8_0000_0000 + u128::from(network)) << 64 | u128::from(host) // 2001:db8::
    }

    fn service(number: u32) -> u128 {
        0xfd00_0010_0096 << 80 | u128::from(number) // fd00:10:96::
    }

    fn subnet(self) -> Ipv6Net {
        Ipv6Net::new_assert(self.into(), 64)
    }

    fn cidrs() -> [Ipv6Net; 2] {
        [Ipv6Net::new_assert(u128::pod(0, 0).into(), 48), Ipv6Net::new_assert(u128::service(0).into(), 108)]
    }

    fn gateway() -> u128 {
        0xfe80 << 112 | 1 // fe80::1
    }

    fn emit(packet: &mut [u8], src: u128, dst: u128, len: u16) {
        ipv6::Header { traffic_class: 0, payload_len: len, next_header: ipv4::UDP, hop_limit: HOPS, src, dst }
            .emit(packet);
    }

    fn header(packet: &[u8]) -> Option<Header<u128>> {
        let bytes: &[u8; ipv6::HEADER_LEN] = packet.first_chunk()?;
        let is_sound = bytes[0] & 0xf0 == ipv6::VERSION && bytes[ipv6::NEXT_HEADER] == ipv4::UDP;
        let len = be16(packet, ipv6::PAYLOAD_LEN);
        is_sound.then(|| Header { src: ipv6::src(packet), dst: ipv6::dst(packet), hops: bytes[ipv6::HOP_LIMIT], len })
    }

    fn pseudo_header(src: u128, dst: u128, len: u16) -> u64 {
        checksum::pseudo_header_v6(src, dst, ipv4::UDP, len.into())
    }
}

/// A frame with a UDP datagram that fills it.
pub fn datagram<N: Family>(to: MacAddr, from: MacAddr, src: (N, u16), dst: (N, u16)) -> Vec<u8> {
    let ip = ethernet::HEADER_LEN;
    let l4 = ip + N::HEADER_LEN;
    let len = (FRAME_LEN - l4) as u16;
    let mut bytes = vec![0; FRAME_LEN];
    ethernet::emit(&mut bytes, to, from, N::ETHERTYPE);
    N::emit(&mut bytes[ip..], src.0, dst.0, len);
    udp::emit(&mut bytes[l4..], src.1, dst.1, len);
    let pseudo = N::pseudo_header(src.0, dst.0, len);
    let sum = checksum::finish(pseudo + u64::from(checksum::sum(&bytes[l4..])));
    bytes[l4 + udp::CHECKSUM..l4 + udp::HEADER_LEN].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Looks whether a frame is such a datagram, one hop later.
///
/// # Panics
/// If it is not: `name` is in the message.
pub fn check<N: Family>(name: &str, frame: &[u8]) {
    assert_eq!(frame.len(), FRAME_LEN, "{name}: length");
    assert_eq!(be16(frame, ethernet::TYPE), N::ETHERTYPE, "{name}: Ethernet type");
    let packet = &frame[ethernet::HEADER_LEN..];
    let Header { src, dst, hops, len } = N::header(packet).unwrap_or_else(|| panic!("{name}: header of {packet:x?}"));
    let datagram = &packet[N::HEADER_LEN..];
    assert_eq!((hops, usize::from(len)), (HOPS - 1, datagram.len()), "{name}: hops left, and bytes behind the header");
    let sum = N::pseudo_header(src, dst, len) + u64::from(checksum::sum(datagram));
    assert_eq!(checksum::fold(sum), 0xffff, "{name}: UDP checksum");
    assert_ne!(be16(datagram, udp::CHECKSUM), 0, "{name}: there is a checksum");
}
