//! A node whose uplink has a memory of its own, as with a zero-copy driver: what crosses arrives whole and in order, and
//! every frame of every memory is accounted for, however short they are.

use std::{
    net::Ipv4Addr,
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use shunt_dataplane::{
    counters::PortCounters,
    io::{Frame, FramePool, MAX_FRAME_LEN, MemoryDevice, MemoryWire, Occupancy, PacketIo},
    net::MacAddr,
    spec::{FamilySpec, ForwardingSpec, PortId, PortRole, PortSpec, RouteSpec, Via, VtepSpec, VxlanSpec},
    time::Now,
    verdict::Answer,
    worker::Stepped,
};

const UPLINK: PortId = PortId(0);
const POD: PortId = PortId(1);
const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const REMOTE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);
const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 50, 1), Ipv4Addr::new(192, 168, 50, 2)];
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const NEIGHBOUR: MacAddr = MacAddr([2, 0, 0, 0, 2, 0]);
const VTEPS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 3, 1]), MacAddr([2, 0, 0, 0, 3, 2])];

fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port.0 as u8])
}

fn spec() -> ForwardingSpec {
    let port = |id, role, unfinished_checksums| PortSpec {
        id,
        role,
        mac: mac(id),
        mtu: 1500,
        unfinished_checksums,
        station: None,
    };
    ForwardingSpec {
        ports: vec![port(UPLINK, PortRole::Uplink, false), port(POD, PortRole::Pod, true)],
        vxlan: Some(VxlanSpec { vni: 1, udp_port: 8472, local: UNDERLAY[0], mac: VTEPS[0] }),
        vteps: vec![VtepSpec {
            address: UNDERLAY[1],
            mac: VTEPS[1],
            uplink: UPLINK,
            next_hop: Some(NEIGHBOUR),
            direct: false,
            native: false,
        }],
        ipv4: FamilySpec {
            routes: vec![
                RouteSpec { prefix: POD_IP.into(), via: Via::Port { port: POD, mac: STATION } },
                RouteSpec { prefix: "10.244.2.0/24".parse().unwrap(), via: Via::Vtep(UNDERLAY[1]) },
            ],
            router: Some(Ipv4Addr::new(10, 244, 1, 1)),
            ..FamilySpec::default()
        },
        ..ForwardingSpec::default()
    }
}

/// A UDP packet that carries a number and is padded to `len` bytes of payload.
fn udp(macs: [MacAddr; 2], ips: [Ipv4Addr; 2], ttl: u8, port: u16, number: u32, len: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend((4..len.max(4)).map(|i| (i as u32 * 7 + number) as u8));
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(macs[0].0, macs[1].0)
        .ipv4(ips[0].octets(), ips[1].octets(), ttl)
        .udp(4000, port)
        .write(&mut packet, &payload)
        .unwrap();
    packet
}

fn from_pod(ttl: u8, number: u32, len: usize) -> Vec<u8> {
    udp([STATION, mac(POD)], [POD_IP, REMOTE_IP], ttl, 5000, number, len)
}

fn from_remote(ttl: u8, number: u32, len: usize) -> Vec<u8> {
    let inner = udp([VTEPS[1], VTEPS[0]], [REMOTE_IP, POD_IP], ttl, 5000, number, len);
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(NEIGHBOUR.0, mac(UPLINK).0)
        .ipv4(UNDERLAY[1].octets(), UNDERLAY[0].octets(), 64)
        .udp(50000, 8472)
        .write(&mut packet, &[&[8, 0, 0, 0, 0, 0, 1, 0], &inner[..]].concat())
        .unwrap();
    packet
}

/// The number in a packet, after its checksums and the padding are checked; `None` if it is ICMP.
fn number(packet: &[u8]) -> Option<u32> {
    let sliced = SlicedPacket::from_ethernet(packet).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4: {packet:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { return None };
    if udp.destination_port() == 8472 {
        return number(&udp.payload()[8..]);
    }
    assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap());
    let number = u32::from_be_bytes(udp.payload()[..4].try_into().unwrap());
    let padding = (4..udp.payload().len()).map(|i| (i as u32 * 7 + number) as u8);
    assert!(udp.payload()[4..].iter().copied().eq(padding), "the payload has changed");
    Some(number)
}

/// A device that says only when asked to that frames have been sent, as a busy NIC does.
struct Late {
    inner: MemoryDevice,
    holds: Arc<AtomicBool>,
}

impl PacketIo for Late {
    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        self.inner.rx_burst(pool, out, max)
    }

    fn tx_burst(&mut self, frames: &mut Vec<Frame>) {
        self.inner.tx_burst(frames);
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn reclaim(&mut self, pool: &mut FramePool) {
        if !self.holds.load(Relaxed) {
            self.inner.reclaim(pool);
        }
    }

    fn occupancy(&self) -> Occupancy {
        self.inner.occupancy()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }

    fn missed(&self) -> u64 {
        self.inner.missed()
    }

    fn close(self: Box<Self>) -> Vec<Frame> {
        Box::new(self.inner).close()
    }
}

/// Which worker serves what, and how many frames there are.
#[derive(Clone, Copy, Debug)]
struct Layout {
    workers: usize,
    shared: u32,
    own: u32,
    tx_room: usize,
}

impl Layout {
    fn uplink_worker(self) -> usize {
        self.workers - 1
    }
}

const AMPLE: Layout = Layout { workers: 1, shared: 1024, own: 1024, tx_room: 512 };

struct World {
    layout: Layout,
    switch: Stepped,
    uplink: MemoryWire,
    pod: MemoryWire,
    holds: [Arc<AtomicBool>; 2],
    now: u64,
}

impl World {
    fn new(layout: Layout) -> World {
        let mut switch = Stepped::new(layout.workers, layout.shared, 100, 1).unwrap();
        switch.publish(&spec()).unwrap();
        let holds = [Arc::default(), Arc::default()];
        let mut world =
            World { layout, switch, uplink: MemoryWire::default(), pod: MemoryWire::default(), holds, now: 0 };
        world.attach_uplink();
        let (device, wire) = world.device(1);
        world.switch.attach(0, POD, device);
        world.pod = wire;
        world
    }

    fn device(&self, which: usize) -> (Late, MemoryWire) {
        let (inner, wire) = MemoryDevice::new(self.layout.tx_room);
        (Late { inner, holds: self.holds[which].clone() }, wire)
    }

    fn attach_uplink(&mut self) {
        let (device, wire) = self.device(0);
        self.switch.lend(self.layout.uplink_worker(), UPLINK, self.layout.own);
        self.switch.attach(self.layout.uplink_worker(), UPLINK, device);
        self.uplink = wire;
    }

    fn step(&mut self) {
        self.now += 1_000_000;
        for worker in 0..self.layout.workers {
            self.switch.step(worker, Now(10_000_000_000 + self.now));
        }
    }

    fn sum(&self, counter: impl Fn(&PortCounters) -> u64) -> u64 {
        let ports = [UPLINK, POD];
        (0..self.layout.workers).flat_map(|w| ports.map(|port| counter(self.switch.counters(w).port(port)))).sum()
    }

    /// Every frame of every memory is somewhere, and every packet too.
    fn check(&self) {
        for worker in 0..self.layout.workers {
            let census = self.switch.census(worker);
            for memory in &census.memories {
                assert_eq!(memory.accounted(), memory.capacity, "{census:?}");
            }
        }
        let dropped = self.sum(|port| port.drops.iter().map(|counter| counter.get()).sum());
        let left =
            self.sum(|port| port.forwarded.get() + port.answers.iter().map(|counter| counter.get()).sum::<u64>());
        assert_eq!(self.sum(|port| port.rx_packets.get() + port.fragments.get()), dropped + left);
        let gone = self.sum(|port| port.tx_packets.get() + port.tx_dropped.get() + port.tx_no_frame.get());
        let waiting = if self.layout.workers > 1 { left - gone.min(left) } else { 0 };
        assert_eq!(left, gone + waiting);
    }
}

/// All numbers that came out of a wire, which must be ascending.
fn drain(wire: &MemoryWire) -> Vec<u32> {
    let numbers: Vec<_> = std::iter::from_fn(|| wire.recv()).filter_map(|packet| number(&packet)).collect();
    assert!(numbers.is_sorted(), "out of order: {numbers:?}");
    numbers
}

#[test]
fn traffic_both_ways_between_two_memories_loses_nothing() {
    for workers in [1, 2] {
        let mut world = World::new(Layout { workers, ..AMPLE });
        let (mut out, mut back) = (Vec::new(), Vec::new());
        for round in 0..200 {
            for n in 0..50 {
                let number = round * 50 + n;
                // All sizes up to the longest that the overlay carries.
                let len = (number as usize * 37) % 1419 + 4;
                world.pod.send(from_pod(64, number, len));
                world.uplink.send(from_remote(64, number, len));
            }
            world.step();
            world.step();
            out.extend(drain(&world.uplink));
            back.extend(drain(&world.pod));
            world.check();
        }
        let all: Vec<_> = (0..10_000).collect();
        assert!(out == all && back == all, "{workers} workers: {} out, {} back", out.len(), back.len());
        assert_eq!(world.sum(|port| port.tx_no_frame.get() + port.tx_dropped.get()), 0);
        let memories = |worker| world.switch.census(worker).memories.iter().map(|m| m.port).collect::<Vec<_>>();
        assert_eq!(memories(workers - 1), [None, Some(UPLINK)]);
    }
}

#[test]
fn answers_of_the_switch_go_back_from_the_memory_they_came_in() {
    let mut world = World::new(AMPLE);
    world.pod.send(from_pod(1, 0, 100));
    world.uplink.send(from_remote(1, 0, 100));
    world.pod.send(from_pod(64, 0, 1460));
    world.step();
    world.check();
    let answers = |port, answer: Answer| world.switch.counters(0).port(port).answers[answer as usize].get();
    assert_eq!([UPLINK, POD].map(|port| answers(port, Answer::TimeExceeded)), [1, 1]);
    assert_eq!(answers(POD, Answer::FragmentationNeeded), 1);
    let kinds = |wire: &MemoryWire, skip: usize| -> Vec<u8> {
        std::iter::from_fn(|| wire.recv()).map(|packet| packet[skip + 34]).collect()
    };
    assert_eq!(kinds(&world.pod, 0), [11, 3], "time exceeded, then fragmentation needed");
    assert_eq!(kinds(&world.uplink, 50), [11], "time exceeded, encapsulated");
}

#[test]
fn a_full_memory_at_egress_costs_the_packets_for_it_and_nothing_else() {
    let mut world = World::new(Layout { own: 8, ..AMPLE });
    world.holds[0].store(true, Relaxed);
    for number in 0..20 {
        world.pod.send(from_pod(64, number, 64));
    }
    world.step();
    world.check();
    assert_eq!(drain(&world.uplink), (0..8).collect::<Vec<_>>(), "as many as there are frames, in order");
    let uplink = world.switch.counters(0).port(UPLINK);
    assert_eq!((uplink.tx_packets.get(), uplink.tx_no_frame.get(), uplink.tx_dropped.get()), (8, 12, 0));
    // The NIC has none to receive into either, until it says that it has sent.
    world.uplink.send(from_remote(64, 0, 64));
    world.step();
    assert_eq!(drain(&world.pod), []);
    world.holds[0].store(false, Relaxed);
    world.step();
    assert_eq!(drain(&world.pod), [0]);
    world.pod.send(from_pod(64, 20, 64));
    world.step();
    assert_eq!(drain(&world.uplink), [20]);
    world.check();
}

#[test]
fn a_port_and_its_memory_go_and_come_back_while_frames_are_everywhere() {
    let mut world = World::new(Layout { own: 64, ..AMPLE });
    for round in 0..10 {
        world.holds[0].store(round % 2 == 0, Relaxed);
        for number in 0..30 {
            world.pod.send(from_pod(64, number, 200));
            world.uplink.send(from_remote(64, number, 200));
        }
        world.step();
        world.check();
        assert_eq!(drain(&world.pod).len(), 30);
        // It asserts that all frames of the memory come back.
        world.switch.detach(0, UPLINK);
        let census = world.switch.census(0);
        assert_eq!(census.memories.len(), 1);
        assert_eq!(census.memories[0].accounted(), census.memories[0].capacity);
        world.pod.send(from_pod(64, 0, 200));
        world.step();
        assert_eq!(world.switch.counters(0).port(UPLINK).tx_dropped.get(), round + 1, "nobody sends on it");
        world.attach_uplink();
    }
    world.check();
}

#[derive(Clone, Debug)]
enum Action {
    FromPod(u8, u16),
    FromRemote(u8, u16),
    Garbage(bool, Vec<u8>),
    Hold(bool, bool),
    Step,
    Reattach,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..3_u8, 4..1470_u16).prop_map(|(ttl, len)| Action::FromPod(ttl, len)),
        4 => (0..3_u8, 4..1470_u16).prop_map(|(ttl, len)| Action::FromRemote(ttl, len)),
        1 => (any::<bool>(), prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(pod, p)| Action::Garbage(pod, p)),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(pod, holds)| Action::Hold(pod, holds)),
        4 => Just(Action::Step),
        1 => Just(Action::Reattach),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, in whatever shortage: no frame and no packet is lost or doubled, and the order is kept.
    #[test]
    fn frames_and_packets_are_conserved_in_every_memory(
        workers in 1..3_usize,
        shared in 4..40_u32,
        own in 2..40_u32,
        tx_room in 1..40_usize,
        actions in prop::collection::vec(action(), 1..150),
    ) {
        let mut world = World::new(Layout { workers, shared, own, tx_room });
        let mut next = [0_u32; 2];
        for action in actions {
            match action {
                Action::FromPod(ttl, len) => {
                    world.pod.send(from_pod(ttl, next[0], len.into()));
                    next[0] += 1;
                }
                // Longer ones fit no frame once they are encapsulated.
                Action::FromRemote(ttl, len) => {
                    world.uplink.send(from_remote(ttl, next[1], usize::from(len).min(MAX_FRAME_LEN - 100)));
                    next[1] += 1;
                }
                Action::Garbage(pod, packet) => if pod { &world.pod } else { &world.uplink }.send(packet),
                Action::Hold(pod, holds) => world.holds[usize::from(pod)].store(holds, Relaxed),
                Action::Step => {
                    world.step();
                    drain(&world.uplink);
                    drain(&world.pod);
                }
                Action::Reattach => {
                    world.switch.detach(world.layout.uplink_worker(), UPLINK);
                    world.attach_uplink();
                }
            }
            world.check();
        }
        // With the devices at ease again everything that was on its way arrives, and all frames come home.
        world.holds.iter().for_each(|holds| holds.store(false, Relaxed));
        (0..400).for_each(|_| world.step());
        drain(&world.uplink);
        drain(&world.pod);
        for worker in 0..workers {
            for memory in world.switch.census(worker).memories {
                prop_assert_eq!(memory.free, memory.capacity);
            }
        }
        let left = world.sum(|p| p.forwarded.get() + p.answers.iter().map(|counter| counter.get()).sum::<u64>());
        prop_assert_eq!(left, world.sum(|p| p.tx_packets.get() + p.tx_dropped.get() + p.tx_no_frame.get()));
    }
}
