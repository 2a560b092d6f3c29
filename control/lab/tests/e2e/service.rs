//! Services, with real clients and servers.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use shunt_control_lab::{
    capture::Capture,
    change, checks,
    cluster::{Cluster, Endpoint, Service},
    for_both_forwarders,
    plan::{DNS, Forwarder, Plan, TCP_PORT, UDP_PORT, WEB},
    probe::{self, hold::HoldReport, stream::StreamReport},
    tools::{self, Nginx},
    trial::{trial, trial_alone},
    wait,
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
    trial_alone(plan, |lab| {
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

/// Also the lines "established connections through termination" and "up and down services". A socket's datagrams and a
/// connection stay where they are while the server terminates; once it is gone, the datagrams go to the next one.
#[test]
fn udp_conntrack_when_the_server_pod_cycles() {
    let vips = [Ipv4Addr::new(10, 96, 0, 91), Ipv4Addr::new(10, 96, 0, 92)];
    let [web, dns] = vips.map(|vip| SocketAddrV4::new(vip, 80));
    trial(Plan::three_nodes(Forwarder::Shunt), |lab| {
        let (b1, c1, a1) = (lab.pod("b1")?.address(), lab.pod("c1")?.address(), &lab.pod("a1")?.namespace);
        let shunt = lab.node("node-a")?.shunt()?;
        let tell = |endpoints: &[Endpoint]| {
            let services = [(Protocol::Tcp, TCP_PORT), (Protocol::Udp, UDP_PORT)].into_iter().zip(vips);
            let service = |((protocol, target), vip): ((Protocol, u16), Ipv4Addr)| Service {
                endpoints: endpoints.to_vec(),
                ..Service::simple(&format!("cycles-{protocol}"), vip, protocol, 80, target, [])
            };
            shunt.apply(&Cluster { services: services.map(service).collect(), ..Cluster::default() }, &[])
        };
        // Where the flows to each of them are.
        let backends = || {
            [web, dns].map(|to| {
                let listed = shunt.ctl_json(&["flow", "list", "--vip", &to.to_string()]).expect("the daemon answers");
                let flows = listed["flows"].as_array().cloned().unwrap_or_default();
                flows.iter().map(|flow| flow["backend"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
            })
        };
        let at = |tcp: Ipv4Addr, udp: Ipv4Addr| [vec![format!("{tcp}:{TCP_PORT}")], vec![format!("{udp}:{UDP_PORT}")]];
        let until_at = |what: &str, expected: [Vec<String>; 2]| {
            wait::until(what, Duration::from_secs(2), || match backends() {
                now if now == expected => Ok(()),
                now => Err(format!("{now:?}")),
            })
        };
        let is_down = || {
            let answers = checks::ask(a1, "tcp", web, 1)?;
            assert_eq!(answers.failed(), 1, "{answers:?}");
            shunt_control_lab::Result::Ok(())
        };
        is_down()?;
        tell(&[Endpoint::ready(b1)])?;
        let held = change::hold(lab, a1, web, Duration::from_secs(5))?;
        let stream = probe::start(a1, &["stream", &dns.to_string(), "200", "1000", "100"], &lab.log("stream"))?;
        until_at("both to be at b1", at(b1, b1))?;

        tell(&[Endpoint::terminating(b1), Endpoint::ready(c1)])?;
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(backends(), at(b1, b1), "b1 terminates, and serves still");

        tell(&[Endpoint::ready(c1)])?;
        until_at("the datagrams to go to c1", at(b1, c1))?;
        let held: HoldReport = held.finish(Duration::from_secs(30))?;
        assert!(held.server == "b1" && held.messages > 100, "{held:?}");
        let stream: StreamReport = stream.finish(Duration::from_secs(30))?;
        assert!(stream.lost() <= 3, "no more than was on its way: {stream:?}");
        for (protocol, to) in [("tcp", web), ("udp", dns)] {
            checks::spread(a1, protocol, to, 10, &["c1"])?.must_hold(protocol);
        }

        shunt.ctl(&["delete", "service", "default/cycles-tcp"])?;
        is_down()?;
        tell(&[Endpoint::ready(c1)])?;
        checks::spread(a1, "tcp", web, 10, &["c1"])?.must_hold("up again");
        Ok(())
    });
}
