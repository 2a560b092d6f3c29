//! `shunt-lab`: runs the demo, and is itself the server and the probes inside the demo's namespaces.
#![deny(unsafe_code)]

use std::{
    error::Error,
    net::{SocketAddr, SocketAddrV4},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use shunt_control_lab::{
    demo,
    plan::Forwarder,
    probe::{ask, backwards, hold, stream, transfer, vxlan},
    server,
};
use shunt_dataplane::net::Protocol;

/// Nodes and pods in network namespaces, to see Shunt work.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build three nodes and show, step by step, what Shunt does between them.
    Demo {
        /// Leave everything running at the end, and say how to use it.
        #[arg(long)]
        keep: bool,
        /// Let the kernel forward on all nodes: shows that the checks themselves are right.
        #[arg(long)]
        kernel: bool,
    },
    /// Serve UDP, TCP and SCTP echo in this namespace.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        name: String,
        #[arg(long)]
        tcp: u16,
        #[arg(long)]
        udp: Vec<SocketAddr>,
    },
    /// Measure from this namespace and print one line of JSON.
    #[command(hide = true, subcommand)]
    Probe(Probe),
}

#[derive(Subcommand)]
enum Probe {
    /// Ask who serves, each time as a new flow.
    Ask {
        protocol: Transport,
        to: SocketAddr,
        count: u32,
        /// The port that the first one is asked from over UDP; the others follow.
        #[arg(default_value_t = 10_000)]
        udp_port: u16,
    },
    /// Send paced, numbered datagrams.
    Stream { to: SocketAddr, rate: u32, count: u32, size: usize },
    /// Send bytes over TCP and compare the echo.
    Transfer { to: SocketAddr, bytes: u64 },
    /// Send datagrams in fragments, last one first, and have them echoed so.
    Backwards { to: SocketAddrV4, count: u32, size: usize },
    /// Hold a TCP connection.
    Hold {
        to: SocketAddr,
        milliseconds: u64,
        /// Milliseconds between two messages.
        pause: u64,
    },
    /// Send a crafted VXLAN packet, given as JSON.
    Vxlan { packet: String },
}

#[derive(Clone, Copy, ValueEnum)]
enum Transport {
    Tcp,
    Udp,
    Sctp,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shunt-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Demo { keep, kernel } => {
            let forwarder = if kernel { Forwarder::Kernel } else { Forwarder::Shunt };
            let holds = demo::run(forwarder, keep)?;
            return Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Serve { name, tcp, udp } => server::serve(&name, tcp, &udp)?,
        Command::Probe(probe) => run_probe(probe)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_probe(probe: Probe) -> Result<(), Box<dyn Error>> {
    match probe {
        Probe::Ask { protocol, to, count, udp_port } => {
            let protocol = match protocol {
                Transport::Tcp => Protocol::Tcp,
                Transport::Udp => Protocol::Udp,
                Transport::Sctp => Protocol::Sctp,
            };
            print(&ask::ask(protocol, to, count, udp_port))
        }
        Probe::Stream { to, rate, count, size } => print(&stream::send(to, stream::Pace { rate, count, size })?),
        Probe::Backwards { to, count, size } => print(&backwards::exchange(to, count, size)?),
        Probe::Transfer { to, bytes } => print(&transfer::transfer(to, bytes)?),
        Probe::Hold { to, milliseconds, pause } => {
            print(&hold::hold(to, Duration::from_millis(milliseconds), Duration::from_millis(pause))?)
        }
        Probe::Vxlan { packet } => Ok(vxlan::send(&serde_json::from_str(&packet)?)?),
    }
}

fn print(report: &impl Serialize) -> Result<(), Box<dyn Error>> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
