//! The capability `bandwidth`: limits of what containers send and receive, measured by iperf3.

use std::net::SocketAddrV4;

use serde_json::{Value, json};
use shunt_control_lab::{error::Result, netns::Namespace, tools, topology::Lab, trial::trial_alone};

use crate::runtime::{Runtime, Traces, address, plan};

/// What the container may receive and send, in bits per second, and at once, in bits.
const INGRESS: f64 = 40e6;
const EGRESS: f64 = 20e6;
const BURST: u64 = 10_000_000;
/// Payload of a datagram, and what its headers add in its frame.
const DATAGRAM: f64 = 1400.0;
const HEADERS: f64 = 42.0;
/// How long is sent, in seconds.
const SECONDS: f64 = 3.0;

/// Bits per second, in frames, that arrive of datagrams sent at three times the `rate`, and of what TCP makes of it.
fn measured(lab: &Lab, from: &Namespace, to: &Namespace, at: SocketAddrV4, rate: f64) -> Result<[f64; 2]> {
    let log = lab.log("iperf3");
    // Several flows, on several queues: one bucket for all workers.
    let datagrams = format!("--udp --parallel 4 --bandwidth {} --length {DATAGRAM} --time {SECONDS}", 3.0 * rate / 4.0);
    let udp = tools::iperf3(from, to, at, &datagrams, &log)?;
    let tcp = tools::iperf3(from, to, at, &format!("--time {SECONDS}"), &log)?;
    Ok([udp.bits_per_second * (DATAGRAM + HEADERS) / DATAGRAM, tcp.bits_per_second])
}

#[test]
fn a_container_sends_and_receives_as_much_as_it_may() {
    let mut plan = plan();
    plan.workers = 2;
    trial_alone(plan, |lab| {
        let runtime = Runtime::new(lab);
        let container = runtime.container("slow");
        let limits = |direction: &str, rate: f64| json!({ format!("{direction}Rate"): rate as u64, format!("{direction}Burst"): BURST });
        let mut bandwidth = limits("ingress", INGRESS);
        bandwidth.as_object_mut().expect("one").extend(limits("egress", EGRESS).as_object().expect("one").clone());
        let asked = |bandwidth: &Value| json!({ "runtimeConfig": { "bandwidth": bandwidth } });

        for (wrong, key) in [("ingressRate", "ingressBurst"), ("egressBurst", "egressRate")] {
            let answer = runtime.call("ADD", &container, asked(&json!({ wrong: 1000 })));
            let named = format!("runtimeConfig.bandwidth.{key}: missing");
            assert!(answer.code() == 7 && answer.message().contains(&named), "{}", answer.output);
            assert_eq!(runtime.traces(), Traces::default());
        }
        let result = runtime.call("ADD", &container, asked(&bandwidth)).result();
        let own = address(&result);
        let mut check = asked(&bandwidth);
        check["prevResult"] = result;
        runtime.call("CHECK", &container, check.clone()).result();
        check["runtimeConfig"]["bandwidth"]["egressRate"] = 1000.into();
        let answer = runtime.call("CHECK", &container, check);
        assert!(answer.code() == 100 && answer.message().contains("bandwidth"), "{}", answer.output);

        let (a1, shunt) = (lab.pod("a1")?, lab.node("node-a")?.shunt()?);
        for (direction, from, to, at, rate) in [
            ("received", &a1.namespace, &container.namespace, own, INGRESS),
            ("sent", &container.namespace, &a1.namespace, a1.address(), EGRESS),
        ] {
            // Never more, the burst included; and as much, unless the machine has no time for it: one of three times.
            let most = 1.05 * (rate + BURST as f64 / SECONDS);
            let mut is_reached = false;
            for _ in 0..3 {
                let [udp, tcp] = measured(lab, from, to, SocketAddrV4::new(at, 5201), rate)?;
                println!("{direction}: of {rate}, UDP {udp:.0}, TCP {tcp:.0} bits a second");
                assert!(udp < most && tcp < most, "{direction}: UDP {udp}, TCP {tcp} of {rate}");
                // Nothing is queued for TCP: it sends less after each loss.
                is_reached = udp > 0.97 * rate && tcp > 0.7 * rate;
                if is_reached {
                    break;
                }
            }
            assert!(is_reached, "{direction}: less than {rate} three times");
        }
        assert!(shunt.dropped("ingress_limit")? > 1000 && shunt.dropped("egress_limit")? > 1000);
        let listed = shunt.ctl(&["list", "ports"])?;
        assert!(listed.contains("40 Mbit/s") && listed.contains("20 Mbit/s"), "{listed}");
        let explained = shunt.ctl(&["explain", &own.to_string(), &a1.address().to_string(), "--protocol", "icmp"])?;
        assert!(explained.contains("Its sender may send 20000000 bits a second"), "{explained}");
        // Nobody else is limited.
        let other = runtime.container("other");
        runtime.add(&other);
        let at = SocketAddrV4::new(a1.address(), 5201);
        let free = tools::iperf3(&other.namespace, &a1.namespace, at, "--time 1", &lab.log("iperf3"))?;
        assert!(free.bits_per_second > 2.0 * INGRESS, "{free:?}");
        runtime.del(&container);
        runtime.del(&other);
        assert_eq!(runtime.traces(), Traces::default());
        Ok(())
    });
}
