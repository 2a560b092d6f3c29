//! What connections to make: the `[connections]` section of a profile.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::message::Extent;
use crate::profile::{AddressField, PortField, ProfileError};

/// The most connections that may be open at once: each takes some tens of kilobytes.
const MOST: u32 = 200_000;

/// The longest request or answer that is sent, in bytes.
const LONGEST: u64 = 1 << 20;

/// Connections to make, or to serve.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The text it was read from.
    pub text: String,
    /// Seed of sequence numbers.
    pub seed: u64,
    /// How long new connections are made.
    pub duration: Duration,
    /// New connections per second; `None`: as many as [`Profile::concurrent`] allows.
    pub rate: Option<f64>,
    /// The most connections open at once.
    pub concurrent: u32,
    /// The clients' addresses. This side answers ARP for them.
    pub from: AddressField,
    /// The clients' ports.
    pub from_port: PortField,
    /// The servers' addresses: of pods, of services, of the machine at the other end.
    pub to: AddressField,
    /// The servers' ports.
    pub to_port: PortField,
    /// Where packets to the servers go first; `None`: they are on the same link.
    pub gateway: Option<Ipv4Addr>,
    /// What a client sends.
    pub request: Vec<u8>,
    /// What it expects.
    pub answer: Extent,
    /// What a server of ours sends.
    pub answer_text: Vec<u8>,
    /// How long a client keeps the connection open after the answer.
    pub hold: Duration,
    /// How long a connection may take apart from that.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default = "first_seed")]
    seed: u64,
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    duration: Duration,
    connections: Section,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    rate: Option<f64>,
    concurrent: u32,
    from: AddressField,
    #[serde(default = "all_but_privileged")]
    from_port: PortField,
    to: AddressField,
    to_port: PortField,
    gateway: Option<Ipv4Addr>,
    request: String,
    answer: Answer,
    #[serde(default = "some_body")]
    body: u64,
    #[serde(default, deserialize_with = "duration")]
    hold: Duration,
    #[serde(default = "three_seconds", deserialize_with = "duration")]
    timeout: Duration,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "\"http\", or a number of bytes")]
enum Answer {
    Bytes(u64),
    Named(String),
}

fn first_seed() -> u64 {
    1
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn three_seconds() -> Duration {
    Duration::from_secs(3)
}

fn some_body() -> u64 {
    128
}

fn all_but_privileged() -> PortField {
    PortField::spanning(1024, u16::MAX)
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("'{text}' is not a length of time ({error}): write 10s or 500ms")))
}

impl Profile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ProfileError`], with the file and the key that is wrong.
    pub fn load(path: &Path) -> Result<Profile, ProfileError> {
        let fail = |problem| ProfileError { file: path.display().to_string(), problem };
        let text = fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
        Profile::parse(&text).map_err(fail)
    }

    /// Reads and checks a text.
    ///
    /// # Errors
    /// What is wrong, beginning with the key's path.
    pub fn parse(text: &str) -> Result<Profile, String> {
        let one_line = |message: &str| message.replace('\n', "; ");
        let document = toml::Deserializer::parse(text).map_err(|e| one_line(e.message()))?;
        let file: File = serde_path_to_error::deserialize(document)
            .map_err(|e| format!("{}: {}", e.path(), one_line(e.inner().message())))?;
        let section = file.connections;
        let answer = match &section.answer {
            Answer::Bytes(bytes) => Extent::Bytes(*bytes),
            Answer::Named(name) if name == "http" => Extent::Http,
            Answer::Named(name) => {
                return Err(format!("connections.answer: '{name}' is neither \"http\" nor a number of bytes"));
            }
        };
        let answer_text = match answer {
            Extent::Bytes(bytes) => filling(bytes)?,
            Extent::Http => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", section.body);
                [head.into_bytes(), filling(section.body)?].concat()
            }
        };
        let profile = Profile {
            name: file.name,
            text: text.to_owned(),
            seed: file.seed,
            duration: file.duration,
            rate: section.rate,
            concurrent: section.concurrent,
            from: section.from,
            from_port: section.from_port,
            to: section.to,
            to_port: section.to_port,
            gateway: section.gateway,
            request: section.request.into_bytes(),
            answer,
            answer_text,
            hold: section.hold,
            timeout: section.timeout,
        };
        profile.checked()
    }

    /// Refuses what makes no sense, with its key.
    pub(super) fn checked(self) -> Result<Profile, String> {
        let refuse = |key: &str, problem: &str| Err(format!("connections.{key}: {problem}"));
        if self.duration.is_zero() {
            return Err("duration: nothing happens in no time".to_owned());
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return refuse("rate", "new connections per second are more than 0; leave it out for as many as go");
        }
        if !(1..=MOST).contains(&self.concurrent) {
            return refuse("concurrent", &format!("at least 1 and at most {MOST}"));
        }
        let ports = |field: &PortField| (0..field.count()).map(|i| field.value(i)).collect::<Vec<_>>();
        if ports(&self.from_port).contains(&0) || ports(&self.to_port).contains(&0) {
            return refuse("to_port", "no connection is made from or to port 0");
        }
        if self.tuples() < u64::from(self.concurrent) {
            return refuse(
                "from",
                &format!("{} addresses and ports are too few for as many connections", self.tuples()),
            );
        }
        if self.request.is_empty() || self.request.len() as u64 > LONGEST {
            return refuse("request", &format!("1 to {LONGEST} bytes"));
        }
        if self.answer == Extent::Bytes(0) {
            return refuse("answer", "at least a byte is to come back");
        }
        if self.timeout.is_zero() {
            return refuse("timeout", "more than nothing");
        }
        Ok(self)
    }

    /// Pairs of a client's address and port.
    pub fn tuples(&self) -> u64 {
        self.from.count() * self.from_port.count()
    }
}

/// The filling of an answer.
fn filling(bytes: u64) -> Result<Vec<u8>, String> {
    if bytes > LONGEST {
        return Err(format!("connections.answer: {bytes} bytes are more than {LONGEST}"));
    }
    Ok((0..bytes).map(|i| b'a' + (i % 26) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
        name = "web"
        duration = "5s"
        [connections]
        rate = 2000
        concurrent = 500
        from = "10.0.1.10-10.0.1.13"
        from_port = "10000-10499"
        to = "10.0.2.1"
        to_port = 80
        request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = "http"
        body = 10
    "#;

    #[test]
    fn a_sound_profile_is_taken() {
        let profile = Profile::parse(SOUND).unwrap();
        assert_eq!((profile.rate, profile.concurrent, profile.tuples()), (Some(2000.0), 500, 2000));
        assert_eq!(profile.answer, Extent::Http);
        assert!(profile.answer_text.ends_with(b"\r\n\r\nabcdefghij"));
        assert_eq!((profile.hold, profile.timeout), (Duration::ZERO, Duration::from_secs(3)));
    }

    #[test]
    fn nonsense_is_refused_with_its_key() {
        for (from, to, part) in [
            ("rate = 2000", "rate = 0", "connections.rate: "),
            ("rate = 2000", "speed = 1", "connections.speed: unknown field"),
            ("concurrent = 500", "concurrent = 0", "connections.concurrent: "),
            ("concurrent = 500", "concurrent = 2001", "connections.from: 2000 addresses and ports"),
            ("to_port = 80", "to_port = 0", "connections.to_port: "),
            ("answer = \"http\"", "answer = \"ftp\"", "connections.answer: 'ftp'"),
            ("answer = \"http\"", "answer = 0", "connections.answer: "),
            ("body = 10", "hold = \"soon\"", "connections.hold: 'soon'"),
            ("body = 10", "timeout = \"0s\"", "connections.timeout: "),
            ("to = \"10.0.2.1\"", "to = \"here\"", "connections.to: "),
            ("duration = \"5s\"", "duration = \"0s\"", "duration: "),
            ("request = \"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\"", "request = \"\"", "connections.request: "),
        ] {
            let text = SOUND.replace(from, to);
            assert_ne!(text, SOUND, "{from}");
            let error = Profile::parse(&text).expect_err(to);
            assert!(error.starts_with(part), "{to}: {error}");
        }
    }
}
