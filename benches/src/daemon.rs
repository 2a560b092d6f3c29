//! Shunt's daemon under measurement: started in the namespace of the calling thread, told what to do by gRPC.

use std::time::Duration;

use shunt_control_api::v1::{self, switch_client::SwitchClient};
use shunt_control_lab::{binaries, command::Background, memory, wait};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};

use crate::{
    Error,
    scratch::{Scratch, mortal},
    veth::{
        cluster::{CLUSTER_CIDR, POD_CIDR, SERVICE_CIDR, VNI, VTEP_MAC, VXLAN_PORT},
        topology::SWITCH_CORE,
    },
};

/// How long a daemon may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Connections that it has room for.
const FLOWS: u32 = 65_536;

/// A running daemon with one worker on the contender's core; its other threads are on the other one.
pub struct Daemon {
    runtime: Runtime,
    client: SwitchClient<Channel>,
    process: Option<Background>,
    _scratch: Scratch,
}

impl Daemon {
    /// Starts it with this uplink.
    pub fn start(uplink: &str) -> Result<Daemon, Error> {
        let scratch = Scratch::create("shuntd")?;
        let socket = scratch.path().join("shuntd.sock");
        let config = scratch.write("shuntd.toml", &config(uplink, &scratch))?;
        let mut command = mortal(binaries::find("shuntd")?);
        command.arg("--config").arg(config);
        let mut process = Background::start(&mut command, &scratch.path().join("shuntd.log"))?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = wait::until("shuntd to answer", START_LIMIT, || match process.ended() {
            Some(status) => Ok(Err(format!("shuntd ended ({status}): {}", process.log()))),
            None => runtime.block_on(endpoint.connect()).map(Ok),
        })??;
        let client = SwitchClient::new(channel);
        Ok(Daemon { runtime, client, process: Some(process), _scratch: scratch })
    }

    /// Changes what it should do; answered once every worker forwards by it.
    pub fn apply(&mut self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Error> {
        let answer = self.runtime.block_on(self.client.apply(request))?.into_inner();
        if answer.warnings.is_empty() { Ok(answer) } else { Err(answer.warnings.join("; ").into()) }
    }

    /// Its memory that is in use, in bytes.
    pub fn resident(&self) -> Result<u64, Error> {
        let process = self.process.as_ref().ok_or("it has been stopped")?;
        Ok(memory::resident(&process.pid().to_string())?)
    }

    /// What it counts.
    pub fn counters(&mut self) -> Result<v1::GetCountersResponse, Error> {
        Ok(self.runtime.block_on(self.client.get_counters(v1::GetCountersRequest {}))?.into_inner())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = self.process.take()
            && let Err(error) = process.stop(STOP_LIMIT)
        {
            eprintln!("stopping shuntd: {error}");
        }
    }
}

fn config(uplink: &str, scratch: &Scratch) -> String {
    let folder = scratch.path().display();
    format!(
        "[node]\nname = \"node-a\"\npod_cidr = \"{POD_CIDR}\"\ncluster_cidr = \"{CLUSTER_CIDR}\"\n\
         service_cidr = \"{SERVICE_CIDR}\"\n[uplink]\ninterface = \"{uplink}\"\n\
         [vxlan]\nvni = {VNI}\nport = {VXLAN_PORT}\nmac = \"{VTEP_MAC}\"\n[host]\ninterface = \"shunt0\"\n\
         [workers]\ncores = [{SWITCH_CORE}]\n[conntrack]\nflows = {FLOWS}\n[api]\nsocket = \"{folder}/shuntd.sock\"\n\
         [state]\ndir = \"{folder}/state\"\n[xdp]\nmode = \"native\"\n"
    )
}
