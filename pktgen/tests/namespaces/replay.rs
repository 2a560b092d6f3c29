//! What is replayed arrives as it was captured, byte for byte. That it keeps its pace: see `measuring`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use shunt_pktgen::replay::{Capture, Truncated};
use tempfile::TempDir;

use crate::{
    net::{new_namespace, run, veth},
    tool::{Background, pktgen, until},
};

/// Captures what arrives at an interface while `traffic` runs.
pub fn captured(interface: &str, file: &Path, traffic: impl FnOnce()) {
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-i", interface, "-Q", "in", "--immediate-mode", "-U", "-s", "0", "-B", "65536", "-w"]).arg(file);
    let capture = Background::start(&mut tcpdump, "tcpdump");
    until("tcpdump to listen", || file.metadata().is_ok_and(|file| file.len() >= 24));
    traffic();
    thread::sleep(Duration::from_millis(300));
    capture.interrupt();
}

pub fn read(file: &Path) -> Capture {
    Capture::read(file, Truncated::Refuse, 1514).expect("a whole capture")
}

/// Checks that frames are those of `wanted`, `rounds` times over.
pub fn same(found: &Capture, wanted: &Capture, rounds: usize) {
    let all = (0..rounds).flat_map(|_| wanted.frames());
    for (number, (found, wanted)) in found.frames().zip(all).enumerate() {
        assert_eq!(found.frame, wanted.frame, "frame {number}");
    }
    assert_eq!(found.count(), wanted.count() * rounds);
}

pub fn replay(file: &Path, arguments: &str) {
    let file = file.display().to_string();
    let all: Vec<&str> =
        ["replay", &file, "--tx", "src", "--quiet"].into_iter().chain(arguments.split_whitespace()).collect();
    let output = pktgen(&all);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Real traffic, in the calling test's namespace: the kernel's own pings of several sizes, and what goes with them.
pub fn real_capture(folder: &Path) -> PathBuf {
    veth("pinger", "tap");
    run("ip addr add 10.21.0.1/24 dev pinger");
    run("ip neigh add 10.21.0.2 lladdr 02:00:00:00:00:02 dev pinger");
    let file = folder.join("real.pcap");
    captured("tap", &file, || {
        for size in [8, 56, 700, 1472] {
            // Nobody answers, which is ping's way to fail.
            let ping = Command::new("ping")
                .args(["-c", "5", "-i", "0.02", "-W", "0.1", "-s", &size.to_string(), "10.21.0.2"])
                .output();
            ping.expect("ping runs: it is in the Debian package iputils-ping");
        }
    });
    file
}

#[test]
fn full_speed_loses_nothing_on_a_cable() {
    let folder = TempDir::new().expect("a directory");
    new_namespace();
    let original = real_capture(folder.path());
    let count = read(&original).count();
    veth("src", "in");
    let before = crate::net::counters("in").0;
    replay(&original, "--pace max --rounds 500");
    assert_eq!(crate::net::counters("in").0 - before, 500 * count as u64);
}

#[test]
fn broken_files_are_refused_with_the_place() {
    let folder = TempDir::new().expect("a directory");
    new_namespace();
    let original = real_capture(folder.path());
    veth("src", "in");
    let bytes = fs::read(&original).expect("a file");
    let cut = folder.path().join("cut.pcap");
    fs::write(&cut, &bytes[..bytes.len() - 5]).expect("a file");
    let short = folder.path().join("short.pcap");
    run(&format!("editcap -F pcap -s 100 {} {}", original.display(), short.display()));
    let (cut, short, none) = (cut.display().to_string(), short.display().to_string(), "/nowhere.pcap".to_owned());
    let before = crate::net::counters("src").1;
    for (file, arguments, part) in [
        (&cut, "--tx src", "the file ends within a packet"),
        (&short, "--tx src", "or pad what is missing (--pad)"),
        (&none, "--tx src", "/nowhere.pcap: cannot be read"),
        (&cut, "--tx absent", "absent"),
    ] {
        let all: Vec<&str> = ["replay", file].into_iter().chain(arguments.split_whitespace()).collect();
        let output = pktgen(&all);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{file}: {said}");
    }
    assert_eq!(crate::net::counters("src").1, before, "nothing was sent");
    replay(Path::new(&short), "--pad --pace max");
    assert!(crate::net::counters("src").1 > before);
}
