//! What belongs to a flow without carrying its ports: ICMP errors about it, and fragments.

use std::net::{Ipv4Addr, SocketAddrV4};

use shunt_control_lab::{
    Result,
    capture::Capture,
    checks,
    cluster::{Cluster, Exposure, Policy, Service},
    command, for_both_forwarders,
    plan::{DNS, Forwarder, Plan, TCP_PORT, UDP_PORT},
    topology::Lab,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

for_both_forwarders!(
    fragments_follow_their_first_fragment,
    native_fragments_overtake_their_first_one,
    path_mtu_is_found_through_a_service,
    a_refusal_reaches_the_client,
    a_refusal_reaches_the_backend
);

const NODE_PORT: u16 = 30_071;
/// Less than what all other pods have.
const NARROW_MTU: u16 = 1300;
/// What a pod with an MTU of 1450 bytes announces.
const USUAL_MSS: u16 = 1410;

fn fragments_follow_their_first_fragment(forwarder: Forwarder) {
    fragments(Plan::three_nodes(forwarder));
}

/// What comes last one first over the uplink: to a node port, to a process of the node, and as answers to a masqueraded flow.
/// The node's own is as prompt as without a switch.
fn native_fragments_overtake_their_first_one(forwarder: Forwarder) {
    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 254);
    let mut plan = Plan { egress: true, ..Plan::three_nodes(forwarder) };
    let (node, b1, a2) = (plan.nodes[0].underlay(), plan.nodes[1].pod(1).address, plan.nodes[0].pod(2).address);
    for (number, backend) in [(0, b1), (1, a2)] {
        let vip = [10, 96, 0, 77 + number as u8].into();
        let name = format!("backwards-{number}");
        let mut service = Service::simple(&name, vip, Protocol::Udp, 53, UDP_PORT, [backend]);
        service.ports[0].node_port = Some(NODE_PORT + number);
        service.exposure = Some(Exposure { service_type: "NodePort", ..Exposure::balanced(Policy::Cluster) });
        plan.services.push(service);
    }
    trial(plan, |lab| {
        let client = lab.outsider("client", 200)?;
        lab.underlay.ip(&format!("addr add {ROUTER}/24 dev br0"))?;
        let _outside = lab.serve(&lab.underlay, "outside", ROUTER)?;
        for node in &lab.nodes {
            node.namespace.sysctl("net.ipv4.ip_forward", "1")?;
        }
        let on_node =
            lab.serve_at(&lab.node("node-a")?.namespace, "own", 9000, &[SocketAddrV4::new(node, 9001).into()])?;
        for (from, to, what) in [
            (&client, SocketAddrV4::new(node, 9001), "a process of the node"),
            (&client, SocketAddrV4::new(node, NODE_PORT), "an endpoint elsewhere"),
            (&client, SocketAddrV4::new(node, NODE_PORT + 1), "an endpoint here"),
            (&lab.pod("a1")?.namespace, SocketAddrV4::new(ROUTER, UDP_PORT), "the world"),
            (&lab.node("node-a")?.namespace, SocketAddrV4::new(ROUTER, UDP_PORT), "the world, from the node"),
        ] {
            // Its pods are not masqueraded out of the cluster.
            if forwarder == Forwarder::Kernel && what == "the world" {
                continue;
            }
            for size in [2000, 4000] {
                let report = checks::backwards(from, to, 10, size)?;
                assert!(report.is_prompt(), "{size} bytes to {what}: {report:?}");
            }
        }
        drop(on_node);
        let Ok(shunt) = lab.node("node-a")?.shunt() else { return Ok(()) };
        let drops = shunt.drops()?;
        let others: Vec<_> = drops.iter().filter(|drop| drop.reason.starts_with("fragment")).collect();
        assert!(others.is_empty(), "nothing that looks like a loss: {others:?}");
        Ok(())
    });
}

#[test]
fn fragments_over_two_workers() {
    fragments(Plan { workers: 2, ..Plan::three_nodes(Forwarder::Shunt) });
}

fn fragments(plan: Plan) {
    trial(plan, |lab| {
        let dns = SocketAddrV4::new(DNS, 53);
        for name in ["a1", "b2", "node-a"] {
            let (from, _) = lab.station(name)?;
            let capture = Capture::start(from, "any", "ip[6:2] & 0x1fff != 0", lab.folder())?;
            // Several flows, so that all backends are met.
            for size in [1423, 1500, 2000, 5000, 9000, 12_000] {
                let stream = checks::stream(from, dns, 100, 20, size)?;
                assert!(stream.is_complete(), "{size} bytes from {name}: {stream:?}");
            }
            let later = capture.finish()?.rows("ip.frag_offset > 0", &["ip.dst"])?;
            let there = later.iter().filter(|row| row[0] == DNS.to_string()).count();
            // A node's own packets the kernel translates before it cuts them.
            let seen = (there > 0 || name == "node-a") && later.len() > there;
            assert!(seen, "no fragments in both directions at {name}: {there} of {}", later.len());
        }
        Ok(())
    });
}

/// A pod on the other side of a link narrower than both ends believe: its interface is narrow, and yet it announces what
/// everybody announces.
fn plug_narrow(lab: &mut Lab, node: usize) -> Result<Ipv4Addr> {
    let pod = lab.nodes[node].plan.pod(3);
    lab.plug(node, pod.clone())?;
    let inside = &lab.pod(&pod.name)?.namespace;
    inside.ip(&format!("link set eth0 mtu {NARROW_MTU}"))?;
    inside.ip(&format!("route change default via 169.254.1.1 dev eth0 advmss {USUAL_MSS}"))?;
    let node = &lab.nodes[node];
    node.namespace.ip(&format!("link set {} mtu {NARROW_MTU}", pod.interface))?;
    if let Ok(shunt) = node.shunt() {
        shunt.apply(&Cluster { ports: vec![pod.port()], ..Cluster::default() }, &[])?;
    }
    Ok(pod.address)
}

/// Bulk data both ways, through DNAT, masquerade and VXLAN. The narrow link is once the backend's and once the client's.
fn path_mtu_is_found_through_a_service(forwarder: Forwarder) {
    let mut plan = Plan::three_nodes(forwarder);
    let vips: [Ipv4Addr; 2] = [[10, 96, 0, 71].into(), [10, 96, 0, 72].into()];
    let (narrow, wide) = (plan.nodes[1].pod(3).address, plan.nodes[1].pod(1).address);
    for (vip, backend) in vips.into_iter().zip([narrow, wide]) {
        let name = format!("service-{}", vip.octets()[3]);
        plan.services.push(Service::simple(&name, vip, Protocol::Tcp, 80, TCP_PORT, [backend]));
    }
    let (to_narrow, node) = (plan.services.len() - 2, plan.nodes[0].underlay());
    plan.services[to_narrow].ports[0].node_port = Some(NODE_PORT);
    plan.services[to_narrow].exposure = Some(Exposure::balanced(Policy::Cluster));
    trial(plan, |lab| {
        plug_narrow(lab, 1)?;
        plug_narrow(lab, 0)?;
        let (a1, a3, b1) = (&lab.pod("a1")?.namespace, &lab.pod("a3")?.namespace, &lab.pod("b1")?.namespace);
        let [to_narrow, to_wide] = vips.map(|vip| SocketAddrV4::new(vip, 80));
        checks::echo(a1, to_narrow, 300_000)?.must_hold("the backend's link is narrow");
        let learnt = a1.run(&format!("ip route get {}", to_narrow.ip()))?;
        assert!(learnt.contains(&format!("mtu {NARROW_MTU}")), "the client knows the path to the VIP: {learnt}");
        checks::echo(a3, to_wide, 300_000)?.must_hold("the client's link is narrow");
        let learnt = b1.run(&format!("ip route get {}", lab.pod("a3")?.address()))?;
        assert!(learnt.contains(&format!("mtu {NARROW_MTU}")), "the backend knows the path to the client: {learnt}");

        // By a node port, masqueraded: the error that goes to the node is one for the client.
        let outsider = lab.outsider("client", 200)?;
        let forwarding = &lab.node("node-a")?.namespace;
        forwarding.sysctl("net.ipv4.ip_forward", "1")?;
        forwarding.ip("route add default via 192.168.50.254")?;
        checks::echo(&outsider, SocketAddrV4::new(node, NODE_PORT), 300_000)?.must_hold("the source is replaced");
        let learnt = outsider.run(&format!("ip route get {node}"))?;
        assert!(learnt.contains(&format!("mtu {NARROW_MTU}")), "the client knows the path to the node port: {learnt}");
        Ok(())
    });
}

/// A backend without a server: the client hears it from the VIP, and a connected UDP socket reports it.
fn a_refusal_reaches_the_client(forwarder: Forwarder) {
    let mut plan = Plan::three_nodes(forwarder);
    let vip = Ipv4Addr::new(10, 96, 0, 73);
    let b1 = plan.nodes[1].pod(1).address;
    plan.services.push(Service::simple("closed", vip, Protocol::Udp, 53, UDP_PORT + 1, [b1]));
    trial(plan, |lab| {
        let answers = checks::ask(&lab.pod("a1")?.namespace, "udp", SocketAddrV4::new(vip, 53), 3)?;
        assert_eq!(answers.failed(), 3, "{answers:?}");
        assert!(answers.failures.keys().all(|reason| reason.contains("refused")), "{answers:?}");
        Ok(())
    });
}

/// A client that has gone when the answer comes: the backend hears that its own datagram was refused.
fn a_refusal_reaches_the_backend(forwarder: Forwarder) {
    let mut plan = Plan::three_nodes(forwarder);
    let vip = Ipv4Addr::new(10, 96, 0, 74);
    let b1 = plan.nodes[1].pod(1).address;
    plan.services.push(Service::simple("quick", vip, Protocol::Udp, 53, UDP_PORT, [b1]));
    trial(plan, |lab| {
        let (a1, b1) = (lab.pod("a1")?, lab.pod("b1")?);
        let capture = Capture::start(&b1.namespace, "eth0", "icmp", lab.folder())?;
        // The socket is closed before there is an answer.
        b1.server.signal("STOP")?;
        command::run(a1.namespace.bounded("bash").args(["-c", &format!("echo late > /dev/udp/{vip}/53")]))?;
        b1.server.signal("CONT")?;
        let rows = capture
            .finish()?
            .rows("icmp.type == 3 && icmp.code == 3", &["ip.src", "ip.dst", "icmp.checksum.status"])?;
        let (client, backend) = (a1.address(), b1.address());
        assert_eq!(
            rows,
            [[format!("{client},{backend}"), format!("{backend},{client}"), "1".to_owned()]],
            "outer, quoted"
        );
        Ok(())
    });
}
