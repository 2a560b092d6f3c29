//! The packets that a path has: prepared, so that dealing them out is all that is done while it is measured.

use shunt_dataplane::wire::{be16, ethernet, ipv4, udp, vxlan};
use shunt_pktgen::random::Random;

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

    /// The same in another order.
    pub fn shuffled(&self) -> Packets {
        let mut packets: Vec<&[u8]> = self.bytes.chunks_exact(self.len).collect();
        Random::new(1).shuffle(&mut packets);
        Packets { len: self.len, bytes: packets.concat() }
    }
}

/// One packet of every flow, in random order, as it comes in first.
pub fn requests<N: Family>(path: Path, scale: Scale) -> Packets {
    let flows = scale.flows;
    let mut random = Random::new(flows.into());
    let mut packets = Packets { len: FRAME_LEN, bytes: Vec::with_capacity(flows as usize * FRAME_LEN) };
    if path == Path::DecapRoute {
        packets.len += vxlan::OVERHEAD;
    }
    // Flow numbers go into client address and port, so that all differ; what they are to is random.
    let mut order: Vec<u32> = (0..flows).collect();
    random.shuffle(&mut order);
    let mut below = |limit: u32| random.below(limit.into()) as u32;
    for flow in order {
        let local_pod = N::pod(HERE, 2 + flow % 250);
        let remote_pod = N::pod(2 + below(VTEPS), 2 + below(200));
        let port = 1024 + (flow / 250) as u16;
        let inner = |mac, src, dst, dst_port| datagram(mac, PEER_MAC, (src, port), (dst, dst_port));
        match path {
            Path::Route => {
                let dst = N::outside(below(scale.routes), below(256));
                packets.bytes.extend(inner(UPLINK_MAC, local_pod, dst, 9));
            }
            Path::RouteEncap => packets.bytes.extend(inner(POD_MAC, local_pod, remote_pod, 9)),
            Path::DecapRoute => {
                packets.bytes.extend(encapsulated(&inner(VTEP_MAC, remote_pod, local_pod, 9), flow % VTEPS));
            }
            Path::ServiceEncap | Path::NewFlow | Path::DecapServiceReply => {
                packets.bytes.extend(inner(POD_MAC, local_pod, N::service(below(scale.services)), 80));
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
