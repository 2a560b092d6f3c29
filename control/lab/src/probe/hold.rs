//! Holds one TCP connection and sends a short message over it at a steady pace, waiting for each echo.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::Running;
use crate::{error::Result, netns::Namespace, server::Greeting, wait};

const PATIENCE: Duration = Duration::from_secs(40);
/// What the probe says as soon as the connection stands.
const HOLDING: &str = "holding";

/// What became of the connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HoldReport {
    /// Who answered.
    pub server: String,
    /// Messages echoed.
    pub messages: u32,
    /// Longest time from message to echo, in milliseconds: how long the connection stood still.
    pub longest_ms: f64,
}

/// Starts a probe inside `from` that holds a connection for `time` with a `pause` after each message, and waits until the
/// connection stands: what is done next meets an established one. `log` gets its output and must not exist.
///
/// # Errors
/// When there is no connection after 40 seconds.
pub fn start(from: &Namespace, to: SocketAddr, time: Duration, pause: Duration, log: &Path) -> Result<Running> {
    let [time, pause] = [time, pause].map(|time| time.as_millis().to_string());
    let mut probe = super::start(from, &["hold", &to.to_string(), &time, &pause], log)?;
    wait::until("a connection", PATIENCE, || {
        let said = probe.output();
        if said.starts_with(HOLDING) || probe.has_ended() { Ok(()) } else { Err(said) }
    })?;
    Ok(probe)
}

/// Holds a connection for `time`, with a `pause` after each message.
///
/// # Errors
/// When the connection breaks, stands still for 40 seconds, or an echo differs.
pub fn hold(to: SocketAddr, time: Duration, pause: Duration) -> io::Result<HoldReport> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut back = BufReader::new(stream.try_clone()?);
    let mut server = String::new();
    back.read_line(&mut server)?;
    let mut report = HoldReport { server: Greeting::read(&server)?.server, messages: 0, longest_ms: 0.0 };
    println!("{HOLDING}");
    let start = Instant::now();
    while start.elapsed() < time {
        let message = report.messages.to_be_bytes();
        let sent = Instant::now();
        stream.write_all(&message)?;
        let mut echo = [0; 4];
        back.read_exact(&mut echo)?;
        if echo != message {
            return Err(io::Error::other(format!("message {} came back as {echo:?}", report.messages)));
        }
        report.messages += 1;
        report.longest_ms = report.longest_ms.max(sent.elapsed().as_secs_f64() * 1e3);
        thread::sleep(pause);
    }
    Ok(report)
}
