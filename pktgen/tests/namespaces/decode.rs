//! pktgen's packets as tcpdump counts them and tshark reads them.

use std::{collections::BTreeSet, fs, path::Path, process::Command, thread, time::Duration};

use shunt_pktgen::packet::{Signature, signature};
use tempfile::TempDir;

use crate::{
    net::{new_namespace, veth},
    tool::{Background, report, until},
};

/// What tshark is asked about each packet: checksums (1 is good), and whether anything is wrong with it.
const FIELDS: [&str; 6] = [
    "ip.checksum.status",
    "udp.checksum.status",
    "tcp.checksum.status",
    "icmp.checksum.status",
    "_ws.malformed",
    "_ws.expert.message",
];

/// The examples that send streams.
const PROFILES: [&str; 7] = ["flood", "imix", "vxlan", "zipf", "services", "voip", "new-flows"];

#[test]
fn tcpdump_counts_and_tshark_decodes_every_packet_and_both_engines_send_the_same() {
    new_namespace();
    veth("src", "in");
    // A veth takes live frames when its other end has NAPI, which GRO gives it.
    crate::net::run("ethtool -K in gro on");
    let folder = TempDir::new().expect("a directory");
    let [user, bpf] = ["", "--live"].map(|engine| {
        let file = folder.path().join(format!("all{engine}.pcap"));
        let (sent, said) = capture(&file, || PROFILES.map(|profile| send(profile, engine)));
        let all: u64 = sent.iter().sum();
        assert!(said.contains(&format!("{all} packets captured")), "{engine}: sent {all}, tcpdump: {said}");
        check(&file, all, engine);
        let mut frames = frames(&file).into_iter();
        sent.map(|sent| {
            // Stream by stream: the receiving side may hold TCP back for a moment to merge segments (GRO).
            let mut frames: Vec<_> = frames.by_ref().take(sent as usize).map(|frame| timeless(&frame)).collect();
            frames.sort();
            frames
        })
    });
    for (profile, (user, bpf)) in PROFILES.iter().zip(user.iter().zip(&bpf)) {
        let compared = user.len().min(bpf.len());
        assert!(compared >= 300, "{profile}: {compared} packets");
        for (number, (user, bpf)) in user.iter().zip(bpf).enumerate() {
            assert!(user == bpf, "{profile}, packet {number}:\n{user:02x?}\n{bpf:02x?}");
        }
    }
}

/// Sends some hundred packets of an example out of `src`.
fn send(profile: &str, engine: &str) -> u64 {
    // Twenty thousand new flows a second need as many packets.
    let rate = if profile == "new-flows" { "21kpps" } else { "2kpps" };
    let run = format!(
        "--tx src --to-mac 02:00:00:00:00:01 --rate {rate} --duration 300ms --warm-up 0s --settle 100ms {engine}"
    );
    report("run", profile, &run).trials[0].total.sent
}

/// A test packet behind its track and sequence number, without what depends on the time: the signature from when it was
/// sent on.
fn timeless(frame: &[u8]) -> ((u16, u32), Vec<u8>) {
    // Behind UDP or TCP, with outer headers or without.
    let mut places = [104, 92, 54, 42].into_iter().filter(|at| *at < frame.len());
    let read = |at: usize| Some((at, Signature::read(&frame[at..])?));
    let (at, signature) = places.find_map(read).expect("a signature");
    let mut frame = frame.to_vec();
    frame[at + 8..at + signature::LEN].fill(0);
    ((signature.track, signature.sequence), frame)
}

/// Packets in a capture file: a header of 24 bytes, then each with its length in the third of four words in front of it.
fn frames(file: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(file).expect("the capture");
    let mut at = 24;
    let mut frames = Vec::new();
    while let Some(length) = bytes.get(at + 8..at + 12) {
        let end = at + 16 + u32::from_ne_bytes(length.try_into().expect("four bytes")) as usize;
        frames.extend(bytes.get(at + 16..end).map(<[u8]>::to_vec));
        at = end;
    }
    frames
}

/// What `send` says it has sent of each profile while tcpdump captures on `in`, and what that says in the end.
fn capture<const N: usize>(file: &Path, send: impl FnOnce() -> [u64; N]) -> ([u64; N], String) {
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-i", "in", "-U", "-B", "65536", "-w"]).arg(file);
    let capture = Background::start(&mut tcpdump, "tcpdump");
    until("tcpdump to listen", || file.metadata().is_ok_and(|file| file.len() >= 24));
    let sent = send();
    until("tcpdump to have written them", || frames(file).len() as u64 >= sent.iter().sum());
    thread::sleep(Duration::from_millis(100));
    (sent, String::from_utf8_lossy(&capture.interrupt().stderr).into_owned())
}

fn check(file: &Path, sent: u64, what: &str) {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(["-T", "fields", "-E", "separator=;", "-E", "occurrence=a"]);
    for option in ["ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE"] {
        tshark.args(["-o", option]);
    }
    // The segments belong to no connection, and payloads to no application.
    tshark.args(["-o", "tcp.analyze_sequence_numbers:FALSE", "-d", "udp.port==8472,vxlan"]);
    for port in [80, 443, 8080, 9] {
        tshark.args(["-d", &format!("udp.port=={port},data"), "-d", &format!("tcp.port=={port},data")]);
    }
    for field in FIELDS {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().expect("tshark runs: it is in the Debian package of this name");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.lines().count() as u64, sent, "{what}");
    let kinds: BTreeSet<&str> = text.lines().collect();
    for line in kinds {
        let fields: Vec<&str> = line.split(';').collect();
        let good = |sums: &str, absent: bool| sums.split(',').all(|sum| sum == "1" || sum == "3" && absent);
        assert!(good(fields[0], false), "{what}: IPv4 checksum: {line}");
        // An outer UDP header under VXLAN has no checksum (3): RFC 7348, section 5. The inner one has.
        assert!(fields[1].is_empty() || good(fields[1], fields[1].contains(',')), "{what}: UDP checksum: {line}");
        assert!(fields[2].is_empty() || good(fields[2], false), "{what}: TCP checksum: {line}");
        assert!(fields[3].is_empty() || good(fields[3], false), "{what}: ICMP checksum: {line}");
        assert!(fields[1..4].iter().any(|sums| sums.contains('1')), "{what}: no transport: {line}");
        assert!(fields[4].is_empty() && fields[5].is_empty(), "{what}: tshark complains: {line}");
    }
}
