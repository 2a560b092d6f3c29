//! Attaching: modes, refusals, and what stays behind.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use shunt_dataplane::{
    io::PacketIo,
    spec::PortRole,
    xsk::{Classifier, Interface, UplinkFilter, XdpMode, XskError},
};

use crate::{
    net::{Wire, experimental, new_namespace, run, veth},
    rig::{PATIENCE, Worker, once_released},
};

fn attach(interface: &str, mode: XdpMode) -> Result<Classifier, XskError> {
    Classifier::attach(&Interface::query(interface)?, PortRole::Pod, mode, &UplinkFilter::default())
}

#[test]
fn an_interface_tells_its_facts() {
    new_namespace();
    run("ip link add port numtxqueues 3 numrxqueues 3 address 02:00:00:00:0a:01 mtu 1450 type veth peer name peer");
    let facts = Interface::query("port").unwrap();
    assert_eq!((facts.mac.to_string().as_str(), facts.mtu, facts.queues), ("02:00:00:00:0a:01", 1450, 3));
    run("ip link add plain type bridge");
    assert_eq!(Interface::query("plain").unwrap().queues, 1, "a driver that does not say has one");
    for missing in ["nowhere", "", "a-name-longer-than-the-kernel-takes", "nul\0"] {
        assert!(matches!(Interface::query(missing), Err(XskError::NoInterface { .. })), "{missing}");
    }
}

#[test]
fn a_driver_without_native_xdp_gets_generic_and_says_why() {
    new_namespace();
    run("ip link add plain type bridge");
    let classifier = attach("plain", XdpMode::Auto).unwrap();
    assert_eq!(classifier.mode(), XdpMode::Generic);
    assert!(classifier.fallback().unwrap().contains("Operation not supported"), "{:?}", classifier.fallback());
    drop(classifier);
    let error = attach("plain", XdpMode::Native).err().expect("native was asked for").to_string();
    assert!(error.contains("interface plain") && error.contains("use mode auto or generic"), "{error}");
}

#[test]
fn generic_mode_carries_frames_both_ways() {
    new_namespace();
    veth("port", "peer", 1);
    let mut worker = Worker::new(256);
    let mut port = worker.port_as("port", PortRole::Pod, XdpMode::Generic, &UplinkFilter::default()).unwrap();
    assert_eq!((port.classifier.mode(), port.classifier.fallback()), (XdpMode::Generic, None));
    let wire = Wire::on("peer");
    for len in [60, 61, 590, 1513, 1514] {
        let packet = experimental(len, len as u32);
        wire.send(&packet);
        let mut frames = worker.receive(&mut port.device, 1);
        assert!(frames.len() == 1 && frames[0].bytes() == packet, "{len}");
        port.device.tx_burst(&mut frames);
        port.device.kick();
        assert!(wire.recv(PATIENCE) == Some(packet), "{len}");
        port.device.reclaim(&mut worker.pool);
    }
    worker.close(port.device);
    worker.assert_all_free();
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    new_namespace();
    veth("port", "peer", 1);
    let directory = std::env::temp_dir().join(format!("shunt-xsk-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (source, object) = (directory.join("foreign.c"), directory.join("foreign.o"));
    std::fs::write(
        &source,
        "__attribute__((section(\"xdp\"), used)) int foreign_pass(void *ctx) { return 2; }\n\
         char LICENSE[] __attribute__((section(\"license\"), used)) = \"GPL\";\n",
    )
    .unwrap();
    run(&format!("clang -target bpf -O2 -g -c {} -o {}", source.display(), object.display()));
    for (command, off) in [("xdp", "xdp"), ("xdpgeneric", "xdpgeneric")] {
        run(&format!("ip link set dev port {command} obj {} sec xdp", object.display()));
        for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
            match attach("port", mode) {
                Err(XskError::ForeignProgram { interface, program, id }) => {
                    assert_eq!((interface.as_str(), program.as_str()), ("port", "foreign_pass"));
                    assert!(id > 0);
                }
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("attached over a foreign program"),
            }
        }
        run(&format!("ip link set dev port {off} off"));
    }
    attach("port", XdpMode::Auto).expect("free again");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_second_classifier_is_refused_until_the_first_is_gone() {
    new_namespace();
    veth("port", "peer", 1);
    let first = attach("port", XdpMode::Native).unwrap();
    let error = attach("port", XdpMode::Auto).err().expect("one at a time").to_string();
    assert!(error.contains("'shunt_port'") && error.contains("another running shuntd"), "{error}");
    drop(first);
    let again = || attach("port", XdpMode::Native);
    let again = once_released(again, |error| matches!(error, XskError::ForeignProgram { .. }));
    again.expect("dropping the first has detached it");
}

#[test]
fn a_killed_daemon_leaves_the_interface_free() {
    new_namespace();
    veth("port", "peer", 1);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "attach::holds_a_port_until_killed"])
        .env("SHUNT_TEST_HOLD", "port")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("holding")), "the child did not get the port");
    let mut worker = Worker::new(256);
    assert!(worker.open("port", 0).is_err(), "the child has this queue");
    assert!(attach("port", XdpMode::Auto).is_err());
    child.kill().unwrap();
    child.wait().unwrap();
    let mut port = worker.port("port");
    let wire = Wire::on("peer");
    wire.send(&experimental(60, 1));
    let frames = worker.receive(&mut port.device, 1);
    assert_eq!(frames.len(), 1);
    worker.give(frames);
}

/// Not a test by itself: the process that the one above kills. In the namespace it is started in.
#[test]
#[ignore = "started by a_killed_daemon_leaves_the_interface_free"]
fn holds_a_port_until_killed() {
    let Ok(interface) = std::env::var("SHUNT_TEST_HOLD") else { return };
    let mut worker = Worker::new(256);
    let _port = worker.port(&interface);
    println!("holding {interface}");
    std::thread::sleep(std::time::Duration::from_secs(30));
}

#[test]
fn a_port_that_cannot_work_is_refused_with_what_to_do() {
    new_namespace();
    run("ip link add wide mtu 9000 type veth peer name wide-peer mtu 9000");
    run("ip link add widest mtu 1714 type veth peer name widest-peer");
    run("ip link add over mtu 1715 type veth peer name over-peer");
    let mut worker = Worker::new(256);
    let refused = |interface: &str, queue| worker.open(interface, queue).err().expect("refused").to_string();
    let error = refused("wide", 0);
    assert!(error.contains("interface wide") && error.contains("9000") && error.contains("1714"), "{error}");
    assert!(refused("over", 0).contains("1715"));
    let error = refused("widest", 4);
    assert!(error.contains("no queue 4") && error.contains("ethtool -l widest"), "{error}");
    assert!(refused("nowhere", 0).contains("interface nowhere: not found"));

    let first = worker.open("widest", 0).expect("the longest MTU a frame takes");
    let error = refused("widest", 0);
    assert!(error.contains("queue 0") && error.contains("this worker has the queue open already"), "{error}");
    let error = Worker::new(128).open("widest", 0).err().expect("refused").to_string();
    assert!(error.contains("queue 0") && error.contains("another AF_XDP socket has this queue"), "{error}");
    worker.close(Box::new(first));
}

#[test]
fn ports_share_the_memory_until_none_is_left() {
    new_namespace();
    let mut worker = Worker::new(512);
    let mut devices = Vec::new();
    let error = loop {
        let name = format!("p{}", devices.len());
        run(&format!("ip link add {name} type veth"));
        match worker.open(&name, 0) {
            Ok(mut device) => {
                device.reclaim(&mut worker.pool);
                assert_eq!(device.occupancy().receive, device.receive_share());
                devices.push(device);
            }
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(devices.len(), 4, "of 512 frames 304 are for pods to receive into, 64 at least");
    assert!(error.contains("512 frames") && error.contains("[workers] frames"), "{error}");
    assert!(worker.pool.free() > 512 / 4, "a quarter is left to send with");
    worker.close(Box::new(devices.pop().unwrap()));
    devices.push(worker.open("p4", 0).expect("there is room again"));
    devices.into_iter().for_each(|device| worker.close(Box::new(device)));
    worker.assert_all_free();
}
