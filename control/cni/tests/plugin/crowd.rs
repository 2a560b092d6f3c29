//! As many pods as a node's /24 has addresses, at once.

use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use shunt_control_lab::{
    netns::Namespace,
    plan::{FRAMES, Plan},
    tools,
    trial::trial_alone,
};

use crate::runtime::{Container, Runtime, Traces, address, plan};

const PODS: usize = 250;
/// Plugins that run at a time, as with a runtime that starts many pods.
const AT_ONCE: usize = 16;
/// What ADD may take beyond what the kernel needs for the veth, at the median, one at a time.
const LIMIT: Duration = Duration::from_millis(100);

#[test]
fn two_hundred_and_fifty_pods_are_added_in_parallel_and_all_are_reached() {
    let mut plan = Plan { frames: FRAMES, ..plan() };
    // The whole /24 but for the pod of the lab's.
    plan.nodes[0].pods = 1;
    trial_alone(plan, |lab| {
        let mut runtime = Runtime::new(lab);
        runtime.config["ipam"]["ranges"][0][0]["rangeStart"] = "10.244.1.2".into();
        // The lab's own pod.
        let taken = runtime.container("lab");
        let own = lab.pod("a1")?.address().to_string();
        let folder = lab.folder().join("addresses/testnet");
        std::fs::create_dir_all(&folder).expect("a directory");
        std::fs::write(folder.join(&own), "lab\r\neth0").expect("a file");

        let alone = one_at_a_time(&runtime);
        let kernel = kernel_alone(&runtime, &taken);
        println!(
            "ADD alone: median {alone:?}; the kernel's part of it, a veth with its address and routes: {kernel:?}"
        );
        assert!(alone < kernel + LIMIT, "ADD takes {alone:?} at the median, the kernel {kernel:?}");

        let containers: Vec<_> = (0..PODS).map(|n| runtime.container(&format!("crowd{n}"))).collect();
        let start = Instant::now();
        let addresses = in_parallel(&containers, |container| address(&runtime.add(container)));
        println!("{PODS} pods added in {:?}, {AT_ONCE} at a time", start.elapsed());
        let node = &lab.node("node-a")?.namespace;
        for (container, to) in containers.iter().zip(&addresses) {
            let ping = tools::ping(node, "-c 1 -W 2", *to)?;
            assert!(ping.is_complete(), "{}: {}", container.id, ping.text);
        }
        // And they each other, in a ring.
        for (n, container) in containers.iter().enumerate().step_by(25) {
            let ping = tools::ping(&container.namespace, "-c 1 -W 2", addresses[(n + 1) % PODS])?;
            assert!(ping.is_complete(), "{}: {}", container.id, ping.text);
        }
        let start = Instant::now();
        in_parallel(&containers, |container| runtime.del(container));
        println!("and deleted in {:?}", start.elapsed());
        std::fs::remove_file(folder.join(own)).expect("the lab's own");
        assert_eq!(runtime.traces(), Traces::default());
        Ok(())
    });
}

/// The median of some ADDs, one after the other.
fn one_at_a_time(runtime: &Runtime) -> Duration {
    let mut times: Vec<_> = (0..9)
        .map(|n| {
            let container = runtime.container(&format!("alone{n}"));
            let start = Instant::now();
            runtime.add(&container);
            let taken = start.elapsed();
            runtime.del(&container);
            taken
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// What `ip` takes at the median for the same interface, address and routes, less what its own start takes.
fn kernel_alone(runtime: &Runtime, container: &Container) -> Duration {
    let script = "link add name pod0 mtu 1450 type veth peer name eth0 mtu 1450\nlink set pod0 up\nlink set eth0 up\n\
                  addr add 10.244.1.2/32 dev eth0\nroute add 169.254.1.1 dev eth0\nroute add default via 169.254.1.1";
    let file = runtime.scratch("script", script);
    let run = |namespace: &Namespace, arguments: &str| {
        let start = Instant::now();
        namespace.ip(arguments).expect("ip runs");
        start.elapsed()
    };
    let mut times: Vec<_> = (0..9)
        .map(|_| {
            let taken = run(&container.namespace, &format!("-batch {file}"));
            let idle = run(&container.namespace, "-V");
            run(&container.namespace, "link del eth0");
            taken.saturating_sub(idle)
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn in_parallel<T: Send>(containers: &[Container], work: impl Fn(&Container) -> T + Sync) -> Vec<T> {
    let next = Mutex::new(0);
    let mut results: Vec<(usize, T)> = thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            loop {
                let at = {
                    let mut next = next.lock().expect("nobody panicked");
                    *next += 1;
                    *next - 1
                };
                let Some(container) = containers.get(at) else { return done };
                done.push((at, work(container)));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("all succeed")).collect()
    });
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
