//! One invocation from its command line to its report.

use std::{
    fs,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Instant, SystemTime},
};

use crate::{
    cli::{Command, Reflect, Test},
    connections::{self, ConnectionsError},
    dry_run,
    engine::{EngineError, Kind, Tester, check_core},
    method::{self, MethodError, Session, reflect::Reflector},
    profile::{Profile, ProfileError},
    progress::Progress,
    replay::{self, ReplayError},
    report::{
        model::{Finding, Machine, Report, Setup, Trial},
        outputs::{self, FileError, Outputs},
        text,
    },
    require::Condition,
};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says it")]
pub enum Failure {
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Method(#[from] MethodError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Connections(#[from] ConnectionsError),
    #[error("cannot listen for Ctrl-C: {0}")]
    Signals(std::io::Error),
}

impl Failure {
    /// As `--help` lists them.
    pub fn exit_code(&self) -> ExitCode {
        let refused = match self {
            Failure::Profile(_) | Failure::Method(MethodError::Refused(_)) => true,
            Failure::Engine(error) | Failure::Method(MethodError::Engine(error)) => {
                matches!(error, EngineError::Profile(_) | EngineError::Option(_))
            }
            _ => false,
        };
        ExitCode::from(if refused { 2 } else { 1 })
    }
}

/// A requirement is not met.
const UNMET: u8 = 3;

/// Ended by SIGINT, as a shell tells it.
const INTERRUPTED: u8 = 130;

/// Does what the command line asks for. What it prints is its result; progress goes to standard error.
///
/// # Errors
/// If there is no result.
pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(test) => run_test("run", test, &|session| method::run::run(session)),
        Command::Search { test, options } => {
            run_test("search", test, &|session| method::search::search(session, options))
        }
        Command::LossSweep { test, options } => {
            run_test("loss-sweep", test, &|session| method::loss_sweep::sweep(session, options))
        }
        Command::BackToBack { test, options } => {
            run_test("back-to-back", test, &|session| method::back_to_back::back_to_back(session, options))
        }
        Command::Latency { test, options } => {
            run_test("latency", test, &|session| method::latency::latency(session, options))
        }
        Command::Reflect(options) => reflect(options),
        Command::Replay(arguments) => replay::command::run(arguments),
        Command::Connections(arguments) => connections::command::connect(arguments),
        Command::Serve(arguments) => connections::command::serve(arguments),
        Command::Show(arguments) => {
            let report = outputs::read(&arguments.report)?;
            print!("{}", text::text(&report));
            arguments.outputs.write(&report)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Compare(arguments) => {
            print!("{}", arguments.run()?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

type Method<'a> = &'a dyn Fn(&mut Session<'_>) -> Result<(), MethodError>;

fn run_test(name: &str, test: &Test, method: Method<'_>) -> Result<ExitCode, Failure> {
    let mut profile = Profile::load(&test.profile)?;
    test.changes.apply(&mut profile)?;
    if let Some(packets) = test.dry_run {
        print!("{}", dry_run::first_packets(&profile, &test.place, packets)?);
        return Ok(ExitCode::SUCCESS);
    }
    test.outputs.check()?;
    let stop = on_ctrl_c()?;
    let begun = Begun::now();
    let kind = test.place.kind();
    let mut tester = match kind {
        Kind::Memory => Tester::in_memory(&profile, test.place.cores.first().copied())?,
        Kind::AfXdp | Kind::Live => Tester::open(&profile, kind, &test.place.ports())?,
    };
    let interfaces = tester.interfaces().to_vec();
    let mut progress = if test.quiet { Progress::nothing() } else { Progress::stderr() };
    let mut session = Session::new(&mut tester, &profile, &mut progress, stop);
    let complete = match method(&mut session) {
        Ok(()) => true,
        Err(MethodError::Interrupted) => false,
        Err(error) => return Err(error.into()),
    };
    let Session { trials, findings, warnings, .. } = session;
    progress.end();
    let setup = Setup {
        method: name.into(),
        command: std::env::args().collect(),
        profile: profile.name.clone(),
        profile_text: profile.text.clone(),
        engine: kind.to_string(),
        interfaces,
        pinned: test.place.pinned(),
        seed: profile.seed,
    };
    begun.conclude(setup, Found { trials, findings, warnings, complete }, &test.require, &test.outputs)
}

/// When an invocation began.
pub(crate) struct Begun {
    at: Instant,
    started: SystemTime,
}

/// What it found.
pub(crate) struct Found {
    pub trials: Vec<Trial>,
    pub findings: Vec<Finding>,
    pub warnings: Vec<String>,
    /// False if Ctrl-C ended it before it was done.
    pub complete: bool,
}

impl Begun {
    pub fn now() -> Begun {
        Begun { at: Instant::now(), started: SystemTime::now() }
    }

    /// Prints the report, writes its files and says how the process is to end.
    pub fn conclude(
        self,
        setup: Setup,
        found: Found,
        require: &[Condition],
        outputs: &Outputs,
    ) -> Result<ExitCode, Failure> {
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION").into(),
            started: humantime::format_rfc3339_seconds(self.started).to_string(),
            duration_s: self.at.elapsed().as_secs_f64(),
            complete: found.complete,
            machine: machine(),
            setup,
            trials: found.trials,
            findings: found.findings,
            requirements: Vec::new(),
            warnings: found.warnings,
        };
        report.requirements = require.iter().map(|condition| condition.check(&report)).collect();
        print!("{}", text::text(&report));
        outputs.write(&report)?;
        Ok(if report.requirements.iter().any(|requirement| !requirement.met) {
            ExitCode::from(UNMET)
        } else if found.complete {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(INTERRUPTED)
        })
    }
}

fn reflect(options: &Reflect) -> Result<ExitCode, Failure> {
    let stop = on_ctrl_c()?;
    options.core.map_or(Ok(()), pin)?;
    let mut reflector = Reflector::open(&options.interface, options.xdp.into())?;
    eprintln!("reflecting on {} (XDP {}); Ctrl-C ends it", options.interface, reflector.mode());
    let reflected = reflector.run(&stop);
    println!("{reflected} frames reflected");
    Ok(ExitCode::SUCCESS)
}

/// Keeps this thread on a processor.
pub(crate) fn pin(core: usize) -> Result<(), EngineError> {
    check_core(core)?;
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
    Ok(())
}

/// A flag that the first Ctrl-C (or SIGTERM) sets; the second one ends the process at once.
pub(crate) fn on_ctrl_c() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])
        .map_err(Failure::Signals)?;
    let flag = stop.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            if flag.swap(true, Relaxed) {
                std::process::exit(INTERRUPTED.into());
            }
        }
    });
    Ok(stop)
}

fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    let kernel = |name: &str| read(&format!("/proc/sys/kernel/{name}")).trim().to_owned();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model));
    Machine {
        host: kernel("hostname"),
        kernel: kernel("osrelease"),
        processor: model.unwrap_or("unknown").trim().to_owned(),
        // Not those that this thread may use: it may be pinned.
        processors: info.lines().filter(|line| line.starts_with("processor")).count() as u32,
    }
}
