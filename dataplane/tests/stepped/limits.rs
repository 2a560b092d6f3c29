//! Bandwidth limits: what is beyond them is dropped and accounted for, and opens no flow.

use std::{collections::BTreeMap, num::NonZero};

use shunt_dataplane::{
    spec::{Bandwidth, FamilySpec, ForwardingSpec, PortId, Rate},
    verdict::DropReason,
};

use crate::world::*;

const SECOND: u64 = 1_000_000_000;

/// The spec with room for `frames` requests a second, and as many at once, at a port: for the last one the bucket has half
/// of what it takes.
fn limited(port: PortId, frames: u64, limit: impl Fn(Rate) -> Bandwidth) -> ForwardingSpec {
    let frame = 8 * udp(CLIENT, to_vip(1000)).len() as u64;
    let rate = Rate { bits_per_second: NonZero::new(frames * frame).unwrap(), burst_bits: frames * frame - frame / 2 };
    ForwardingSpec { bandwidth: BTreeMap::from([(port, limit(rate))]), ..spec(&[backend(10)]) }
}

fn egress(rate: Rate) -> Bandwidth {
    Bandwidth { egress: Some(rate), ingress: None }
}

fn ingress(rate: Rate) -> Bandwidth {
    Bandwidth { ingress: Some(rate), egress: None }
}

/// How many of so many new flows arrive, all at once.
fn arrive(world: &mut World, flows: std::ops::Range<u16>) -> usize {
    flows.for_each(|port| world.client.send(udp(CLIENT, to_vip(port))));
    world.settle();
    std::iter::from_fn(|| world.server.recv()).count()
}

#[test]
fn what_a_pod_sends_beyond_its_limit_is_dropped_before_it_opens_a_flow() {
    let mut world = World::new(&[backend(10)]);
    assert_eq!(arrive(&mut world, 1000..1050), 50, "without a limit");
    world.switch.publish(&limited(CLIENT, 5, egress)).unwrap();
    assert_eq!(arrive(&mut world, 2000..2050), 5);
    assert_eq!(world.drops(DropReason::EgressLimit), 45);
    assert_eq!(world.switch.conntrack().in_use(), 55);
    // A change elsewhere does not fill the bucket; time does.
    let spec = limited(CLIENT, 5, egress);
    world.switch.publish(&ForwardingSpec { ipv4: FamilySpec { router: None, ..spec.ipv4 }, ..spec }).unwrap();
    assert_eq!(arrive(&mut world, 3000..3050), 0);
    world.now += SECOND;
    assert_eq!(arrive(&mut world, 3000..3050), 5);
    // The other way is not limited.
    let (client, backend) = (to_vip(1000).0, (backend(10).address, 8080));
    (0..50).for_each(|_| world.server.send(udp(SERVER, (backend, client))));
    world.settle();
    assert_eq!(std::iter::from_fn(|| world.client.recv()).count(), 50);
}

#[test]
fn what_a_pod_is_sent_beyond_its_limit_is_a_drop_where_it_came_in() {
    let mut world = World::new(&[backend(10)]);
    world.switch.publish(&limited(SERVER, 5, ingress)).unwrap();
    assert_eq!(arrive(&mut world, 1000..1050), 5);
    assert_eq!(world.drops(DropReason::IngressLimit), 45);
    let limited = |worker| world.switch.counters(worker).port(SERVER).tx_limited.get();
    assert_eq!(limited(0) + limited(1), 45);
    world.now += SECOND / 5;
    assert_eq!(arrive(&mut world, 1000..1050), 1);
}
