//! The node's daemon, over its unix socket.

use std::{error::Error, net::Ipv4Addr, path::Path, time::Duration};

use ipnet::{Ipv4Net, Ipv6Net};
use shunt_control_api::v1::{self, switch_client::SwitchClient};
use tokio::time::{Instant, sleep};
use tonic::{
    Code as Grpc, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    error::{CniError, Code, Result},
    link,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the daemon may take to see an interface that was just made.
const ATTACH_LIMIT: Duration = Duration::from_secs(5);
const ATTACH_STEP: Duration = Duration::from_millis(10);

/// A connection to it.
pub struct Daemon {
    client: SwitchClient<Channel>,
}

/// What pods must know of the node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its pods' addresses.
    pub pod_cidr: Ipv4Net,
    /// Their IPv6 addresses; `None`: they have none.
    pub ipv6_pod_cidr: Option<Ipv6Net>,
    /// Longest IP packet of a pod, in bytes: the uplink's, less what the overlay adds.
    pub mtu: u32,
    /// Queues of a pod's interface: one for each worker.
    pub queues: u32,
    /// Its addresses at which ports are published.
    pub addresses: Vec<Ipv4Addr>,
}

impl Daemon {
    /// # Errors
    /// [`Code::TryAgain`] if it does not listen.
    pub async fn connect(socket: &Path) -> Result<Daemon> {
        let unreachable = |why: String| {
            let message = format!("shuntd does not answer at {}", socket.display());
            CniError::new(Code::TryAgain, message, format!("{why}; is it running? See `systemctl status shuntd`"))
        };
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(|e| unreachable(e.to_string()))?;
        let channel = endpoint.timeout(PATIENCE).connect().await.map_err(|e| {
            // The transport's own text says only that there was an error.
            let mut cause: &dyn Error = &e;
            while let Some(source) = cause.source() {
                cause = source;
            }
            unreachable(cause.to_string())
        })?;
        Ok(Daemon { client: SwitchClient::new(channel) })
    }

    /// What the node is, and its ports.
    pub async fn node(&mut self) -> Result<(Node, Vec<v1::PortStatus>)> {
        let status = self.client.get_status(v1::GetStatusRequest {}).await.map_err(refused)?.into_inner();
        let incomplete = |what: &str| CniError::new(Code::TryAgain, format!("shuntd is not ready: {what}"), "");
        let pod_cidr = status.pod_cidr.parse().map_err(|_| incomplete("it names no pod_cidr"))?;
        let ipv6_pod_cidr = match status.ipv6_pod_cidr.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| incomplete("its ipv6_pod_cidr is no prefix"))?),
        };
        let mtu = Some(status.pod_mtu).filter(|mtu| *mtu > 0).ok_or_else(|| incomplete("its uplink is not there"))?;
        let addresses = status.node_port_addresses.iter().filter_map(|text| text.parse().ok()).collect();
        Ok((Node { pod_cidr, ipv6_pod_cidr, mtu, queues: status.cores.len() as u32, addresses }, status.ports))
    }

    /// Puts a pod's port into the switch and waits until it forwards. Ports of ours go whose container is no more and whose
    /// DEL has not come, perhaps because the daemon was down: the interface was there before its port was, and is gone; or
    /// one of its addresses was given to this pod.
    pub async fn attach(&mut self, port: &v1::Port) -> Result<()> {
        let has_ipv6 = |other: &v1::Port| !port.ipv6_address.is_empty() && other.ipv6_address == port.ipv6_address;
        let is_over =
            |other: &v1::Port| other.address == port.address || has_ipv6(other) || link::is_gone(&other.interface);
        let mut others = self.ports().await?;
        others.retain(|other| is_ours(&other.name) && other.name != port.name && is_over(other));
        let deletes = others.iter().map(|other| key(&other.name)).collect();
        let request = v1::ApplyRequest { ports: vec![port.clone()], deletes, ..Default::default() };
        let end = Instant::now() + ATTACH_LIMIT;
        loop {
            let answer = self.client.apply(request.clone()).await.map_err(refused)?.into_inner();
            let Some(warning) = answer.warnings.first() else { return Ok(()) };
            if Instant::now() > end {
                return Err(CniError::new(Code::Refused, format!("the switch does not take the pod: {warning}"), ""));
            }
            sleep(ATTACH_STEP).await;
        }
    }

    /// Removes ports. Those that are not there are no error.
    pub async fn detach(&mut self, names: impl IntoIterator<Item = String>) -> Result<()> {
        let deletes: Vec<_> = names.into_iter().map(|name| key(&name)).collect();
        if deletes.is_empty() {
            return Ok(());
        }
        let request = v1::ApplyRequest { deletes, ..Default::default() };
        self.client.apply(request).await.map(drop).map_err(refused)
    }

    /// All ports that it was told of.
    pub async fn ports(&mut self) -> Result<Vec<v1::Port>> {
        let request = v1::ListRequest { kind: v1::Kind::Port.into(), limit: 0, after: String::new() };
        let page = self.client.list(request).await.map_err(refused)?.into_inner();
        let port = |resource: v1::Resource| match resource.kind {
            Some(v1::resource::Kind::Port(port)) => Some(port),
            _ => None,
        };
        // A switch has fewer ports than a page has room for.
        Ok(page.resources.into_iter().filter_map(port).collect())
    }
}

/// Ports of this plugin begin like this; those of others are left alone.
const OURS: &str = "cni/";

fn is_ours(name: &str) -> bool {
    name.starts_with(OURS)
}

/// What a container's port is called: `cni/NETWORK/CONTAINER/INTERFACE`. A pod that is started again under its name is
/// another container, and may come before the former one has gone.
pub fn port_name(network: &str, container: &str, interface: &str) -> String {
    format!("{OURS}{network}/{container}/{interface}")
}

fn key(name: &str) -> v1::Key {
    v1::Key { kind: v1::Kind::Port.into(), name: name.to_owned() }
}

fn refused(status: Status) -> CniError {
    let code = match status.code() {
        Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Cancelled => Code::TryAgain,
        _ => Code::Refused,
    };
    CniError::new(code, format!("shuntd: {}", status.message()), format!("{:?}", status.code()))
}
