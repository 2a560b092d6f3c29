//! Network namespaces and the virtual cables between them.
//!
//! Commands run inside with `nsenter`: unlike `ip netns exec` it leaves `/sys` mounted as it is, which BPF needs.

use std::{ffi::OsStr, process::Command};

use shunt_dataplane::net::MacAddr;

use crate::{
    command::{ip, run},
    error::{LabError, Result},
    tidy::Tidy,
};

/// How long a command in a namespace may take before `timeout` ends it, in seconds. Far beyond any measurement here:
/// it turns a hang into a failure that names the command.
const COMMAND_LIMIT: &str = "120";

/// A named network namespace; removed with its processes when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    _tidy: Tidy,
}

impl Namespace {
    /// Makes the namespace and brings its loopback device up.
    pub fn create(name: &str) -> Result<Namespace> {
        let tidy = Tidy::namespace(name);
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(Namespace { name: name.to_owned(), _tidy: tidy })
    }

    /// Its name, under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `program` inside the namespace, ready for arguments.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// Like [`command`](Self::command), for commands that end by themselves: one that does not is ended.
    pub fn bounded(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("timeout");
        command.args(["--kill-after=1", COMMAND_LIMIT]).arg(program);
        command
    }

    /// Runs a command line (words separated by blanks) inside and returns its standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().ok_or_else(|| LabError::Unknown("an empty command line".to_owned()))?;
        run(self.bounded(program).args(words))
    }

    /// Runs `ip` in the namespace.
    pub fn ip(&self, line: &str) -> Result<String> {
        ip(&format!("-n {} {line}", self.name))
    }

    /// Sets a kernel parameter of the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        run(self.command("sysctl").args(["-q", "-w", &format!("{key}={value}")])).map(drop)
    }

    /// The MAC address of an interface inside.
    pub fn mac(&self, interface: &str) -> Result<MacAddr> {
        let line = format!("-o link show dev {interface}");
        let text = self.ip(&line)?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| LabError::Unreadable {
            command: format!("ip -n {} {line}", self.name),
            reason: "no link/ether".to_owned(),
            output: text,
        })
    }
}

/// One end of a cable: the namespace and the interface's name in it.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where.
    pub namespace: &'a Namespace,
    /// The interface's name.
    pub interface: &'a str,
}

/// Connects two namespaces with a veth pair of `queues` queues in each direction, and brings both ends up.
pub fn connect(a: End<'_>, b: End<'_>, queues: usize, mtu: u16) -> Result<()> {
    let queues = format!("numtxqueues {queues} numrxqueues {queues}");
    ip(&format!(
        "link add {} netns {} mtu {mtu} {queues} type veth peer name {} netns {} mtu {mtu} {queues}",
        a.interface,
        a.namespace.name(),
        b.interface,
        b.namespace.name()
    ))?;
    a.namespace.ip(&format!("link set {} up", a.interface))?;
    b.namespace.ip(&format!("link set {} up", b.interface))?;
    Ok(())
}
