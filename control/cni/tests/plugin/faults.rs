//! What is left when something ends at the wrong moment: the daemon, the plugin.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use shunt_control_lab::{tools, trial::trial};

use crate::runtime::{Runtime, Traces, address, plan};

#[test]
fn without_the_daemon_add_says_later_and_leaves_nothing() {
    trial(plan(), |lab| {
        let (first, container) = {
            let runtime = Runtime::new(lab);
            let container = runtime.container("stays");
            (address(&runtime.add(&container)), container)
        };
        let (shunt, _) = lab.node_mut("node-a")?.shunt_mut()?;
        shunt.kill()?;
        {
            let runtime = Runtime::new(lab);
            let late = runtime.container("late");
            let answer = runtime.call("ADD", &late, json!({}));
            assert_eq!(answer.code(), 11, "{}", answer.output);
            assert_eq!(runtime.run(&[("CNI_COMMAND", "STATUS")], &runtime.config).code(), 50);
            let traces = runtime.traces();
            assert_eq!((traces.links.len(), traces.addresses.len()), (1, 1), "{traces:?}");
            // DEL does what it can, and is to be called again for the rest.
            assert_eq!(runtime.call("DEL", &container, json!({})).code(), 11);
            let traces = runtime.traces();
            assert_eq!((traces.links.len(), traces.addresses.len()), (0, 0), "{traces:?}");
        }
        let (shunt, namespace) = lab.node_mut("node-a")?.shunt_mut()?;
        shunt.launch(namespace)?;
        let mut runtime = Runtime::new(lab);
        assert_eq!(runtime.traces().ports.len(), 1, "the port of the container that has gone");
        // Nobody called DEL again, and the address comes round: the switch lets go of the one that has gone.
        runtime.config["runtimeConfig"] = json!({ "ips": [first.to_string()] });
        let next = runtime.container("next");
        runtime.add(&next);
        assert_eq!(runtime.traces().ports, ["cni/testnet/next/eth0"]);
        assert!(tools::ping(&next.namespace, "-c 3 -i 0.05", lab.pod("a1")?.address())?.is_complete());
        runtime.del(&next);
        assert_eq!(runtime.traces(), Traces::default());
        Ok(())
    });
}

/// The plugin is killed after each of many times that an ADD takes parts of.
#[test]
fn what_a_killed_add_leaves_del_removes() {
    trial(plan(), |lab| {
        let runtime = Runtime::new(lab);
        let whole = runtime.container("whole");
        let start = Instant::now();
        runtime.add(&whole);
        let taken = start.elapsed();
        runtime.del(&whole);
        let mut unfinished = 0;
        for n in 0..24 {
            let container = runtime.container(&format!("killed{n}"));
            let variables = container.variables("ADD");
            let mut child = runtime.start(&variables.each_ref().map(|(n, v)| (*n, v.as_str())), &runtime.config);
            thread::sleep(taken * n / 24);
            child.kill().expect("it is ours");
            unfinished += u32::from(!child.wait().expect("it ends").success());
            // Also when nobody calls DEL for some time.
            if n % 3 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
            runtime.del(&container);
            assert_eq!(runtime.traces(), Traces::default(), "killed after {:?} of {taken:?}", taken * n / 24);
        }
        assert!(unfinished > 10, "only {unfinished} were killed before their end");
        runtime.add(&whole);
        assert!(tools::ping(&whole.namespace, "-c 3 -i 0.05", lab.pod("a1")?.address())?.is_complete());
        runtime.del(&whole);
        Ok(())
    });
}
