//! What a reader must know to judge the figures: the machine, the kernel, versions, when and by which command.

use std::{env, fs, process::Command, thread};

use crate::{Error, measure, peers::Peers};

/// Everything that is told above the tables: a name and what it is.
pub struct Machine {
    pub facts: Vec<(String, String)>,
}

impl Machine {
    /// Looks around.
    pub fn find() -> Result<Machine, Error> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let memory = fs::read_to_string("/proc/meminfo")?;
        let total: f64 = memory.split_whitespace().nth(1).ok_or("no MemTotal")?.parse()?;
        let mut facts = vec![
            ("date".to_owned(), said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
            ("command".to_owned(), command()),
            ("commit".to_owned(), said("git", &["describe", "--always", "--dirty", "--abbrev=12"])),
            ("processor".to_owned(), model.trim_start_matches([' ', '\t', ':']).to_owned()),
            (
                "cores".to_owned(),
                format!(
                    "{}, time stamp counter {:.2} GHz",
                    thread::available_parallelism()?,
                    measure::cycles_per_second() / 1e9
                ),
            ),
            ("memory".to_owned(), format!("{:.0} GiB", total / f64::from(1 << 20))),
            (
                "load when it began".to_owned(),
                fs::read_to_string("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
            ),
            ("kernel".to_owned(), said("uname", &["-sr"])),
            ("rustc".to_owned(), said("rustc", &["--version"])),
            ("nft".to_owned(), said("nft", &["--version"])),
            ("iperf3".to_owned(), said("iperf3", &["--version"])),
            ("sockperf".to_owned(), said("sockperf", &["--version"])),
            // It says so only beside its usage, and ends with a failure.
            ("wrk".to_owned(), said("wrk", &["--version"])),
        ];
        facts.extend(Peers::find()?.versions()?);
        Ok(Machine { facts })
    }

    /// What a fact is.
    pub fn fact(&self, name: &str) -> &str {
        self.facts.iter().find(|(known, _)| known == name).map_or("", |(_, fact)| fact)
    }
}

/// The command line as a person types it.
fn command() -> String {
    let words: Vec<_> = env::args().skip(1).collect();
    format!("./dev bench {}", words.join(" ")).trim_end().to_owned()
}

/// The first line that a program prints.
fn said(program: &str, words: &[&str]) -> String {
    match Command::new(program).args(words).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("says nothing").to_owned(),
        Err(error) => format!("{program} cannot be run: {error}"),
    }
}
