//! DPDK's testpmd over its AF_XDP driver: what that community's I/O makes of the same veths.

use std::time::Duration;

use shunt_control_lab::{command::Background, wait};

use super::{
    Running,
    topology::{SOURCE_CORE, SWITCH_CORE, Topology},
};
use crate::{Error, peers::Peers, scratch::Scratch};

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running testpmd that swaps addresses.
pub struct Testpmd {
    _process: Background,
    _scratch: Scratch,
}

impl Running for Testpmd {}

impl Testpmd {
    pub fn start(_topology: &Topology) -> Result<Testpmd, Error> {
        let peers = Peers::find()?;
        peers.hide_installed_drivers()?;
        let scratch = Scratch::create("testpmd")?;
        let mut command = peers.command("dpdk-testpmd", &scratch)?;
        command.args(peers.dpdk_options());
        command.args(["-l", &format!("{SOURCE_CORE},{SWITCH_CORE}"), "--main-lcore", &SOURCE_CORE.to_string()]);
        command.args(["--vdev", "net_af_xdp0,iface=in", "--vdev", "net_af_xdp1,iface=out"]);
        command.args(["--", "--nb-cores=1", "--forward-mode=macswap", "--no-mlockall", "--total-num-mbufs=16384"]);
        // Without a terminal it runs until its input ends, unless it has something to print now and then.
        command.args(["--stats-period", "3600"]);
        let mut process = Background::start(&mut command, &scratch.path().join("testpmd.log"))?;
        wait::until("testpmd to forward", START_LIMIT, || match process.ended() {
            Some(status) => Ok(Err(Peers::last_words("testpmd", status, &process.log()))),
            None if process.log().contains("packet forwarding") => Ok(Ok(())),
            None => Err(process.log()),
        })??;
        Ok(Testpmd { _process: process, _scratch: scratch })
    }
}
