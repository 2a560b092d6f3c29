//! What a process costs when nothing happens.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::{
    command::Background,
    error::{LabError, Result},
};

/// The share of one core that a process uses over `time`, from 0 to the number of its threads.
pub fn cpu_share(process: &Background, time: Duration) -> Result<f64> {
    let (start, before) = (Instant::now(), cpu_time(process.pid())?);
    thread::sleep(time);
    let used = cpu_time(process.pid())? - before;
    Ok(used.as_secs_f64() / start.elapsed().as_secs_f64())
}

/// The time that the threads a process has now have spent on cores so far (the first figure of each `schedstat`, in
/// nanoseconds: ticks would be too coarse).
fn cpu_time(pid: u32) -> Result<Duration> {
    let folder = format!("/proc/{pid}/task");
    let file = |source| LabError::File { path: folder.clone().into(), source };
    let mut total = 0;
    for task in fs::read_dir(&folder).map_err(file)? {
        let text = fs::read_to_string(task.map_err(file)?.path().join("schedstat")).map_err(file)?;
        let unreadable = || LabError::Unreadable {
            command: format!("{folder}/*/schedstat"),
            reason: "no nanoseconds".to_owned(),
            output: text.clone(),
        };
        let first = text.split_whitespace().next().ok_or_else(unreadable)?;
        total += first.parse::<u64>().map_err(|_| unreadable())?;
    }
    Ok(Duration::from_nanos(total))
}
