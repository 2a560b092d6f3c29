//! Whatever happens, in whatever order: an established flow stays with its backend, no packet leaks untranslated, none is
//! lost, and every answer comes back to who asked, from whom was asked.

use std::collections::HashMap;

use proptest::prelude::*;
use shunt_dataplane::{
    net::Protocol,
    spec::{ForwardingSpec, PortId, ServiceSpec},
};

use crate::world::*;

const BACKENDS: [End; 4] = [(A, 8080), (B, 8080), (REMOTE[0], 8080), (REMOTE[1], 8080)];
const CLIENTS: [(PortId, std::net::Ipv4Addr); 4] = [(POD_A, A), (POD_B, B), (HOST, OVERLAY), (UPLINK, OUTSIDE)];
/// Two ClusterIP ports with the same endpoints, and a NodePort.
const FRONTENDS: [End; 3] = [(VIP, 80), (VIP, 81), (NODE, 30_080)];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client sends to the frontend, or to the backend past all services, from one of few ports.
    Ask { client: usize, port: u16, to: Result<usize, usize>, tcp: bool },
    /// The backend of one of the flows so far answers.
    Answer(usize),
    /// The client of one of the flows so far sends again.
    Again(usize),
    /// These backends serve from now on.
    Publish(Vec4),
}

/// Which backends serve. At least one does.
type Vec4 = [bool; 4];

fn step() -> impl Strategy<Value = Step> {
    let to = prop_oneof![3 => (0..3usize).prop_map(Ok), 1 => (0..4usize).prop_map(Err)];
    prop_oneof![
        4 => (0..4usize, 1000..1003u16, to, any::<bool>())
            .prop_map(|(client, port, to, tcp)| Step::Ask { client, port, to, tcp }),
        3 => any::<prop::sample::Index>().prop_map(|index| Step::Answer(index.index(1 << 20))),
        3 => any::<prop::sample::Index>().prop_map(|index| Step::Again(index.index(1 << 20))),
        1 => any::<Vec4>().prop_filter("one at least", |which| which.contains(&true)).prop_map(Step::Publish),
    ]
}

fn serving(which: Vec4) -> ForwardingSpec {
    let ends: Vec<End> = BACKENDS.into_iter().zip(which).filter_map(|(end, serves)| serves.then_some(end)).collect();
    let at = |(vip, port): End| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| ServiceSpec {
            vip,
            port,
            from_outside: rule(&ends, true),
            ..service(protocol, &ends)
        })
    };
    spec(FRONTENDS.into_iter().flat_map(at).collect())
}

/// A flow: what was sent last, where, and what came of it, where.
#[derive(Clone, Copy)]
struct Flow {
    asked: (PortId, Packet),
    came: (PortId, Packet),
}

fn again(kind: Kind) -> Kind {
    if kind == Kind::Udp { kind } else { Kind::Tcp("A") }
}

struct Run {
    world: World,
    which: Vec4,
    flows: Vec<Flow>,
    known: HashMap<(PortId, bool, End, End), usize>,
}

impl Run {
    fn serves(&self, end: End) -> bool {
        BACKENDS.into_iter().zip(self.which).any(|(backend, serves)| backend == end && serves)
    }

    /// The flow's client sends; what comes must be for the backend it had, if there is a reason for it to be.
    fn send(&mut self, at: usize) {
        let (port, (kind, src, dst)) = self.flows[at].asked;
        let packet = (again(kind), src, dst);
        let before = self.flows[at].came;
        let (exit, came) = self.world.pass(port, packet);
        let stays = kind != Kind::Udp || !FRONTENDS.contains(&dst) || self.serves(before.1.2);
        if stays {
            assert_eq!((exit, came.1, came.2), (before.0, before.1.1, before.1.2), "{packet:?} is another flow now");
        }
        self.flows[at].came = (exit, (came.0, came.1, came.2));
        self.check(at);
    }

    /// What came out is for a backend, at the port behind which it is, and from the client or its stand-in.
    fn check(&self, at: usize) {
        let Flow { asked: (_, (_, src, dst)), came: (exit, (_, new_src, new_dst)) } = self.flows[at];
        let backend = BACKENDS.iter().position(|backend| *backend == new_dst).expect("never untranslated");
        assert_eq!(exit, [POD_A, POD_B, UPLINK, UPLINK][backend]);
        assert!(FRONTENDS.contains(&dst) || dst == new_dst);
        assert!(
            new_src == src || new_src.0 == OVERLAY && MASQUERADE.contains(&new_src.1),
            "{src:?} became {new_src:?}"
        );
        let alike = |other: &Flow| (other.came.1.1, other.came.1.2) == (new_src, new_dst);
        let same_protocol = |other: &Flow| (other.asked.1.0 == Kind::Udp) == (self.flows[at].asked.1.0 == Kind::Udp);
        let twins = self.flows.iter().filter(|other| alike(other) && same_protocol(other)).count();
        assert_eq!(twins, 1, "a backend cannot tell two flows apart");
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask { client, port, to, tcp } => {
                let (entry, address) = CLIENTS[client];
                let dst = to.map_or_else(|backend| BACKENDS[backend], |frontend| FRONTENDS[frontend]);
                // A pod that sends to itself does so past us, and the remote node has its own switch.
                if dst.0 == address {
                    return;
                }
                let key = (entry, tcp, (address, port), dst);
                if let Some(at) = self.known.get(&key) {
                    return self.send(*at);
                }
                let packet = (if tcp { Kind::Tcp("S") } else { Kind::Udp }, (address, port), dst);
                let came = self.world.pass(entry, packet);
                assert!(to.is_err() || self.serves(came.1.2), "a new flow gets a backend that serves");
                self.known.insert(key, self.flows.len());
                self.flows.push(Flow { asked: (entry, packet), came });
                self.check(self.flows.len() - 1);
            }
            Step::Answer(n) if !self.flows.is_empty() => {
                let at = n % self.flows.len();
                let Flow { asked, came } = self.flows[at];
                // Answers of a removed UDP endpoint are dropped until the client speaks again.
                if asked.1.0 != Kind::Udp || !FRONTENDS.contains(&asked.1.2) || self.serves(came.1.2) {
                    self.world.answer(came, (asked.0, (came.1.0, asked.1.1, asked.1.2)));
                }
            }
            Step::Again(n) if !self.flows.is_empty() => self.send(n % self.flows.len()),
            Step::Answer(_) | Step::Again(_) => {}
            Step::Publish(which) => {
                self.which = which;
                self.world.switch.publish(&serving(which)).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_order_of_updates_and_packets_moves_leaks_or_loses_a_flow(steps in prop::collection::vec(step(), 1..60)) {
        let which = [true; 4];
        let world = World::new(&serving(which));
        let mut run = Run { world, which, flows: Vec::new(), known: HashMap::new() };
        steps.into_iter().for_each(|step| run.step(step));
    }
}
