//! The packets that a path has: prepared, so that dealing them out is all that is done while it is measured.

use shunt_dataplane::wire::{be16, ethernet, ipv4, udp, vxlan};

use crate::{
    family::{self, FRAME_LEN, Family, datagram},
    scenario::{HERE, PEER_MAC, POD_MAC, Path, Scale, UNDERLAY, UPLINK_MAC, VTEP_MAC, VTEPS, vtep_address},
};

/// Packets of one length, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    /// Bytes of each.
    pub len: usize,
    /// All of them.
    pub bytes: Vec<u8>,
}

impl Packets {
    /// How many.
    pub fn count(&self) -> usize {
        self.bytes.len() / self.len
    }

    /// Puts them into another order.
    pub fn shuffle(&mut self) {
        let Packets { len, .. } = *self;
        Random(1).shuffle(self.count(), |at, other| {
            let (before, from) = self.bytes.split_at_mut(at * len);
            before[other * len..][..len].swap_with_slice(&mut from[..len]);
        });
    }
}

/// A small generator (SplitMix64): the same packets on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((((z ^ (z >> 31)) >> 32) * u64::from(limit)) >> 32) as u32
    }

    /// An order of `len` things, as swaps: of one, and one before it.
    fn shuffle(&mut self, len: usize, mut swap: impl FnMut(usize, usize)) {
        for at in (1..len).rev() {
            let other = self.below(at as u32 + 1) as usize;
            if other < at {
                swap(at, other);
            }
        }
    }
}

/// One packet of every flow, in random order, as it comes in first.
pub fn requests<N: Family>(path: Path, scale: Scale) -> Packets {
    let flows = scale.flows;
    let mut random = Random(u64::from(flows));
    let mut packets = Packets { len: FRAME_LEN, bytes: Vec::with_capacity(flows as usize * FRAME_LEN) };
    if path == Path::DecapRoute {
        packets.len += vxlan::OVERHEAD;
    }
    // Flow numbers go into client address and port, so that all differ; what they are to is random.
    let mut order: Vec<u32> = (0..flows).collect();
    random.shuffle(order.len(), |at, other| order.swap(at, other));
    for flow in order {
        let local_pod = N::pod(HERE, 2 + flow % 250);
        let remote_pod = N::pod(2 + random.below(VTEPS), 2 + random.below(200));
        let port = 1024 + (flow / 250) as u16;
        let inner = |mac, src, dst, dst_port| datagram(mac, PEER_MAC, (src, port), (dst, dst_port));
        match path {
            Path::Route => {
                let dst = N::outside(random.below(scale.routes), random.below(256));
                packets.bytes.extend(inner(UPLINK_MAC, local_pod, dst, 9));
            }
            Path::RouteEncap => packets.bytes.extend(inner(POD_MAC, local_pod, remote_pod, 9)),
            Path::DecapRoute => {
                packets.bytes.extend(encapsulated(&inner(VTEP_MAC, remote_pod, local_pod, 9), flow % VTEPS));
            }
            Path::ServiceEncap | Path::NewFlow | Path::DecapServiceReply => {
                packets.bytes.extend(inner(POD_MAC, local_pod, N::service(random.below(scale.services)), 80));
            }
        }
    }
    packets
}

fn encapsulated(inner: &[u8], vtep: u32) -> Vec<u8> {
    let len = vxlan::OVERHEAD + inner.len();
    let mut bytes = vec![0; len];
    let ip = ethernet::HEADER_LEN;
    ethernet::emit(&mut bytes, UPLINK_MAC, PEER_MAC, ethernet::IPV4);
    ipv4::Header {
        tos: 0,
        total_len: (len - ip) as u16,
        id: 1,
        flags: 0,
        ttl: 64,
        protocol: ipv4::UDP,
        src: vtep_address(vtep).into(),
        dst: UNDERLAY,
    }
    .emit(&mut bytes[ip..]);
    let l4 = ip + ipv4::HEADER_LEN;
    udp::emit(&mut bytes[l4..], 50_000, 8472, (len - l4) as u16);
    vxlan::emit(&mut bytes[l4 + udp::HEADER_LEN..], 1);
    bytes[vxlan::OVERHEAD..].copy_from_slice(inner);
    bytes
}

/// The backends' answers to packets that go to them.
pub fn answers<N: Family>(requests: &[Vec<u8>]) -> Packets {
    let mut packets = Packets { len: FRAME_LEN + vxlan::OVERHEAD, bytes: Vec::new() };
    for request in requests {
        let outer_dst = ipv4::dst(&request[ethernet::HEADER_LEN..]);
        let inner = &request[vxlan::OVERHEAD + ethernet::HEADER_LEN..];
        let family::Header { src: client, dst: backend, .. } = N::header(inner).expect("a request's header");
        let client_port = be16(inner, N::HEADER_LEN);
        let answer = datagram(VTEP_MAC, PEER_MAC, (backend, 8080), (client, client_port));
        packets.bytes.extend(encapsulated(&answer, outer_dst - UNDERLAY - 1));
    }
    packets
}
