//! Real programs as probes: ping, iperf3, curl, nginx.

use std::{
    fs,
    net::{IpAddr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use serde_json::Value;

use crate::{
    command::{self, Background, output, run, text},
    error::{LabError, Result, command_line},
    netns::Namespace,
    wait,
};

/// What `ping` says at its end.
#[derive(Clone, PartialEq, Debug)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Replies.
    pub received: u32,
    /// Round-trip times in milliseconds: least, mean, greatest. Zero without a reply.
    pub rtt_ms: [f64; 3],
    /// All it printed: ICMP errors, recorded routes.
    pub text: String,
}

impl Ping {
    /// True if each request was answered, and at least one was sent.
    pub fn is_complete(&self) -> bool {
        self.sent > 0 && self.received == self.sent
    }
}

/// Runs `ping` with the words of `options` (which say how many and how fast) to `to`. No reply is no error.
pub fn ping(from: &Namespace, options: &str, to: impl Into<IpAddr>) -> Result<Ping> {
    let mut command = from.bounded("ping");
    command.args(["-n", "-W", "3"]).args(options.split_whitespace()).arg(to.into().to_string());
    let out = output(&mut command)?;
    let text = text(&out.stdout);
    let unreadable = |reason: &str| LabError::Unreadable {
        command: command_line(&command),
        reason: reason.to_owned(),
        output: format!("{text}{}", command::text(&out.stderr)),
    };
    let summary =
        text.lines().find(|line| line.contains("packets transmitted")).ok_or_else(|| unreadable("no summary"))?;
    let count = |what: &str| {
        let part = summary.split(", ").find(|part| part.contains(what))?;
        part.split_whitespace().next()?.parse().ok()
    };
    let mut rtt_ms = [0.0; 3];
    if let Some(line) = text.lines().find(|line| line.starts_with("rtt ")) {
        let figures = line.split(" = ").nth(1).ok_or_else(|| unreadable("no figures in the rtt line"))?;
        for (slot, figure) in rtt_ms.iter_mut().zip(figures.split('/')) {
            *slot = figure.parse().map_err(|_| unreadable("a round-trip time that is no number"))?;
        }
    }
    Ok(Ping {
        sent: count("transmitted").ok_or_else(|| unreadable("no count of requests"))?,
        received: count("received").ok_or_else(|| unreadable("no count of replies"))?,
        rtt_ms,
        text: text.clone(),
    })
}

/// What `iperf3` measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Throughput {
    /// Payload that arrived, in bits per second.
    pub bits_per_second: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Lost datagrams, in percent; zero for TCP.
    pub lost_percent: f64,
}

/// Runs an `iperf3` server in `server` and a client in `client` against `to`, with the words of `options`.
pub fn iperf3(
    client: &Namespace,
    server: &Namespace,
    to: SocketAddrV4,
    options: &str,
    log: &Path,
) -> Result<Throughput> {
    let port = to.port().to_string();
    iperf3_through(client, server, to, &port, options, log)
}

/// Like [`iperf3`], with a server that listens on another port than `to` names: a service translates.
pub fn iperf3_through(
    client: &Namespace,
    server: &Namespace,
    to: SocketAddrV4,
    listen: &str,
    options: &str,
    log: &Path,
) -> Result<Throughput> {
    let serving = Background::start(server.command("iperf3").args(["--server", "--one-off", "--port", listen]), log)?;
    await_listener(server, listen)?;
    let mut command = client.bounded("iperf3");
    command.args(["--client", &to.ip().to_string(), "--port", &to.port().to_string(), "--json"]);
    command.args(["--connect-timeout", "3000"]).args(options.split_whitespace());
    let out = output(&mut command)?;
    drop(serving);
    let printed = text(&out.stdout);
    let unreadable =
        |reason: String| LabError::Unreadable { command: command_line(&command), reason, output: printed.clone() };
    let report: Value = serde_json::from_str(&printed).map_err(|error| unreadable(error.to_string()))?;
    if let Some(error) = report["error"].as_str() {
        return Err(unreadable(error.to_owned()));
    }
    let end = &report["end"];
    let (received, sent) = match end["sum_received"].as_object() {
        Some(received) => (received, &end["sum_sent"]),
        None => (end["sum"].as_object().ok_or_else(|| unreadable("no end.sum".into()))?, &end["sum"]),
    };
    let bits_per_second = received.get("bits_per_second").and_then(Value::as_f64);
    Ok(Throughput {
        bits_per_second: bits_per_second.ok_or_else(|| unreadable("no bits_per_second".into()))?,
        retransmits: sent["retransmits"].as_u64().unwrap_or(0),
        lost_percent: end["sum"]["lost_percent"].as_f64().unwrap_or(0.0),
    })
}

/// Fetches `url` with `curl` and returns the body.
pub fn curl(from: &Namespace, url: &str) -> Result<String> {
    run(from.bounded("curl").args(["--silent", "--show-error", "--fail", "--max-time", "10", url]))
}

/// A web server.
#[derive(Debug)]
pub struct Nginx {
    _server: Background,
}

impl Nginx {
    /// Serves `body` at `/` and the file `bytes` of `size` bytes, on `port`, with its files in `folder`.
    pub fn start(namespace: &Namespace, port: u16, body: &str, size: usize, folder: &Path) -> Result<Nginx> {
        write(folder, "index.html", body.as_bytes())?;
        write(folder, "bytes", &(0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>())?;
        Nginx::serve(namespace, port, &format!("root {};", folder.display()), folder)
    }

    /// Passes what comes to `port` on to `upstream`.
    pub fn proxy(namespace: &Namespace, port: u16, upstream: SocketAddrV4, folder: &Path) -> Result<Nginx> {
        Nginx::serve(namespace, port, &format!("location / {{ proxy_pass http://{upstream}; }}"), folder)
    }

    fn serve(namespace: &Namespace, port: u16, what: &str, folder: &Path) -> Result<Nginx> {
        let root = folder.display();
        let configuration = format!(
            "daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log; events {{}}\n\
             http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
             fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
             server {{ listen {port}; {what} }} }}\n"
        );
        write(folder, "nginx.conf", configuration.as_bytes())?;
        let configuration = folder.join("nginx.conf");
        let mut command = namespace.command("nginx");
        command.arg("-c").arg(configuration).arg("-e").arg(folder.join("error.log"));
        let server = Background::start(&mut command, &folder.join("nginx.log"))?;
        await_listener(namespace, &port.to_string())?;
        Ok(Nginx { _server: server })
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    fs::create_dir_all(folder).and_then(|()| fs::write(&path, bytes)).map_err(|source| LabError::File { path, source })
}

/// Waits until something in the namespace listens on the TCP port.
pub fn await_listener(namespace: &Namespace, port: &str) -> Result<()> {
    let filter = format!("ss -Htln sport = :{port}");
    wait::until(&format!("a listener on TCP port {port}"), Duration::from_secs(5), || {
        namespace
            .run(&filter)
            .map_err(|error| error.to_string())
            .and_then(|sockets| if sockets.trim().is_empty() { Err("nobody listens".to_owned()) } else { Ok(()) })
    })
}
