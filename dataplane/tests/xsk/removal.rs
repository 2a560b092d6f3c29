//! Ports that go while traffic flows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use shunt_dataplane::io::{PacketIo, RX_HEADROOM};

use crate::{
    net::{Wire, experimental, new_namespace, run, veth},
    rig::{Port, Worker},
};

/// Sends without pause until dropped.
struct Flood(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Flood {
    fn on(interface: &str) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let (wire, stopped) = (Wire::on(interface), stop.clone());
        let sent = AtomicU64::new(0);
        let thread = thread::spawn(move || {
            let packet = experimental(200, 9);
            while !stopped.load(Ordering::Relaxed) {
                wire.send(&packet);
                sent.fetch_add(1, Ordering::Relaxed);
            }
            assert!(sent.into_inner() > 100, "the flood was a trickle");
        });
        Flood(stop, Some(thread))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let result = self.1.take().expect("once").join();
        if !thread::panicking() {
            result.expect("the flood ran through");
        }
    }
}

#[test]
fn a_port_closed_under_load_returns_every_frame_and_can_be_opened_again() {
    new_namespace();
    veth("in", "in-peer", 1);
    veth("out", "out-peer", 1);
    let mut worker = Worker::new(2048);
    let mut outward = worker.port("out");
    let _flood = Flood::on("in-peer");
    for round in 0..20 {
        let Port { classifier, device: mut inward } = worker.port("in");
        let mut frames = worker.receive(&mut inward, 200);
        assert!(frames.len() >= 200, "round {round}: no traffic");
        outward.device.tx_burst(&mut frames);
        outward.device.kick();
        worker.give(frames);
        // Frames are in all four rings and arriving while it closes; every other time the program goes first.
        if round % 2 == 0 {
            drop(classifier);
        }
        worker.close(inward);
        outward.device.reclaim(&mut worker.pool);
        worker.assert_conserved(0, &[&outward.device]);
    }
    worker.close(outward.device);
    worker.assert_all_free();
}

#[test]
fn an_interface_deleted_under_load_returns_every_frame_and_harms_no_other() {
    new_namespace();
    veth("first", "first-peer", 1);
    veth("other", "other-peer", 1);
    let mut worker = Worker::new(1024);
    let mut first = worker.port("first");
    let mut other = worker.port("other");
    let frames = {
        // An interface that goes ends the flood's own socket, so this one is on the port that stays.
        let _flood = Flood::on("other-peer");
        let frames = worker.receive(&mut other.device, 50);
        run("ip link delete first");
        let mut lost = vec![worker.frame(&experimental(60, 1), RX_HEADROOM)];
        first.device.tx_burst(&mut lost);
        first.device.kick();
        first.device.kick();
        first.device.reclaim(&mut worker.pool);
        assert_eq!(first.device.rx_burst(&mut worker.pool, &mut Vec::new(), 64), 0);
        worker.assert_conserved(frames.len(), &[&first.device, &other.device]);
        frames
    };
    worker.give(frames);
    worker.close(first.device);
    worker.assert_conserved(0, &[&other.device]);

    // The first port a worker had is gone; later ones still come and go.
    veth("later", "later-peer", 1);
    let mut later = worker.port("later");
    let wire = Wire::on("later-peer");
    wire.send(&experimental(60, 2));
    let frames = worker.receive(&mut later.device, 1);
    assert!(frames[0].bytes() == experimental(60, 2));
    worker.give(frames);
    worker.close(later.device);
    worker.close(other.device);
    worker.assert_all_free();
}

#[test]
fn workers_leave_no_device_behind() {
    new_namespace();
    let devices = || {
        let output = std::process::Command::new("ip").args(["-br", "link"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().filter(|l| l.starts_with("shunt-mem")).count()
    };
    let workers = [Worker::new(64), Worker::new(64)];
    assert_eq!(devices(), 2);
    drop(workers);
    assert_eq!(devices(), 0);
}
