//! What each command does.

use serde_json::{Value, json};
use shunt_control_api::v1;

use crate::{
    config::Config,
    daemon::{Daemon, Node, port_name},
    environment::{Command, Environment},
    error::{CniError, Code, Result},
    ipam::Ipam,
    link::{self, Namespace, PodEnd, mac_of, mac_text, node_end},
    outcome::{Interface, Outcome, attached},
    port_mapping::{self, PortMapping},
    version::Version,
};

/// Carries out a command. What is returned belongs on standard output.
pub async fn run(environment: &Environment, config: &Config) -> Result<Option<Value>> {
    let plugin = Plugin { environment, config };
    match environment.command {
        Command::Add => plugin.add().await.map(Some),
        Command::Del => plugin.del().await.map(|()| None),
        Command::Check => {
            plugin.since(Version::V0_4_0, "CHECK")?;
            plugin.check().await.map(|()| None)
        }
        Command::Gc => {
            plugin.since(Version::V1_1_0, "GC")?;
            plugin.gc().await.map(|()| None)
        }
        Command::Status => {
            plugin.since(Version::V1_1_0, "STATUS")?;
            plugin.status().await.map(|()| None)
        }
        Command::Version => Ok(Some(versions(config.version.name()))),
    }
}

/// The answer to VERSION.
pub fn versions(asked: &str) -> Value {
    json!({ "cniVersion": asked, "supportedVersions": Version::ALL.map(Version::name) })
}

struct Plugin<'a> {
    environment: &'a Environment,
    config: &'a Config,
}

impl Plugin<'_> {
    fn since(&self, version: Version, command: &str) -> Result<()> {
        if self.config.version >= version {
            return Ok(());
        }
        let message = format!("cniVersion: {} has no {command}", self.config.version.name());
        Err(CniError::new(Code::IncompatibleVersion, message, format!("it came with {}", version.name())))
    }

    fn ipam(&self) -> Result<Ipam> {
        Ipam::new(self.config, self.environment)
    }

    fn port_name(&self) -> String {
        let attachment = &self.environment.attachment;
        port_name(&self.config.name, &attachment.container, &attachment.interface)
    }

    fn namespace(&self) -> Result<Namespace> {
        let path = self.environment.netns.as_deref();
        Namespace::open(path.ok_or_else(|| CniError::new(Code::BadEnvironment, "CNI_NETNS: missing", ""))?)
    }

    async fn add(&self) -> Result<Value> {
        let attachment = &self.environment.attachment;
        let mut wanted = self.config.wanted_addresses()?;
        wanted.extend(self.environment.wanted_address);
        let mac = self.config.runtime.mac.as_deref().map(parse_mac).transpose()?;
        let mappings = self.config.port_mappings()?;
        let bandwidth = self.config.bandwidth()?;
        let namespace = self.namespace()?;
        // Before anything is made: without the daemon there is nothing to undo.
        let mut daemon = Daemon::connect(&self.config.socket).await?;
        let (node, _) = daemon.node().await?;
        let published = port_mapping::read(&mappings, &node.addresses)?;
        published.iter().enumerate().try_for_each(|(i, port)| port_mapping::check(i, port, &node.addresses))?;
        let asked = v1::Port { published, bandwidth, ..Default::default() };
        let ipam = self.ipam()?;
        let addresses = ipam.add(attachment, &wanted, &node)?;
        let mac = mac.unwrap_or_else(|| mac_of(addresses.ipv4));
        let pod = PodEnd { interface: &attachment.interface, addresses, mac };
        match self.connect(&mut daemon, &pod, &namespace, &node, asked).await {
            Ok(outcome) => Ok(outcome.to_json(self.config.version, self.config.previous.as_ref())),
            Err(e) => {
                // Whatever else is wrong, the first error is the one to tell.
                let _ = daemon.detach([self.port_name()]).await;
                let _ = link::remove(&node_end(attachment)).await;
                let _ = ipam.release(attachment);
                Err(e)
            }
        }
    }

    async fn connect(
        &self,
        daemon: &mut Daemon,
        pod: &PodEnd<'_>,
        namespace: &Namespace,
        node: &Node,
        asked: v1::Port,
    ) -> Result<Outcome> {
        let (node_end, mac) = (node_end(&self.environment.attachment), mac_text(&pod.mac));
        let name = self.port_name();
        link::create(&node_end, &name, pod, namespace, node).await?;
        let (interface, address) = (node_end.clone(), pod.addresses.ipv4.to_string());
        let ipv6_address = pod.addresses.ipv6.map(|address| address.to_string()).unwrap_or_default();
        daemon.attach(&v1::Port { name, interface, address, ipv6_address, mac: mac.clone(), ..asked }).await?;
        let node_mac = link::node_mac(&node_end).await?.unwrap_or_default();
        let sandbox = self.environment.netns.as_ref().map(|path| path.display().to_string());
        Ok(Outcome {
            node_end: Interface { name: node_end, mac: node_mac, mtu: node.mtu, sandbox: None },
            pod_end: Interface { name: pod.interface.to_owned(), mac, mtu: node.mtu, sandbox },
            addresses: pod.addresses,
            dns: self.config.dns.clone(),
        })
    }

    /// Removes whatever there is. Everything is tried; the first error is told, and the runtime tries again.
    async fn del(&self) -> Result<()> {
        let attachment = &self.environment.attachment;
        let link = link::remove(&node_end(attachment)).await;
        // The port goes before the address is given to somebody else.
        let detached = self.detach([self.port_name()]).await;
        let released = self.ipam().and_then(|ipam| ipam.release(attachment));
        link.and(detached).and(released)
    }

    async fn detach(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        Daemon::connect(&self.config.socket).await?.detach(names).await
    }

    async fn check(&self) -> Result<()> {
        let (attachment, ipam) = (&self.environment.attachment, self.ipam()?);
        let missing = || CniError::new(Code::InvalidConfig, "prevResult: missing", "CHECK needs ADD's result");
        let previous = self.config.previous.as_ref().ok_or_else(missing)?;
        let sandbox = self.environment.netns.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let (mac, addresses) = attached(previous, &attachment.interface, &sandbox)?;
        let changed = |what: String| CniError::new(Code::Changed, what, "DEL the container and ADD it again");
        link::check(&self.namespace()?, &attachment.interface, &mac, addresses).await?;
        ipam.check(attachment, addresses)?;
        let node_end = node_end(attachment);
        if link::node_mac(&node_end).await?.is_none() {
            return Err(changed(format!("interface {node_end} is gone from the node")));
        }
        let mut daemon = Daemon::connect(&self.config.socket).await?;
        let (node, ports) = daemon.node().await?;
        let name = self.port_name();
        match ports.iter().find(|port| port.name == name) {
            None => return Err(changed("the switch has no port for it".into())),
            Some(port) if port.attached.is_none() => {
                return Err(changed(format!("its port is not attached: {}", port.pending)));
            }
            Some(_) => {}
        }
        let mappings = self.config.port_mappings()?;
        let wanted = port_mapping::read(&mappings, &node.addresses)?;
        let bandwidth = self.config.bandwidth()?;
        let has = daemon.ports().await?.into_iter().find(|port| port.name == name).unwrap_or_default();
        let missing = wanted.iter().position(|port| !has.published.contains(port));
        if let Some(PortMapping { host_port, protocol, .. }) = missing.map(|i| &mappings[i]) {
            return Err(changed(format!("port {host_port}/{protocol} of the node does not lead to it")));
        }
        if bandwidth.is_some() && bandwidth != has.bandwidth {
            return Err(changed("its bandwidth limits are others".into()));
        }
        Ok(())
    }

    /// Removes what belongs to no valid attachment. Goes on after errors; the first one is told.
    async fn gc(&self) -> Result<()> {
        let missing = || CniError::new(Code::InvalidConfig, "cni.dev/valid-attachments: missing", "GC needs it");
        let valid = self.config.valid.as_ref().ok_or_else(missing)?;
        let keep: Vec<_> = valid.iter().map(|a| port_name(&self.config.name, &a.container, &a.interface)).collect();
        // All ports of this network begin alike.
        let network = port_name(&self.config.name, "", "");
        let network = network.trim_end_matches('/').to_owned() + "/";
        let links = gc_links(&keep, &network).await;
        let ports = self.gc_ports(&keep, &network).await;
        links.and(ports).and(self.ipam().and_then(|ipam| ipam.retain(valid)))
    }

    async fn gc_ports(&self, keep: &[String], network: &str) -> Result<()> {
        let mut daemon = Daemon::connect(&self.config.socket).await?;
        let names = daemon.ports().await?.into_iter().map(|port| port.name);
        daemon.detach(names.filter(|name| name.starts_with(network) && !keep.contains(name))).await
    }

    async fn status(&self) -> Result<()> {
        let unavailable = |e: CniError| {
            let told = e.to_json("");
            CniError::new(
                Code::Unavailable,
                told["msg"].as_str().unwrap_or_default(),
                told["details"].as_str().unwrap_or_default(),
            )
        };
        let mut daemon = Daemon::connect(&self.config.socket).await.map_err(unavailable)?;
        let (node, _) = daemon.node().await.map_err(unavailable)?;
        self.ipam()?.status(&node)
    }
}

/// Removes the node's ends of a network that are not of the ports to keep, and those of nobody: no ADD goes on during GC.
async fn gc_links(keep: &[String], network: &str) -> Result<()> {
    let is_over = |name: &str| name.starts_with(network) && !keep.iter().any(|port| link::alias(port) == name);
    let mut outcome = Ok(());
    for (name, alias) in link::node_ends().await? {
        if alias.as_deref().is_none_or(is_over) {
            outcome = outcome.and(link::remove(&name).await);
        }
    }
    outcome
}

/// A pod's own MAC address.
fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let refuse = |what: &str| {
        let message = format!("runtimeConfig.mac: {text:?} {what}");
        CniError::new(Code::InvalidConfig, message, "write it like 02:00:00:00:00:07")
    };
    let bytes: Vec<_> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| refuse("is no MAC address"))?;
    let mac: [u8; 6] = bytes.try_into().map_err(|_| refuse("is no MAC address"))?;
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(refuse("is no station's address"));
    }
    Ok(mac)
}
