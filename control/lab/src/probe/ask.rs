//! Asks many times who serves, each time as a new flow.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use shunt_dataplane::net::Protocol;

use super::any_address;
use crate::{
    sctp,
    server::{Greeting, WHO},
};

/// The first port of SCTP clients, and how many there are.
const SCTP_PORTS: u16 = 20_000;
const PATIENCE: Duration = Duration::from_secs(2);
/// After so many questions without an answer the rest is not asked: it is known that something is wrong.
const FAILURES: u32 = 10;

/// Who answered how often.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Answers {
    /// Answers by server's name.
    pub by_server: BTreeMap<String, u32>,
    /// Questions without an answer, by the reason.
    pub failures: BTreeMap<String, u32>,
    /// How the client looked to the servers.
    pub seen_as: BTreeSet<IpAddr>,
}

impl Answers {
    /// Questions without an answer.
    pub fn failed(&self) -> u32 {
        self.failures.values().sum()
    }

    /// `a2 101, b1 97, c1 102`.
    pub fn table(&self) -> String {
        let join = |map: &BTreeMap<String, u32>| {
            map.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        if self.failures.is_empty() {
            join(&self.by_server)
        } else {
            format!("{}; failed: {}", join(&self.by_server), join(&self.failures))
        }
    }
}

/// Asks `count` times, each time from a new socket: over UDP from `udp_port` and those after it.
pub fn ask(protocol: Protocol, to: SocketAddr, count: u32, udp_port: u16) -> Answers {
    let mut answers = Answers::default();
    for at in 0..count {
        if answers.failed() == FAILURES {
            break;
        }
        let answer = match protocol {
            Protocol::Tcp => over_tcp(to),
            Protocol::Udp => over_udp(udp_port + at as u16, to),
            // From one port after the other: a port is another flow.
            Protocol::Sctp => match to {
                SocketAddr::V4(to) => sctp::ask(SCTP_PORTS + at as u16 % SCTP_PORTS, to),
                SocketAddr::V6(_) => Err(io::Error::other("the lab speaks SCTP over IPv4 alone")),
            },
        };
        match answer {
            Ok(Greeting { server, client }) => {
                *answers.by_server.entry(server).or_default() += 1;
                answers.seen_as.insert(client);
            }
            Err(error) => *answers.failures.entry(error.to_string()).or_default() += 1,
        }
    }
    answers
}

fn over_tcp(to: SocketAddr) -> io::Result<Greeting> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut greeting = String::new();
    BufReader::new(stream).read_line(&mut greeting)?;
    Greeting::read(&greeting)
}

fn over_udp(port: u16, to: SocketAddr) -> io::Result<Greeting> {
    let socket = UdpSocket::bind((any_address(to), port))?;
    // Connected: an answer from any other address than the one that was asked does not count.
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(WHO)?;
    let mut greeting = [0; 64];
    let length = socket.recv(&mut greeting)?;
    Greeting::read(&String::from_utf8_lossy(&greeting[..length]))
}
