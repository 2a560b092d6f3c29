//! shuntctl: Shunt's command line.
#![deny(unsafe_code)]

mod args;
mod cluster;
mod commands;
mod failure;
mod protocol;
mod show;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};

use crate::{
    args::{Args, Command},
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

fn talk(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Output)?;
    runtime.block_on(commands::run(args, out))
}
