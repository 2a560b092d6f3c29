//! What the runtime says in the environment (CNI specification, section 2, "Execution protocol").

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use crate::error::{CniError, Code, Result};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// One interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_IFNAME.
    pub interface: String,
}

/// All of it, checked as far as the command needs it.
#[derive(Debug, Clone)]
pub struct Environment {
    pub command: Command,
    /// Empty where the command has none.
    pub attachment: Attachment,
    /// CNI_NETNS; DEL may come without.
    pub netns: Option<PathBuf>,
    /// CNI_PATH: where other plugins are.
    pub path: Vec<PathBuf>,
    /// `IP` of CNI_ARGS.
    pub wanted_address: Option<IpAddr>,
}

/// Which variables a command cannot do without.
fn required(command: Command) -> &'static [&'static str] {
    match command {
        Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
        Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
        Command::Gc => &["CNI_PATH"],
        Command::Status | Command::Version => &[],
    }
}

impl Environment {
    /// Reads and checks the variables.
    ///
    /// # Errors
    /// Names the variables that are missing or wrong.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Environment> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let bad = |message: String, details: &str| Err(CniError::new(Code::BadEnvironment, message, details));
        let command = match variable("CNI_COMMAND").as_deref() {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Del,
            Some("CHECK") => Command::Check,
            Some("GC") => Command::Gc,
            Some("STATUS") => Command::Status,
            Some("VERSION") => Command::Version,
            other => {
                let message = format!("CNI_COMMAND: {:?} is no command", other.unwrap_or_default());
                return bad(message, "use ADD, DEL, CHECK, GC, STATUS or VERSION");
            }
        };
        let missing: Vec<_> = required(command).iter().copied().filter(|name| variable(name).is_none()).collect();
        if !missing.is_empty() {
            return bad(format!("{}: missing", missing.join(", ")), "a CNI runtime sets these variables");
        }
        let attachment = Attachment {
            container: variable("CNI_CONTAINERID").unwrap_or_default(),
            interface: variable("CNI_IFNAME").unwrap_or_default(),
        };
        if !attachment.container.is_empty() && !is_name(&attachment.container) {
            let message = format!("CNI_CONTAINERID: {:?} is no container id", attachment.container);
            return bad(message, "it begins with a letter or digit and has only these, '_', '.' and '-'");
        }
        if !attachment.interface.is_empty() && !is_interface(&attachment.interface) {
            let message = format!("CNI_IFNAME: {:?} is no name of an interface", attachment.interface);
            return bad(message, "use 1 to 15 bytes without blanks, ':' and '/', and neither '.' nor '..'");
        }
        let text = variable("CNI_ARGS").unwrap_or_default();
        let arguments = arguments(&text)?;
        let wanted_address = match arguments.get("IP").map(|ip| ip.parse()) {
            None => None,
            Some(Ok(address)) => Some(address),
            Some(Err(_)) => return bad("CNI_ARGS: IP is no address".into(), "write it like IP=10.244.1.10"),
        };
        let path = std::env::split_paths(&variable("CNI_PATH").unwrap_or_default()).collect();
        let netns = variable("CNI_NETNS").map(PathBuf::from);
        Ok(Environment { command, attachment, netns, path, wanted_address })
    }
}

/// `KEY=VALUE;KEY=VALUE`.
fn arguments(text: &str) -> Result<BTreeMap<&str, &str>> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            pair.split_once('=').ok_or_else(|| {
                let message = format!("CNI_ARGS: {pair:?} is no pair");
                CniError::new(Code::BadEnvironment, message, "write KEY=VALUE;KEY=VALUE")
            })
        })
        .collect()
}

/// A container id or the name of a network.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment> {
        Environment::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn message(variables: &[(&str, &str)]) -> String {
        let error = read(variables).unwrap_err();
        assert!(error.is(Code::BadEnvironment));
        error.to_json("1.0.0")["msg"].as_str().unwrap().to_owned()
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(message(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")]), "CNI_CONTAINERID, CNI_NETNS: missing");
        assert_eq!(message(&[("CNI_COMMAND", "GC")]), "CNI_PATH: missing");
        assert!(message(&[]).starts_with("CNI_COMMAND"));
        read(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")]).unwrap();
        read(&[("CNI_COMMAND", "VERSION")]).unwrap();
    }

    #[test]
    fn names_are_checked() {
        let del = |container, interface| {
            read(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", container), ("CNI_IFNAME", interface)])
        };
        for (container, interface) in
            [("../x", "eth0"), ("-a", "eth0"), ("a", "sixteen-bytes-xx"), ("a", ".."), ("a", "e:0")]
        {
            assert!(del(container, interface).is_err(), "{container} {interface}");
        }
        assert!(del("0a1b_c.d-e", "fifteen-bytes-x").is_ok());
    }

    #[test]
    fn an_address_may_be_asked_for() {
        let with = |args| read(&[("CNI_COMMAND", "VERSION"), ("CNI_ARGS", args)]);
        assert_eq!(with("IgnoreUnknown=1;IP=10.244.1.7").unwrap().wanted_address, Some([10, 244, 1, 7].into()));
        assert!(with("IP=ten").is_err());
        assert!(with("IP").is_err());
    }
}
