//! `pktgen connections` and `pktgen serve`.

use std::{path::PathBuf, process::ExitCode, sync::atomic::AtomicBool, time::Duration};

use clap::Args;
use shunt_dataplane::net::MacAddr;

use super::{
    Link, Port, Profile,
    run::{self, Outcome},
};
use crate::{
    cli::Xdp,
    profile::ProfileError,
    progress::Progress,
    report::{model::Setup, outputs::Outputs},
    require::Condition,
    session::{Begun, Failure, Found, on_ctrl_c, pin},
};

/// What both sides need to know.
#[derive(Debug, Args)]
pub struct Station {
    /// What to connect, ask and answer: a TOML file, see configs/pktgen/connections.toml.
    pub profile: PathBuf,
    /// Send and receive on this interface. All that arrives there is taken from the kernel meanwhile.
    #[arg(long, value_name = "INTERFACE")]
    pub interface: String,
    /// How the program on it is attached.
    #[arg(long, value_enum, default_value_t = Xdp::Auto)]
    pub xdp: Xdp,
    /// Processor to work on.
    #[arg(long)]
    pub core: Option<usize>,
    /// How long new connections are made or answered.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// What must hold for success, for example connections>=5k/s, failed<=0 or handshake-p99<=1ms; may be repeated.
    #[arg(long, value_name = "CONDITION")]
    pub require: Vec<Condition>,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// The report's files.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// What to connect.
#[derive(Debug, Args)]
pub struct Connect {
    /// Where.
    #[command(flatten)]
    pub station: Station,
    /// New connections per second.
    #[arg(long, value_name = "NUMBER")]
    pub rate: Option<f64>,
    /// The most connections open at once.
    #[arg(long, value_name = "NUMBER")]
    pub concurrent: Option<u32>,
}

/// What to answer.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where.
    #[command(flatten)]
    pub station: Station,
}

/// Makes connections and prints the report.
pub fn connect(arguments: &Connect) -> Result<ExitCode, Failure> {
    let mut profile = Profile::load(&arguments.station.profile)?;
    profile.rate = arguments.rate.or(profile.rate);
    profile.concurrent = arguments.concurrent.unwrap_or(profile.concurrent);
    profile.duration = arguments.station.duration.unwrap_or(profile.duration);
    let file = arguments.station.profile.display().to_string();
    let profile = profile.checked().map_err(|problem| ProfileError { file, problem })?;
    run("connections", &arguments.station, &profile, |link, mac, stop, progress| {
        Ok(run::connect(&profile, link, mac, stop, progress)?)
    })
}

/// Answers connections and prints the report.
pub fn serve(arguments: &Serve) -> Result<ExitCode, Failure> {
    let profile = Profile::load(&arguments.station.profile)?;
    let duration = arguments.station.duration;
    run("serve", &arguments.station, &profile, |link, mac, stop, progress| {
        Ok(run::serve(&profile, link, mac, duration, stop, progress))
    })
}

fn run(
    method: &str,
    station: &Station,
    profile: &Profile,
    side: impl FnOnce(Link, MacAddr, &AtomicBool, &mut Progress) -> Result<Outcome, Failure>,
) -> Result<ExitCode, Failure> {
    station.outputs.check()?;
    let stop = on_ctrl_c()?;
    let begun = Begun::now();
    station.core.map_or(Ok(()), pin)?;
    let port = Port::open(&station.interface, station.xdp.into())?;
    let (name, mac, mtu) = (port.name(), port.facts.mac, port.facts.mtu);
    let mut progress = if station.quiet { Progress::nothing() } else { Progress::stderr() };
    let outcome = side(Link::new(Box::new(port), mtu), mac, &stop, &mut progress)?;
    progress.end();
    let setup = Setup {
        method: method.into(),
        command: std::env::args().collect(),
        profile: profile.name.clone(),
        profile_text: profile.text.clone(),
        engine: "af_xdp".into(),
        interfaces: vec![name],
        pinned: station.core.iter().map(|core| *core as u32).collect(),
        seed: profile.seed,
    };
    let found = Found {
        trials: vec![outcome.trial],
        findings: Vec::new(),
        warnings: outcome.warnings,
        complete: outcome.complete,
    };
    begun.conclude(setup, found, &station.require, &station.outputs)
}
