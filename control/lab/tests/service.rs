//! Services, with real clients and servers.

use std::{fs, net::SocketAddrV4};

use shunt_control_lab::{
    capture::Capture,
    checks,
    cluster::{Cluster, Service},
    for_both_forwarders,
    plan::{DNS, Forwarder, Plan, TCP_PORT, WEB},
    tools::{self, Nginx},
    trial::trial,
};
use shunt_dataplane::net::Protocol;

for_both_forwarders!(new_flows_spread, associations_through_a_service, nginx_and_curl, iperf3_through_a_service);

const BACKENDS: [&str; 3] = ["a2", "b1", "c1"];

fn new_flows_spread(forwarder: Forwarder) {
    trial(Plan::three_nodes(forwarder), |lab| {
        for from in ["a1", "b2", "node-a"] {
            let from = lab.station(from)?.0;
            checks::spread(from, "tcp", SocketAddrV4::new(WEB, 80), 300, &BACKENDS)?.must_hold("TCP");
            checks::spread(from, "udp", SocketAddrV4::new(DNS, 53), 300, &BACKENDS)?.must_hold("UDP");
        }
        Ok(())
    });
}

/// SCTP, whose port is also another protocol's, as tshark sees it on the way.
fn associations_through_a_service(forwarder: Forwarder) {
    let mut plan = Plan::three_nodes(forwarder);
    let (vip, backends) = ([10, 96, 0, 36].into(), plan.services[0].endpoints.iter().map(|endpoint| endpoint.address));
    plan.services.push(Service::simple("signalling", vip, Protocol::Sctp, 80, TCP_PORT, backends.collect::<Vec<_>>()));
    trial(plan, |lab| {
        let capture = Capture::start(&lab.underlay, "node-a", "udp port 8472", lab.folder())?;
        for from in ["a1", "b2", "node-a"] {
            let from = lab.station(from)?.0;
            checks::spread(from, "sctp", SocketAddrV4::new(vip, 80), 150, &BACKENDS)?.must_hold("SCTP");
            checks::spread(from, "tcp", SocketAddrV4::new(WEB, 80), 150, &BACKENDS)?.must_hold("TCP");
        }
        let recording = capture.finish()?;
        assert!(recording.must_be_well_formed("sctp")? > 300);
        assert_eq!(recording.count("sctp.checksum.status != 1")?, 0, "all were looked at");
        Ok(())
    });
}

/// Two workers, two queues: many flows of which one direction lands on one worker and the other on the other.
#[test]
fn flows_whose_directions_land_on_different_workers() {
    trial(Plan { workers: 2, ..Plan::three_nodes(Forwarder::Shunt) }, |lab| {
        let (web, dns) = (SocketAddrV4::new(WEB, 80), SocketAddrV4::new(DNS, 53));
        for from in ["a1", "b2"] {
            let from = lab.station(from)?.0;
            checks::spread(from, "tcp", web, 500, &BACKENDS)?.must_hold("TCP");
            checks::spread(from, "udp", dns, 500, &BACKENDS)?.must_hold("UDP");
            for _ in 0..4 {
                checks::echo(from, web, 1_000_000)?.must_hold("TCP echo");
                let stream = checks::stream(from, dns, 2000, 1000, 200)?;
                assert!(stream.is_complete(), "{stream:?}");
            }
        }
        for (node, shunt) in lab.daemons() {
            let counters = shunt.counters()?;
            assert_eq!(counters.workers.len(), 2);
            for worker in &counters.workers {
                assert!(
                    worker.packets > 100,
                    "{}: a worker had little to do: {:?}",
                    node.plan.name(),
                    counters.workers
                );
            }
        }
        Ok(())
    });
}

fn nginx_and_curl(forwarder: Forwarder) {
    let mut plan = Plan::three_nodes(forwarder);
    let (b2, vip) = (plan.nodes[1].pod(2).address, [10, 96, 0, 80].into());
    plan.services.push(Service::simple("nginx", vip, Protocol::Tcp, 80, 8081, [b2]));
    trial(plan, |lab| {
        let size = 3_000_000;
        let folder = lab.folder().join("nginx");
        let _nginx = Nginx::start(&lab.pod("b2")?.namespace, 8081, "hello from b2\n", size, &folder)?;
        for from in ["a1", "a2", "b1", "node-a"] {
            let from = lab.station(from)?.0;
            assert_eq!(tools::curl(from, &format!("http://{vip}/"))?, "hello from b2\n");
            let file = lab.folder().join("fetched");
            let url = format!("http://{vip}/bytes");
            from.run(&format!("curl --silent --show-error --fail --max-time 20 -o {} {url}", file.display()))?;
            let fetched = fs::read(&file).expect("curl has written the file");
            assert!(fetched == fs::read(folder.join("bytes")).expect("nginx serves it"), "the file came changed");
        }
        Ok(())
    });
}

fn iperf3_through_a_service(forwarder: Forwarder) {
    let mut plan = Plan::three_nodes(forwarder);
    let (b1, vip) = (plan.nodes[1].pod(1).address, [10, 96, 0, 52].into());
    // iperf3 talks TCP to the same port to agree on a UDP test.
    plan.services.push(Service::simple("iperf-tcp", vip, Protocol::Tcp, 5201, 5202, [b1]));
    plan.services.push(Service::simple("iperf-udp", [10, 96, 0, 53 + 1].into(), Protocol::Udp, 5201, 5202, [b1]));
    trial(plan, |lab| {
        let (a1, b1) = (&lab.pod("a1")?.namespace, &lab.pod("b1")?.namespace);
        for options in ["-t 2", "-t 2 -R", "-t 2 -P 4"] {
            let to = SocketAddrV4::new(vip, 5201);
            let measured = tools::iperf3_through(a1, b1, to, "5202", options, &lab.log("iperf3"))?;
            assert!(measured.bits_per_second > 100e6, "{options}: {measured:?}");
        }
        Ok(())
    });
}

/// No endpoint: a client learns at once that nobody serves. No such service: nothing goes out to the underlay.
#[test]
fn a_service_without_endpoints_refuses() {
    let mut plan = Plan::three_nodes(Forwarder::Shunt);
    let vip = [10, 96, 0, 99].into();
    plan.services.push(Service::simple("empty", vip, Protocol::Tcp, 80, 8080, []));
    trial(plan, |lab| {
        let a1 = &lab.pod("a1")?.namespace;
        let answers = checks::ask(a1, "tcp", SocketAddrV4::new(vip, 80), 3)?;
        assert_eq!((answers.by_server.len(), answers.failed()), (0, 3), "{answers:?}");
        assert!(answers.failures.keys().all(|reason| reason.contains("refused")), "{answers:?}");
        // Endpoints appear, and the next flow reaches them.
        let service = Service::simple("empty", vip, Protocol::Tcp, 80, 8080, [lab.pod("c1")?.address()]);
        let cluster = Cluster { services: vec![service], ..Cluster::default() };
        lab.node("node-a")?.shunt()?.apply(&cluster, &[])?;
        checks::spread(a1, "tcp", SocketAddrV4::new(vip, 80), 3, &["c1"])?.must_hold("after endpoints appeared");
        Ok(())
    });
}
