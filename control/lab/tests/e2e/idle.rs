//! A switch with nothing to do sleeps, and wakes quickly.

use std::{net::SocketAddrV4, time::Duration};

use shunt_control_lab::{
    checks,
    idle::cpu_share,
    plan::{DNS, Forwarder, Plan, UDP_PORT},
    tools,
    trial::trial_alone,
};

/// Of one core.
const MOST_IDLE: f64 = 0.01;

fn idle_costs_next_to_nothing(workers: usize) {
    trial_alone(Plan { workers, ..Plan::three_nodes(Forwarder::Shunt) }, |lab| {
        // After traffic, not before it: polling must have ended again, also while flows wait to expire.
        let (a1, b1) = (lab.station("a1")?.0, lab.station("b1")?.1);
        checks::reach(a1, b1)?.must_hold("a1 -> b1");
        checks::spread(a1, "udp", SocketAddrV4::new(DNS, 53), 150, &["a2", "b1", "c1"])?.must_hold("UDP");
        std::thread::sleep(Duration::from_secs(2));
        for (node, shunt) in lab.daemons() {
            let share = cpu_share(shunt.daemon()?, Duration::from_secs(3))?;
            assert!(share < MOST_IDLE, "{} used {:.2}% of a core with nothing to do", node.plan.name(), share * 100.0);
        }
        Ok(())
    });
}

#[test]
fn one_idle_worker_costs_next_to_nothing() {
    idle_costs_next_to_nothing(1);
}

#[test]
fn two_idle_workers_cost_next_to_nothing() {
    idle_costs_next_to_nothing(2);
}

/// Ten datagrams a second find the workers asleep each time. A round trip wakes them four times (two nodes, both
/// directions) and the servers and clients besides. What a wake-up takes is the machine's: 20 microseconds on some, and on a
/// virtual one, from core to core, 150 to 300 were seen. A wake-up that is missed takes the worker's nap, half a second.
#[test]
fn a_sleeping_switch_wakes_quickly() {
    trial_alone(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let (from, to) = (lab.station("a1")?.0, lab.station("b1")?.1);
        assert!(tools::ping(from, "-c 1", to)?.is_complete());
        let slept_before = lab.node("node-a")?.shunt()?.counters()?.workers[0].sleeps;
        let report = checks::stream(from, SocketAddrV4::new(to, UDP_PORT), 10, 50, 64)?;
        let slept = lab.node("node-a")?.shunt()?.counters()?.workers[0].sleeps - slept_before;
        assert!(report.is_complete(), "{report:?}");
        assert!(slept >= 50, "the worker slept only {slept} times: this measured no wake-up");
        assert!(report.rtt_us[1] < 5000.0, "round trips from sleep, in microseconds: {:?}", report.rtt_us);
        Ok(())
    });
}
