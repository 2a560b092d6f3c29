//! A node with an uplink, two pods and its own kernel, and the running of scripts on it.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::{Arc, LazyLock},
};

use shunt_dataplane::{
    counters::{Counter, WorkerCounters},
    explain::{DryRun, Fate},
    flow::FlowSeed,
    io::{FRAME_SIZE, Frame, FramePool, MAX_FRAME_LEN},
    net::{MacAddr, Protocol},
    packet::{BATCH, Batch, Meta},
    pipeline::{Env, Pipeline},
    record::Off,
    snapshot::Snapshot,
    spec::{
        Backend, FamilySpec, ForwardingSpec, MasqueradeSpec, Otherwise, PortId, PortRole, PortSpec, RouteSpec, Rule,
        ServiceSpec, Station, Via, VtepSpec, VxlanSpec,
    },
    tables::{
        Conntrack, Recent,
        conntrack::{Flow, Sweep},
    },
    time::Now,
    verdict::{Answer, DropReason, Verdict},
};

use crate::{
    input::{self, Step},
    oracle, seeds,
};

/// The port towards other nodes.
pub const UPLINK: u16 = 0;
/// The ports of the pods.
pub const PODS: [u16; 2] = [1, 2];
/// The port of the node's kernel.
pub const HOST: u16 = 3;

/// Our address on a port.
pub fn our_mac(port: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port as u8])
}

/// The station behind a pod or host port.
pub fn station(port: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port as u8])
}

/// The address of the pod behind a port.
pub fn pod_address(port: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 9 + port as u8)
}

/// Its IPv6 address.
pub fn pod_ipv6(port: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 9 + port)
}

/// The underlay's router, and the station through which the other VTEP is reached.
pub const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
/// The underlay next hop of the other VTEP.
pub const NEIGHBOUR: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);
/// Our VTEP in inner frames.
pub const OUR_VTEP: MacAddr = MacAddr([2, 0, 0, 0, 3, 1]);
/// The other VTEP in inner frames.
pub const OTHER_VTEP: MacAddr = MacAddr([2, 0, 0, 0, 3, 2]);
/// Our address on the underlay.
pub const UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// The other VTEP's address on the underlay.
pub const OTHER_UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
/// The node's address on the overlay.
pub const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
/// The masquerade ports.
pub const MASQUERADE: RangeInclusive<u16> = 61_000..=61_001;
/// The longest IP packet on any port.
pub const MTU: u16 = 1500;
/// The longest IP packet over the overlay.
pub const OVERLAY_MTU: u16 = MTU - 50;

pub mod ipv6;

fn spec(which: usize) -> ForwardingSpec {
    let port = |id, role| PortSpec {
        id: PortId(id),
        role,
        mac: our_mac(id),
        mtu: MTU,
        unfinished_checksums: role != PortRole::Uplink,
        station: PODS.contains(&id).then(|| Station {
            mac: station(id),
            address: pod_address(id),
            ipv6: Some(pod_ipv6(id)),
        }),
    };
    let vtep = |address: [u8; 4], next_hop| VtepSpec {
        address: address.into(),
        mac: OTHER_VTEP,
        uplink: PortId(UPLINK),
        next_hop,
        direct: true,
        native: false,
    };
    let route = |prefix: &str, via| RouteSpec { prefix: prefix.parse().expect("a prefix"), via };
    let to = |port| Via::Port { port: PortId(port), mac: station(port) };
    let native = |mac| Via::Gateway { port: PortId(UPLINK), mac };
    let service = |vip: [u8; 4], port, protocol, backends: &[([u8; 4], u16)]| {
        let endpoint = |&(address, port): &([u8; 4], u16)| Backend { address: address.into(), port }.into();
        ServiceSpec::simple(vip.into(), port, protocol, backends.iter().map(endpoint).collect())
    };
    let web = [([10, 244, 1, 10], 8080), ([10, 244, 1, 11], 8080), ([10, 244, 2, 10], 8080)];
    let remote = service([10, 96, 0, 13], 80, Protocol::Tcp, &web[2..]);
    // Who is outside is answered by the endpoint's node.
    let direct = |protocol| {
        let all = service([10, 96, 0, 14], 80, protocol, &web[1..]);
        let here = service([10, 96, 0, 14], 80, protocol, &web[1..2]);
        let from_outside = Rule { masquerade: true, ..all.from_outside.clone() };
        ServiceSpec { from_outside, relayed: Some(here.from_outside), ..all }
    };
    // Where flows leave the cluster, and how they do.
    let kept = vec!["10.245.0.0/24".parse().expect("a prefix")];
    let masquerade = MasqueradeSpec {
        overlay: OVERLAY,
        underlay: UNDERLAY,
        ports: MASQUERADE,
        egress: Some(kept),
        answers_led: true,
    };
    ForwardingSpec {
        bandwidth: Default::default(),
        ports: vec![
            port(UPLINK, PortRole::Uplink),
            port(PODS[0], PortRole::Pod),
            port(PODS[1], PortRole::Pod),
            port(HOST, PortRole::Host),
        ],
        vxlan: Some(VxlanSpec { vni: 1, udp_port: 8472, local: UNDERLAY, mac: OUR_VTEP }),
        vteps: vec![vtep([192, 168, 50, 2], Some(NEIGHBOUR)), vtep([192, 168, 50, 3], None)],
        ipv6: ipv6::spec(which),
        ipv4: FamilySpec {
            routes: vec![
                route("10.244.1.10/32", to(PODS[0])),
                route("10.244.1.11/32", to(PODS[1])),
                route("10.244.1.0/32", to(HOST)),
                route("10.244.2.0/24", Via::Vtep([192, 168, 50, 2].into())),
                route("10.244.3.0/24", Via::Vtep([192, 168, 50, 3].into())),
                route("10.245.0.0/24", native(Some(ROUTER))),
                route("10.245.1.0/24", native(None)),
                route("10.9.0.0/16", Via::Unreachable),
                route("8.0.0.0/6", native(Some(ROUTER))),
            ],
            // The second snapshot has lost a backend of each service, and masquerade.
            services: [
                service([10, 96, 0, 10], 80, Protocol::Tcp, &web[which..]),
                service([10, 96, 0, 10], 81, Protocol::Tcp, &web[which..]),
                service([10, 96, 0, 10], 53, Protocol::Udp, &web[which..]),
                service([10, 96, 0, 10], 80, Protocol::Sctp, &web[which..]),
                service([10, 96, 0, 11], 80, Protocol::Tcp, &[]),
                ServiceSpec {
                    from_node: Rule { otherwise: Otherwise::Drop, ..Rule::default() },
                    from_outside: Rule::default(),
                    ..service([10, 96, 0, 12], 80, Protocol::Tcp, &web)
                },
                ServiceSpec {
                    from_pods: Rule { masquerade: true, ..remote.from_pods.clone() },
                    sources: [[10, 244, 1, 10], [10, 244, 1, 11]].map(|address| Ipv4Addr::from(address).into()).into(),
                    ..remote
                },
                direct(Protocol::Tcp),
                direct(Protocol::Udp),
            ]
            .into(),
            gateway: Some([169, 254, 1, 1].into()),
            on_link: (which == 0).then(|| "10.244.1.0/24".parse().expect("a prefix")),
            router: Some([10, 244, 1, 1].into()),
            masquerade: (which == 0).then_some(masquerade),
            pod_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a prefix")],
        },
    }
}

/// The snapshots scripts switch between.
static SNAPSHOTS: LazyLock<[Arc<Snapshot>; 2]> = LazyLock::new(|| {
    [0, 1].map(|which| Arc::new(Snapshot::compile(&spec(which), None, which as u32 + 1, 7).expect("it compiles")))
});

/// A packet's end: what became of it, and the bytes that leave. A dropped packet's frame may hold anything.
pub type End = (Verdict, Vec<u8>);

thread_local! {
    /// A pool's memory is never given back, so one serves all scripts, with room for a batch and for what waits. The
    /// counters are merely large.
    static REUSED: RefCell<(FramePool, [WorkerCounters; 2])> =
        RefCell::new((FramePool::on_heap(2 * BATCH as u32), Default::default()));
}

/// Runs a script and checks every packet and every count.
///
/// # Panics
/// If the engine does, or does something wrong.
pub fn run(steps: Vec<Step>) -> Vec<End> {
    play(steps, false)
}

/// Runs a script packet by packet, and checks before each that the explanation foresees what becomes of it, and leaves no
/// trace.
///
/// # Panics
/// If it does not, and as [`run`].
pub fn run_explained(steps: Vec<Step>) -> Vec<End> {
    play(steps, true)
}

fn play(steps: Vec<Step>, explained: bool) -> Vec<End> {
    REUSED.with_borrow_mut(|(pool, [counters, foreseen])| {
        let mut node = Node {
            pool,
            counters,
            foreseen,
            batch: Batch::new(),
            sent: Vec::new(),
            received: HashMap::new(),
            pipeline: Pipeline::new(7),
            // So small that scripts can fill it.
            conntrack: Conntrack::new(4, FlowSeed::from_number(7)),
            fragments: Recent::new(4, FlowSeed::from_number(7)),
            clients: Recent::new(4, FlowSeed::from_number(7)),
            snapshot: SNAPSHOTS[0].clone(),
            now: Now(1_000_000_000_000),
            ends: Vec::new(),
            explained,
        };
        steps.into_iter().for_each(|step| node.step(step));
        node.burst();
        // Longer than any fragment waits.
        node.now.0 += 10_000_000_000;
        while !node.received.is_empty() {
            node.burst();
        }
        assert!(node.conntrack.in_use() <= node.conntrack.capacity());
        node.ends
    })
}

struct Node<'a> {
    pool: &'a mut FramePool,
    counters: &'a WorkerCounters,
    /// Of packets that were only thought of.
    foreseen: &'a WorkerCounters,
    batch: Batch,
    sent: Vec<(u16, Vec<u8>)>,
    /// What was received into the frames in hand, by the frame's place in memory.
    received: HashMap<usize, (u16, Vec<u8>)>,
    pipeline: Pipeline,
    conntrack: Conntrack,
    fragments: Recent,
    clients: Recent,
    snapshot: Arc<Snapshot>,
    now: Now,
    ends: Vec<End>,
    explained: bool,
}

impl Node<'_> {
    fn step(&mut self, step: Step) {
        match step {
            Step::Packet { port, mend, wrap, mut bytes } => {
                if mend {
                    input::mend(&mut bytes);
                }
                if wrap {
                    bytes = seeds::wrap(&bytes);
                }
                // Longer ones never get past the device.
                if bytes.len() <= MAX_FRAME_LEN {
                    self.sent.push((port, bytes));
                }
                if self.sent.len() == BATCH || self.explained {
                    self.burst();
                }
            }
            Step::EndBurst => self.burst(),
            Step::Wait(seconds) => {
                self.burst();
                self.now.0 += u64::from(seconds) * 1_000_000_000;
                self.conntrack.sweep(&mut Sweep::new(), (0, 1), u32::MAX, self.now.seconds());
            }
            Step::Publish(which) => {
                self.burst();
                self.snapshot = SNAPSHOTS[which].clone();
            }
        }
    }

    fn burst(&mut self) {
        let mut expected = self.counted();
        let alone = self.sent.first().filter(|_| self.explained && self.sent.len() == 1).cloned();
        let mut foreseen = alone.map(|(port, bytes)| self.foresee(port, &bytes));
        let mut arrived = None;
        for (port, bytes) in self.sent.drain(..) {
            let mut frame = self.pool.take().expect("the pool holds a batch and what waits");
            assert!(frame.fill(&bytes));
            arrived = Some(chunk(&frame));
            self.received.insert(chunk(&frame), (port, bytes));
            self.batch.frames.push(frame);
            self.batch.received_on(PortId(port));
        }
        let (conntrack, fragments, clients) = (&self.conntrack, &self.fragments, &self.clients);
        let (snapshot, counters, now) = (&*self.snapshot, self.counters, self.now);
        let env = Env { snapshot, conntrack, fragments, clients, counters, now, recorder: Off };
        self.pipeline.run(&mut self.batch, &env);
        loop {
            let verdicts: Vec<_> = self.batch.metas.iter().map(Meta::verdict).collect();
            let mut frames = self.batch.frames.drain(..).zip(verdicts).peekable();
            while let Some((frame, verdict)) = frames.next() {
                let (port, sent) = self.received.remove(&chunk(&frame)).expect("a packet ends once");
                let is_alone = arrived == Some(chunk(&frame));
                // Behind what came in are the fragments that it was cut into.
                let mut out = vec![frame];
                while let Some((more, its)) = frames.next_if(|(frame, _)| !self.received.contains_key(&chunk(frame))) {
                    assert_eq!(its, verdict, "fragments go one way");
                    out.push(more);
                }
                oracle::check(port, &sent, verdict, &out.iter().map(Frame::bytes).collect::<Vec<_>>());
                let first = usize::from(port) * FATES;
                expected[first + fate(verdict)] += out.len() as u64;
                expected[first + FRAGMENTS] += out.len() as u64 - 1;
                let leaves = !matches!(verdict, Verdict::Drop(_));
                let end =
                    (verdict, if leaves { out.iter().flat_map(Frame::bytes).copied().collect() } else { Vec::new() });
                if is_alone && let Some(foreseen) = foreseen.take() {
                    compare(&foreseen, &end);
                }
                self.ends.push(end);
                out.into_iter().for_each(|frame| self.pool.give(frame));
            }
            drop(frames);
            self.batch.clear();
            if !self.pipeline.rest(&mut self.batch, self.pool, &env) {
                break;
            }
        }
        assert!(foreseen.is_none_or(|(fate, _)| fate == Fate::Waits), "it waits, and that was not foreseen");
        assert_eq!(self.received.len(), self.pipeline.held().count(), "who has not met its end waits");
        let in_hand = self.received.len() as u32;
        assert_eq!(self.pool.free() + in_hand, self.pool.capacity(), "frames are missing");
        let held = |port| self.counters.port(PortId(port)).held.get();
        assert_eq!([UPLINK, PODS[0], PODS[1], HOST].map(held).iter().sum::<u64>(), in_hand.into(), "and is counted");
        assert_eq!(self.counted(), expected, "not every packet was counted, once");
        self.now.0 += 1_000_000;
    }

    /// What is said to become of a packet.
    fn foresee(&mut self, port: u16, bytes: &[u8]) -> (Fate, Vec<u8>) {
        let before = self.shared();
        let Node { snapshot, conntrack, fragments, clients, foreseen: counters, now, .. } = self;
        let live = Env { snapshot, conntrack, fragments, clients, counters, now: *now, recorder: Off };
        let (steps, fate, sent) = DryRun::new(live, self.pool).run(PortId(port), bytes);
        assert!(
            !steps.is_empty()
                || matches!(
                    fate,
                    Fate::Decided(Verdict::Drop(_) | Verdict::Answer(Answer::Arp | Answer::Advertisement, _))
                )
        );
        assert_eq!(self.shared(), before, "an explanation left a trace");
        (fate, sent)
    }

    /// What packets leave behind for others.
    fn shared(&self) -> (Vec<Flow>, u32, Vec<u64>) {
        (self.conntrack.flows().collect(), self.conntrack.in_use(), self.counted())
    }

    /// How often packets met each fate, port by port.
    fn counted(&self) -> Vec<u64> {
        let mut counted = Vec::with_capacity(4 * FATES);
        for port in [UPLINK, PODS[0], PODS[1], HOST] {
            let counters = self.counters.port(PortId(port));
            let sent = [&counters.forwarded, &counters.to_host];
            let all = sent.into_iter().chain(&counters.answers).chain(&counters.drops).chain([&counters.fragments]);
            counted.extend(all.map(Counter::get));
        }
        counted
    }
}

/// Checks what was foreseen against what came.
fn compare((fate, sent): &(Fate, Vec<u8>), (verdict, left): &End) {
    // How many fragments wait at a worker is its own affair.
    if *fate == Fate::Waits && *verdict == Verdict::Drop(DropReason::FragmentsWaiting) {
        return;
    }
    assert_eq!(*fate, Fate::Decided(*verdict), "not as foreseen");
    assert_eq!(numberless(sent), numberless(left), "not what was foreseen leaves");
}

/// Packets, one behind the other, whose outer headers, if they have any, have no number, and no checksum over it: workers
/// count.
fn numberless(packets: &[u8]) -> Vec<u8> {
    let mut packets = packets.to_vec();
    let mut rest = &mut packets[..];
    while rest.starts_with(&NEIGHBOUR.0) {
        rest[18..20].fill(0);
        rest[24..26].fill(0);
        let length = 14 + usize::from(u16::from_be_bytes([rest[16], rest[17]]));
        rest = &mut rest[length..];
    }
    packets
}

/// The chunk a frame is, by its place in memory.
fn chunk(frame: &Frame) -> usize {
    frame.bytes().as_ptr() as usize / FRAME_SIZE
}

/// Figures of a port: how often each fate was met, and at last the fragments that were made.
const FATES: usize = FRAGMENTS + 1;
const FRAGMENTS: usize = 2 + Answer::ALL.len() + DropReason::ALL.len();

/// A fate's place among a port's counters.
fn fate(verdict: Verdict) -> usize {
    match verdict {
        Verdict::Pending | Verdict::Owed(_) | Verdict::Oversized | Verdict::Ipv6 => {
            panic!("a packet was left undecided")
        }
        Verdict::Tx(PortId(port)) => usize::from(port == HOST),
        Verdict::Answer(answer, _) => 2 + answer as usize,
        Verdict::Drop(reason) => 2 + Answer::ALL.len() + reason as usize,
    }
}
