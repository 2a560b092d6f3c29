//! How fast pktgen fills a veth, beside the public generators that Debian has.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    net::{counters, discard, new_namespace, veth},
    tool::{Background, profile, urgent},
};

/// Each generator gets as many turns; the best counts, as the machine may be busy.
const ROUNDS: usize = 2;

const TURN: Duration = Duration::from_millis(1500);

/// The same 60 bytes for trafgen: Ethernet, IPv4, UDP.
const TRAFGEN: &str = "{ eth(da=02:00:00:00:00:01, sa=02:00:00:00:00:02), \
    ipv4(sa=10.244.1.10, da=10.244.2.10, ttl=64), udp(sp=1024, dp=9), fill(0x00, 18) }";

#[test]
fn it_is_at_least_as_fast_as_trafgen_and_testpmd() {
    new_namespace();
    veth("src", "sink");
    // Whatever arrives is dropped before it costs anything, and the veth takes live frames.
    let _sink = discard("sink");
    let folder = TempDir::new().expect("a directory");
    let trafgen = folder.path().join("packets.cfg");
    fs::write(&trafgen, TRAFGEN).expect("a file");
    let mut best = [0.0_f64; 4];
    for _ in 0..ROUNDS {
        for (which, rate) in best.iter_mut().enumerate() {
            let mut command = generator(which, &trafgen);
            *rate = rate.max(rate_of(&mut command, ["netsniff-ng", "dpdk-dev", "of ours", "of ours"][which]));
        }
    }
    let [trafgen, testpmd, af_xdp, live] = best;
    println!(
        "packets per second into a veth: trafgen {trafgen:.0}, testpmd {testpmd:.0}, pktgen over AF_XDP {af_xdp:.0}, \
         with live frames {live:.0}: {:.2} times the fastest other",
        live / trafgen.max(testpmd)
    );
    assert!(trafgen > 0.0 && testpmd > 0.0 && af_xdp > 0.0, "every generator sends: {best:?}");
    assert!(live >= trafgen.max(testpmd), "{best:?}");
}

fn generator(which: usize, trafgen: &std::path::Path) -> Command {
    let words = match which {
        0 => format!("trafgen --dev src --cpus 1 --conf {}", trafgen.display()),
        1 => format!(
            "dpdk-testpmd --no-huge -m 256 --no-pci --no-telemetry -l 0,1 --file-prefix=pg-tx-{} \
             --vdev=net_af_xdp0,iface=src -- --forward-mode=txonly --txpkts=60 --auto-start --total-num-mbufs=8192 \
             --stats-period=1",
            std::process::id()
        ),
        _ => format!(
            "{} run {} --quiet --tx src --to-mac 02:00:00:00:00:01 --cores 1 --duration 60s --warm-up 0s {}",
            env!("CARGO_BIN_EXE_pktgen"),
            profile("flood").display(),
            if which == 3 { "--live" } else { "" }
        ),
    };
    let mut words = words.split_whitespace();
    let mut command = urgent(words.next().expect("a program"));
    command.args(words);
    command
}

/// Packets per second that leave while the program runs.
fn rate_of(command: &mut Command, package: &str) -> f64 {
    let before = counters("src").1;
    let running = Background::start(command, package);
    crate::tool::until("a generator to send", || counters("src").1 > before);
    thread::sleep(Duration::from_millis(500));
    let (sent, start) = (counters("src").1, Instant::now());
    thread::sleep(TURN);
    let rate = (counters("src").1 - sent) as f64 / start.elapsed().as_secs_f64();
    drop(running);
    rate
}
