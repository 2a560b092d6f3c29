//! pktgen's packets as tcpdump counts them and tshark reads them.

use std::{collections::BTreeSet, fs, path::Path, process::Command, thread, time::Duration};

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

#[test]
fn tcpdump_counts_and_tshark_decodes_every_packet() {
    for engine in ["", "--live"] {
        new_namespace();
        veth("src", "in");
        // A veth takes live frames when its other end has NAPI, which GRO gives it.
        crate::net::run("ethtool -K in gro on");
        let folder = TempDir::new().expect("a directory");
        let file = folder.path().join("all.pcap");
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-i", "in", "-U", "-B", "65536", "-w"]).arg(&file);
        let capture = Background::start(&mut tcpdump, "tcpdump");
        until("tcpdump to listen", || file.metadata().is_ok_and(|file| file.len() >= 24));
        let mut sent = 0;
        for profile in ["flood", "imix", "vxlan", "zipf", "services", "voip", "new-flows"] {
            let rate = if profile == "new-flows" { "21kpps" } else { "2kpps" };
            let run =
                format!("--tx src --to-mac 02:00:00:00:00:01 --rate {rate} --duration 300ms --warm-up 0s {engine}");
            sent += report("run", profile, &run).trials[0].total.sent;
            until("tcpdump to have written them", || records(&file) >= sent);
        }
        thread::sleep(Duration::from_millis(100));
        let said = String::from_utf8_lossy(&capture.interrupt().stderr).into_owned();
        assert!(said.contains(&format!("{sent} packets captured")), "{engine}: sent {sent}, tcpdump: {said}");
        check(&file, sent, engine);
    }
}

/// Packets in a capture file: a header of 24 bytes, then each with its length in the third of four words in front of it.
fn records(file: &Path) -> u64 {
    let bytes = fs::read(file).expect("the capture");
    let (mut at, mut count) = (24, 0);
    while let Some(length) = bytes.get(at + 8..at + 12) {
        at += 16 + u32::from_ne_bytes(length.try_into().expect("four bytes")) as usize;
        count += u64::from(at <= bytes.len());
    }
    count
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
