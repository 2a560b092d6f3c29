//! A node moves from flannel to Shunt and back, in a cluster of flannel nodes: its pods keep their addresses and their
//! connections, and its peers notice nothing.

use std::{fs, net::SocketAddrV4, path::Path, time::Duration};

use shunt_control_lab::{
    Result, binaries, change, checks,
    command::run,
    plan::{Forwarder, Plan, TCP_PORT},
    probe::{self, hold::HoldReport},
    shunt_node::ShuntNode,
    tools,
    topology::{Lab, Node},
    trial::trial,
};

const PAIRS: [(&str, &str); 7] =
    [("a1", "b1"), ("b1", "a1"), ("a1", "a2"), ("c1", "a2"), ("node-a", "c1"), ("a2", "node-a"), ("node-b", "a1")];

/// Puts the pods of a kernel node on a bridge, as flannel's CNI plugin does, and writes flannel's files.
fn bridge_pods(node: &Node, folder: &Path) -> Result<()> {
    let (namespace, prefix) = (&node.namespace, node.plan.pod_cidr());
    let gateway = prefix.hosts().next().expect("a /24 has hosts");
    namespace.ip("link add cni0 mtu 1450 type bridge")?;
    namespace.ip(&format!("addr add {gateway}/24 dev cni0"))?;
    namespace.ip("link set cni0 up")?;
    for pod in &node.pods {
        namespace.ip(&format!("route del {}/32 dev {}", pod.address(), pod.plan.interface))?;
        namespace.ip(&format!("addr flush dev {}", pod.plan.interface))?;
        namespace.ip(&format!("link set {} master cni0", pod.plan.interface))?;
        pod.namespace.ip(&format!("addr replace {}/24 dev eth0", pod.address()))?;
        pod.namespace.ip(&format!("addr del {}/32 dev eth0", pod.address()))?;
        pod.namespace.ip(&format!("route replace default via {gateway}"))?;
    }
    let env =
        format!("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={gateway}/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n");
    fs::write(folder.join("subnet.env"), env).expect("written");
    let conf = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472}}"#;
    fs::write(folder.join("net-conf.json"), conf).expect("written");
    Ok(())
}

fn flannel(lab: &Lab, what: &[&str]) -> Result<String> {
    let mut command = lab.node("node-a")?.namespace.bounded(binaries::find("shuntctl")?);
    run(command.args(["flannel"]).args(what).arg("--directory").arg(lab.folder().join("shunt")))
}

#[test]
fn a_node_moves_to_shunt_and_back() {
    trial(Plan::three_nodes(Forwarder::Kernel), |lab| {
        let folder = lab.folder().to_owned();
        bridge_pods(lab.node("node-a")?, &folder)?;
        checks::all_reach(lab, &PAIRS)?;
        let before = lab.node("node-a")?.namespace.ip("-br link show")?;
        let peers = |lab: &Lab| -> Result<String> {
            let c = &lab.node("node-c")?.namespace;
            Ok(c.run("bridge fdb show dev flannel.1")? + &c.ip("neigh show dev flannel.1")? + &c.ip("route show")?)
        };
        let known = peers(lab)?;

        let files = [folder.join("subnet.env"), folder.join("net-conf.json")].map(|path| path.display().to_string());
        let import = [
            "import",
            "--node",
            "node-a",
            "--service-cidr",
            "10.96.0.0/16",
            "--subnet-env",
            &files[0],
            "--net-conf",
            &files[1],
        ];
        let said = flannel(lab, &import)?;
        assert!(said.contains("2 pods, 2 nodes by VXLAN, 0 natively"), "{said}");
        assert!(flannel(lab, &import).is_err(), "what was written is not written over");
        assert!(flannel(lab, &["detach", "--dry-run"])?.contains("ip link del flannel.1"));
        checks::all_reach(lab, &PAIRS)?;

        // Connections of its pods, to this node and to another one, live through all of it.
        let hold = |from: &str, to: &str| -> Result<probe::Running> {
            let to = SocketAddrV4::new(lab.pod(to)?.address(), TCP_PORT);
            change::hold(lab, &lab.pod(from)?.namespace, to, Duration::from_secs(9))
        };
        let held = [hold("a1", "b1")?, hold("c1", "a2")?];
        // As if it had been cut off in the middle: it goes on, and again there is nothing left to do.
        let node = lab.node("node-a")?;
        node.namespace.ip(&format!("link set {} nomaster", node.pods[0].plan.interface))?;
        node.namespace.ip("link del cni0")?;
        flannel(lab, &["detach"])?;
        assert!(!flannel(lab, &["detach"])?.contains("ip link del"));
        assert!(!node.namespace.ip("link show")?.contains("flannel.1"));
        let mut shunt = ShuntNode::configured(&folder.join("shunt"))?;
        shunt.launch(&node.namespace)?;
        shunt.ctl(&["apply", "-f", &folder.join("shunt/cluster.toml").display().to_string()])?;
        checks::comes_back(lab, "a1", "b1")?;
        checks::all_reach(lab, &PAIRS)?;
        let gateway = lab.node("node-a")?.plan.pod_cidr().hosts().next().expect("a host");
        assert!(tools::ping(&lab.pod("a1")?.namespace, "-c 2 -i 0.05", gateway)?.is_complete(), "the gateway answers");
        assert_eq!(peers(lab)?, known, "peers notice nothing");
        checks::conservation(&shunt)?.must_hold("conservation");

        shunt.stop()?;
        flannel(lab, &["restore"])?;
        // The same of a restoration.
        let node = lab.node("node-a")?;
        node.namespace.ip(&format!("link set {} nomaster", node.pods[0].plan.interface))?;
        node.namespace.ip("link del flannel.1")?;
        flannel(lab, &["restore"])?;
        assert_eq!(peers(lab)?, known, "nor on the way back");
        for held in held {
            let report: HoldReport = held.finish(Duration::from_secs(60))?;
            assert!(report.messages > 0, "{report:?}");
        }
        checks::all_reach(lab, &PAIRS)?;
        // Numbers of interfaces are new; names and MAC addresses are the same.
        let after = lab.node("node-a")?.namespace.ip("-br link show")?;
        let macs = |text: &str| {
            let mut lines: Vec<_> = text
                .lines()
                .map(|line| {
                    line.split_whitespace().filter(|word| !word.contains(['@', '<'])).collect::<Vec<_>>().join(" ")
                })
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(macs(&after), macs(&before));
        Ok(())
    });
}
