//! The side-by-side report: Shunt, the kernel, Open vSwitch and DPDK on this machine, in one session.
//!
//! `./dev bench` builds and starts it as root; `--help` lists its options.
#![deny(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Instant,
};

use clap::{Parser, ValueEnum};
use shunt_benches::{
    Error, applications, control, engine, generators,
    machine::Machine,
    markdown,
    measure::Counting,
    page,
    peers::Peers,
    rows::{Ledger, Part},
    veth,
};
use shunt_control_lab::capability;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Measures Shunt beside the kernel, Open vSwitch and DPDK, and writes the report.
#[derive(Parser)]
#[command(name = "./dev bench")]
struct Options {
    /// Few cases, short trials, in under three minutes: shows that all works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Only this part; may be given more than once
    #[arg(long = "part", value_name = "PART")]
    parts: Vec<Name>,
    /// Every figure as one object a row
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "target/performance.html")]
    html: PathBuf,
    /// Where the tables go [default: docs/performance.md for a whole run, else target/performance.md]
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// A part of the report.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Engine,
    Veth,
    Applications,
    Control,
    Generators,
}

impl From<Name> for Part {
    fn from(name: Name) -> Part {
        match name {
            Name::Engine => Part::Engine,
            Name::Veth => Part::Veth,
            Name::Applications => Part::Applications,
            Name::Control => Part::Control,
            Name::Generators => Part::Generators,
        }
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Error> {
    capability::check()?;
    if thread::available_parallelism()?.get() < 2 {
        return Err("two cores are needed: one for the source, one for the contender".into());
    }
    Peers::find()?;
    let machine = Machine::find()?;
    let mut ledger = Ledger::default();
    for part in Part::ALL {
        if options.parts.is_empty() || options.parts.iter().any(|&name| Part::from(name) == part) {
            let start = Instant::now();
            measure(part, options.quick, &mut ledger)?;
            eprintln!("{} took {:.0} s", part.name(), start.elapsed().as_secs_f64());
        }
    }
    let rows = ledger.rows();
    if let Some(path) = &options.json {
        let rows: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        write(path, &format!("[\n{}\n]\n", rows.join(",\n")))?;
    }
    let whole = !options.quick && options.parts.is_empty();
    let default = if whole { "docs/performance.md" } else { "target/performance.md" };
    write(options.markdown.as_deref().unwrap_or(Path::new(default)), &markdown::report(&rows, &machine))?;
    write(&options.html, &page::report(&rows, &machine))
}

fn measure(part: Part, quick: bool, ledger: &mut Ledger) -> Result<(), Error> {
    match part {
        Part::Engine => {
            engine::run(if quick { &engine::Plan::QUICK } else { &engine::Plan::FULL }, ledger);
            Ok(())
        }
        Part::Veth => veth::run(if quick { &veth::Plan::QUICK } else { &veth::Plan::FULL }, ledger),
        Part::Applications => {
            applications::run(if quick { &applications::Plan::QUICK } else { &applications::Plan::FULL }, ledger)
        }
        Part::Control => control::run(if quick { &control::Plan::QUICK } else { &control::Plan::FULL }, ledger),
        Part::Generators => {
            generators::run(if quick { &generators::Plan::QUICK } else { &generators::Plan::FULL }, ledger)
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    eprintln!("written: {}", path.display());
    Ok(())
}
