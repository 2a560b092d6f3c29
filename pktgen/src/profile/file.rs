//! A profile as it is written, key by key.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::field::{AddressField, PortField};
use crate::rate::Rate;

/// Reads the text; an error names the key.
pub(super) fn parse(text: &str) -> Result<File, String> {
    let one_line = |message: &str| message.replace('\n', "; ");
    let document = toml::Deserializer::parse(text).map_err(|e| {
        let line = e.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", one_line(e.message()))
    })?;
    serde_path_to_error::deserialize(document).map_err(|e| format!("{}: {}", e.path(), one_line(e.inner().message())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub name: String,
    #[serde(default = "first_seed")]
    pub seed: u64,
    #[serde(default = "ten_gigabit", deserialize_with = "text")]
    pub line: Rate,
    #[serde(default, deserialize_with = "optional")]
    pub rate: Option<Rate>,
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub duration: Duration,
    #[serde(default = "one_second", deserialize_with = "duration")]
    pub warm_up: Duration,
    #[serde(default = "half_a_second", deserialize_with = "duration")]
    pub settle: Duration,
    #[serde(default = "one")]
    pub burst: u32,
    #[serde(rename = "stream")]
    pub streams: Vec<Stream>,
    #[serde(default)]
    pub memory: Memory,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stream {
    pub name: String,
    #[serde(default, deserialize_with = "optional")]
    pub rate: Option<Rate>,
    pub weight: Option<u32>,
    #[serde(default = "one")]
    pub copies: u32,
    #[serde(default = "Frame::smallest")]
    pub frame: Frame,
    pub protocol: Protocol,
    pub from: AddressField,
    pub to: AddressField,
    pub from_port: Option<PortField>,
    pub to_port: Option<PortField>,
    #[serde(default = "default_ttl")]
    pub ttl: u8,
    #[serde(default)]
    pub dscp: u8,
    #[serde(default)]
    pub flows: Flows,
    #[serde(default)]
    pub ethernet: Ethernet,
    pub vxlan: Option<Vxlan>,
}

/// One size, `"imix"`, or a list of either sizes or sizes with weights.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a frame size in bytes, a list of sizes, \"imix\", or a list of { size, weight }")]
pub(super) enum Frame {
    Size(u32),
    Named(String),
    List(Vec<u32>),
    Mix(Vec<Part>),
}

impl Frame {
    fn smallest() -> Frame {
        Frame::Size(64)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub size: u32,
    pub weight: u32,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 768.
    Udp,
    /// RFC 9293: segments with the ACK flag, of no connection.
    Tcp,
    /// Echo requests (RFC 792).
    Icmp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Flows {
    pub count: u32,
    pub skew: Skew,
    pub exponent: Option<f64>,
    pub new_per_second: Option<f64>,
}

impl Default for Flows {
    fn default() -> Self {
        Flows { count: 1, skew: Skew::Uniform, exponent: None, new_per_second: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Skew {
    Uniform,
    Zipf,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ethernet {
    pub from: Option<String>,
    pub to: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vxlan {
    #[serde(default = "one")]
    pub vni: u32,
    #[serde(default = "flannel_port")]
    pub port: u16,
    pub from: String,
    pub to: String,
    #[serde(default)]
    pub ethernet: Ethernet,
}

/// What the engine in this process knows, where the path under test is one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Memory {
    pub input: MemoryPort,
    pub pods: Vec<String>,
    pub remote: Vec<Remote>,
    pub service: Vec<Service>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { input: MemoryPort::Pod, pods: Vec::new(), remote: Vec::new(), service: Vec::new() }
    }
}

/// A port of the engine in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryPort {
    /// A pod's.
    Pod,
    /// The uplink.
    Uplink,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remote {
    pub prefix: String,
    pub vtep: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub addresses: String,
    pub port: u16,
    pub protocol: Protocol,
    pub backends: Vec<String>,
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Rate, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Rate>, D::Error> {
    text(from).map(Some)
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("'{text}' is not a length of time ({error}): write 10s or 500ms")))
}

fn first_seed() -> u64 {
    1
}

fn ten_gigabit() -> Rate {
    Rate::Bits(10e9)
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn half_a_second() -> Duration {
    Duration::from_millis(500)
}

fn one() -> u32 {
    1
}

fn default_ttl() -> u8 {
    64
}

fn flannel_port() -> u16 {
    8472
}
