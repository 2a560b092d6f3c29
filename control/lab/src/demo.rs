//! demo
use crate::{
    error::Result,
    plan::{Forwarder, Plan},
    probe, tools,
    topology::Lab,
};
/// x
pub fn run(f: Forwarder, _keep: bool) -> Result<bool> {
    let lab = Lab::build(Plan::three_nodes(f))?;
    let a1 = lab.pod("a1")?;
    let b1 = lab.pod("b1")?;
    let c1 = lab.pod("c1")?;
    for to in [
        "169.254.1.1".parse().unwrap(),
        b1.address(),
        c1.address(),
        lab.node("node-a")?.plan.overlay(),
        lab.node("node-c")?.plan.overlay(),
    ] {
        println!("{to} {:?}", tools::ping(&a1.namespace, "-c 3 -i 0.1", to)?);
    }
    println!("{:?}", probe::run::<probe::ask::Answers>(&a1.namespace, &["ask", "tcp", "10.96.0.10:80", "100"])?);
    println!("{:?}", probe::run::<probe::ask::Answers>(&a1.namespace, &["ask", "udp", "10.96.0.53:53", "100"])?);
    println!(
        "{:?}",
        probe::run::<probe::transfer::TransferReport>(&a1.namespace, &["transfer", "10.96.0.10:80", "10000000"])?
    );
    println!(
        "{:?}",
        probe::run::<probe::stream::StreamReport>(
            &a1.namespace,
            &["stream", "10.244.2.10:5353", "1000", "1000", "100"]
        )?
    );
    println!(
        "{:?}",
        tools::iperf3(&a1.namespace, &c1.namespace, "10.244.3.10:5201".parse().unwrap(), "-t 2", &lab.log("iperf"))?
    );
    println!(
        "{:?}",
        tools::iperf3(
            &a1.namespace,
            &c1.namespace,
            "10.244.3.10:5201".parse().unwrap(),
            "-u -b 10M -t 2",
            &lab.log("iperf")
        )?
    );
    Ok(true)
}
