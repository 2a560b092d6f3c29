//! Whatever happens, in whatever order: an established flow stays with its backend, no packet leaks untranslated, none is
//! lost, and every answer comes back to who asked, from whom was asked. With a table that has room for all flows, and with
//! one that is full most of the time.
//!
//! The model is what the two ends of each flow know. What the table says is compared with it after every packet.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use proptest::prelude::*;
use shunt_dataplane::{
    flow::FiveTuple,
    net::Protocol::{self, Sctp, Tcp, Udp},
    spec::{Affinity, Backend, ForwardingSpec, PortId, Scheduler, ServiceSpec},
    tables::conntrack::{Flow as Tracked, FlowState},
    verdict::DropReason,
};

use crate::world::*;

const BACKENDS: [End; 4] = [(A, 8080), (B, 8080), (REMOTE[0], 8080), (REMOTE[1], 8080)];
const EXITS: [PortId; 4] = [POD_A, POD_B, UPLINK, UPLINK];
const CLIENTS: [(PortId, Ipv4Addr); 4] = [(POD_A, A), (POD_B, B), (HOST, OVERLAY), (UPLINK, OUTSIDE)];
/// Two ClusterIP ports with the same endpoints, and the second one's node port. Clients of the second have affinity.
const FRONTENDS: [End; 3] = [(VIP, 80), (VIP, 81), (NODE, 30_080)];
const AFFINITY: u32 = 30;

/// Flows that the smaller of the tables holds.
const FEW: u32 = 12;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Condition {
    Serves,
    /// It terminates: new flows go elsewhere, others stay.
    Leaves,
    Gone,
}

use Condition::*;

type Conditions = [Condition; 4];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client sends to the frontend, or to the backend past all services, from one of few ports.
    Ask { client: usize, port: u16, to: Result<usize, usize>, protocol: Protocol },
    /// The backend of one of the flows so far answers.
    Answer(usize),
    /// The client of one of the flows so far sends again.
    Again(usize),
    /// So do all clients and all backends, a few times.
    AllTalk,
    /// The client of one of the flows so far ends it with a reset; both ends forget it.
    Reset(usize),
    /// So are the backends from now on.
    Publish(Conditions),
    /// Seconds pass.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let to = prop_oneof![3 => (0..3usize).prop_map(Ok), 1 => (0..4usize).prop_map(Err)];
    let protocol = prop_oneof![Just(Tcp), Just(Udp), Just(Sctp)];
    let flow = || any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    let condition = prop_oneof![3 => Just(Serves), 1 => Just(Leaves), 1 => Just(Gone)];
    let conditions = [condition.clone(), condition.clone(), condition.clone(), condition];
    prop_oneof![
        8 => (0..4usize, 1000..1003u16, to, protocol)
            .prop_map(|(client, port, to, protocol)| Step::Ask { client, port, to, protocol }),
        6 => flow().prop_map(Step::Answer),
        6 => flow().prop_map(Step::Again),
        1 => Just(Step::AllTalk),
        1 => flow().prop_map(Step::Reset),
        2 => conditions.prop_filter("one at least", |all| all.contains(&Serves)).prop_map(Step::Publish),
        1 => (1..40u64).prop_map(Step::Wait),
    ]
}

fn node(conditions: Conditions, scheduler: Scheduler) -> ForwardingSpec {
    let those = |wanted| BACKENDS.into_iter().zip(conditions).filter(move |(_, is)| *is == wanted).map(|(end, _)| end);
    let ends: Vec<End> = those(Serves).collect();
    let leaving = those(Leaves).map(|(address, port)| Backend { address, port }).collect();
    let at = |(vip, port): End| {
        let affinity = Affinity { timeout: Duration::from_secs(AFFINITY.into()), group: 0 };
        [Tcp, Udp, Sctp].map(|protocol| ServiceSpec {
            vip,
            port,
            from_outside: rule(&ends, true),
            affinity: is_sticky((vip, port)).then_some(Affinity { group: protocol as u64, ..affinity }),
            scheduler,
            leaving: std::sync::Arc::clone(&leaving),
            ..service(protocol, &ends)
        })
    };
    spec(FRONTENDS.into_iter().flat_map(at).collect())
}

fn is_sticky(frontend: End) -> bool {
    FRONTENDS[1..].contains(&frontend)
}

/// How far the two ends of a flow have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Asked,
    /// The client was not answered and has asked again.
    AskedAgain,
    /// The backend has answered, which it does whoever asks.
    Answered,
    /// SCTP: the client has shown that it got the answer.
    Echoed,
    Established,
}

use Progress::*;

/// A flow: from where and whom to whom, and to where and whom it was sent on, with which source.
#[derive(Clone, Copy, Debug)]
struct Flow {
    entry: PortId,
    protocol: Protocol,
    src: End,
    dst: End,
    exit: PortId,
    new_src: End,
    new_dst: End,
    progress: Progress,
}

impl Flow {
    fn tuple(&self) -> FiveTuple<IpAddr> {
        let ((src, src_port), (dst, dst_port)) = (self.src, self.dst);
        FiveTuple { src: src.into(), dst: dst.into(), src_port, dst_port, protocol: self.protocol as u8 }
    }

    fn is_to_service(&self) -> bool {
        FRONTENDS.contains(&self.dst)
    }

    /// What the client sends next, and how far it then is. `None`: it begins anew.
    fn client_sends(&self) -> (Kind, Option<Progress>) {
        match (self.protocol, self.progress) {
            (Udp, progress) => (Kind::Udp, Some(progress)),
            (Tcp, Asked) => (Kind::Tcp("S"), Some(AskedAgain)),
            (Tcp, AskedAgain) => (Kind::Tcp("S"), None),
            (Tcp, _) => (Kind::Tcp("A"), Some(Established)),
            (Sctp, Asked) => (Kind::Sctp("S"), Some(AskedAgain)),
            (Sctp, AskedAgain) => (Kind::Sctp("S"), None),
            (Sctp, Answered | Echoed) => (Kind::Sctp("E"), Some(Echoed)),
            (Sctp, Established) => (Kind::Sctp("A"), Some(Established)),
        }
    }

    /// What its backend does.
    fn backend_sends(&self) -> (Kind, Progress) {
        match (self.protocol, self.progress) {
            (Udp, _) => (Kind::Udp, Established),
            (Tcp, Established) => (Kind::Tcp("A"), Established),
            (Tcp, _) => (Kind::Tcp("SA"), Answered),
            (Sctp, Asked | AskedAgain | Answered) => (Kind::Sctp("SA"), Answered),
            (Sctp, Echoed) => (Kind::Sctp("K"), Established),
            (Sctp, Established) => (Kind::Sctp("A"), Established),
        }
    }
}

struct Run {
    world: World,
    scheduler: Scheduler,
    conditions: Conditions,
    flows: Vec<Flow>,
    /// The backend of a client's last new flow to a frontend with affinity, and when that was.
    clients: HashMap<(Ipv4Addr, u8), (End, u32)>,
}

impl Run {
    fn is(&self, end: End, condition: Condition) -> bool {
        BACKENDS.into_iter().zip(self.conditions).any(|known| known == (end, condition))
    }

    fn table(&self) -> HashMap<FiveTuple<IpAddr>, Tracked> {
        self.world.switch.conntrack().flows().map(|flow| (flow.forward, flow)).collect()
    }

    fn gave_way(&self) -> u64 {
        [0, 1].map(|worker| self.world.switch.counters(worker).flows_gave_way.get()).iter().sum()
    }

    /// Lets the table forget what has been silent for too long, and sees that it does: a worker goes round in eight seconds.
    fn expire(&mut self) {
        let table = loop {
            let (tick, table) = (self.world.tick(), self.table());
            let too_long = |flow: &Tracked| (tick + 1 - flow.last_seen).saturating_sub(flow.state.idle_limit());
            match table.values().map(too_long).max() {
                None | Some(0) => break table,
                Some(seconds) => assert!(seconds < 12, "not forgotten: {table:?}"),
            }
            self.world.wait();
        };
        self.flows.retain(|flow| table.contains_key(&flow.tuple()));
    }

    /// Sends a packet of the flow `own`. Whoever has to give way for it has not come far, and is forgotten at both ends.
    fn send(&mut self, port: PortId, packet: Packet, own: FiveTuple<IpAddr>) -> Option<(PortId, Packet)> {
        let (before, gave_way) = (self.table(), self.gave_way());
        let came = self.world.send(port, packet);
        let (after, gave_way) = (self.table(), self.gave_way() - gave_way);
        let gone: Vec<_> = before.values().filter(|flow| !after.contains_key(&flow.forward)).collect();
        let gone: Vec<_> = gone.into_iter().filter(|flow| flow.forward != own).collect();
        // A flow that is over makes room for one that would be taken for it.
        let over = |flow: &&&Tracked| matches!(flow.state, FlowState::Reset | FlowState::Closed);
        let not_over = gone.iter().filter(|flow| !over(flow)).count() as u64;
        assert!(not_over <= gave_way && gave_way <= gone.len() as u64 && gave_way <= 1, "{gone:?}, {gave_way}");
        assert!(gave_way == 0 || before.len() as u32 == self.world.switch.conntrack().capacity());
        assert!(gone.iter().all(|flow| flow.state.gives_way()), "{gone:?} gave way");
        let gone: HashSet<_> = gone.iter().map(|flow| flow.forward).collect();
        self.flows.retain(|flow| !gone.contains(&flow.tuple()));
        came
    }

    /// What a new flow's first packet comes out as, which is noted as a flow at `at`, or as one more.
    fn open(&mut self, mut flow: Flow, at: Option<usize>) {
        let table = self.table();
        // One that begins anew leaves its entry.
        let may_leave = |known: &Tracked| known.state.gives_way() || known.forward == flow.tuple();
        let has_room = table.len() < self.world.switch.conntrack().capacity() as usize;
        let has_room = has_room || table.values().any(may_leave);
        let full = self.world.drops(DropReason::ConntrackFull);
        let client = (flow.src.0, flow.protocol as u8);
        let kind = match flow.protocol {
            Udp => Kind::Udp,
            Tcp => Kind::Tcp("S"),
            Sctp => Kind::Sctp("S"),
        };
        let came = self.send(flow.entry, (kind, flow.src, flow.dst), flow.tuple());
        let Some((exit, (_, new_src, new_dst))) = came else {
            assert!(!has_room && flow.is_to_service(), "{flow:?} is lost");
            assert_eq!(self.world.drops(DropReason::ConntrackFull), full + 1);
            self.clients.remove(&client);
            return;
        };
        if !has_room {
            assert!(flow.new_src == flow.src && new_dst == flow.dst && !flow.is_to_service(), "who has no entry");
            return;
        }
        let silent = at.map(|at| self.flows[at].new_dst);
        (flow.exit, flow.new_src, flow.new_dst, flow.progress) = (exit, new_src, new_dst, Asked);
        if flow.is_to_service() {
            assert!(self.is(new_dst, Serves), "{flow:?}: a new flow gets a backend that serves");
        }
        if is_sticky(flow.dst) {
            let tick = self.world.tick();
            let known = self.clients.insert(client, (new_dst, tick));
            let known = known.filter(|(backend, since)| tick - since < AFFINITY && self.is(*backend, Serves));
            let known = known.filter(|(backend, _)| Some(*backend) != silent);
            assert!(
                known.is_none_or(|(backend, _)| backend == new_dst),
                "{flow:?} is not where its client was: {known:?}"
            );
        }
        // What is sent may have made another flow of the model give way.
        match self.flows.iter().position(|known| known.tuple() == flow.tuple()) {
            Some(at) => self.flows[at] = flow,
            None => self.flows.push(flow),
        }
        self.check(&flow);
    }

    /// What came out is for a backend, at the port behind which it is, and from the client or its stand-in.
    fn check(&self, flow: &Flow) {
        let Flow { src, dst, new_src, new_dst, .. } = *flow;
        let backend = BACKENDS.iter().position(|backend| *backend == new_dst).expect("never untranslated");
        assert_eq!(flow.exit, EXITS[backend]);
        assert!(flow.is_to_service() || dst == new_dst);
        let is_masqueraded = new_src.0 == OVERLAY && MASQUERADE.contains(&new_src.1);
        assert!(new_src == src || is_masqueraded, "{flow:?}");
        let must_be = flow.is_to_service() && (src.0 == OUTSIDE || src.0 == new_dst.0);
        assert!(is_masqueraded || !must_be, "{flow:?} is not masqueraded");
        let alike = |other: &&Flow| (other.protocol, other.new_src, other.new_dst) == (flow.protocol, new_src, new_dst);
        assert_eq!(self.flows.iter().filter(alike).count(), 1, "a backend cannot tell two flows apart");
    }

    /// The flow's client sends. What comes out is for the backend it had, if there is a reason for it to be.
    fn again(&mut self, at: usize) {
        let flow = self.flows[at];
        let (kind, progress) = flow.client_sends();
        let is_stale = flow.protocol == Udp && flow.is_to_service() && self.is(flow.new_dst, Gone);
        let Some(progress) = progress.filter(|_| !is_stale) else { return self.open(flow, Some(at)) };
        let (exit, (_, new_src, new_dst)) = self
            .send(flow.entry, (kind, flow.src, flow.dst), flow.tuple())
            .unwrap_or_else(|| panic!("{flow:?} is lost"));
        assert_eq!((exit, new_src, new_dst), (flow.exit, flow.new_src, flow.new_dst), "{flow:?} is another flow now");
        self.flows[at].progress = progress;
    }

    /// The flow's backend sends. Its client takes that for the answer of whom it asked.
    fn answer(&mut self, at: usize) {
        let flow = self.flows[at];
        let (kind, progress) = flow.backend_sends();
        let came = self.send(flow.exit, (kind, flow.new_dst, flow.new_src), flow.tuple());
        if flow.protocol == Udp && flow.is_to_service() && self.is(flow.new_dst, Gone) {
            assert_eq!(came, None, "neither untranslated nor translated");
            return;
        }
        assert_eq!(came, Some((flow.entry, (kind, flow.dst, flow.src))), "{flow:?} is not answered");
        self.flows[at].progress = progress;
    }

    fn reset(&mut self, at: usize) {
        let kind = match self.flows[at].protocol {
            Udp => return,
            Tcp => Kind::Tcp("R"),
            Sctp => Kind::Sctp("R"),
        };
        let flow = self.flows.swap_remove(at);
        let came = self.send(flow.entry, (kind, flow.src, flow.dst), flow.tuple());
        assert_eq!(came, Some((flow.exit, (kind, flow.new_src, flow.new_dst))));
    }

    fn step(&mut self, step: Step) {
        self.expire();
        match step {
            Step::Ask { client, port, to, protocol } => {
                let (entry, address) = CLIENTS[client];
                let dst = to.map_or_else(|backend| BACKENDS[backend], |frontend| FRONTENDS[frontend]);
                // A pod that sends to itself does so past us, and the remote node has its own switch.
                if dst.0 == address {
                    return;
                }
                let src = (address, port);
                let flow = Flow { entry, protocol, src, dst, exit: entry, new_src: src, new_dst: dst, progress: Asked };
                match self.flows.iter().position(|known| known.tuple() == flow.tuple()) {
                    Some(at) => self.again(at),
                    None => self.open(flow, None),
                }
            }
            Step::AllTalk => {
                for _ in 0..3 {
                    (0..self.flows.len()).for_each(|at| self.answer(at));
                    // A flow that begins anew may make others give way.
                    let tuples: Vec<_> = self.flows.iter().map(Flow::tuple).collect();
                    for tuple in tuples {
                        if let Some(at) = self.flows.iter().position(|known| known.tuple() == tuple) {
                            self.again(at);
                        }
                    }
                }
            }
            Step::Publish(conditions) => {
                self.conditions = conditions;
                self.world.switch.publish(&node(conditions, self.scheduler)).unwrap();
            }
            Step::Wait(seconds) => {
                (0..seconds).for_each(|_| self.world.wait());
                self.expire();
            }
            _ if self.flows.is_empty() => {}
            Step::Answer(n) => self.answer(n % self.flows.len()),
            Step::Again(n) => self.again(n % self.flows.len()),
            Step::Reset(n) => self.reset(n % self.flows.len()),
        }
        self.compare();
    }

    /// The table knows the flows of the model, and how far they have come, and others only that are over.
    fn compare(&self) {
        let mut table = self.table();
        for flow in &self.flows {
            let known = table.remove(&flow.tuple()).unwrap_or_else(|| panic!("{flow:?} is not in the table"));
            assert_eq!(known.state.gives_way(), flow.progress != Established, "{flow:?}: {known:?}");
            let ((src, src_port), (dst, dst_port)) = (flow.new_src, flow.new_dst);
            let there = FiveTuple { src: src.into(), dst: dst.into(), src_port, dst_port, ..flow.tuple() };
            assert_eq!(known.reply, there.reversed(), "{flow:?}");
        }
        assert!(table.values().all(|known| known.state.is_over()), "{table:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_order_of_updates_and_packets_moves_leaks_or_loses_a_flow(
        steps in prop::collection::vec(step(), 1..100),
        flows in prop_oneof![Just(FEW), Just(1000)],
        scheduler in prop_oneof![
            Just(Scheduler::Maglev),
            Just(Scheduler::RoundRobin),
            Just(Scheduler::LeastConnections),
            Just(Scheduler::SourceHash),
        ],
    ) {
        let conditions = [Serves; 4];
        let world = World::with_flows(flows, &node(conditions, scheduler));
        let mut run = Run { world, scheduler, conditions, flows: Vec::new(), clients: HashMap::new() };
        steps.into_iter().for_each(|step| run.step(step));
        run.world.check_accounts();
    }
}
