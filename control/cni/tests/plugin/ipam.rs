//! Addresses from Debian's host-local plugin, and from the built-in store that has its format.

use serde_json::json;
use shunt_control_lab::{tools, trial::trial};

use crate::runtime::{NETWORK, Runtime, Traces, address, both_families, ipv6_address, plan};

#[test]
fn host_local_and_the_built_in_store_take_over_from_one_another() {
    trial(plan(), |lab| {
        let mut runtime = Runtime::new(lab);
        runtime.config["ipam"]["ranges"] = both_families();
        let mut delegated = runtime.config["ipam"].clone();
        delegated["type"] = "host-local".into();
        let own = std::mem::replace(&mut runtime.config["ipam"], delegated);

        let by_theirs = runtime.container("theirs");
        let result = runtime.add(&by_theirs);
        assert_eq!((address(&result).octets()[3], ipv6_address(&result).segments()[7]), (50, 0x50));
        runtime.call("CHECK", &by_theirs, json!({ "prevResult": result })).result();
        assert!(tools::ping(&by_theirs.namespace, "-c 3 -i 0.05", lab.pod("a1")?.address())?.is_complete());
        assert!(tools::ping(&by_theirs.namespace, "-c 3 -i 0.05", lab.pod("a1")?.ipv6()?)?.is_complete());

        // The same containers under the built-in store: the next address is another, and DEL finds what is theirs.
        let theirs = std::mem::replace(&mut runtime.config["ipam"], own);
        let by_ours = runtime.container("ours");
        let result = runtime.add(&by_ours);
        assert_eq!((address(&result).octets()[3], ipv6_address(&result).segments()[7]), (51, 0x51));
        runtime.del(&by_theirs);
        let mut left = runtime.traces().addresses;
        left.sort();
        assert_eq!(left, ["10.244.1.51", "fd00:10:244:1::51"]);

        // And back.
        runtime.config["ipam"] = theirs;
        let again = runtime.container("again");
        let result = runtime.add(&again);
        assert_eq!((address(&result).octets()[3], ipv6_address(&result).segments()[7]), (52, 0x52));
        runtime.del(&by_ours);
        runtime.del(&again);
        // A delegate that gives no IPv4 address: what it gave is given back.
        runtime.config["ipam"]["ranges"] = json!([both_families()[1]]);
        let answer = runtime.call("ADD", &again, json!({}));
        assert!(answer.code() == 7 && answer.message().contains("what host-local gave has"), "{}", answer.output);
        assert_eq!(runtime.traces(), Traces::default());
        Ok(())
    });
}

#[test]
fn without_an_address_nothing_is_made_and_status_says_so() {
    trial(plan(), |lab| {
        let mut runtime = Runtime::new(lab);
        let range = json!([[{ "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.50", "rangeEnd": "10.244.1.50" }]]);
        runtime.config["ipam"]["ranges"] = range;
        let status = |runtime: &Runtime| runtime.run(&[("CNI_COMMAND", "STATUS")], &runtime.config);
        assert!(status(&runtime).result().is_null());
        let (one, other) = (runtime.container("one"), runtime.container("other"));
        runtime.add(&one);
        assert_eq!(status(&runtime).code(), 50);
        assert_eq!(runtime.call("ADD", &other, json!({})).code(), 101);
        assert_eq!((runtime.traces().links.len(), runtime.traces().ports.len()), (1, 1));

        // GC leaves what is valid and removes the rest.
        let gc = |runtime: &Runtime, valid: serde_json::Value| {
            let config = runtime.with(json!({ "cni.dev/valid-attachments": valid }));
            runtime.run(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/usr/lib/cni")], &config)
        };
        gc(&runtime, json!([{ "containerID": "one", "ifname": "eth0" }])).result();
        assert_eq!(runtime.traces().ports, [format!("cni/{NETWORK}/one/eth0")]);
        gc(&runtime, json!([])).result();
        assert_eq!(runtime.traces(), Traces::default());
        // Of both families.
        runtime.config["ipam"]["ranges"] = both_families();
        let (one, other) = (runtime.container("third"), runtime.container("fourth"));
        runtime.add(&one);
        runtime.add(&other);
        gc(&runtime, json!([{ "containerID": "third", "ifname": "eth0" }])).result();
        assert_eq!((runtime.traces().addresses.len(), runtime.traces().ports.len()), (2, 1));
        gc(&runtime, json!([])).result();
        assert_eq!(runtime.traces(), Traces::default());
        assert!(status(&runtime).result().is_null());
        Ok(())
    });
}
