//! shuntctl: Shunt's command line.
#![deny(unsafe_code)]

mod args;
mod cluster;
mod commands;
mod failure;
mod protocol;
mod show;

use std::{
    ffi::OsString,
    io::{self, Write},
    iter,
    os::unix::process::CommandExt,
    process::{self, ExitCode},
};

use clap::{CommandFactory, Parser};

use crate::{
    args::{Args, Command, Output},
    failure::Failure,
};

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    let outcome = match &args.command {
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Args::command(), "shuntctl", &mut out);
            Ok(())
        }
        Command::Doctor { config } => {
            let output = if args.output == Output::Json { "json" } else { "text" };
            let fixed = ["doctor", "-o", output, "--config"].map(OsString::from);
            return become_shuntd(fixed.into_iter().chain([config.into()]).collect());
        }
        Command::Flannel { args } => {
            return become_shuntd(iter::once("flannel".into()).chain(args.iter().cloned()).collect());
        }
        _ => talk(&args, &mut out),
    };
    match outcome.and_then(|()| out.flush().map_err(Failure::from)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough of it.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shuntctl: {failure}");
            failure.exit_code()
        }
    }
}

/// Becomes shuntd: what it needs and what it takes over, shuntd knows best.
fn become_shuntd(args: Vec<OsString>) -> ExitCode {
    // The one that was installed with this program, or else the one on the path.
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("shuntd")).filter(|path| path.exists());
    let shuntd = beside.unwrap_or_else(|| "shuntd".into());
    let error = process::Command::new(&shuntd).args(args).exec();
    eprintln!("shuntctl: cannot run {}: {error}; install shuntd beside shuntctl", shuntd.display());
    ExitCode::FAILURE
}

fn talk(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Output)?;
    runtime.block_on(commands::run(args, out))
}
