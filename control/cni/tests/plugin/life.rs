//! The life of a container: ADD in every version, traffic, CHECK, DEL.

use std::net::{SocketAddr, SocketAddrV4};

use serde_json::{Value, json};
use shunt_control_lab::{
    checks,
    cluster::{Cluster, Service},
    plan::{GATEWAY, IPV6_GATEWAY, TCP_PORT, UDP_PORT, ipv6_cluster_ip},
    tools,
    trial::trial,
};
use shunt_dataplane::net::Protocol;

use crate::runtime::{PLUGINS, Runtime, Traces, address, both_families, ipv6_address, plan};

#[test]
fn a_container_is_reached_and_reaches_everyone() {
    trial(plan(), |lab| {
        let mut runtime = Runtime::new(lab);
        runtime.config["ipam"]["ranges"] = both_families();
        let (one, other) = (runtime.container("one"), runtime.container("other"));
        // As a runtime may leave it that knows of no use for IPv6.
        one.namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let results = (runtime.add(&one), runtime.add(&other));
        let (first, second) = (address(&results.0), address(&results.1));
        let ipv6 = (ipv6_address(&results.0), ipv6_address(&results.1));
        let places = |ipv4, ipv6| [SocketAddrV4::new(ipv4, UDP_PORT).into(), SocketAddr::from((ipv6, UDP_PORT))];
        let _servers = (
            lab.serve_at(&one.namespace, "one", TCP_PORT, &places(first, ipv6.0))?,
            lab.serve_at(&other.namespace, "other", TCP_PORT, &places(second, ipv6.1))?,
        );
        assert!(tools::ping(&one.namespace, "-c 3 -i 0.05", GATEWAY)?.is_complete());
        for (from, to) in [
            (&one.namespace, second),
            (&one.namespace, lab.pod("a1")?.address()),
            (&one.namespace, lab.pod("c1")?.address()),
            (&lab.pod("c1")?.namespace, first),
            (&lab.node("node-a")?.namespace, first),
            (&one.namespace, lab.node("node-a")?.plan.overlay()),
        ] {
            checks::reach(from, to)?.must_hold(&format!("{} -> {to}", from.name()));
        }
        let (a1, c1) = (lab.pod("a1")?, lab.pod("c1")?);
        assert!(tools::ping(&one.namespace, "-c 3 -i 0.05 -I eth0", IPV6_GATEWAY)?.is_complete());
        for (from, to) in [
            (&one.namespace, ipv6.1),
            (&one.namespace, a1.ipv6()?),
            (&one.namespace, c1.ipv6()?),
            (&c1.namespace, ipv6.0),
        ] {
            checks::reach(from, to)?.must_hold(&format!("{} -> {to}", from.name()));
        }
        // A service of both, asked from both: half of the flows come back to who asked.
        let (vip, ipv6_vip) = ([10, 96, 0, 80].into(), ipv6_cluster_ip(0x80));
        let service = Service::simple("both", vip, Protocol::Tcp, 80, TCP_PORT, [first, second]);
        let service = service.over_ipv6(ipv6_vip, [ipv6.0, ipv6.1]);
        let cluster = Cluster { services: vec![service], ..Cluster::default() };
        lab.node("node-a")?.shunt()?.apply(&cluster, &[])?;
        for from in [&one.namespace, &other.namespace] {
            checks::spread(from, "tcp", SocketAddrV4::new(vip, 80), 150, &["one", "other"])?.must_hold("hairpin");
            checks::spread(from, "tcp", (ipv6_vip, 80), 150, &["one", "other"])?.must_hold("hairpin over IPv6");
        }
        runtime.del(&one);
        runtime.del(&other);
        assert_eq!(runtime.traces(), Traces::default());
        Ok(())
    });
}

#[test]
fn each_version_has_its_result_and_its_check() {
    trial(plan(), |lab| {
        let mut runtime = Runtime::new(lab);
        let supported = runtime.run(&[("CNI_COMMAND", "VERSION")], &json!({ "cniVersion": "1.0.0" })).result();
        assert_eq!(
            supported,
            json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] })
        );
        // Without ranges: the node's own, of both families.
        runtime.config["ipam"].as_object_mut().expect("it is one").remove("ranges");
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            runtime.config["cniVersion"] = version.into();
            let container = runtime.container("versioned");
            let result = runtime.add(&container);
            assert_eq!(result["cniVersion"], version);
            let pod_end = &result["interfaces"][1];
            let (ipv4, ipv6) = (address(&result), ipv6_address(&result));
            assert_eq!(runtime.traces().addresses.len(), 2);
            assert_eq!((&pod_end["name"], &pod_end["sandbox"]), (&json!("eth0"), &json!(container.netns())));
            assert_eq!(pod_end["mac"], container.namespace.mac("eth0")?.to_string());
            let shown = container.namespace.ip("-o link show dev eth0")?;
            assert!(shown.contains(" mtu 1450 "), "{shown}");
            assert_eq!(runtime.call("ADD", &container, json!({})).code(), 7, "it has one");

            let check = |previous: &Value| runtime.call("CHECK", &container, json!({ "prevResult": previous }));
            if version == "0.3.1" {
                assert_eq!(check(&result).code(), 1);
            } else {
                assert!(check(&result).result().is_null(), "no output");
                assert_eq!(runtime.call("CHECK", &container, json!({})).code(), 7, "prevResult is missing");
                container.namespace.ip("-6 route del default")?;
                assert!(check(&result).message().contains("the default route by fe80::1 is gone"));
                container.namespace.ip(&format!("addr del {ipv6}/128 dev eth0"))?;
                assert!(check(&result).message().contains(&format!("has lost its address {ipv6}")));
                container.namespace.ip("route del default")?;
                let answer = check(&result);
                assert_eq!(answer.code(), 100);
                assert!(answer.message().contains("the default route by 169.254.1.1"), "{}", answer.message());
                container.namespace.ip("link set eth0 address 02:00:00:00:00:99")?;
                assert!(check(&result).message().contains("MAC address"));
                container.namespace.ip("addr flush dev eth0")?;
                container.namespace.ip(&format!("link set eth0 address {}", pod_end["mac"].as_str().unwrap()))?;
                assert!(check(&result).message().contains(&format!("has lost its address {ipv4}")));
                container.namespace.ip("link del eth0")?;
                assert!(check(&result).message().contains("eth0 is gone"));
            }
            // Twice, as the kubelet does; then as after a reboot, when the namespace is no more.
            runtime.del(&container);
            runtime.del(&container);
            let without = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "versioned"), ("CNI_IFNAME", "eth0")];
            runtime.run(&without, &runtime.config).result();
            assert_eq!(runtime.traces(), Traces::default());
        }
        Ok(())
    });
}

#[test]
fn what_a_runtime_asks_for_is_given_or_refused_by_name() {
    trial(plan(), |lab| {
        let runtime = Runtime::new(lab);
        let container = runtime.container("asks");
        let asked = json!({
            "runtimeConfig": { "ips": ["10.244.1.77/24"], "mac": "02:00:00:00:00:77" },
            "dns": { "nameservers": ["10.96.0.53"] },
            "prevResult": { "interfaces": [{ "name": "other0" }] },
        });
        let result = runtime.call("ADD", &container, asked).result();
        assert_eq!(address(&result).octets()[3], 77);
        assert_eq!(result["dns"]["nameservers"][0], "10.96.0.53");
        assert_eq!((&result["interfaces"][0]["name"], &result["ips"][0]["interface"]), (&json!("other0"), &json!(2)));
        assert_eq!(container.namespace.mac("eth0")?.to_string(), "02:00:00:00:00:77");
        assert!(tools::ping(&container.namespace, "-c 3 -i 0.05", lab.pod("a1")?.address())?.is_complete());

        let second = runtime.container("second");
        for (more, code, named) in [
            (json!({ "runtimeConfig": { "ips": ["10.244.1.77"] } }), 101, "10.244.1.77"),
            (json!({ "runtimeConfig": { "ips": ["10.244.2.7"] } }), 7, "10.244.2.7"),
            (json!({ "runtimeConfig": { "ips": ["seven"] } }), 7, "runtimeConfig.ips"),
            (json!({ "runtimeConfig": { "ips": ["fd00:10:244:1::77"] } }), 7, "fd00:10:244:1::77"),
            (json!({ "ipam": { "ranges": [[{ "subnet": "fd00:10:244:1::/64" }]] } }), 7, "no set is of IPv4"),
            (json!({ "runtimeConfig": { "mac": "01:00:00:00:00:01" } }), 7, "runtimeConfig.mac"),
            (json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 80 }] } }), 7, "runtimeConfig.portMappings"),
            (json!({ "ipam": { "type": "not-there" } }), 7, "ipam.type"),
            (json!({ "ipam": { "subnets": [] } }), 7, "subnets"),
            (json!({ "cniVersion": "0.2.0" }), 1, "cniVersion"),
            (json!({ "name": "" }), 7, "name"),
        ] {
            let answer = runtime.call("ADD", &second, more);
            assert!(answer.code() == code && answer.message().contains(named), "{code}, {named}: {}", answer.output);
        }
        let missing = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "second"), ("CNI_PATH", PLUGINS)];
        let answer = runtime.run(&missing, &runtime.config);
        assert!(answer.code() == 4 && answer.message().contains("CNI_NETNS, CNI_IFNAME"), "{}", answer.output);
        let file = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "second"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/proc/version"),
        ];
        assert_eq!(runtime.run(&file, &runtime.config).code(), 8);
        assert_eq!(runtime.traces().addresses, ["10.244.1.77"]);
        // An interface of that name is somebody's, and stays.
        second.namespace.ip("link add eth0 type bridge")?;
        assert_eq!(runtime.call("ADD", &second, json!({})).code(), 5);
        second.namespace.ip("link show dev eth0")?;
        runtime.del(&container);
        assert_eq!(runtime.traces(), Traces::default());
        Ok(())
    });
}
