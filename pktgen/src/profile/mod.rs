//! Profiles: what to send, read from TOML and checked.
//!
//! Unknown keys and values that make no sense are refused with the key's path; nothing is guessed.

mod check;
mod field;
mod file;
mod memory;

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use shunt_dataplane::{net::MacAddr, wire::vxlan};

pub use self::{
    field::{AddressField, Field, PortField},
    file::{MemoryPort, Protocol},
    memory::{MemoryEngine, Remote},
};
use crate::rate::{FCS, Rate};

/// What to send.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The text it was read from.
    pub text: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Bits per second of the line that rates in percent refer to.
    pub line: f64,
    /// All streams together.
    pub rate: Rate,
    /// How long a trial sends.
    pub duration: Duration,
    /// How long is sent before a trial, uncounted.
    pub warm_up: Duration,
    /// How long after a trial packets may still arrive.
    pub settle: Duration,
    /// Packets that leave back to back; the mean rate stays.
    pub burst: u32,
    /// The streams, copies told apart. Shares add up to 1.
    pub streams: Vec<Stream>,
    /// What an engine in this process knows, if the profile is run on one.
    pub memory: MemoryEngine,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Where it is in the file: `stream[2]`.
    pub path: String,
    /// Its share of all packets, 0 to 1.
    pub share: f64,
    /// Its frames' sizes.
    pub sizes: Vec<Size>,
    /// What the packets carry.
    pub protocol: Protocol,
    /// Source addresses.
    pub from: AddressField,
    /// Destination addresses.
    pub to: AddressField,
    /// Source ports, or identifiers of echo requests.
    pub from_port: PortField,
    /// Destination ports, or sequence numbers of echo requests.
    pub to_port: PortField,
    /// Time to live.
    pub ttl: u8,
    /// Differentiated services code point (RFC 2474), 6 bits.
    pub dscp: u8,
    /// Flows that are open at a time.
    pub flows: u32,
    /// Number of the first flow: copies of a stream have different ones.
    pub first_flow: u64,
    /// The exponent of the Zipf distribution flows are drawn from; `None`: each in turn.
    pub zipf: Option<f64>,
    /// So often per second a flow ends and one begins that was never there before; 0 for a fixed set.
    pub new_per_second: f64,
    /// Source and destination on Ethernet; `None`: the sending interface's address, and whatever it leads to.
    pub ethernet: (Option<MacAddr>, Option<MacAddr>),
    /// What is put around each packet.
    pub vxlan: Option<Vxlan>,
}

/// A frame size and how often it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes of the Ethernet frame with FCS, without outer headers.
    pub bytes: usize,
    /// Its weight among its stream's sizes.
    pub weight: u32,
}

/// Outer headers (RFC 7348) that are put around each packet of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source on the underlay.
    pub from: Ipv4Addr,
    /// Destination on the underlay.
    pub to: Ipv4Addr,
    /// Inner source and destination on Ethernet.
    pub ethernet: (MacAddr, MacAddr),
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
        check::profile(text, file::parse(text)?)
    }

    /// The mean length on the wire, FCS and outer headers included, in bytes.
    pub fn mean_size(&self) -> f64 {
        self.streams.iter().map(|stream| stream.share * stream.mean_size()).sum()
    }

    /// The rate in packets per second; `None`: as fast as the port takes packets.
    pub fn pps(&self) -> Option<f64> {
        self.rate.pps(self.mean_size(), self.line)
    }

    /// Refuses frames that an interface does not carry.
    ///
    /// # Errors
    /// What is wrong, beginning with the key's path.
    pub fn fits(&self, interface: &str, mtu: u16) -> Result<(), String> {
        // An MTU counts what follows the Ethernet header.
        let limit = usize::from(mtu) + 14 + FCS;
        for stream in &self.streams {
            let longest = stream.longest();
            if longest > limit {
                return Err(format!(
                    "{}.frame: frames of {longest} bytes do not fit {interface}, whose MTU of {mtu} takes up to {limit}",
                    stream.path
                ));
            }
        }
        Ok(())
    }
}

impl Stream {
    /// Bytes that go around each packet.
    pub fn overhead(&self) -> usize {
        if self.vxlan.is_some() { vxlan::OVERHEAD } else { 0 }
    }

    /// The longest frame on the wire, FCS and outer headers included, in bytes.
    pub fn longest(&self) -> usize {
        self.sizes.iter().map(|size| size.bytes).max().unwrap_or(0) + self.overhead()
    }

    /// The mean length on the wire, FCS and outer headers included, in bytes.
    pub fn mean_size(&self) -> f64 {
        let weights: f64 = self.sizes.iter().map(|size| f64::from(size.weight)).sum();
        let bytes: f64 = self.sizes.iter().map(|size| size.bytes as f64 * f64::from(size.weight)).sum();
        bytes / weights + self.overhead() as f64
    }
}

/// A profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ProfileError {
    /// The file.
    pub file: String,
    /// The key's path and what is wrong.
    pub problem: String,
}

#[cfg(test)]
mod tests;
