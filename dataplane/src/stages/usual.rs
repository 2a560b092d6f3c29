//! What nearly every packet is, checked in few instructions: TCP or UDP over IPv4 without options, no fragment, sound; if it
//! came over the overlay, then as flannel's device sends it, without an outer UDP checksum.
//!
//! A packet that is taken here is one that [`parse`](super::parse) takes too, with the same result: there the checks are
//! made one by one, with a reason for each. So this is about speed alone, and a test holds the two against each other.

use crate::{
    flow::FiveTuple,
    io::Frame,
    packet::Meta,
    record::{Recorder, Step},
    snapshot::{Overlay, PortEntry},
    stages::parse::{finish_checksum, is_martian},
    tables::VtepTable,
    wire::{be16, be32, be64, bytes_at, checksum, ethernet, ipv4, le32, le64, tcp, udp, vxlan},
};

const IP: usize = ethernet::HEADER_LEN;

/// Ethernet and IPv4 header.
const HEAD: usize = IP + ipv4::HEADER_LEN;

/// How packets come in on a port.
pub struct Arrival<'a> {
    /// The port.
    pub port: PortEntry,
    /// The overlay, if it is an uplink of it.
    pub overlay: Option<Overlay>,
    /// What comes to our VTEP and is no VXLAN may be an answer to a masqueraded flow; if not, we take none of it.
    pub takes_native: bool,
    /// Who may send over the overlay.
    pub vteps: &'a VtepTable,
}

/// Takes a packet's five-tuple out of it, and the packet out of the overlay. False, and nothing changed, if it is not as
/// packets usually are.
///
/// `OVERLAY` and `GUARD` say whether the port is an uplink of `overlay` and whether it has a guard.
#[inline(always)]
pub fn take<const OVERLAY: bool, const GUARD: bool>(
    frame: &mut Frame,
    meta: &mut Meta,
    arrival: &Arrival,
    overlay: &Overlay,
    recorder: impl Recorder,
) -> bool {
    let Some((head, end)) = sound(frame.bytes(), arrival.port.mac.to_number()) else { return false };
    if OVERLAY && ipv4::dst(&head[IP..]) == overlay.local {
        if is_vxlan(&frame.bytes()[IP..end], overlay) {
            return take_inner::<GUARD>(frame, meta, end, arrival, overlay, recorder);
        }
        let ports = frame.bytes().get(HEAD..HEAD + 4);
        let may_be_vxlan = ports.is_none_or(|ports| be16(ports, udp::DST_PORT) == overlay.udp_port);
        if may_be_vxlan || !arrival.takes_native {
            return false;
        }
    }
    let Some(found) = find::<GUARD>(head, &frame.bytes()[IP..end], &arrival.port) else { return false };
    frame.keep(0, end);
    found.put(frame, meta, recorder);
    true
}

/// As [`take`], for the inner frame of a packet that is VXLAN and ends at `end`.
#[inline(always)]
fn take_inner<const GUARD: bool>(
    frame: &mut Frame,
    meta: &mut Meta,
    end: usize,
    arrival: &Arrival,
    overlay: &Overlay,
    recorder: impl Recorder,
) -> bool {
    let Some((outer, inner)) = frame.bytes()[..end].split_first_chunk::<{ vxlan::OVERHEAD }>() else { return false };
    let Some((head, end)) = sound(inner, overlay.mac.to_number()) else { return false };
    let Some(found) = find::<GUARD>(head, &inner[IP..end], &arrival.port) else { return false };
    let (vtep, mark) = (ipv4::src(&outer[IP..]), outer[IP + ipv4::TOS] & ipv4::ECN_CE);
    // A congestion mark is carried over (RFC 6040, section 4.2): nothing to do if there is none, or the inner header has it.
    let is_marked_alike = mark == 0 || mark == head[IP + ipv4::TOS] & ipv4::ECN_CE;
    if !is_marked_alike || !arrival.vteps.contains(vtep) {
        return false;
    }
    frame.keep(vxlan::OVERHEAD, vxlan::OVERHEAD + end);
    meta.flags = Meta::DECAPSULATED;
    recorder.note(|| Step::Outer { vtep, vni: overlay.vni });
    found.put(frame, meta, recorder);
    true
}

/// What the headers say.
struct Found {
    addresses: u64,
    /// Source and destination port in the upper half, then the protocol.
    ports: u64,
    tcp_flags: u8,
    /// The checksum is left to us: see [`finish_checksum`].
    is_unfinished: bool,
}

impl Found {
    #[inline(always)]
    fn put(self, frame: &mut Frame, meta: &mut Meta, recorder: impl Recorder) {
        meta.key = [self.addresses, self.ports];
        meta.ip_header_len = ipv4::HEADER_LEN as u8;
        meta.tcp_flags = self.tcp_flags;
        let tuple = || FiveTuple::<u32>::from_words(meta.key).told();
        recorder.note(|| Step::Headers { tuple: tuple(), tcp_flags: self.tcp_flags, fragment: false });
        if self.is_unfinished {
            finish_checksum(frame, meta.protocol(), ipv4::HEADER_LEN as u8);
        }
    }
}

/// Looks behind the header of a sound packet; `head` is what its frame begins with.
#[inline(always)]
fn find<const GUARD: bool>(head: &[u8; HEAD], packet: &[u8], port: &PortEntry) -> Option<Found> {
    let ip = &head[IP..];
    let (addresses, protocol) = (be64(ip, ipv4::SRC), ip[ipv4::PROTOCOL]);
    if is_martian((addresses >> 32) as u32) || be16(ip, ipv4::FRAGMENT) & ipv4::FRAGMENTED != 0 {
        return None;
    }
    let (ports, checksum, tcp_flags) = if protocol == ipv4::UDP {
        let udp = &packet.first_chunk::<{ ipv4::HEADER_LEN + udp::HEADER_LEN }>()?[ipv4::HEADER_LEN..];
        (be32(udp, 0), bytes_at(udp, udp::CHECKSUM), 0)
    } else if protocol == ipv4::TCP {
        let tcp = &packet.first_chunk::<{ ipv4::HEADER_LEN + tcp::HEADER_LEN }>()?[ipv4::HEADER_LEN..];
        (be32(tcp, 0), bytes_at(tcp, tcp::CHECKSUM), tcp[tcp::FLAGS])
    } else {
        return None;
    };
    if GUARD
        && let Some(guard) = port.guard
        && (ethernet::source_number(head) != guard.mac
            || (addresses >> 32) as u32 != guard.address
            || ports as u16 == guard.vtep_port)
    {
        return None;
    }
    let is_unfinished = port.unfinished_checksums && {
        let len = (packet.len() - ipv4::HEADER_LEN) as u16;
        let pseudo = checksum::pseudo_header((addresses >> 32) as u32, addresses as u32, protocol, len);
        checksum::is_sum_of(u16::from_be_bytes(checksum), pseudo)
    };
    Some(Found { addresses, ports: u64::from(ports) << 32 | u64::from(protocol), tcp_flags, is_unfinished })
}

/// What a frame for `station` begins with, and where its IPv4 packet ends, if the header is sound and has no options.
#[inline(always)]
fn sound(frame: &[u8], station: u64) -> Option<(&[u8; HEAD], usize)> {
    /// EtherType, then version and header length: the first three bytes of a word, whose fourth is the DSCP.
    const IPV4: u32 = u32::from_le_bytes([(ethernet::IPV4 >> 8) as u8, ethernet::IPV4 as u8, ipv4::PLAIN, 0]);
    let head = frame.first_chunk::<HEAD>()?;
    let ip = head.last_chunk().expect("the header is the head's end");
    let end = IP + usize::from(ipv4::total_len(ip));
    let is_sound = end <= frame.len()
        && le32(head, ethernet::TYPE) & 0x00ff_ffff == IPV4
        && ethernet::destination(head) == station
        && ipv4::checksum_holds(ip);
    is_sound.then_some((head, end))
}

/// Whether an outer packet to our VTEP is VXLAN of our network as it usually is: a UDP datagram without a checksum that
/// fills the packet, and no fragment.
#[inline(always)]
fn is_vxlan(packet: &[u8], overlay: &Overlay) -> bool {
    let Some(headers) = packet.first_chunk::<{ vxlan::OVERHEAD - IP }>() else { return false };
    let (udp, vxlan) = headers[ipv4::HEADER_LEN..].split_at(udp::HEADER_LEN);
    // The destination port, and no checksum.
    let is_for_us = le64(udp, 0) & 0xffff_0000_ffff_0000 == u64::from(overlay.udp_port.swap_bytes()) << 16;
    headers[ipv4::PROTOCOL] == ipv4::UDP
        && be16(headers, ipv4::FRAGMENT) & ipv4::FRAGMENTED == 0
        && is_for_us
        && usize::from(be16(udp, udp::LEN)) == packet.len() - ipv4::HEADER_LEN
        && le64(vxlan, 0) & 0x00ff_ffff_0000_0008 == vxlan::usual(overlay.vni)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        io::FramePool,
        net::MacAddr,
        record::Off,
        snapshot::{Guard, Snapshot},
        spec::{PortId, PortRole},
        stages::parse::decap_and_parse,
        wire::put16,
    };

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OUR_VTEP: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const POD: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
    const LOCAL: u32 = 0xc0a8_3201;
    const OTHER: u32 = 0xc0a8_3202;
    const POD_ADDRESS: u32 = 0x0af4_010a;
    const OVERLAY: Overlay = Overlay { vni: 1, udp_port: 8472, local: LOCAL, mac: OUR_VTEP };

    fn arrival(vteps: &VtepTable, guarded: bool, uplink: bool, unfinished: bool, takes_native: bool) -> Arrival<'_> {
        let guard = Guard { mac: POD.to_number(), address: POD_ADDRESS, ipv6: 0, vtep_port: 8472 };
        let port = PortEntry {
            role: Some(if uplink { PortRole::Uplink } else { PortRole::Pod }),
            mac: OURS,
            unfinished_checksums: unfinished,
            guard: guarded.then_some(guard),
        };
        Arrival { port, overlay: uplink.then_some(OVERLAY), takes_native, vteps }
    }

    /// A packet as packets usually are. Its checksum is the pseudo header's sum: unfinished, or wrong.
    fn packet(to: MacAddr, dst: u32, protocol: u8, dst_port: u16, tos: u8) -> Vec<u8> {
        let l4_len = if protocol == ipv4::TCP { tcp::HEADER_LEN } else { udp::HEADER_LEN } + 5;
        let mut frame = vec![0; HEAD + l4_len];
        ethernet::emit(&mut frame, to, POD, ethernet::IPV4);
        let (src, total_len) = (POD_ADDRESS, (ipv4::HEADER_LEN + l4_len) as u16);
        ipv4::Header { tos, total_len, id: 7, flags: 0, ttl: 64, protocol, src, dst }.emit(&mut frame[IP..]);
        let l4 = &mut frame[HEAD..];
        if protocol == ipv4::TCP {
            tcp::emit(l4, 1000, dst_port, tcp::SYN)
        } else {
            udp::emit(l4, 1000, dst_port, l4_len as u16)
        }
        let field = checksum::field(protocol).expect("it has one");
        put16(l4, field, checksum::fold(checksum::pseudo_header(src, dst, protocol, l4_len as u16)));
        frame
    }

    /// The same from another VTEP.
    fn encapsulated(inner: &[u8], mark: u8) -> Vec<u8> {
        let mut frame = vec![0; vxlan::OVERHEAD];
        ethernet::emit(&mut frame, OURS, POD, ethernet::IPV4);
        let (total_len, udp_len) = ((inner.len() + vxlan::OVERHEAD - IP) as u16, (inner.len() + 16) as u16);
        ipv4::Header { tos: mark, total_len, id: 7, flags: 0, ttl: 64, protocol: ipv4::UDP, src: OTHER, dst: LOCAL }
            .emit(&mut frame[IP..]);
        udp::emit(&mut frame[HEAD..], 50_000, 8472, udp_len);
        vxlan::emit(&mut frame[HEAD + udp::HEADER_LEN..], 1);
        frame.extend(inner);
        frame
    }

    /// Whether a packet is taken as usual. If so, it is held against what `parse` makes of it.
    fn is_taken(packet: &[u8], arrival: &Arrival) -> bool {
        let mut pool = FramePool::on_heap(2);
        let [mut usual, mut other] = std::array::from_fn(|_| pool.take().expect("there are two"));
        assert!(usual.fill(packet) && other.fill(packet));
        let [mut usual_meta, mut meta] = [Meta::new(PortId(0)); 2];
        let overlay = arrival.overlay.unwrap_or_default();
        let take = match (arrival.overlay.is_some(), arrival.port.guard.is_some()) {
            (false, false) => take::<false, false>,
            (false, true) => take::<false, true>,
            (true, false) => take::<true, false>,
            (true, true) => take::<true, true>,
        };
        let taken = take(&mut usual, &mut usual_meta, arrival, &overlay, Off);
        if taken {
            let (snapshot, bytes) = (Snapshot::empty(1), usual.bytes());
            assert_eq!(decap_and_parse(&mut other, &mut meta, arrival, &snapshot, Off), Ok(()));
            assert_eq!((bytes, usual.headroom()), (other.bytes(), other.headroom()));
            assert_eq!(format!("{usual_meta:?}"), format!("{meta:?}"));
        } else {
            assert_eq!((usual.bytes(), usual_meta.flags), (packet, 0), "nothing is changed");
        }
        taken
    }

    #[test]
    fn what_is_usual_is_taken() {
        let vteps = VtepTable::build([OTHER], 1);
        for protocol in [ipv4::UDP, ipv4::TCP] {
            for (unfinished, takes_native) in [(false, false), (false, true), (true, false), (true, true)] {
                let pod = arrival(&vteps, true, false, unfinished, takes_native);
                let uplink = arrival(&vteps, false, true, unfinished, takes_native);
                let native = |dst| packet(OURS, dst, protocol, 80, 0);
                let inner = packet(OUR_VTEP, 0x0af4_020a, protocol, 80, 2);
                assert!(is_taken(&native(0x0af4_020a), &pod));
                assert!(is_taken(&native(0x0af4_020a), &uplink));
                assert_eq!(is_taken(&native(LOCAL), &uplink), takes_native);
                assert!(is_taken(&encapsulated(&inner, 0), &uplink));
                assert!(is_taken(&encapsulated(&inner, 2), &uplink));
                assert!(!is_taken(&encapsulated(&inner, 3), &uplink), "a mark has to be carried over");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn what_is_taken_is_what_parse_takes(
            tcp in any::<bool>(),
            over_the_overlay in any::<bool>(),
            (guarded, uplink, unfinished, takes_native) in any::<(bool, bool, bool, bool)>(),
            (mark, tos) in any::<(u8, u8)>(),
            dst in prop::sample::select(vec![LOCAL, OTHER, POD_ADDRESS, u32::from(Ipv4Addr::new(10, 244, 2, 10))]),
            dst_port in prop::sample::select(vec![80, 8472]),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            // The header checksum is mended after the changes, or few of them would get any further.
            mended in any::<bool>(),
            cut in 0..4_usize,
        ) {
            let vteps = VtepTable::build([OTHER], 1);
            let protocol = if tcp { ipv4::TCP } else { ipv4::UDP };
            let mut bytes = packet(if over_the_overlay { OUR_VTEP } else { OURS }, dst, protocol, dst_port, tos);
            if over_the_overlay {
                bytes = encapsulated(&bytes, mark);
            }
            for (index, value) in &changes {
                let at = index.index(bytes.len());
                bytes[at] = *value;
            }
            if mended {
                put16(&mut bytes, IP + ipv4::CHECKSUM, 0);
                let sum = checksum::sum(&bytes[IP..HEAD]);
                put16(&mut bytes, IP + ipv4::CHECKSUM, !sum);
            }
            bytes.truncate(bytes.len() - cut / 2);
            is_taken(&bytes, &arrival(&vteps, guarded, uplink, unfinished, takes_native));
        }
    }
}
