//! The far end of a test: pktgen's own reflector, and DPDK's.

use crate::{
    net::{counters, new_namespace_alone, veth},
    tool::{Background, sound_run, until, urgent},
};

const AROUND: &str =
    "--tx src --rx src --to-mac 02:00:00:00:00:01 --rate 5kpps --duration 500ms --warm-up 200ms --cores 0";

#[test]
fn what_is_reflected_comes_back() {
    new_namespace_alone();
    veth("src", "far");
    let mut reflector = urgent(env!("CARGO_BIN_EXE_pktgen"));
    let reflector = Background::start(reflector.args(["reflect", "far", "--core", "1"]), "of ours");
    until("the reflector to be there", || crate::net::run("ip -details link show dev far").contains("prog/xdp"));
    let mut sent = 0;
    for profile in ["flood", "imix", "services", "vxlan", "voip"] {
        let before = counters("src").1;
        let trial = sound_run(profile, AROUND);
        assert_eq!((trial.total.lost, trial.total.corrupt, trial.total.duplicates), (0, 0, 0), "{profile}");
        assert_eq!(trial.total.received, trial.total.sent, "{profile}");
        sent += counters("src").1 - before;
    }
    let output = reflector.interrupt();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said == format!("{sent} frames reflected\n"),
        "{sent} were sent; it said: {said}"
    );
}

#[test]
fn dpdk_testpmd_over_af_xdp_reflects_all() {
    new_namespace_alone();
    veth("src", "far");
    let mut testpmd = urgent("dpdk-testpmd");
    let prefix = format!("--file-prefix=pg-{}", std::process::id());
    testpmd.args(["--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "-l", "0,1", &prefix]);
    testpmd.args(["--vdev=net_af_xdp0,iface=far", "--", "--forward-mode=macswap", "--auto-start"]);
    testpmd.args(["--total-num-mbufs=8192", "--stats-period=1"]);
    let _testpmd = Background::start(&mut testpmd, "dpdk-dev");
    until("testpmd to be there", || crate::net::run("ip -details link show dev far").contains("prog/xdp"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    let trial = sound_run("flood", AROUND);
    assert_eq!((trial.total.lost, trial.total.corrupt, trial.total.duplicates), (0, 0, 0), "{:?}", trial.total);
    assert_eq!(trial.total.received, trial.total.sent);
}
