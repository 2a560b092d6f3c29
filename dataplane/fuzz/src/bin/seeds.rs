//! Writes the seeds into a corpus directory, for libFuzzer to start from.

use std::{env, fs, path::PathBuf};

use shunt_dataplane_fuzz::{input, seeds};

fn main() -> std::io::Result<()> {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: seeds DIRECTORY");
        std::process::exit(2);
    };
    fs::create_dir_all(&directory)?;
    seeds::all().iter().try_for_each(|(name, steps)| fs::write(directory.join(name), input::encode(steps)))
}
