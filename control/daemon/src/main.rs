//! shuntd: Shunt's daemon.
#![deny(unsafe_code)]

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use shunt_control_daemon::{
    config::Config,
    cores, daemon,
    doctor::{self, Places, State},
    flannel::{self, Files, More},
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Shunt's daemon: drives this node's packet switch by what callers of its API want.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration (TOML).
    #[arg(long, global = true, default_value = "/etc/shunt/shuntd.toml")]
    config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// How much to log, to standard error.
    #[arg(long, value_enum, default_value_t = Log::Info)]
    log: Log,
}

#[derive(Subcommand)]
enum Command {
    /// Say what on this machine would keep shuntd from working, or from working well, and what to do about it. The exit code
    /// is 1 if there are errors.
    Doctor {
        /// Where container runtimes find network configurations.
        #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d")]
        cni_config: PathBuf,
        /// Text for people or JSON for machines.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Move this node from flannel to Shunt, and back.
    Flannel {
        #[command(subcommand)]
        what: Flannel,
    },
}

#[derive(Subcommand)]
enum Flannel {
    /// Read what flannel and the bridge plugin made of this node, and write shuntd.toml, cluster.toml and a record for the
    /// way back. Nothing else is changed.
    Import {
        #[command(flatten)]
        record: Record,
        /// The node's name in the cluster; unless given, this machine's.
        #[arg(long)]
        node: Option<String>,
        /// Out of which ClusterIPs are given (kube-apiserver --service-cluster-ip-range).
        #[arg(long, value_name = "PREFIX")]
        service_cidr: Ipv4Net,
        /// What flannel says about this node.
        #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env")]
        subnet_env: PathBuf,
        /// Flannel's configuration.
        #[arg(long, value_name = "FILE", default_value = "/etc/kube-flannel/net-conf.json")]
        net_conf: PathBuf,
        /// The bridge that pods are on.
        #[arg(long, value_name = "INTERFACE", default_value = "cni0")]
        bridge: String,
    },
    /// Take pods off the bridge, and remove the bridge, the VXLAN device and the routes. Stop flanneld first, start shuntd
    /// afterwards.
    Detach {
        #[command(flatten)]
        record: Record,
        /// Only say which commands would do it.
        #[arg(long)]
        dry_run: bool,
    },
    /// Put back what was detached, the same MAC addresses included. Stop shuntd first, start flanneld afterwards.
    Restore {
        #[command(flatten)]
        record: Record,
        /// Only say which commands would do it.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(clap::Args)]
struct Record {
    /// Where the files are written, and the record for the way back is kept.
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/shunt")]
    directory: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    #[value(alias = "table")]
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum Log {
    Error,
    Warn,
    Info,
    Debug,
}

impl From<Log> for LevelFilter {
    fn from(log: Log) -> Self {
        match log {
            Log::Error => LevelFilter::ERROR,
            Log::Warn => LevelFilter::WARN,
            Log::Info => LevelFilter::INFO,
            Log::Debug => LevelFilter::DEBUG,
        }
    }
}

/// 0: stopped as told, or the configuration is good; 1: could not run; 2: wrong usage (by clap).
fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        Some(Command::Doctor { cni_config, output }) => {
            return doctor(Places { config: args.config, cni: cni_config }, output);
        }
        Some(Command::Flannel { what }) => return flannel(what),
        None => {}
    }
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(e) => return fail(&e.to_string()),
    };
    if args.check {
        println!("{}: good", args.config.display());
        return ExitCode::SUCCESS;
    }
    start_log(args.log.into());
    if let Err(e) = cores::leave_to_workers(&config.cores) {
        return fail(&format!("cannot leave cores {:?} to the workers: {e}", config.cores));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&format!("the operating system refused: {e}")),
    };
    match runtime.block_on(daemon::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e.to_string()),
    }
}

fn doctor(places: Places, output: Output) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&format!("the operating system refused: {e}")),
    };
    let diagnosis = runtime.block_on(doctor::examine(&places));
    match output {
        Output::Text => print!("{}", diagnosis.text()),
        Output::Json => println!("{}", serde_json::to_string(&diagnosis).expect("it is names and texts")),
    }
    if diagnosis.worst() == State::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn flannel(what: Flannel) -> ExitCode {
    let outcome = match what {
        Flannel::Import { record, node, service_cidr, subnet_env, net_conf, bridge } => {
            let hostname =
                || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
            let more = More { node: node.unwrap_or_else(hostname), service_cidr };
            flannel::import(&Files { subnet_env, net_conf, bridge }, &more, &record.directory)
        }
        Flannel::Detach { record, dry_run } => flannel::detach(&record.directory, dry_run),
        Flannel::Restore { record, dry_run } => flannel::restore(&record.directory, dry_run),
    };
    match outcome {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(e) => fail(&e.to_string()),
    }
}

/// Logs what Shunt's own crates say at `level`; others only warn.
fn start_log(level: LevelFilter) {
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_writer(io::stderr);
    let filter = Targets::new().with_target("shunt", level).with_default(level.min(LevelFilter::WARN));
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

fn fail(message: &str) -> ExitCode {
    eprintln!("shuntd: {message}");
    ExitCode::FAILURE
}
