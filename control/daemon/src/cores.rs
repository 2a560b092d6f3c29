//! Which cores the daemon's own threads run on.

use std::io;

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Keeps the calling thread, and those it starts, off the workers' cores: a worker that has to share its core with the API
/// makes packets wait for it. Where the workers have all cores that this process may use, nothing changes. Workers pin
/// themselves.
pub fn leave_to_workers(workers: &[usize]) -> io::Result<()> {
    let me = Pid::from_raw(0);
    let mut cores = sched_getaffinity(me)?;
    for &core in workers {
        cores.unset(core)?;
    }
    let left = (0..CpuSet::count()).any(|core| cores.is_set(core) == Ok(true));
    if left {
        sched_setaffinity(me, &cores)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The cores a thread has that left those of workers to them.
    fn left_after(workers: &[usize]) -> Vec<usize> {
        let workers = workers.to_vec();
        let leave = move || {
            leave_to_workers(&workers).unwrap();
            // A thread it starts has the same.
            thread::spawn(available).join().unwrap()
        };
        thread::spawn(leave).join().unwrap()
    }

    fn available() -> Vec<usize> {
        let cores = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap()).collect()
    }

    #[test]
    fn threads_keep_off_the_workers_cores() {
        let all = available();
        assert_eq!(left_after(&all[..1]), if all.len() > 1 { &all[1..] } else { &all[..] });
    }

    #[test]
    fn workers_that_have_all_cores_share_them() {
        assert_eq!(left_after(&available()), available());
    }
}
