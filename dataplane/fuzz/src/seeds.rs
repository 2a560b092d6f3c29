//! Scripts that walk the main paths: where mutation starts from.

use shunt_dataplane::{net::MacAddr, stages::fragments::OVERTAKER};
use smoltcp::wire::Ipv4Packet;

use crate::{
    input::{SCTP, Step},
    world::{HOST, NEIGHBOUR, OTHER_UNDERLAY, OTHER_VTEP, OUR_VTEP, PODS, UNDERLAY, UPLINK, our_mac, station},
};

pub mod ipv6;

type Address = [u8; 4];

const POD: [Address; 2] = [[10, 244, 1, 10], [10, 244, 1, 11]];
const REMOTE: Address = [10, 244, 2, 10];
const NODE: Address = [10, 244, 1, 0];
const GATEWAY: Address = [169, 254, 1, 1];
const ROUTER: Address = [10, 244, 1, 1];
const SERVICE: Address = [10, 96, 0, 10];
const EMPTY_SERVICE: Address = [10, 96, 0, 11];
/// Masquerades the pods, and is for them only.
const MASQUERADING: Address = [10, 96, 0, 13];
/// Has direct server return.
const DIRECT: Address = [10, 96, 0, 14];
const OUTSIDE: Address = [9, 9, 9, 9];
/// Has endpoints for pods only.
const PODS_SERVICE: Address = [10, 96, 0, 12];
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN: u8 = 1;

fn ethernet(from: MacAddr, to: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0, &from.0, &ethertype.to_be_bytes()[..], payload].concat()
}

fn ip(protocol: u8, src: Address, dst: Address, l4: &[u8]) -> Vec<u8> {
    let [high, low] = (20 + l4.len() as u16).to_be_bytes();
    [&[0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0][..], &src, &dst, l4].concat()
}

fn segment(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let rest = [0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 255, 255, 0, 0, 0, 0];
    [&sport.to_be_bytes(), &dport.to_be_bytes(), &rest[..], b"hello"].concat()
}

fn datagram(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let header = [sport.to_be_bytes(), dport.to_be_bytes(), length, [0, 0]].concat();
    [&header, payload].concat()
}

/// Chunks of these types behind SCTP's header.
fn chunks(sport: u16, dport: u16, types: &[u8]) -> Vec<u8> {
    let header = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0]].concat();
    let chunks = types.iter().flat_map(|kind| [*kind, 0, 0, 11, 1, 2, 3, 4, 5, 6, 7, 0]);
    header.into_iter().chain(chunks).collect()
}

fn tcp(src: Address, sport: u16, dst: Address, dport: u16, flags: u8) -> Vec<u8> {
    ip(TCP, src, dst, &segment(sport, dport, flags))
}

fn udp(src: Address, sport: u16, dst: Address, dport: u16, payload: &[u8]) -> Vec<u8> {
    ip(UDP, src, dst, &datagram(sport, dport, payload))
}

fn sctp(src: Address, sport: u16, dst: Address, dport: u16, types: &[u8]) -> Vec<u8> {
    ip(SCTP, src, dst, &chunks(sport, dport, types))
}

fn ping(src: Address, dst: Address) -> Vec<u8> {
    ip(ICMP, src, dst, b"\x08\0\0\0\0\x01\0\x01ping")
}

/// The packet with one byte of its IP header set.
fn with(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    packet
}

/// The packet with four bytes of no-operation options.
fn with_options(packet: Vec<u8>) -> Vec<u8> {
    let longer = [&packet[..20], &[1, 1, 1, 0], &packet[20..]].concat();
    let [high, low] = (longer.len() as u16).to_be_bytes();
    with(with(with(longer, 0, 0x46), 2, high), 3, low)
}

/// A packet from the station behind a port, or over the uplink from the underlay's router.
fn at(port: u16, packet: Vec<u8>) -> Step {
    let bytes = ethernet(station(port), our_mac(port), 0x0800, &packet);
    Step::Packet { port, mend: true, wrap: false, bytes }
}

/// A packet from the other node's pods.
fn overlay(packet: Vec<u8>) -> Step {
    let bytes = ethernet(OTHER_VTEP, OUR_VTEP, 0x0800, &packet);
    Step::Packet { port: UPLINK, mend: true, wrap: true, bytes }
}

/// A packet that the other node relays to the second pod.
fn relayed(packet: Vec<u8>) -> Step {
    let [a, b, c, d] = POD[1];
    let bytes = ethernet(MacAddr([0x5e, 0x44, a, b, c, d]), OUR_VTEP, 0x0800, &packet);
    Step::Packet { port: UPLINK, mend: true, wrap: true, bytes }
}

/// A packet from the other node's pods with the outer IP, UDP and VXLAN headers' bytes changed at the given places.
fn damaged(packet: Vec<u8>, changes: &[(usize, u8)]) -> Step {
    let mut bytes = wrap(&ethernet(OTHER_VTEP, OUR_VTEP, 0x0800, &packet));
    changes.iter().for_each(|&(at, byte)| bytes[14 + at] = byte);
    let mut outer = Ipv4Packet::new_unchecked(&mut bytes[14..]);
    outer.fill_checksum();
    Step::Packet { port: UPLINK, mend: false, wrap: false, bytes }
}

/// A frame as it is.
fn raw(port: u16, bytes: Vec<u8>) -> Step {
    Step::Packet { port, mend: false, wrap: false, bytes }
}

/// The outer headers of the other VTEP around a frame, without UDP checksum.
pub fn wrap(inner: &[u8]) -> Vec<u8> {
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0], inner].concat();
    let outer = udp(OTHER_UNDERLAY.octets(), 50000, UNDERLAY.octets(), 8472, &vxlan);
    let mut frame = ethernet(NEIGHBOUR, our_mac(UPLINK), 0x0800, &outer);
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    frame
}

fn arp(port: u16, operation: u8, target: Address) -> Step {
    let sender = [&station(port).0[..], &POD[0]].concat();
    let message = [&[0, 1, 8, 0, 6, 4, 0, operation], &sender[..], &[0; 6], &target].concat();
    raw(port, ethernet(station(port), MacAddr::BROADCAST, 0x0806, &message))
}

/// Replies of all three backends, of which the flow's client gets one and the others are strangers.
fn replies(client: Address, port: u16, flags: u8) -> [Step; 3] {
    [
        at(PODS[0], tcp(POD[0], 8080, client, port, flags)),
        at(PODS[1], tcp(POD[1], 8080, client, port, flags)),
        overlay(tcp(REMOTE, 8080, client, port, flags)),
    ]
}

fn connection(client: Address, send: fn(Vec<u8>) -> Step, port: u16) -> Vec<Step> {
    let request = |flags| send(tcp(client, port, SERVICE, 80, flags));
    let mut steps = vec![request(SYN), Step::EndBurst];
    steps.extend(replies(client, port, SYN | ACK));
    steps.extend([Step::EndBurst, request(ACK), request(ACK), Step::Publish(1), request(ACK)]);
    steps.extend(replies(client, port, ACK));
    steps.extend([Step::EndBurst, request(FIN | ACK), Step::EndBurst]);
    steps.extend(replies(client, port, FIN | ACK));
    steps.extend([Step::EndBurst, request(ACK), Step::EndBurst, request(SYN)]);
    steps
}

/// An IP packet without options in three fragments of 8, 16 and all other bytes, or 24 and so on if it is not UDP.
fn fragments(packet: Vec<u8>, id: u8) -> [Vec<u8>; 3] {
    let cut = if packet[9] == UDP { [0, 8, 24, packet.len() - 20] } else { [0, 24, 24, packet.len() - 20] };
    std::array::from_fn(|at| {
        let payload = &packet[20 + cut[at]..20 + cut[at + 1]];
        let more = if at < 2 { 0x20 } else { 0 };
        let [high, low] = (20 + payload.len() as u16).to_be_bytes();
        let header = [&packet[..2], &[high, low, 0, id, more, (cut[at] / 8) as u8], &packet[8..20]].concat();
        [header, payload.to_vec()].concat()
    })
}

/// ICMP errors about a flow of the first pod to a service: about its request to each of the backends, quoted whole and
/// in part, and about the answers that the pod got of each.
fn errors(request: Vec<u8>, packet: fn((Address, Option<Address>)) -> Vec<u8>) -> Vec<Step> {
    let error =
        |kind, code, src, dst, quote: &[u8]| ip(ICMP, src, dst, &[&[kind, code, 0, 0, 0, 0, 5, 20], quote].concat());
    let mended = |packet: Vec<u8>| {
        let mut frame = [vec![0; 14], packet].concat();
        crate::input::mend(&mut frame);
        frame.split_off(14)
    };
    let mut steps = vec![at(PODS[0], request.clone()), Step::EndBurst];
    for backend in [POD[1], REMOTE] {
        let sent = mended(packet((backend, None)));
        let send = |packet| if backend == REMOTE { overlay(packet) } else { at(PODS[1], packet) };
        for (kind, code, quoted) in [(3, 4, sent.len()), (11, 0, 28), (12, 0, 31), (3, 1, 27), (5, 1, 28)] {
            steps.push(send(error(kind, code, backend, POD[0], &sent[..quoted])));
            steps.push(send(error(kind, code, ROUTER, POD[0], &sent[..quoted])));
        }
        steps.extend([send(packet((backend, Some(POD[0])))), Step::EndBurst]);
    }
    let mut seen = packet((SERVICE, Some(POD[0])));
    seen[20..22].copy_from_slice(&request[22..24]);
    let seen = mended(seen);
    for (kind, code, quoted) in [(3, 3, 28), (3, 4, seen.len()), (11, 1, 40)] {
        steps.push(at(PODS[0], error(kind, code, POD[0], SERVICE, &seen[..quoted.min(seen.len())])));
    }
    steps
}

/// Datagrams of one flow to a service with, between them, every checksum there is, before translation and after.
pub fn every_checksum() -> Vec<Step> {
    (0..=u16::MAX).map(|payload| at(HOST, udp(NODE, 1000, SERVICE, 53, &payload.to_be_bytes()))).collect()
}

/// All seeds, by name.
pub fn all() -> Vec<(&'static str, Vec<Step>)> {
    [of_ipv4(), ipv6::all()].concat()
}

/// Those of IPv4.
pub fn of_ipv4() -> Vec<(&'static str, Vec<Step>)> {
    let (first, second) = (PODS[0], PODS[1]);
    let from_pod = |packet| at(PODS[0], packet);
    let query = |port: u16| at(first, udp(POD[0], port, SERVICE, 53, b"query"));
    let long = |bytes: usize| udp(POD[0], 1000, REMOTE, 2000, &vec![7; bytes - 28]);
    let fragment = |dst| with(udp(POD[0], 1000, dst, 53, &[7; 64]), 6, 0x20);
    let later_fragment = |dst| with(fragment(dst), 7, 8);
    let remote = || udp(REMOTE, 1000, POD[0], 2000, b"x");
    let native = |dst| at(UPLINK, udp([10, 245, 0, 9], 1000, dst, 2000, b"x"));
    let ecn = |outer, inner| damaged(with(remote(), 1, inner), &[(1, outer)]);
    let unfinished = {
        let packet = udp(POD[0], 1000, POD[1], 2000, b"unfinished");
        let sum = packet[12..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
        let sum = sum + u32::from(UDP) + packet.len() as u32 - 20;
        let [high, low] = ((sum >> 16) as u16 + sum as u16).to_be_bytes();
        let mut frame = ethernet(station(first), our_mac(first), 0x0800, &with(with(packet, 26, high), 27, low));
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        raw(first, frame)
    };
    vec![
        ("pod_to_pod", vec![at(first, tcp(POD[0], 1000, POD[1], 80, SYN)), at(second, ping(POD[1], POD[0]))]),
        ("pod_to_remote", vec![at(first, udp(POD[0], 1000, REMOTE, 53, b"")), at(first, ping(POD[0], REMOTE))]),
        ("remote_to_pod", vec![overlay(remote()), overlay(tcp(REMOTE, 1, POD[1], 2, RST))]),
        ("pod_and_host", vec![at(first, ping(POD[0], NODE)), at(HOST, tcp(NODE, 1000, POD[0], 80, SYN))]),
        ("native", vec![at(first, ping(POD[0], [10, 245, 0, 9])), native(POD[0]), native([9, 9, 9, 9])]),
        ("connection", connection(POD[0], from_pod, 1000)),
        ("connection_from_remote", connection(REMOTE, overlay, 1000)),
        ("connection_from_node", connection(NODE, |packet| at(HOST, packet), 1000)),
        (
            "dns",
            vec![query(1), query(1), Step::EndBurst, query(1), Step::Publish(1), query(1), Step::Wait(640), query(1)],
        ),
        ("full_table_of_requests", (0..8).flat_map(|port| [query(port), Step::EndBurst]).collect()),
        ("full_table_of_flows", {
            let answer = |backend, port| udp(backend, 8080, POD[0], port, b"answer");
            let answered = |port| {
                [
                    query(port),
                    Step::EndBurst,
                    from_pod(answer(POD[0], port)),
                    at(second, answer(POD[1], port)),
                    overlay(answer(REMOTE, port)),
                    Step::EndBurst,
                ]
            };
            (0..12).flat_map(answered).collect()
        }),
        (
            "out_of_state",
            vec![at(first, tcp(POD[0], 1000, SERVICE, 80, RST)), at(first, tcp(POD[0], 1000, SERVICE, 80, FIN))],
        ),
        ("stale_reply", {
            let asked = |port| overlay(udp(REMOTE, port, SERVICE, 53, b"query"));
            let answered = |port| from_pod(udp(POD[0], 8080, REMOTE, port, b"answer"));
            let round = |port| [asked(port), Step::Publish(1), answered(port), asked(port), Step::Publish(0)];
            (0..12).flat_map(round).collect()
        }),
        ("unanswered_connection", {
            let again = |port| vec![at(first, tcp(POD[0], port, SERVICE, 80, SYN)), Step::EndBurst];
            (0..12).flat_map(|turn| again(1000 + turn / 6)).collect()
        }),
        ("alike", {
            // Two services, and now and then one backend for both. Then the table has to be empty again.
            let open = |port, service| overlay(tcp(REMOTE, port, SERVICE, service, SYN));
            (0..9).flat_map(|port| [open(port, 80), Step::EndBurst, open(port, 81), Step::Wait(4000)]).collect()
        }),
        ("rate_limit", vec![at(first, tcp(POD[0], 1000, EMPTY_SERVICE, 80, SYN)); 200]),
        ("unanswerable", {
            let error = |dst, length| ip(ICMP, POD[0], dst, &[&[3, 0, 0, 0][..], &vec![0; length]].concat());
            vec![
                at(first, with(error(POD[1], 4), 8, 1)),
                at(first, error(REMOTE, 1450)),
                at(first, error([1, 1, 1, 1], 4)),
            ]
        }),
        ("no_endpoints", vec![at(first, tcp(POD[0], 1000, EMPTY_SERVICE, 80, SYN))]),
        (
            "origins",
            vec![
                at(first, tcp(POD[0], 1000, PODS_SERVICE, 80, SYN)),
                at(HOST, tcp(NODE, 1000, PODS_SERVICE, 80, SYN)),
                at(UPLINK, tcp([9, 9, 9, 9], 1000, PODS_SERVICE, 80, SYN)),
            ],
        ),
        ("no_service", vec![at(first, tcp(POD[0], 1000, SERVICE, 82, SYN)), at(first, ping(POD[0], SERVICE))]),
        ("arp", vec![arp(first, 1, GATEWAY), arp(first, 1, POD[1]), arp(first, 2, GATEWAY), arp(UPLINK, 1, GATEWAY)]),
        (
            "ping_the_switch",
            vec![
                at(first, ping(POD[0], GATEWAY)),
                overlay(ping(REMOTE, ROUTER)),
                at(first, tcp(POD[0], 1, ROUTER, 2, SYN)),
            ],
        ),
        ("ping_with_options", vec![at(first, with_options(ping(POD[0], GATEWAY)))]),
        ("ttl", vec![at(first, with(ping(POD[0], POD[1]), 8, 1)), at(first, with(ping(POD[0], REMOTE), 8, 0))]),
        ("ttl_of_a_connection", vec![at(first, with(tcp(POD[0], 1000, SERVICE, 80, SYN), 8, 1))]),
        (
            "too_big",
            vec![
                at(first, with(long(1451), 6, 0x40)),
                at(first, long(1450)),
                at(first, with(long(1600), 6, 0x40)),
                // About an error nobody is told.
                at(first, with(ip(ICMP, POD[0], REMOTE, &[3; 1500]), 6, 0x40)),
            ],
        ),
        (
            "to_be_cut",
            vec![
                at(first, long(1451)),
                at(first, with_options(with(long(1600), 1, 3))),
                at(first, with(with(long(1460), 6, 0x20), 7, 9)),
                at(first, with(long(1500), 8, 1)),
                at(first, udp(POD[0], 1000, SERVICE, 53, &[7; 1500])),
                at(UPLINK, udp([9, 9, 9, 9], 1000, DIRECT, 80, &[7; 1460])),
                overlay(udp(REMOTE, 1000, POD[0], 1000, &[7; 1500])),
            ],
        ),
        (
            "no_route",
            vec![
                at(first, ping(POD[0], [1, 1, 1, 1])),
                at(first, ping(POD[0], [10, 9, 1, 1])),
                at(first, ping(POD[0], [239, 1, 1, 1])),
            ],
        ),
        ("no_route_error_about_an_error", vec![at(first, ip(ICMP, POD[0], [1, 1, 1, 1], &[3, 0, 0, 0, 0, 0, 0, 0]))]),
        ("unresolved", vec![at(first, ping(POD[0], [10, 244, 3, 1])), at(first, ping(POD[0], [10, 245, 1, 1]))]),
        (
            "options",
            vec![
                at(first, with_options(tcp(POD[0], 1000, POD[1], 80, SYN))),
                at(first, with_options(tcp(POD[0], 1000, SERVICE, 80, SYN))),
            ],
        ),
        (
            "fragments",
            vec![
                at(first, fragment(POD[1])),
                at(first, later_fragment(REMOTE)),
                at(first, fragment(SERVICE)),
                at(first, later_fragment([1, 1, 1, 1])),
            ],
        ),
        ("datagrams_in_fragments", {
            let [first, middle, last] = fragments(udp(POD[0], 1000, SERVICE, 53, &[7; 64]), 3);
            let answer = |backend| fragments(udp(backend, 8080, POD[0], 1000, &[9; 64]), 4);
            let mut steps = vec![from_pod(first), from_pod(middle), from_pod(last), Step::EndBurst];
            // The answer's fragments come in another order, partly in one burst; only one backend's are translated.
            for (fragments, send) in [
                (answer(POD[0]), from_pod as fn(Vec<u8>) -> Step),
                (answer(POD[1]), |packet| at(PODS[1], packet)),
                (answer(REMOTE), overlay),
            ] {
                let [first, middle, last] = fragments.map(send);
                steps.extend([last, Step::EndBurst, middle, first, Step::EndBurst]);
            }
            steps
        }),
        ("fragments_of_connections", {
            let [first, middle, last] = fragments(tcp(POD[0], 1000, SERVICE, 80, SYN), 5);
            vec![from_pod(last), from_pod(middle), Step::EndBurst, from_pod(first)]
        }),
        ("a_first_fragment_too_short", {
            let [first, ..] = fragments(tcp(POD[0], 1000, SERVICE, 80, SYN), 6);
            vec![from_pod(ip(TCP, POD[0], SERVICE, &first[20..28])), from_pod(with(with(first, 3, 28), 6, 0x20))]
        }),
        ("too_many_fragments_wait", {
            (0..80).map(|id| from_pod(with(later_fragment(SERVICE), 5, id))).chain([Step::Wait(16)]).collect()
        }),
        ("a_copy_of_the_kernels_fragment", {
            let copy = ethernet(OVERTAKER, our_mac(HOST), 0x0800, &later_fragment(SERVICE));
            vec![Step::Packet { port: HOST, mend: true, wrap: false, bytes: copy }, Step::Wait(16)]
        }),
        (
            "errors_about_a_connection",
            errors(tcp(POD[0], 1000, SERVICE, 80, SYN), |ends| match ends {
                (backend, None) => tcp(POD[0], 1000, backend, 8080, SYN),
                (backend, Some(client)) => tcp(backend, 8080, client, 1000, SYN | ACK),
            }),
        ),
        (
            "errors_about_datagrams",
            errors(udp(POD[0], 1000, SERVICE, 53, b"query"), |ends| match ends {
                (backend, None) => udp(POD[0], 1000, backend, 8080, b"query"),
                (backend, Some(client)) => udp(backend, 8080, client, 1000, b"answer"),
            }),
        ),
        ("unfinished_checksum", vec![unfinished]),
        ("a_pod_plays_another_one", {
            let frame = |from| raw(first, ethernet(from, our_mac(first), 0x0800, &ping(POD[0], POD[1])));
            vec![at(first, ping(POD[1], POD[0])), frame(station(second)), arp(second, 1, GATEWAY)]
        }),
        ("a_pod_plays_a_vtep", {
            let inner = ethernet(OTHER_VTEP, OUR_VTEP, 0x0800, &remote());
            let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0], &inner[..]].concat();
            let to = |vtep: Address| udp(POD[0], 50000, vtep, 8472, &vxlan);
            let mut steps = [OTHER_UNDERLAY, UNDERLAY].map(|vtep| at(first, to(vtep.octets()))).to_vec();
            steps.extend(fragments(to(OTHER_UNDERLAY.octets()), 9).map(|fragment| at(first, fragment)));
            steps.extend([at(first, to(REMOTE)), overlay(udp(REMOTE, 50000, OTHER_UNDERLAY.octets(), 8472, &vxlan))]);
            steps
        }),
        ("association", {
            let (init, init_ack, data, shutdown, abort) = (1, 2, 0, 7, 6);
            let request = |chunks: &[u8]| from_pod(sctp(POD[0], 1000, SERVICE, 80, chunks));
            let answers = |chunks: &[u8]| {
                [
                    at(PODS[1], sctp(POD[1], 8080, POD[0], 1000, chunks)),
                    overlay(sctp(REMOTE, 8080, POD[0], 1000, chunks)),
                    Step::EndBurst,
                ]
            };
            let mut steps = vec![request(&[init]), Step::EndBurst];
            steps.extend(answers(&[init_ack]));
            steps.extend([request(&[10, data]), Step::EndBurst]);
            steps.extend(answers(&[11, data]));
            steps.extend([Step::Publish(1), request(&[3, shutdown]), Step::EndBurst]);
            steps.extend(answers(&[abort]));
            steps.extend([request(&[init]), request(&[]), request(&[abort]), Step::Wait(16), request(&[abort])]);
            steps
        }),
        ("association_in_fragments", {
            let [first, middle, last] = fragments(sctp(POD[0], 1000, SERVICE, 80, &[0, 3, 3, 3]), 8);
            vec![from_pod(first), Step::EndBurst, from_pod(middle), Step::EndBurst, from_pod(last)]
        }),
        ("unfinished_association", {
            let frame = |dst| ethernet(station(first), our_mac(first), 0x0800, &sctp(POD[0], 1000, dst, 80, &[1]));
            let mended = |mut frame: Vec<u8>| {
                Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
                raw(first, frame)
            };
            vec![mended(frame(SERVICE)), mended(frame(POD[1])), from_pod(ip(SCTP, POD[0], POD[1], &[0; 11]))]
        }),
        (
            "errors_about_an_association",
            errors(sctp(POD[0], 1000, SERVICE, 80, &[1]), |ends| match ends {
                (backend, None) => sctp(POD[0], 1000, backend, 8080, &[1]),
                (backend, Some(client)) => sctp(backend, 8080, client, 1000, &[2]),
            }),
        ),
        ("martians", vec![at(first, ping([127, 0, 0, 1], POD[1])), at(first, ping([224, 0, 0, 1], POD[1]))]),
        (
            "damaged_header",
            vec![
                raw(first, ethernet(station(first), our_mac(first), 0x0800, &ping(POD[0], POD[1]))),
                at(first, with(ping(POD[0], POD[1]), 0, 0x44)),
                at(first, with(ping(POD[0], POD[1]), 2, 9)),
            ],
        ),
        (
            "short",
            vec![
                at(first, ip(TCP, POD[0], POD[1], &[0; 19])),
                at(first, ip(UDP, POD[0], POD[1], &[0; 7])),
                at(first, ip(ICMP, POD[0], POD[1], &[8])),
                raw(first, vec![0; 20]),
                raw(first, vec![]),
            ],
        ),
        (
            "other_stations_and_protocols",
            vec![
                raw(first, ethernet(station(first), station(second), 0x0800, &ping(POD[0], POD[1]))),
                raw(first, ethernet(station(first), our_mac(first), 0x86dd, &[0x60; 60])),
                raw(UPLINK, wrap(&ethernet(OTHER_VTEP, station(first), 0x0800, &remote()))),
            ],
        ),
        (
            "padded",
            vec![
                raw(
                    UPLINK,
                    [wrap(&[ethernet(OTHER_VTEP, OUR_VTEP, 0x0800, &remote()), vec![0; 9]].concat()), vec![0; 6]]
                        .concat(),
                ),
                overlay([remote(), vec![0; 20]].concat()),
            ],
        ),
        (
            "ecn",
            vec![ecn(3, 2), ecn(1, 2), ecn(3, 0), ecn(2, 0), ecn(3, 3), at(first, with(ping(POD[0], REMOTE), 1, 0xbb))],
        ),
        ("unknown_vni", vec![damaged(remote(), &[(34, 2)])]),
        ("unknown_vtep", vec![damaged(remote(), &[(15, 9)])]),
        (
            "bad_vxlan",
            vec![damaged(remote(), &[(28, 0)]), damaged(remote(), &[(24, 9)]), damaged(remote(), &[(25, 12)])],
        ),
        (
            "bad_outer",
            vec![
                damaged(remote(), &[(26, 1)]),
                damaged(remote(), &[(0, 0x4f)]),
                damaged(remote(), &[(22, 9)]),
                damaged(remote(), &[(10, 9)]),
            ],
        ),
        (
            "overlay_without_ip",
            vec![
                raw(UPLINK, wrap(&[0; 14])),
                raw(UPLINK, wrap(&[])),
                raw(UPLINK, wrap(&ethernet(OTHER_VTEP, OUR_VTEP, 0x0806, &[0; 28]))),
            ],
        ),
        ("hairpin", {
            let open = |pod: usize, port| at(PODS[pod], tcp(POD[pod], port, SERVICE, 80, SYN));
            let mut steps: Vec<_> = (0..8).flat_map(|port| [open(0, port), Step::EndBurst]).collect();
            steps.extend([61_000, 61_001].map(|port| at(first, tcp(POD[0], 8080, NODE, port, SYN | ACK))));
            steps.push(Step::Publish(1));
            steps.extend((0..8).map(|port| open(1, port)));
            steps
        }),
        ("masquerade", {
            let open = |port| at(first, tcp(POD[0], port, MASQUERADING, 80, SYN));
            let answer = |port| overlay(tcp(REMOTE, 8080, NODE, port, SYN | ACK));
            let mut steps: Vec<_> = [1, 2, 3].into_iter().flat_map(|port| [open(port), Step::EndBurst]).collect();
            steps.extend([answer(61_000), answer(61_001), answer(61_002), Step::EndBurst, Step::Publish(1), open(1)]);
            steps
        }),
        ("source_ranges", vec![at(HOST, tcp(NODE, 1000, MASQUERADING, 80, SYN))]),
        ("egress", {
            let mut steps = vec![
                at(first, udp(POD[0], 1000, OUTSIDE, 53, b"query")),
                at(first, ping(POD[0], OUTSIDE)),
                at(first, tcp(POD[0], 1000, OUTSIDE, 80, SYN)),
                at(first, tcp(POD[0], 1001, OUTSIDE, 80, RST)),
                // Replies to nobody; the second one's identifier is the number of a request.
                at(first, ip(ICMP, POD[0], OUTSIDE, b"\0\0\0\0\0\x01\0\x01")),
                at(first, ip(ICMP, POD[0], OUTSIDE, b"\0\0\0\0\0\x08\0\x01")),
                Step::EndBurst,
            ];
            for port in [61_000u16, 61_001] {
                let id = port.to_be_bytes();
                let pong = [&[0, 0, 0, 0][..], &id, b"\0\x01ping"].concat();
                steps.extend([
                    at(UPLINK, udp(OUTSIDE, 53, UNDERLAY.octets(), port, b"answer")),
                    at(UPLINK, ip(ICMP, OUTSIDE, UNDERLAY.octets(), &pong)),
                    at(UPLINK, tcp(OUTSIDE, 80, UNDERLAY.octets(), port, SYN | ACK)),
                ]);
            }
            steps
        }),
        (
            "from_outside",
            vec![
                at(UPLINK, tcp(OUTSIDE, 1000, POD[0], 80, SYN)),
                Step::EndBurst,
                at(first, tcp(POD[0], 80, OUTSIDE, 1000, SYN | ACK)),
            ],
        ),
        ("direct_server_return", {
            let says = |port, flags| at(UPLINK, tcp(OUTSIDE, port, DIRECT, 80, flags));
            let mut steps = Vec::new();
            for flags in [SYN, SYN, ACK, ACK, FIN | ACK, ACK, SYN, RST, ACK] {
                steps.extend((1..6).map(|port| says(port, flags)));
                steps.extend((1..6).map(|port| at(UPLINK, udp(OUTSIDE, port, DIRECT, 80, b"query"))));
                steps.push(Step::EndBurst);
            }
            for port in 1..6 {
                let quote = tcp(DIRECT, 80, OUTSIDE, port, ACK);
                steps.push(at(UPLINK, ip(ICMP, OUTSIDE, DIRECT, &[&[3, 4, 0, 0, 0, 0, 5, 20], &quote[..]].concat())));
            }
            steps.extend([Step::Publish(1), says(1, ACK), says(2, ACK), says(3, ACK), Step::EndBurst]);
            steps
        }),
        ("relayed", {
            let asked = |dst| relayed(tcp(OUTSIDE, 1000, dst, 80, SYN));
            let quote = tcp(DIRECT, 80, OUTSIDE, 1000, ACK);
            let error = || relayed(ip(ICMP, OUTSIDE, DIRECT, &[&[3, 4, 0, 0, 0, 0, 5, 20], &quote[..]].concat()));
            let answer = || at(second, tcp(POD[1], 8080, OUTSIDE, 1000, SYN | ACK));
            let elsewhere = [[10, 96, 0, 99], OTHER_UNDERLAY.octets(), OUTSIDE].map(asked);
            let mut steps = vec![error(), asked(DIRECT), Step::EndBurst, answer(), error(), Step::EndBurst];
            steps.extend(elsewhere);
            steps.extend([asked(SERVICE), Step::Publish(1), asked(DIRECT), answer(), Step::EndBurst]);
            steps
        }),
        ("from_the_node_itself", vec![at(HOST, tcp(UNDERLAY.octets(), 1000, [10, 96, 0, 12], 80, SYN))]),
        ("to_the_node", vec![native(UNDERLAY.octets()), Step::Publish(1), native(UNDERLAY.octets())]),
    ]
}
