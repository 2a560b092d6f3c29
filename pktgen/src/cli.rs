//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use shunt_dataplane::{net::MacAddr, xsk::XdpMode};

use crate::{
    compare, connections,
    engine::{EngineError, Kind, Ports},
    method::{back_to_back, latency, loss_sweep, search},
    profile::Profile,
    rate::Rate,
    replay,
    report::outputs::Outputs,
    require::Condition,
};

/// Sends known packets into a path, counts and times what comes out, and says what the path can carry.
#[derive(Debug, Parser)]
#[command(name = "pktgen", version, about, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done; 1 could not run; 2 profile or options make no sense; \
    3 a requirement is not met; 130 interrupted (the report is printed all the same).")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The methods and what goes with them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send at the profile's rate and say what came back.
    Run(Test),
    /// Find the highest rate at which no more than a stated share is lost (NDR and PDR; RFC 2544 throughput).
    Search {
        /// Where and what.
        #[command(flatten)]
        test: Test,
        /// How.
        #[command(flatten)]
        options: search::Options,
    },
    /// Measure the share lost at falling loads (RFC 2544).
    LossSweep {
        /// Where and what.
        #[command(flatten)]
        test: Test,
        /// How.
        #[command(flatten)]
        options: loss_sweep::Options,
    },
    /// Find the longest burst at full speed that loses nothing (RFC 9004).
    BackToBack {
        /// Where and what.
        #[command(flatten)]
        test: Test,
        /// How.
        #[command(flatten)]
        options: back_to_back::Options,
    },
    /// Measure latency and jitter at shares of a rate.
    Latency {
        /// Where and what.
        #[command(flatten)]
        test: Test,
        /// How.
        #[command(flatten)]
        options: latency::Options,
    },
    /// Send every frame that arrives back with its addresses swapped, until Ctrl-C: the far end of a test.
    Reflect(Reflect),
    /// Send the frames of a pcap or pcapng file.
    Replay(replay::command::Arguments),
    /// Make TCP connections with a request each: how many a second, how many at once, and how long each step takes.
    Connections(connections::command::Connect),
    /// Answer TCP connections, until Ctrl-C: the far end of `connections`.
    Serve(connections::command::Serve),
    /// Print a report again that was written as JSON, and write it in other forms.
    Show(Show),
    /// Print two reports beside each other.
    Compare(compare::Arguments),
}

/// What every test needs to know.
#[derive(Debug, Args)]
pub struct Test {
    /// What to send: a TOML file, see configs/pktgen.
    pub profile: PathBuf,
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// What differs from the profile.
    #[command(flatten)]
    pub changes: Changes,
    /// Print the first packets, decoded, and send nothing.
    #[arg(long, value_name = "PACKETS", num_args = 0..=1, default_missing_value = "5")]
    pub dry_run: Option<usize>,
    /// What must hold for success, for example loss<=0.1%, p99<=50us or rate>=1Mpps; may be repeated.
    #[arg(long, value_name = "CONDITION")]
    pub require: Vec<Condition>,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// The report's files.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// Interfaces and processors.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where")]
pub struct Place {
    /// Send out of this interface. Nothing is ever sent on an interface that is not named here.
    #[arg(long, value_name = "INTERFACE", required_unless_present_any = ["memory", "dry_run"])]
    pub tx: Option<String>,
    /// Receive from this interface; may be the same. All that arrives there is taken from the kernel meanwhile.
    #[arg(long, value_name = "INTERFACE", conflicts_with = "memory")]
    pub rx: Option<String>,
    /// Send XDP live frames instead of over AF_XDP sockets: several times as many per core.
    #[arg(long, conflicts_with = "memory")]
    pub live: bool,
    /// Test an engine in this process instead of a network: it knows what the profile's `[memory]` says.
    #[arg(long, conflicts_with = "tx")]
    pub memory: bool,
    /// The first hop's Ethernet address; without it, that of the receiving interface.
    #[arg(long, value_name = "MAC")]
    pub to_mac: Option<MacAddr>,
    /// Processors to send from, one lane each.
    #[arg(long, value_name = "CORE,...", value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// Processors that only receive; without them the lanes that send receive as well.
    #[arg(long, value_name = "CORE,...", value_delimiter = ',')]
    pub rx_cores: Vec<usize>,
    /// Queues to send on, one for each core; without them queue 0 and up.
    #[arg(long, value_name = "QUEUE,...", value_delimiter = ',')]
    pub queues: Vec<u32>,
    /// How the program on the receiving interface is attached.
    #[arg(long, value_enum, default_value_t = Xdp::Auto)]
    pub xdp: Xdp,
}

/// The modes of an XDP program.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Xdp {
    /// Native if the driver can.
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
}

/// What differs from the profile.
#[derive(Debug, Args)]
#[command(next_help_heading = "Instead of what the profile says")]
pub struct Changes {
    /// Rate of all streams together: 500kpps, 2Gbps, 50%, max.
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
    /// How long a trial sends.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// How long is sent before, uncounted.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub warm_up: Option<Duration>,
    /// How long packets may still arrive afterwards.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub settle: Option<Duration>,
    /// Seed of everything random.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// What to show.
#[derive(Debug, Args)]
pub struct Show {
    /// The report, as `--json` wrote it.
    pub report: PathBuf,
    /// Files to write it to.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// Where to reflect.
#[derive(Debug, Args)]
pub struct Reflect {
    /// The interface.
    pub interface: String,
    /// How the program on it is attached.
    #[arg(long, value_enum, default_value_t = Xdp::Auto)]
    pub xdp: Xdp,
    /// The processor to use.
    #[arg(long)]
    pub core: Option<usize>,
}

impl From<Xdp> for XdpMode {
    fn from(mode: Xdp) -> XdpMode {
        match mode {
            Xdp::Auto => XdpMode::Auto,
            Xdp::Native => XdpMode::Native,
            Xdp::Generic => XdpMode::Generic,
        }
    }
}

impl Changes {
    /// Applies them.
    ///
    /// # Errors
    /// If one makes no sense.
    pub fn apply(&self, profile: &mut Profile) -> Result<(), EngineError> {
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return Err(EngineError::Option("--duration: a trial of no length measures nothing".into()));
        }
        profile.rate = self.rate.unwrap_or(profile.rate);
        profile.duration = self.duration.unwrap_or(profile.duration);
        profile.warm_up = self.warm_up.unwrap_or(profile.warm_up);
        profile.settle = self.settle.unwrap_or(profile.settle);
        profile.seed = self.seed.unwrap_or(profile.seed);
        Ok(())
    }
}

impl Place {
    /// How it is to be sent.
    pub fn kind(&self) -> Kind {
        match (self.memory, self.live) {
            (true, _) => Kind::Memory,
            (_, true) => Kind::Live,
            _ => Kind::AfXdp,
        }
    }

    /// The interfaces and processors.
    pub fn ports(&self) -> Ports {
        Ports {
            transmit: self.tx.clone().unwrap_or_default(),
            receive: self.rx.clone(),
            queues: self.queues.clone(),
            cores: self.cores.clone(),
            receive_cores: self.rx_cores.clone(),
            to_mac: self.to_mac,
            xdp_mode: self.xdp.into(),
        }
    }

    /// All processors named.
    pub fn pinned(&self) -> Vec<u32> {
        self.cores.iter().chain(&self.rx_cores).map(|core| *core as u32).collect()
    }
}
