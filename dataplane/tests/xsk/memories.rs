//! A whole switch on real interfaces: which memory a port gets, traffic between two of them, and the default number of
//! frames.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use shunt_dataplane::{
    io::PacketIo,
    net::MacAddr,
    spec::{FamilySpec, ForwardingSpec, PortId, PortRole, PortSpec, RouteSpec, Via},
    switch::{AttachSpec, PortInfo, Switch, SwitchConfig},
    xsk::{MemoryChoice, PortMemory, Transfer, UplinkFilter, XdpMode},
};

use crate::{
    net::{Wire, experimental, ipv4, new_namespace, run, udp, veth},
    rig::PATIENCE,
};

/// The station behind every port.
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);

fn switch(workers: usize, frames: u32) -> Switch {
    let cores: Vec<_> = core_affinity::get_core_ids().expect("cores").iter().map(|core| core.id).collect();
    assert!(cores.len() >= workers, "this test needs {workers} cores");
    let config =
        SwitchConfig { cores: cores[..workers].to_vec(), frames_per_worker: frames, flow_capacity: 1024, hash_seed: 1 };
    Switch::start(config).expect("a switch")
}

fn attach(switch: &Switch, id: u16, interface: &str, role: PortRole, memory: MemoryChoice) -> PortInfo {
    let classify = UplinkFilter { vxlan: None, native: vec!["10.0.0.0/8".parse().unwrap()] };
    let (id, interface, xdp_mode) = (PortId(id), interface.into(), XdpMode::Auto);
    switch.attach(AttachSpec { id, interface, role, xdp_mode, classify, memory, kernel_end: None }).expect("attached")
}

/// The address behind port `id`.
fn address(id: u16) -> Ipv4Addr {
    Ipv4Addr::from(0x0af4_0100 + u32::from(id))
}

fn publish(switch: &Switch, ports: &[(PortInfo, PortRole)]) {
    let specs = ports.iter().map(|(info, role)| PortSpec {
        id: info.id,
        role: *role,
        mac: info.mac,
        mtu: info.mtu,
        unfinished_checksums: true,
        station: None,
    });
    let routes = ports.iter().map(|(info, role)| RouteSpec {
        prefix: address(info.id.0).into(),
        via: match role {
            PortRole::Uplink => Via::Gateway { port: info.id, mac: Some(STATION) },
            _ => Via::Port { port: info.id, mac: STATION },
        },
    });
    let spec = ForwardingSpec {
        ports: specs.collect(),
        ipv4: FamilySpec { routes: routes.collect(), ..FamilySpec::default() },
        ..ForwardingSpec::default()
    };
    switch.publish(&spec).expect("published");
}

/// A UDP packet for the station behind port `to` that carries a number, handed to the switch at `at`.
fn packet(at: &PortInfo, to: u16, number: u32, len: usize) -> Vec<u8> {
    let mut datagram = udp(5000);
    datagram.truncate(8);
    datagram.extend(number.to_be_bytes());
    datagram.resize(8 + len.max(4), number as u8);
    let length = (datagram.len() as u16).to_be_bytes();
    datagram[4..6].copy_from_slice(&length);
    let mut packet = ipv4(address(to), 17, &[], 0, &datagram);
    packet[..6].copy_from_slice(&at.mac.0);
    // A real sender's header checksum (RFC 791).
    let sum: u32 = packet[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[42..46].try_into().unwrap())
}

/// Waits until nothing is on its way and asserts that everything is accounted for.
fn assert_balanced(switch: &Switch) {
    let until = Instant::now() + PATIENCE;
    loop {
        let imbalances = switch.report().imbalances();
        if imbalances.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{imbalances:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends `count` packets each way between the uplink and a pod and takes them off, a few at a time.
fn exchange(wires: [&Wire; 2], infos: [&PortInfo; 2], count: u32) {
    const STRIDE: u32 = 32;
    for first in (0..count).step_by(STRIDE as usize) {
        for n in first..first + STRIDE {
            let len = (n * 37 % 1460) as usize;
            wires[0].send(&packet(infos[0], infos[1].id.0, n, len));
            wires[1].send(&packet(infos[1], infos[0].id.0, n, len));
        }
        for wire in wires {
            let mut n = first;
            while n < first + STRIDE {
                let arrived = wire.recv(PATIENCE).unwrap_or_else(|| panic!("packet {n} was lost"));
                // What else this end sees is what it has sent itself.
                if arrived[..6] == STATION.0 {
                    assert_eq!(number(&arrived), n);
                    n += 1;
                }
            }
        }
    }
}

fn both_ways_between_two_memories(workers: usize) {
    new_namespace();
    veth("uplink", "uplink-peer", workers as u32);
    veth("pod", "pod-peer", 1);
    let switch = switch(workers, 4096);
    let uplink = attach(&switch, 0, "uplink", PortRole::Uplink, MemoryChoice::OwnCopying);
    let pod = attach(&switch, 1, "pod", PortRole::Pod, MemoryChoice::Shared);
    assert_eq!((uplink.zero_copy, &uplink.why_copy), (false, &None));
    publish(&switch, &[(uplink.clone(), PortRole::Uplink), (pod.clone(), PortRole::Pod)]);
    let (up, down) = (Wire::on("uplink-peer"), Wire::on("pod-peer"));
    exchange([&up, &down], [&uplink, &pod], 3200);
    assert_balanced(&switch);
    let report = switch.report();
    for worker in &report.workers {
        let ports: Vec<_> = worker.memories.iter().map(|memory| memory.port).collect();
        assert_eq!(ports, [None, Some(PortId(0))]);
    }
    assert!(report.ports.iter().all(|port| port.tx_dropped + port.tx_no_frame == 0), "{report:?}");

    // The port goes with its memory while packets come in, and can be attached again on the same queues; its number
    // starts to count anew, and nothing is lost from the accounts.
    for round in 0..3 {
        for n in 0..500 {
            up.send(&packet(&uplink, 1, n, 100));
            down.send(&packet(&pod, 0, n, 100));
        }
        switch.detach(PortId(0)).expect("detached");
        assert_balanced(&switch);
        let memories = |switch: &Switch| switch.report().workers.iter().map(|w| w.memories.len()).sum::<usize>();
        assert_eq!(memories(&switch), workers);
        let choice = if round == 1 { MemoryChoice::Shared } else { MemoryChoice::OwnCopying };
        let again = attach(&switch, 0, "uplink", PortRole::Uplink, choice);
        publish(&switch, &[(again.clone(), PortRole::Uplink), (pod.clone(), PortRole::Pod)]);
        let counted = &switch.report().ports[0];
        assert!(counted.rx_packets == 0 && counted.tx_packets == 0 && counted.forwarded == 0, "{counted:?}");
        while down.recv(Duration::from_millis(50)).is_some() {}
        while up.recv(Duration::from_millis(50)).is_some() {}
        exchange([&up, &down], [&again, &pod], 320);
        let counted = &switch.report().ports[0];
        assert_eq!((counted.rx_packets, counted.forwarded), (320, 320), "{counted:?}");
        assert_balanced(&switch);
    }
    switch.shutdown().expect("a clean end");
}

#[test]
fn traffic_between_two_memories_of_one_worker() {
    both_ways_between_two_memories(1);
}

#[test]
fn traffic_between_memories_of_two_workers() {
    both_ways_between_two_memories(2);
}

#[test]
fn an_uplink_without_zero_copy_shares_the_memory_and_says_why() {
    new_namespace();
    veth("uplink", "uplink-peer", 2);
    let switch = switch(1, 4096);
    let info = attach(&switch, 0, "uplink", PortRole::Uplink, MemoryChoice::ZeroCopy);
    let why = info.why_copy.expect("a reason");
    assert!(!info.zero_copy && why.contains("zero-copy"), "{why}");
    assert_eq!(switch.report().workers[0].memories.len(), 1, "no memory of its own is left behind");
    switch.detach(PortId(0)).unwrap();
    run("ip link add plain type bridge");
    let info = attach(&switch, 0, "plain", PortRole::Uplink, MemoryChoice::ZeroCopy);
    assert!(info.why_copy.expect("a reason").contains("generic mode"));
    assert_balanced(&switch);
}

#[test]
fn a_memory_that_is_not_whole_is_not_given_back() {
    new_namespace();
    veth("port", "peer", 1);
    let (memory, mut pool) = PortMemory::new("port", 1, Transfer::Copy).unwrap();
    let mut device = memory.open(0).unwrap();
    device.reclaim(&mut pool);
    let mut kept = pool.take().unwrap();
    let error = memory.dissolve(pool, vec![Box::new(device)]).unwrap_err().to_string();
    assert!(error.contains("interface port: 1 frames of its memory are missing"), "{error}");
    // So the frame can still be written to.
    assert!(kept.fill(&experimental(1500, 1)) && kept.bytes() == experimental(1500, 1));
}

#[test]
fn a_dropped_switch_leaves_the_queues_of_a_port_with_its_own_memory_free() {
    new_namespace();
    veth("uplink", "uplink-peer", 1);
    for _ in 0..2 {
        let switch = switch(1, 1024);
        attach(&switch, 0, "uplink", PortRole::Uplink, MemoryChoice::OwnCopying);
    }
}

/// The default of `[workers] frames` (`control/daemon/src/config/file.rs`).
const DEFAULT_FRAMES: u32 = 32768;

#[test]
fn an_uplink_a_host_port_and_256_pods_share_the_default_frames_of_one_worker() {
    new_namespace();
    let switch = switch(1, DEFAULT_FRAMES);
    let link = |id| {
        format!(
            "link add v{id} numtxqueues 1 numrxqueues 1 type veth peer name p{id} numtxqueues 1 numrxqueues 1\n\
             link set dev v{id} addrgenmode none up\nlink set dev p{id} addrgenmode none up\n"
        )
    };
    let batch = std::env::temp_dir().join(format!("shunt-links-{}", std::process::id()));
    std::fs::write(&batch, (0..258).map(link).collect::<String>()).unwrap();
    run(&format!("ip -batch {}", batch.display()));
    std::fs::remove_file(batch).unwrap();
    let attached = (0..258).map(|id| {
        let role = match id {
            0..256 => PortRole::Pod,
            256 => PortRole::Host,
            _ => PortRole::Uplink,
        };
        (attach(&switch, id, &format!("v{id}"), role, MemoryChoice::Shared), role)
    });
    let ports: Vec<_> = attached.collect();
    publish(&switch, &ports);
    let (first, last, uplink) = (&ports[0].0, &ports[255].0, &ports[257].0);
    let [first_wire, last_wire, up_wire] = ["p0", "p255", "p257"].map(Wire::on);
    exchange([&first_wire, &last_wire], [first, last], 640);
    exchange([&up_wire, &last_wire], [uplink, last], 640);
    let report = switch.report();
    assert!(report.ports.iter().all(|port| port.missed + port.tx_dropped == 0), "{report:?}");
    let memory = &report.workers[0].memories[0];
    assert!(memory.free >= DEFAULT_FRAMES / 4, "a quarter is left to send with: {memory:?}");
    assert_balanced(&switch);
}
