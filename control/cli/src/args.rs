//! The command line.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::protocol::Protocol;

/// What the exit codes mean; shown by `--help`.
const EXIT_CODES: &str = "Exit codes:
  0  done
  1  shuntd refused or failed; nothing was applied
  2  wrong usage, or a file that cannot be read; nothing was sent
  3  shuntd cannot be reached
  4  the state does not have the expected version
  5  there is no such resource
  6  packets or frames do not add up (conservation)";

/// Talks to shuntd, the daemon of this node's packet switch.
#[derive(Debug, Parser)]
#[command(name = "shuntctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Args {
    /// The daemon's socket.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/shunt/shuntd.sock")]
    pub socket: PathBuf,
    /// Tables for people or JSON for machines.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put a file's resources in force: all of them or, on any error, none.
    Apply {
        /// The cluster file: TOML or JSON by its extension; - reads JSON from standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// The file is the whole desired state: delete what it does not name.
        #[arg(long)]
        replace: bool,
        /// Refuse unless the state has this version.
        #[arg(long, value_name = "VERSION")]
        expect_version: Option<u64>,
    },
    /// Delete one resource.
    Delete {
        /// Its kind.
        kind: Kind,
        /// A VTEP's node, a port's name, a route's prefix, a service's namespace/name, an endpoint slice's
        /// namespace/service/name.
        name: String,
    },
    /// Show one resource. As JSON it is a cluster file.
    Get {
        /// Its kind.
        kind: Kind,
        /// A VTEP's node, a port's name, a route's prefix, a service's namespace/name, an endpoint slice's
        /// namespace/service/name.
        name: String,
    },
    /// List resources of one kind. As JSON they are a cluster file.
    List {
        #[command(subcommand)]
        what: What,
    },
    /// Show services as this node sees them.
    Service {
        #[command(subcommand)]
        what: ServiceCommand,
    },
    /// List flows of the connection table, or make the switch forget them.
    Flow {
        #[command(subcommand)]
        what: Flows,
    },
    /// Tell what would become of a packet that came in now, and why. Nothing comes of it.
    Explain(Packet),
    /// Show packets and bytes by port, and workers.
    Counters,
    /// Show dropped packets by port and reason.
    Drops,
    /// Show the node, its ports and its next hops.
    Status,
    /// Check that packets and frames add up; meaningful while no traffic flows.
    Conservation,
    /// Print the state and then each change to it, until interrupted.
    Watch {
        /// Only changes after this version.
        #[arg(long, value_name = "VERSION")]
        after: Option<u64>,
    },
    /// Say what on this machine would keep shuntd from working, or from working well, and what to do about it. The daemon
    /// need not run. The exit code is 1 if there are errors.
    Doctor {
        /// The daemon's configuration.
        #[arg(long, value_name = "FILE", default_value = "/etc/shunt/shuntd.toml")]
        config: PathBuf,
    },
    /// Move this node from flannel to Shunt, and back: import, detach, restore (shuntd flannel --help).
    Flannel {
        /// As `shuntd flannel` takes them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// What can be asked about services.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Where services are had, and how many of their endpoints new flows go to here.
    List,
    /// One service: which of its endpoints new flows go to here, and why not to the others.
    Get {
        /// The service's namespace/name.
        name: String,
    },
}

/// What can be listed.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Remote nodes on the overlay.
    #[command(alias = "vtep")]
    Vteps,
    /// Local pods.
    #[command(alias = "port")]
    Ports,
    /// Native routes.
    #[command(alias = "route")]
    Routes,
    /// Services.
    #[command(alias = "service")]
    Services,
    /// Endpoint slices: who serves the services.
    #[command(alias = "endpoint-slice")]
    EndpointSlices,
}

/// What is done with flows.
#[derive(Debug, Subcommand)]
pub enum Flows {
    /// Show flows.
    List {
        #[command(flatten)]
        filter: FlowFilter,
        /// Most flows to show.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Forget flows: what follows of a connection is taken up again, by the service as it is then.
    Flush {
        #[command(flatten)]
        filter: FlowFilter,
        /// Every flow.
        #[arg(long)]
        all: bool,
    },
}

/// Which flows: those that pass all of these.
#[derive(Debug, Clone, clap::Args)]
pub struct FlowFilter {
    /// Only this protocol.
    #[arg(long, value_enum)]
    pub protocol: Option<Protocol>,
    /// Only from this address, and port if one is given.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub client: Option<Place>,
    /// Only to this service address, and port if one is given.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub vip: Option<Place>,
    /// Only to this backend, and port if one is given.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub backend: Option<Place>,
    /// Only in this state, as the list shows it.
    #[arg(long)]
    pub state: Option<String>,
}

/// A packet that somebody might send.
#[derive(Debug, clap::Args)]
pub struct Packet {
    /// Who sends it. Without a port: from port 40000, if there are ports.
    #[arg(value_name = "SOURCE[:PORT]")]
    pub source: Place,
    /// To whom.
    #[arg(value_name = "DESTINATION[:PORT]")]
    pub destination: Place,
    /// The protocol: tcp, udp, sctp, icmp (an echo request; of IPv6 that is ICMPv6), or its number in the IP header.
    #[arg(long, default_value = "tcp")]
    pub protocol: IpProtocol,
    /// Flags of the TCP header: syn, ack, fin, rst, psh, urg. Of SCTP, what its chunk does: syn is an INIT, with ack its
    /// answer, rst an ABORT, fin a SHUTDOWN, others data. Unless told: syn.
    #[arg(long, value_name = "FLAG", value_enum, value_delimiter = ',')]
    pub flags: Vec<TcpFlag>,
    /// The port it comes in on: a pod's, uplink or host. Unless told: where packets of that source are expected.
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// It comes in over the overlay, from the VTEP with this address.
    #[arg(long, value_name = "ADDRESS")]
    pub vtep: Option<Ipv4Addr>,
    /// Bytes from the IP header on. Unless told: as few as there can be.
    #[arg(long, value_name = "BYTES")]
    pub length: Option<u32>,
    /// Time to live; of IPv6, the hop limit.
    #[arg(long, default_value_t = 64)]
    pub ttl: u8,
    /// It may be fragmented; not of IPv6.
    #[arg(long)]
    pub may_fragment: bool,
}

/// A flag of the TCP header, by its place in the header's 14th byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[repr(u8)]
pub enum TcpFlag {
    Fin = 1,
    Syn = 2,
    Rst = 4,
    Psh = 8,
    Ack = 16,
    Urg = 32,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpProtocol {
    /// That of the family of the packet's addresses.
    Icmp,
    /// By its number in the IP header.
    Number(u8),
}

impl std::str::FromStr for IpProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "tcp" => IpProtocol::Number(TCP),
            "udp" => IpProtocol::Number(UDP),
            "sctp" => IpProtocol::Number(SCTP),
            "icmp" => IpProtocol::Icmp,
            number => IpProtocol::Number(
                number
                    .parse()
                    .map_err(|_| format!("{text:?} is neither tcp, udp, sctp, icmp nor a number up to 255"))?,
            ),
        })
    }
}

/// TCP's number in the IP header.
pub const TCP: u8 = 6;
/// UDP's.
pub const UDP: u8 = 17;
/// SCTP's.
pub const SCTP: u8 = 132;
/// ICMP's.
pub const ICMP: u8 = 1;
/// ICMPv6's.
pub const ICMPV6: u8 = 58;

/// An address, with a port or without; of IPv6 in brackets before a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Place { address, port: None });
        }
        let wrong = || format!("{text:?} is neither an address nor one with a port, as 10.96.0.10:80 or [fd00::10]:80");
        let place: SocketAddr = text.parse().map_err(|_| wrong())?;
        Ok(Place { address: place.ip(), port: Some(place.port()) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    #[value(alias = "vteps")]
    Vtep,
    #[value(alias = "ports")]
    Port,
    #[value(alias = "routes")]
    Route,
    #[value(alias = "services")]
    Service,
    #[value(alias = "endpoint-slices")]
    EndpointSlice,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn places_are_of_both_families_with_a_port_or_without() {
        let read = |text: &str| text.parse::<Place>().map(|place| (place.address.to_string(), place.port));
        assert_eq!(read("10.96.0.10:80"), Ok(("10.96.0.10".into(), Some(80))));
        assert_eq!(read("10.96.0.10"), Ok(("10.96.0.10".into(), None)));
        assert_eq!(read("[fd00:10:96::10]:80"), Ok(("fd00:10:96::10".into(), Some(80))));
        assert_eq!(read("fd00:10:96::10"), Ok(("fd00:10:96::10".into(), None)));
        for text in ["", "web", "10.96.0.10:http", "10.96.0.10:70000", "[fd00::10]", ":80"] {
            assert!(read(text).unwrap_err().starts_with(&format!("{text:?} is neither")), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
