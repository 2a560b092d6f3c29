//! Another plugin that gives addresses (CNI specification, section 4, "Plugin Delegation").

use std::{
    io::Write,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    addresses::Addresses,
    config::Config,
    environment::Environment,
    error::{CniError, Code, Result},
    outcome,
    version::Version,
};

/// A plugin, and what it is told.
#[derive(Debug)]
pub struct Delegate {
    name: String,
    program: PathBuf,
    config: Value,
}

impl Delegate {
    /// Finds the plugin on CNI_PATH, and the latest version that it speaks as well.
    pub fn find(name: &str, config: &Config, environment: &Environment) -> Result<Delegate> {
        let invalid = |what: String, details: &str| Err(CniError::new(Code::InvalidConfig, what, details));
        if name.is_empty() || name.contains('/') {
            return invalid(format!("ipam.type: {name:?} is no plugin's name"), "name a program on CNI_PATH");
        }
        let programs = environment.path.iter().map(|folder| folder.join(name));
        let Some(program) = programs.into_iter().find(|path| path.is_file()) else {
            return invalid(format!("ipam.type: {name} is not on CNI_PATH"), "install it, or leave ipam.type out");
        };
        let mut delegate = Delegate { name: name.to_owned(), program, config: config.raw.clone() };
        delegate.config["cniVersion"] = delegate.version(config.version)?.name().into();
        Ok(delegate)
    }

    /// The latest of its versions that is not later than `ours`.
    fn version(&self, ours: Version) -> Result<Version> {
        let said = self.run("VERSION", &json!({ "cniVersion": ours.name() }))?;
        let theirs = said["supportedVersions"].as_array().cloned().unwrap_or_default();
        let common = Version::ALL.into_iter().rfind(|v| *v <= ours && theirs.iter().any(|t| t == v.name()));
        common.ok_or_else(|| {
            let message = format!("ipam.type: {} speaks no version up to {}", self.name, ours.name());
            CniError::new(Code::IncompatibleVersion, message, format!("it speaks {}", said["supportedVersions"]))
        })
    }

    /// Asks it for addresses, of which `takes` judges what else they must be.
    pub fn add(&self, wanted: &[IpAddr], takes: impl FnOnce(Addresses) -> Result<()>) -> Result<Addresses> {
        let result = self.call("ADD")?;
        let list: Vec<_> = result["ips"].as_array().into_iter().flatten().filter_map(outcome::address).collect();
        let read = Addresses::read(&format!("what {} gave", self.name), &list).and_then(|addresses| {
            takes(addresses)?;
            let message = || format!("{} gave {list:?}, not {wanted:?}", self.name);
            let is_wanted = addresses.are_of(wanted).then_some(addresses);
            is_wanted.ok_or_else(|| CniError::new(Code::InvalidConfig, message(), "correct ipam, or ask for others"))
        });
        if read.is_err() {
            // What it reserved is of no use.
            self.call("DEL")?;
        }
        read
    }

    /// Passes a command on, with all of our environment.
    pub fn call(&self, command: &str) -> Result<Value> {
        self.run(command, &self.config)
    }

    fn run(&self, command: &str, config: &Value) -> Result<Value> {
        let failed = |why: String| CniError::io(format_args!("run {}", self.program.display()), why);
        let mut child = Command::new(&self.program)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        // It may end without reading all of it.
        let _ = child.stdin.take().expect("it is piped").write_all(config.to_string().as_bytes());
        let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && text.trim().is_empty() {
            return Ok(Value::Null);
        }
        let said: Value = serde_json::from_str(&text).map_err(|e| {
            let message = format!("{} ({}) printed no JSON: {e}", self.name, output.status);
            CniError::new(Code::Decode, message, text.trim())
        })?;
        if output.status.success() { Ok(said) } else { Err(CniError::of_delegate(&self.name, &said)) }
    }
}
