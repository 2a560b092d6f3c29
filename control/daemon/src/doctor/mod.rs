//! `shuntd doctor`: looks at the machine and says what would keep shuntd from working on it, or from working well, and what
//! to do about each. It needs no running daemon and changes nothing.

mod conflicts;
mod interfaces;
mod machine;
mod rules;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use machine::CAPABILITIES;

use crate::config::Config;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It could not be found out.
    Unknown,
    /// shuntd works, and something may not, or not well.
    Warning,
    /// shuntd does not work, or does harm.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a fixed name.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub advice: String,
}

/// Everything that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// In the order of looking.
    pub findings: Vec<Finding>,
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// The daemon's configuration.
    pub config: PathBuf,
    /// Where container runtimes find network configurations.
    pub cni: PathBuf,
}

impl Diagnosis {
    /// The worst of what was found.
    pub fn worst(&self) -> State {
        self.findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok)
    }

    fn add(&mut self, check: &'static str, state: State, found: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding { check, state, found: found.into(), advice: advice.into() });
    }

    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, State::Ok, found, "");
    }

    fn unknown(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, State::Unknown, found, advice);
    }

    fn warn(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, State::Warning, found, advice);
    }

    fn err(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, State::Error, found, advice);
    }

    /// For people: a line for each finding, and below it what to do.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { check, state, found, advice } in &self.findings {
            let state = match state {
                State::Ok => "ok",
                State::Unknown => "unknown",
                State::Warning => "warning",
                State::Error => "ERROR",
            };
            text += &format!("{state:<8} {check:<14} {found}\n");
            if !advice.is_empty() {
                text += &format!("{:24}-> {advice}\n", "");
            }
        }
        let count = |state| self.findings.iter().filter(|finding| finding.state == state).count();
        text + &format!("{} errors, {} warnings\n", count(State::Error), count(State::Warning))
    }
}

/// Looks at everything. Must run in the node's network namespace.
pub async fn examine(places: &Places) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let config = match Config::load(&places.config) {
        Ok(config) => {
            diagnosis.ok("configuration", places.config.display().to_string());
            Some(config)
        }
        Err(e) => {
            let advice = "correct it; what depends on it was not looked at (configs/shuntd.toml has every key)";
            diagnosis.err("configuration", e.to_string(), advice);
            None
        }
    };
    machine::examine(&mut diagnosis, config.as_ref());
    if let Some(config) = &config {
        daemon(&mut diagnosis, config);
        interfaces::examine(&mut diagnosis, config).await;
        conflicts::examine(&mut diagnosis, config).await;
    }
    rules::examine(&mut diagnosis);
    cni(&mut diagnosis, &places.cni);
    diagnosis
}

/// Whether the daemon answers, which is no condition for anything here.
fn daemon(diagnosis: &mut Diagnosis, config: &Config) {
    match std::os::unix::net::UnixStream::connect(&config.socket) {
        Ok(_) => diagnosis.ok("daemon", "shuntd runs"),
        Err(_) => diagnosis.ok("daemon", "shuntd does not run"),
    }
}

/// Which network configuration a container runtime would take: the first by its name.
fn cni(diagnosis: &mut Diagnosis, directory: &Path) {
    let is_config = |path: &PathBuf| {
        path.extension().and_then(|ext| ext.to_str()).is_some_and(|ext| matches!(ext, "conf" | "conflist" | "json"))
    };
    let mut files: Vec<_> = match std::fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_config).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    let is_ours = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"shunt-cni\""));
    let name = |path: &PathBuf| path.display().to_string();
    match files.first() {
        None => diagnosis.ok("cni", format!("no network configuration in {}", directory.display())),
        Some(first) if is_ours(first) => diagnosis.ok("cni", name(first)),
        Some(first) => diagnosis.warn(
            "cni",
            format!("container runtimes take {}, which is not Shunt's", name(first)),
            "remove it once no pod uses it: new pods are not attached to the switch while it is the first by name",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_state_and_the_advice_of_everything() {
        let mut diagnosis = Diagnosis::default();
        assert_eq!(diagnosis.worst(), State::Ok);
        diagnosis.ok("kernel", "6.18");
        diagnosis.warn("mtu", "too large", "lower it");
        assert_eq!(diagnosis.worst(), State::Warning);
        diagnosis.err("uplink", "is not there", "name another");
        assert_eq!(diagnosis.worst(), State::Error);
        let text = diagnosis.text();
        assert!(text.contains("ok       kernel         6.18\n"), "{text}");
        assert!(text.contains("-> lower it\n") && text.ends_with("1 errors, 1 warnings\n"), "{text}");
    }

    #[test]
    fn the_first_network_configuration_counts() {
        let folder = tempfile::tempdir().unwrap();
        let of = |diagnosis: &mut Diagnosis| {
            cni(diagnosis, folder.path());
            diagnosis.findings.pop().unwrap()
        };
        let mut diagnosis = Diagnosis::default();
        assert_eq!(of(&mut diagnosis).state, State::Ok);
        std::fs::write(folder.path().join("10-flannel.conflist"), r#"{"plugins":[{"type":"flannel"}]}"#).unwrap();
        assert_eq!(of(&mut diagnosis).state, State::Warning);
        std::fs::write(folder.path().join("05-shunt.conflist"), r#"{"plugins":[{"type":"shunt-cni"}]}"#).unwrap();
        assert_eq!(of(&mut diagnosis).state, State::Ok);
        std::fs::write(folder.path().join("00-readme.txt"), "").unwrap();
        assert_eq!(of(&mut diagnosis).state, State::Ok);
    }
}
