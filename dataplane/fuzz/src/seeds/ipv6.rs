//! Seeds of IPv6.

use std::net::Ipv6Addr;

use shunt_dataplane::net::MacAddr;

use super::{ACK, FIN, RST, SYN, TCP, UDP, chunks, datagram, ethernet, raw, segment, with, wrap};
use crate::{
    input::{SCTP, Step},
    ipv6::{FRAGMENT, HOP_BY_HOP, ICMPV6, OPTIONS, ROUTING},
    world::{
        HOST, OTHER_VTEP, OUR_VTEP, PODS, UPLINK,
        ipv6::{EMPTY, GATEWAY, HAIRPIN, MASQUERADING, REMOTE_SERVICE, ROUTER, SERVICE, remote},
        our_mac, pod_ipv6, station,
    },
};

type Ends = ((Ipv6Addr, u16), (Ipv6Addr, u16));

const NOBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
/// What a pod's own address on its link may be.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
/// The group of those whose address ends as the gateway's.
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// What goes where nobody has resolved the next hop.
const UNRESOLVED: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 3, 0, 0, 0, 1);
/// Ours, and no pod's.
const UNUSED: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x99);

const TRAFFIC_CLASS: usize = 1;
const HOP_LIMIT: usize = 7;

fn ip(next: u8, src: Ipv6Addr, dst: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, high, low, next, 64], &src.octets()[..], &dst.octets(), payload].concat()
}

fn tcp((src, dst): Ends, flags: u8) -> Vec<u8> {
    ip(TCP, src.0, dst.0, &segment(src.1, dst.1, flags))
}

fn udp((src, dst): Ends, payload: &[u8]) -> Vec<u8> {
    ip(UDP, src.0, dst.0, &datagram(src.1, dst.1, payload))
}

fn sctp((src, dst): Ends, types: &[u8]) -> Vec<u8> {
    ip(SCTP, src.0, dst.0, &chunks(src.1, dst.1, types))
}

fn icmp(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    ip(ICMPV6, src, dst, &[&[kind, code, 0, 0], rest].concat())
}

fn ping(src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
    icmp(src, dst, 128, 0, b"\0\x01\0\x01ping")
}

/// A message of neighbour discovery about `target` with the option `kind`.
fn discovery(ends: (Ipv6Addr, Ipv6Addr), message: u8, flags: u8, target: Ipv6Addr, option: (u8, MacAddr)) -> Vec<u8> {
    let rest = [&[flags, 0, 0, 0], &target.octets()[..], &[option.0, 1], &option.1.0].concat();
    with(icmp(ends.0, ends.1, message, 0, &rest), HOP_LIMIT, 255)
}

fn solicitation(src: Ipv6Addr, target: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    discovery((src, SOLICITED), 135, 0, target, (1, mac))
}

/// The packet with extension headers behind its own, each of its kind and whatever else it says.
fn extended(packet: &[u8], headers: &[(u8, &[u8])]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (at, (_, rest)) in headers.iter().enumerate() {
        payload.push(headers.get(at + 1).map_or(packet[6], |next| next.0));
        payload.extend_from_slice(rest);
    }
    payload.extend_from_slice(&packet[40..]);
    let [high, low] = (payload.len() as u16).to_be_bytes();
    [&packet[..4], &[high, low, headers[0].0], &packet[7..40], &payload].concat()
}

/// Padding of six bytes, for either kind of options.
const PADDING: &[u8] = &[0, 1, 4, 0, 0, 0, 0];

fn fragment_header(offset: u16, more: bool) -> [u8; 7] {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [0, high, low, 0, 0, 0, 9]
}

/// A packet without extension headers in three fragments, the first of 8 bytes, or of 24 if it is not UDP.
fn fragments(packet: &[u8]) -> [Vec<u8>; 3] {
    let cuts = [0, if packet[6] == UDP { 8 } else { 24 }, 32, packet.len() - 40];
    std::array::from_fn(|at| {
        let part = [&packet[..40], &packet[40 + cuts[at]..40 + cuts[at + 1]]].concat();
        extended(&part, &[(FRAGMENT, &fragment_header(cuts[at] as u16 / 8, at < 2))])
    })
}

fn frame(from: MacAddr, to: MacAddr, packet: &[u8]) -> Vec<u8> {
    ethernet(from, to, 0x86dd, packet)
}

/// A packet from the station behind a port.
fn at(port: u16, packet: Vec<u8>) -> Step {
    Step::Packet { port, mend: true, wrap: false, bytes: frame(station(port), our_mac(port), &packet) }
}

/// A packet from the other node's pods.
fn overlay(packet: Vec<u8>) -> Step {
    Step::Packet { port: UPLINK, mend: true, wrap: true, bytes: frame(OTHER_VTEP, OUR_VTEP, &packet) }
}

/// A packet from the other node's pods with the outer traffic class set.
fn marked(packet: Vec<u8>, class: u8) -> Step {
    let mut bytes = frame(OTHER_VTEP, OUR_VTEP, &packet);
    crate::input::mend(&mut bytes);
    let mut bytes = with(wrap(&bytes), 15, class);
    smoltcp::wire::Ipv4Packet::new_unchecked(&mut bytes[14..]).fill_checksum();
    raw(UPLINK, bytes)
}

/// From whoever has an address.
fn from(address: Ipv6Addr, packet: Vec<u8>) -> Step {
    match PODS.into_iter().find(|&port| pod_ipv6(port) == address) {
        Some(port) => at(port, packet),
        None => overlay(packet),
    }
}

/// A connection to a service, whose endpoints are all asked for the answer: the flow's client gets one.
fn connection(client: Ipv6Addr, vip: Ipv6Addr, endpoints: &[Ipv6Addr]) -> Vec<Step> {
    let request = |flags| from(client, tcp(((client, 1000), (vip, 80)), flags));
    let replies = |flags| {
        let reply = move |&endpoint| from(endpoint, tcp(((endpoint, 8080), (client, 1000)), flags));
        endpoints.iter().map(reply).chain([Step::EndBurst])
    };
    let mut steps = vec![request(SYN), Step::EndBurst];
    steps.extend(replies(SYN | ACK));
    steps.extend([request(ACK), request(ACK), Step::Publish(1), request(ACK)]);
    steps.extend(replies(ACK));
    steps.extend([request(FIN | ACK), Step::EndBurst]);
    steps.extend(replies(FIN | ACK));
    steps.extend([request(ACK), Step::EndBurst, request(SYN)]);
    steps
}

/// ICMPv6 errors about a flow of the first pod to a service: about its request to each of the endpoints, quoted whole and in part,
/// and about the answers that the pod got of each.
fn errors(request: fn(Ends) -> Vec<u8>, port: u16) -> Vec<Step> {
    let client = (pod_ipv6(PODS[0]), 1000);
    let mended = |packet: Vec<u8>| {
        let mut frame = frame(OUR_VTEP, OTHER_VTEP, &packet);
        crate::input::mend(&mut frame);
        frame.split_off(14)
    };
    let error = |src, dst, kind, code, quote: &[u8]| icmp(src, dst, kind, code, &[&[0, 0, 5, 20], quote].concat());
    let mut steps = vec![at(PODS[0], request((client, (SERVICE, port)))), Step::EndBurst];
    for endpoint in [pod_ipv6(PODS[1]), remote(10)] {
        let sent = mended(request((client, (endpoint, 8080))));
        let extended = extended(&sent, &[(OPTIONS, PADDING)]);
        for (kind, code, quoted) in
            [(1, 4, sent.len()), (2, 0, sent.len()), (3, 0, 48), (4, 1, 51), (1, 0, 47), (100, 0, 48)]
        {
            steps.push(from(endpoint, error(endpoint, client.0, kind, code, &sent[..quoted])));
            steps.push(overlay(error(remote(0), client.0, kind, code, &sent[..quoted])));
        }
        steps.push(from(endpoint, error(endpoint, client.0, 1, 3, &extended)));
        // What is quoted says that it ends before its checksum does.
        steps.push(from(endpoint, error(endpoint, client.0, 1, 4, &with(sent, 5, 8))));
        steps.extend([from(endpoint, request(((endpoint, 8080), client))), Step::EndBurst]);
    }
    let seen = mended(request(((SERVICE, port), client)));
    for (kind, code, quoted) in [(1, 4, 48), (2, 0, seen.len()), (3, 1, 52)] {
        steps.push(at(PODS[0], error(client.0, SERVICE, kind, code, &seen[..quoted.min(seen.len())])));
    }
    steps
}

/// Datagrams of one flow to a service with, between them, every checksum there is, before translation and after.
pub fn every_checksum() -> Vec<Step> {
    let ends = ((pod_ipv6(PODS[0]), 1000), (REMOTE_SERVICE, 53));
    (0..=u16::MAX).map(|payload| at(PODS[0], udp(ends, &payload.to_be_bytes()))).collect()
}

/// All of them, by name.
pub fn all() -> Vec<(&'static str, Vec<Step>)> {
    let [first, second] = PODS;
    let pods = PODS.map(pod_ipv6);
    let everywhere = [pods[0], pods[1], remote(10)];
    let far = [remote(10), remote(11)];
    let client = |port| (pods[0], port);
    let query = |port, vip| at(first, udp((client(port), (vip, 53)), b"query"));
    let open = |port, vip| at(first, tcp((client(port), (vip, 80)), SYN));
    let to_pod = || udp((client(1000), (pods[1], 2000)), b"x");
    let to_service = || tcp((client(1000), (SERVICE, 80)), SYN);
    let from_remote = || udp(((remote(10), 1000), (pods[0], 2000)), b"x");
    let long = |bytes: usize| udp((client(1000), (remote(10), 2000)), &vec![7; bytes - 48]);
    let unmended = |packet: Vec<u8>| raw(first, frame(station(first), our_mac(first), &packet));
    // As a kernel leaves the checksum to its device.
    let unfinished = |packet: Vec<u8>, field: usize| {
        let addresses = [&packet[8..40], &[0, packet[6]], &((packet.len() - 40) as u16).to_be_bytes()].concat();
        let mut sum: u32 = addresses.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        let [high, low] = (sum as u16).to_be_bytes();
        unmended(with(with(packet, 40 + field, high), 41 + field, low))
    };
    vec![
        ("ipv6_pod_to_pod", vec![at(first, to_pod()), at(second, ping(pods[1], pods[0]))]),
        ("ipv6_pod_to_remote", vec![at(first, long(100)), at(first, ping(pods[0], remote(10)))]),
        (
            "ipv6_remote_to_pod",
            vec![
                overlay(from_remote()),
                overlay(tcp(((remote(10), 1), (pods[1], 2)), RST)),
                overlay(ping(remote(10), pods[0])),
            ],
        ),
        (
            "ipv6_both_families",
            vec![
                at(first, to_pod()),
                super::at(first, super::ping(super::POD[0], super::POD[1])),
                at(first, to_service()),
            ],
        ),
        ("ipv6_connection", connection(pods[0], SERVICE, &everywhere)),
        ("ipv6_connection_from_remote", connection(remote(11), SERVICE, &everywhere)),
        ("ipv6_connection_to_remote", connection(pods[1], REMOTE_SERVICE, &far)),
        (
            "ipv6_dns",
            vec![
                query(1, SERVICE),
                query(1, REMOTE_SERVICE),
                Step::EndBurst,
                query(1, SERVICE),
                Step::Publish(1),
                query(1, REMOTE_SERVICE),
                Step::Wait(640),
                query(1, SERVICE),
            ],
        ),
        ("ipv6_full_table_of_flows", {
            let answered = |port| {
                let mut steps = vec![query(port, SERVICE), Step::EndBurst];
                steps.extend(
                    everywhere.map(|endpoint| from(endpoint, udp(((endpoint, 8080), client(port)), b"answer"))),
                );
                steps.push(Step::EndBurst);
                steps
            };
            (0..12).flat_map(answered).collect()
        }),
        ("ipv6_stale_reply", {
            let asked = |port| overlay(udp(((remote(11), port), (SERVICE, 53)), b"query"));
            let answered = |port| at(first, udp(((pods[0], 8080), (remote(11), port)), b"answer"));
            let round = |port| [asked(port), Step::Publish(1), answered(port), asked(port), Step::Publish(0)];
            (0..12).flat_map(round).collect()
        }),
        (
            "ipv6_out_of_state",
            vec![at(first, tcp((client(1), (SERVICE, 80)), RST)), at(first, tcp((client(1), (SERVICE, 80)), FIN))],
        ),
        ("ipv6_association", {
            let request = |vip, types: &[u8]| at(first, sctp((client(1000), (vip, 80)), types));
            let answers = |types: &[u8]| {
                let mut steps: Vec<_> = [pods[1], remote(10), remote(11)]
                    .map(|endpoint| from(endpoint, sctp(((endpoint, 8080), client(1000)), types)))
                    .into();
                steps.push(Step::EndBurst);
                steps
            };
            let mut steps = vec![request(SERVICE, &[1]), request(REMOTE_SERVICE, &[1]), Step::EndBurst];
            steps.extend(answers(&[2]));
            steps.extend([request(SERVICE, &[10, 0]), request(REMOTE_SERVICE, &[10, 0]), Step::EndBurst]);
            steps.extend(answers(&[11, 0]));
            steps.extend([Step::Publish(1), request(SERVICE, &[3, 7]), Step::EndBurst]);
            steps.extend(answers(&[6]));
            steps
        }),
        ("ipv6_hairpin", {
            let mut steps = vec![
                open(1000, HAIRPIN),
                query(1000, HAIRPIN),
                at(first, sctp((client(1000), (HAIRPIN, 80)), &[1])),
                Step::EndBurst,
            ];
            for port in [61_000, 61_001] {
                let ends = ((pods[0], 8080), (ROUTER, port));
                steps.push(at(first, tcp(ends, SYN | ACK)));
                steps.push(at(first, udp(ends, b"answer")));
                steps.push(at(first, sctp(ends, &[2])));
            }
            steps.extend((1..4).map(|port| open(port, HAIRPIN)));
            steps.extend([Step::Publish(1), open(7, HAIRPIN), at(first, ping(pods[0], HAIRPIN))]);
            steps
        }),
        ("ipv6_masquerade", {
            let answer = |port| overlay(tcp(((remote(10), 8080), (ROUTER, port)), SYN | ACK));
            let mut steps: Vec<_> =
                [1, 2, 3].into_iter().flat_map(|port| [open(port, MASQUERADING), Step::EndBurst]).collect();
            steps.extend([answer(61_000), answer(61_001), answer(61_002), Step::EndBurst]);
            steps.extend([
                overlay(tcp(((remote(10), 7), (MASQUERADING, 80)), SYN)),
                Step::Publish(1),
                open(1, MASQUERADING),
            ]);
            steps
        }),
        (
            "ipv6_refused",
            vec![
                open(1, EMPTY),
                at(first, tcp((client(1), (SERVICE, 99)), SYN)),
                at(first, ping(pods[0], SERVICE)),
                open(1, Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x99)),
                open(1, OUTSIDE),
                open(1, UNUSED),
                open(1, UNRESOLVED),
                open(1, SOLICITED),
                // About an error nobody is told.
                at(first, icmp(pods[0], OUTSIDE, 1, 0, &[0; 60])),
                at(first, icmp(pods[0], OUTSIDE, 1, 0, &[])),
                overlay(tcp(((remote(10), 1), (EMPTY, 80)), SYN)),
                overlay(tcp(((remote(10), 1), (OUTSIDE, 80)), SYN)),
            ],
        ),
        ("ipv6_rate_limit", vec![open(1000, EMPTY); 120]),
        (
            "ipv6_too_big",
            vec![
                at(first, long(1450)),
                at(first, long(1451)),
                at(first, with(long(1460), HOP_LIMIT, 1)),
                at(first, udp((client(1), (REMOTE_SERVICE, 53)), &[7; 1440])),
                at(first, udp((client(1), (pods[1], 53)), &[7; 1470])),
                at(first, icmp(pods[0], remote(10), 1, 0, &[7; 1450])),
                at(first, icmp(pods[0], remote(10), 128, 0, &[7; 1450])),
                overlay(udp(((remote(10), 1), (pods[0], 53)), &[7; 1500])),
            ],
        ),
        (
            "ipv6_hop_limit",
            vec![
                at(first, with(to_pod(), HOP_LIMIT, 1)),
                at(first, with(to_service(), HOP_LIMIT, 0)),
                at(first, with(to_service(), HOP_LIMIT, 2)),
                at(first, with(ping(pods[0], ROUTER), HOP_LIMIT, 1)),
            ],
        ),
        ("ipv6_discovery", {
            let advertised = |target| discovery((pods[0], GATEWAY), 136, 0x60, target, (2, station(first)));
            let mut steps: Vec<_> = [
                solicitation(pods[0], GATEWAY, station(first)),
                solicitation(LINK_LOCAL, GATEWAY, station(first)),
                discovery((LINK_LOCAL, GATEWAY), 135, 0, GATEWAY, (14, station(second))),
                solicitation(pods[0], pods[1], station(first)),
                solicitation(pods[1], GATEWAY, station(first)),
                solicitation(pods[0], GATEWAY, station(second)),
                with(solicitation(pods[0], GATEWAY, station(first)), HOP_LIMIT, 64),
                // Whether the gateway's address is free.
                with(icmp(NOBODY, SOLICITED, 135, 0, &[&[0; 4], &GATEWAY.octets()[..]].concat()), HOP_LIMIT, 255),
                advertised(pods[0]),
                advertised(GATEWAY),
                advertised(pods[1]),
                extended(&solicitation(pods[0], GATEWAY, station(first)), &[(OPTIONS, PADDING)]),
                with(icmp(LINK_LOCAL, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2), 133, 0, &[0; 4]), HOP_LIMIT, 255),
                icmp(pods[0], pods[1], 137, 0, &[0; 36]),
                extended(
                    &icmp(NOBODY, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16), 143, 0, &[0; 24]),
                    &[(HOP_BY_HOP, &[0, 5, 2, 0, 0, 1, 0])],
                ),
            ]
            .map(|packet| at(first, packet))
            .into();
            let asked = || solicitation(remote(10), GATEWAY, OTHER_VTEP);
            steps.extend([at(HOST, asked()), at(UPLINK, asked()), overlay(asked())]);
            steps.push(unmended(solicitation(pods[0], GATEWAY, station(first))));
            steps
        }),
        ("ipv6_ping_the_switch", {
            let long_one = icmp(pods[0], ROUTER, 128, 0, &[7; 1300]);
            vec![
                at(first, ping(pods[0], GATEWAY)),
                at(first, ping(LINK_LOCAL, GATEWAY)),
                at(first, ping(LINK_LOCAL, ROUTER)),
                at(first, ping(pods[0], ROUTER)),
                at(first, long_one),
                overlay(ping(remote(10), ROUTER)),
                at(HOST, ping(LINK_LOCAL, GATEWAY)),
                at(first, extended(&ping(pods[0], ROUTER), &[(HOP_BY_HOP, PADDING), (OPTIONS, PADDING)])),
                at(first, extended(&ping(LINK_LOCAL, GATEWAY), &[(OPTIONS, PADDING)])),
                at(first, udp((client(1), (ROUTER, 2)), b"x")),
                at(first, udp(((LINK_LOCAL, 1), (GATEWAY, 2)), b"x")),
                unmended(ping(pods[0], ROUTER)),
            ]
        }),
        ("ipv6_extension_headers", {
            let chains: [&[(u8, &[u8])]; 9] = [
                &[(HOP_BY_HOP, PADDING)],
                &[(OPTIONS, PADDING)],
                &[(OPTIONS, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
                &[(ROUTING, &[0, 4, 0, 0, 0, 0, 0])],
                &[(ROUTING, &[2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])],
                &[(FRAGMENT, &[0, 0, 0, 0, 0, 0, 9])],
                &[
                    (HOP_BY_HOP, PADDING),
                    (OPTIONS, PADDING),
                    (ROUTING, &[0, 4, 0, 0, 0, 0, 0]),
                    (FRAGMENT, &[0, 0, 0, 0, 0, 0, 9]),
                    (OPTIONS, PADDING),
                ],
                &[(OPTIONS, PADDING), (HOP_BY_HOP, PADDING)],
                &[(OPTIONS, PADDING); 9],
            ];
            let of = |chain: &&[(u8, &[u8])]| {
                let packets = [to_pod(), to_service(), sctp((client(1), (REMOTE_SERVICE, 80)), &[1])];
                let again = packets.map(|packet| at(first, extended(&packet, chain)));
                again.into_iter().chain([overlay(extended(&from_remote(), chain))])
            };
            chains.iter().flat_map(of).collect()
        }),
        ("ipv6_fragments", {
            let mut steps = Vec::new();
            for packet in [
                udp((client(1), (pods[1], 2)), &[7; 64]),
                udp((client(1), (REMOTE_SERVICE, 53)), &[7; 64]),
                tcp((client(1), (SERVICE, 80)), SYN),
                ping(pods[0], ROUTER),
                icmp(pods[0], remote(10), 128, 0, &[7; 64]),
            ] {
                steps.extend(fragments(&[packet, vec![7; 24]].concat()).map(|fragment| at(first, fragment)));
                steps.push(Step::EndBurst);
            }
            // Answers come in another order, partly in one burst; only one endpoint's are translated.
            for packets in [
                [remote(10), remote(11)].map(|one| udp(((one, 8080), client(1)), &[9; 64])),
                [pods[1], remote(10)].map(|one| [tcp(((one, 8080), client(1)), SYN | ACK), vec![7; 24]].concat()),
                [SERVICE, REMOTE_SERVICE].map(|vip| sctp((client(1), (vip, 80)), &[1, 0, 3, 3])),
            ] {
                for packet in packets {
                    let src = packet[8..24].try_into().map(<[u8; 16]>::into).expect("an address");
                    let [first_one, middle, last] = fragments(&packet).map(|fragment| from(src, fragment));
                    steps.extend([last, Step::EndBurst, middle, first_one, Step::EndBurst]);
                }
            }
            let [too_short, .., last] = fragments(&udp((client(2), (SERVICE, 53)), &[7; 64]));
            steps.extend([at(first, with(too_short, 40, TCP)), at(first, last), Step::Wait(16)]);
            steps
        }),
        ("ipv6_errors_about_a_connection", errors(|ends| tcp(ends, SYN), 80)),
        ("ipv6_errors_about_datagrams", errors(|ends| udp(ends, b"query"), 53)),
        ("ipv6_errors_about_an_association", errors(|ends| sctp(ends, &[1]), 80)),
        (
            "ipv6_a_pod_plays_another_one",
            vec![
                at(first, ping(pods[1], pods[0])),
                at(first, ping(LINK_LOCAL, pods[1])),
                raw(first, frame(station(second), our_mac(first), &to_pod())),
                raw(first, frame(station(first), station(second), &to_pod())),
                raw(first, frame(station(first), MacAddr::BROADCAST, &to_pod())),
            ],
        ),
        (
            "ipv6_martians",
            [NOBODY, Ipv6Addr::LOCALHOST, SOLICITED, LINK_LOCAL, Ipv6Addr::from_bits(0xffff_0a00_0001)]
                .map(|src| overlay(ping(src, pods[0])))
                .into(),
        ),
        (
            "ipv6_unfinished_checksums",
            vec![
                unfinished(to_pod(), 6),
                unfinished(udp((client(1), (REMOTE_SERVICE, 53)), b"odd"), 6),
                unfinished(to_service(), 16),
                unmended(sctp((client(1), (pods[1], 80)), &[1])),
                unmended(sctp((client(1), (REMOTE_SERVICE, 80)), &[1])),
            ],
        ),
        (
            "ipv6_no_checksums",
            vec![
                unmended(to_pod()),
                unmended(udp((client(1), (REMOTE_SERVICE, 53)), b"query")),
                unmended(to_service()),
            ],
        ),
        (
            "ipv6_ecn",
            [(3, 2), (1, 2), (3, 0), (2, 0), (3, 3), (0, 1)]
                .into_iter()
                .map(|(outer, inner)| marked(with(from_remote(), TRAFFIC_CLASS, inner << 4), outer))
                .chain([at(first, with(with(long(60), 0, 0x6b), TRAFFIC_CLASS, 0xb7))])
                .collect(),
        ),
        (
            "ipv6_short",
            vec![
                at(first, ip(TCP, pods[0], pods[1], &[0; 19])),
                at(first, ip(UDP, pods[0], pods[1], &[0; 7])),
                at(first, ip(ICMPV6, pods[0], pods[1], &[128, 0, 0, 0])),
                at(first, ip(SCTP, pods[0], pods[1], &[0; 11])),
                at(first, ip(59, pods[0], pods[1], &[])),
                at(first, ip(OPTIONS, pods[0], pods[1], &[TCP, 9, 0, 0, 0, 0, 0, 0])),
                at(first, to_pod()[..39].to_vec()),
                at(first, to_pod()[..48].to_vec()),
                at(first, with(to_pod(), 0, 0x40)),
                at(first, [to_pod(), vec![0; 9]].concat()),
                overlay([from_remote(), vec![0; 20]].concat()),
                overlay(Vec::new()),
            ],
        ),
    ]
}
